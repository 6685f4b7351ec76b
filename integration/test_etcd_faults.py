"""etcd killed, frozen, compacted, without a quorum, with tokens that expire: FIGURES F20-F24.

Both stacks at once, under load: whatever becomes of etcd, no RPC fails and no backend is lost, and
what is written afterwards arrives.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any

import psutil
import pytest

import grpclb
import grpclb.etcd
from integration.etcd.cluster import PASSWORD, ROOT, Cluster, Member
from integration.etcd.fixtures import Own
from tests.faults.harness import (
    Client,
    Connect,
    Load,
    SyncClient,
    eventually,
    held,
    snapshot,
    wait_ready,
)
from tests.support.backend import Backend, steer
from tests.support.l4_proxy import L4Proxy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.expect_log("etcd 127.0.0.1"),  # said once for each outage
]

SLACK = 5  # times a bound: other programs share this machine


class Both:
    """A sync and an aio client of one target."""

    def __init__(self, sync: Connect, aio: Connect) -> None:
        self._connect = (sync, aio)
        self.clients: list[Client] = []

    def open(self, target: str, backends: int, **options: Any) -> None:
        self.clients = [connect(target, **options) for connect in self._connect]
        for client in self.clients:
            wait_ready(client, backends, 20)

    @contextlib.contextmanager
    def load(self) -> Iterator[list[Load]]:
        """Load on both; no RPC may fail, and each second has many."""
        wishes = {"metadata": steer(delay_ms=10), "timeout": 10}
        with contextlib.ExitStack() as stack:
            loads = [stack.enter_context(c.load(2, **wishes)) for c in self.clients]
            began = monotonic()
            yield loads
            for load in loads:
                load.wait(10)
            took = monotonic() - began
        for load in loads:
            assert load.failures == []
            assert len(load.results) > 10 * took

    def follow(self, expected: set[str], timeout: float) -> float:
        """Wait until both hold just these backends; the seconds that it took."""
        began = monotonic()
        eventually(lambda: self.hold(expected), timeout, f"{expected}, in both")
        return monotonic() - began

    def hold(self, expected: set[str]) -> bool:
        """Whether both hold just these backends."""
        return all(set(held(client)) == expected for client in self.clients)

    def errors(self) -> list[str | None]:
        """What the resolvers say is wrong."""
        return [snapshot(client)["resolver"]["last_error"] for client in self.clients]


@dataclass(frozen=True, slots=True)
class Idle:
    """A channel that does nothing but watch, since `began`."""

    client: Client
    proxy: L4Proxy
    began: float


@pytest.fixture(scope="module", autouse=True)
def idle(etcd: Cluster, all_backends: list[Backend]) -> Iterator[Idle]:
    """Beside all tests of this file, so that nobody has to wait for time to pass."""
    etcd.api.put("idle/a", all_backends[0].address)
    with L4Proxy([etcd.members[0].address]) as proxy:
        client = SyncClient(grpclb.insecure_channel(f"etcd://{proxy.address}/idle"))
        wait_ready(client, 1)
        yield Idle(client, proxy, monotonic())
        client.close()


@pytest.fixture
def both(connect_sync: Connect, connect_aio: Connect) -> Both:
    return Both(connect_sync, connect_aio)


def put(etcd: Cluster, *backends: Backend) -> set[str]:
    for backend in backends:
        etcd.api.put(f"api/{backend.name}", backend.address)
    return {backend.address for backend in backends}


def watched(etcd: Cluster) -> list[Member]:
    """The members that this process has connections to."""
    ports = {c.raddr.port for c in psutil.Process().net_connections("tcp") if c.raddr}
    return [member for member in etcd.members if member.port in ports]


def test_etcd_is_killed_and_comes_back(own_etcd: Own, both: Both, fleet: list[Backend]) -> None:
    """F20."""
    etcd = own_etcd()
    a, b, c, _ = fleet
    two = put(etcd, a, b)
    both.open(etcd.target("api"), 2)
    with both.load():
        etcd.members[0].kill()
        eventually(lambda: all(both.errors()), 20, "the outage is noticed")
        time.sleep(1)
        assert both.hold(two)
        etcd.members[0].start()
        etcd.members[0].wait_leader()
        put(etcd, c)
        both.follow(two | {c.address}, 3 * SLACK)
        eventually(lambda: both.errors() == [None, None], 20, "no error any more")


def test_a_compaction_while_away_with_a_delete_and_an_add_in_the_gap(
    own_etcd: Own, both: Both, fleet: list[Backend]
) -> None:
    """F21."""
    etcd = own_etcd()
    a, b, c, d = fleet
    put(etcd, a, b)
    with L4Proxy([etcd.members[0].address]) as proxy:
        both.open(f"etcd://{proxy.address}/api", 2)
        seen = etcd.api.revision()
        with both.load():
            proxy.set_backends([])
            proxy.drop()
            eventually(lambda: all(both.errors()), 20, "the outage is noticed")
            etcd.api.delete("api/b")
            put(etcd, c)
            etcd.api.compact()
            # The control: who goes on from the last revision that it saw is told to go away.
            answer = etcd.api.watch_from("api/", seen + 1)
            assert answer["canceled"]
            assert int(answer["compact_revision"]) > seen
            proxy.set_backends([etcd.members[0].address])
            both.follow({a.address, c.address}, 3 * SLACK)
            time.sleep(1)
            put(etcd, d)
            both.follow({a.address, c.address, d.address}, 1 * SLACK)


def test_a_member_that_stands_still(own_etcd: Own, both: Both, fleet: list[Backend]) -> None:
    """F22: keepalive notices it, and the next member tells what happened meanwhile."""
    etcd = own_etcd(3)
    a, b, c, _ = fleet
    two = put(etcd, a, b)
    both.open(etcd.target("api"), 2)
    seen = watched(etcd)  # each client begins somewhere
    assert seen, "the control: somebody is watched"
    followers = [member for member in seen if member is not etcd.leader()]
    frozen = (followers or seen)[0]  # one only: a quorum must stay
    other = next(member for member in etcd.members if member is not frozen)
    with both.load():
        began = time.monotonic()
        frozen.pause()
        other.wait_leader()  # that may take longer than to notice
        other.api.put("api/c", c.address)
        both.follow(two | {c.address}, 10 * SLACK)
        took = time.monotonic() - began
        assert took > 1, "the control: it was watched, and its silence was no answer"
        frozen.resume()


@pytest.mark.expect_log("trying again", "could not be deregistered")
def test_the_leader_of_three_is_killed_and_then_the_quorum(
    own_etcd: Own, both: Both, connect_sync: Connect, fleet: list[Backend]
) -> None:
    """F23, and a registration that lives through the first half."""
    etcd = own_etcd(3)
    a, b, c, d = fleet
    put(etcd, a, b)
    target = etcd.target("api")
    with grpclb.etcd.SyncRegistration(target, c.address, ttl=10) as registration:
        lease = registration.lease
        both.open(target, 3)
        with both.load():
            leader, (one, other) = etcd.leader(), etcd.followers()
            leader.kill()
            one.wait_leader()
            one.api.put("api/d", d.address)
            everyone = {backend.address for backend in fleet}
            both.follow(everyone, 10 * SLACK)
            assert lease is not None
            one.api.wait_kept_alive(lease)  # by a request to one of the two
            eventually(lambda: registration.state.value == "registered", 20)
            assert registration.lease == lease
            other.kill()
            eventually(lambda: all(both.errors()), 6 * SLACK, "no quorum is noticed")
            began = monotonic()
            late = connect_sync(target)
            assert late.call(wait_for_ready=True, timeout=20).ok
            assert monotonic() - began < 3 * SLACK
            assert "no quorum" in snapshot(late)["resolver"]["note"]
            assert set(held(late)) == everyone
            assert both.hold(everyone)
            other.start()
            one.wait_leader()
            one.api.delete("api/d")
            both.follow(everyone - {d.address}, 10 * SLACK)
        late.close()


def test_tokens_that_expire_and_restarts_between_puts(
    own_etcd: Own, both: Both, fleet: list[Backend], expect_log: Callable[[str], None]
) -> None:
    """F24, scaled down; then the password is changed behind the clients' backs."""
    etcd = own_etcd(auth=True, token_ttl=1)
    a, b, c, _ = fleet
    put(etcd, a, b)
    way: dict[str, Any] = {"user": ROOT, "password": PASSWORD, "allow_plaintext_auth": True}
    target = "etcd:///api"
    grpclb.register_resolver("etcd-auth", grpclb.etcd.factory(endpoints=etcd.addresses, **way))
    both.open(target.replace("etcd:", "etcd-auth:"), 2)
    member, asked = etcd.members[0], 0
    own = member.api.authenticated
    with both.load():
        for turn in range(8):
            if turn in (3, 6):
                asked += member.api.authentications()
                member.kill()
                member.start()
                member.wait_leader()
            if turn % 2:
                etcd.api.delete("api/c")
            else:
                put(etcd, c)
            wanted = {a.address, b.address} | (set() if turn % 2 else {c.address})
            both.follow(wanted, 3 * SLACK)
            time.sleep(0.3)
        asked += member.api.authentications() - (member.api.authenticated - own)
        assert asked <= 30
        etcd.api.change_password(ROOT, "another")
        member.api.log_in(ROOT, "another")
        member.kill()
        member.start()
        before = member.api.authentications()
        eventually(
            lambda: all("auth" in (error or "") for error in both.errors()), 20, "an error state"
        )
        time.sleep(3)
        # Two clients, 0.25 s, 0.4 s, 0.64 s ... between their tries.
        assert member.api.authentications() - before <= 2 * 8
        assert both.hold({a.address, b.address}), "the last list is kept"
        expect_log("authentication failed")


def test_an_idle_watch_is_not_sent_away(
    idle: Idle, etcd: Cluster, all_backends: list[Backend]
) -> None:
    """F22: etcd closes connections that ping more often than every 5 s; ours do every 5.5 s."""
    time.sleep(max(0.0, idle.began + 14 - monotonic()))  # more pings than etcd forgives
    assert sum(idle.proxy.accepted().values()) == 1
    address = all_backends[0].address
    etcd.api.put("idle/a", f'{{"Addr": "{address}", "Metadata": {{"weight": 7}}}}')

    def weights() -> list[int | None]:
        found = snapshot(idle.client)["resolver"]["endpoints"]
        return [endpoint["attributes"].get("weight") for endpoint in found]

    eventually(lambda: weights() == [7], 1 * SLACK)
    assert sum(idle.proxy.accepted().values()) == 1
