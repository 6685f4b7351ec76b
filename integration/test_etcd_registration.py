"""Services that register themselves in a real etcd, and are killed, frozen and replaced."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import psutil
import pytest

import grpclb.etcd
from grpclb.etcd import RegistrationError, RegistrationState
from integration.etcd.cluster import PASSWORD, ROOT, Cluster
from integration.etcd.fixtures import Own, Run
from tests.faults.harness import Connect, eventually
from tests.support.tls import Authority

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ADDRESS = "127.0.0.1:50051"
SLACK = 5  # times a bound: other programs share this machine
KEEPS_TRYING = pytest.mark.expect_log("trying again")


def registered(etcd: Cluster, service: str) -> set[str]:
    """The addresses that etcd has."""
    return {key.rpartition("/")[2] for key in etcd.api.items(f"{service}/")}


class Either:
    """Both registrations with one face: `stack` says which; `ask` runs what the aio one awaits."""

    def __init__(self, stack: str, runner: asyncio.Runner) -> None:
        self._stack = stack
        self._runner = runner

    @contextlib.contextmanager
    def __call__(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        if self._stack == "sync":
            with grpclb.etcd.SyncRegistration(*arguments, **options) as blocking:
                yield blocking
        else:
            registration = grpclb.etcd.Registration(*arguments, **options)
            self.ask(registration.__aenter__())
            try:
                yield registration
            finally:
                self.ask(registration.__aexit__(None, None, None))

    def ask(self, answer: Any) -> Any:
        return self._runner.run(answer) if asyncio.iscoroutine(answer) else answer

    def pass_time(self, seconds: float = 0.02) -> None:
        if self._stack == "sync":
            time.sleep(seconds)
        else:
            self._runner.run(asyncio.sleep(seconds))

    def eventually(self, condition: Callable[[], Any], timeout: float, what: str = "") -> float:
        """Seconds until `condition` holds, while the registration is at work."""
        began = monotonic()
        while not condition():
            assert monotonic() < began + timeout, what or condition
            self.pass_time()
        return monotonic() - began


@pytest.fixture(params=["sync", "aio"])
def register(request: pytest.FixtureRequest) -> Iterator[Either]:
    with asyncio.Runner() as runner:
        yield Either(request.param, runner)


# -- in this process -----------------------------------------------------------------------------


def test_the_key_is_go_s_and_follows_updates(etcd: Cluster, service: str, register: Either) -> None:
    metadata = {"weight": 3, "zone": "eu-1a"}
    with register(etcd.target(service), ADDRESS, metadata, ttl=5) as registration:
        ((key, value, lease),) = etcd.api.rows(f"{service}/")
        assert key == registration.key == f"{service}/{ADDRESS}"
        go = '{"Op":0,"Addr":"127.0.0.1:50051","Metadata":'
        assert value == go + '{"weight":3,"zone":"eu-1a"}}'
        assert lease == registration.lease
        assert lease in etcd.api.leases()
        assert registration.state.value == "registered"
        registration.update(None)
        assert register.ask(registration.settled(10))
        assert etcd.api.rows(f"{service}/") == [(key, go + "null}", lease)]
        with pytest.raises(ValueError, match="weight"):
            registration.update({"weight": -1})
    assert etcd.api.rows(f"{service}/") == []
    assert lease not in etcd.api.leases()
    assert registration.state.value == "closed"


@KEEPS_TRYING
def test_a_lease_that_is_revoked_behind_its_back(
    etcd: Cluster, service: str, register: Either
) -> None:
    with register(etcd.target(service), ADDRESS, ttl=10) as registration:
        old = registration.lease
        etcd.api.revoke(old)  # and the key with it
        register.eventually(lambda: registered(etcd, service), 2 * SLACK)
        ((_, _, lease),) = etcd.api.rows(f"{service}/")
        assert lease != old
        etcd.api.delete(registration.key)
        register.eventually(lambda: registered(etcd, service), 2 * SLACK)
        assert etcd.api.rows(f"{service}/")[0][2] == lease, "the lease was good, and is kept"


@KEEPS_TRYING
def test_etcd_away_for_longer_than_the_lease_and_an_update_meanwhile(
    own_etcd: Own, register: Either
) -> None:
    etcd = own_etcd()
    with register(etcd.target("api"), ADDRESS, ttl=2) as registration:
        etcd.members[0].kill()
        register.eventually(lambda: registration.state is RegistrationState.RECOVERING, 15)
        assert "connect" in registration.error or "Connect" in registration.error
        registration.update({"weight": 9})
        register.pass_time(1.5)
        etcd.members[0].start()
        register.eventually(lambda: registration.state is RegistrationState.REGISTERED, 3 * SLACK)
        assert register.ask(registration.settled(10))
        ((_, value, _),) = etcd.api.rows("api/")
        assert '"weight":9' in value
        register.eventually(lambda: len(etcd.api.leases()) == 1, 20, "one lease")
    assert etcd.api.rows("api/") == []


@pytest.mark.expect_log("trying again", "could not be deregistered")
def test_closing_while_etcd_is_away_takes_two_seconds(own_etcd: Own, register: Either) -> None:
    etcd = own_etcd()
    with register(etcd.target("api"), ADDRESS, ttl=10):
        etcd.members[0].pause()
        began = monotonic()
    assert monotonic() - began < 2 * SLACK


def test_the_first_registration_fails_loudly_or_goes_on(
    own_etcd: Own, register: Either, expect_log: Callable[[str], None]
) -> None:
    etcd = own_etcd()
    etcd.members[0].kill()
    target = etcd.target("api")
    began = monotonic()
    with (
        pytest.raises(RegistrationError, match=r"could not register 127.*api/127.*refused"),
        register(target, ADDRESS, patience=0.5),
    ):
        raise AssertionError("not reached")
    assert monotonic() - began < 10, "it does not wait for ever"
    expect_log("trying again")
    with register(target, ADDRESS, keep_trying=True) as registration:
        register.pass_time(0.5)
        assert registration.state is RegistrationState.REGISTERING
        assert registration.error is not None
        etcd.members[0].start()
        register.eventually(lambda: registered(etcd, "api") == {ADDRESS}, 30)


def test_a_user_who_is_refused_hears_it_at_once(own_etcd: Own, register: Either) -> None:
    etcd = own_etcd(auth=True)
    etcd.api.call("auth/user/add", name="reader", password="r")
    way = {"user": "reader", "password": "r", "allow_plaintext_auth": True}
    began = monotonic()
    with (
        pytest.raises(RegistrationError, match="permission denied"),
        register(etcd.target("api"), ADDRESS, patience=60, **way),
    ):
        raise AssertionError("not reached")
    assert monotonic() - began < 30
    way |= {"user": ROOT, "password": PASSWORD}
    with register(etcd.target("api"), ADDRESS, **way):
        assert registered(etcd, "api") == {ADDRESS}
    with (
        pytest.raises(RegistrationError) as caught,
        register(etcd.target("api"), ADDRESS, **(way | {"password": "not-the-one"})),
    ):
        raise AssertionError("not reached")
    assert "not-the-one" not in str(caught.value)


def test_over_tls(own_etcd: Own, register: Either) -> None:
    etcd = own_etcd(tls=Authority())
    with register(etcd.target("api"), ADDRESS, ca=etcd.ca_file):
        assert registered(etcd, "api") == {ADDRESS}
    other = Authority()
    with (
        pytest.raises(RegistrationError, match=r"(?i)certificate|handshake|ssl"),
        register(etcd.target("api"), ADDRESS, patience=3, ca=other.pem.encode()),
    ):
        raise AssertionError("not reached")


def test_a_hundred_times_in_and_out_leaves_nothing(own_etcd: Own, register: Either) -> None:
    etcd = own_etcd()

    def once(number: int) -> None:
        with register(etcd.target("api"), f"127.0.0.1:{1000 + number}", ttl=60):
            pass

    def held() -> tuple[int, int]:
        gc.collect()
        return threading.active_count(), psutil.Process().num_fds()

    once(0)
    threads, descriptors = held()
    for number in range(100):
        once(number)

    def nothing_more() -> bool:
        return (now := held())[0] <= threads and now[1] <= descriptors

    eventually(nothing_more, 20, f"{held()} threads and descriptors, not {threads, descriptors}")
    assert etcd.api.rows("api/") == []
    assert etcd.api.leases() == set()


@pytest.mark.expect_log("forked after a channel was used")
def test_a_forked_child_has_no_part_in_it(etcd: Cluster, service: str) -> None:
    with grpclb.etcd.SyncRegistration(etcd.target(service), ADDRESS, ttl=6) as registration:
        child = os.fork()
        if child == 0:
            registration.close()
            os._exit(registration.settled(1))
        _, status = os.waitpid(child, 0)
        assert status == 0
        lease = registration.lease
        assert lease is not None
        etcd.api.wait_kept_alive(lease)  # after the fork, too
        assert registered(etcd, service) == {ADDRESS}
        assert registration.lease == lease


# -- in processes of their own -------------------------------------------------------------------


@KEEPS_TRYING  # should the leases of so short a life end before the machine gets round to them
def test_killed_and_frozen_services(etcd: Cluster, service: str, run_service: Run) -> None:
    """F25, in both stacks at once."""
    ttl = 3
    options = {"target": etcd.target(service), "ttl": ttl}
    killed, frozen = (
        [run_service(stack=stack, **options) for stack in ("sync", "aio")] for _ in range(2)
    )
    back = {s.wait_serving() for s in frozen}
    everyone = back | {s.wait_serving() for s in killed}
    eventually(lambda: registered(etcd, service) == everyone, 30)
    with grpclb.etcd.SyncRegistration(etcd.target(service), ADDRESS, ttl=ttl):
        for one in frozen:
            one.signal(signal.SIGSTOP)
        for one in killed:
            one.kill()
        began = monotonic()
        eventually(lambda: registered(etcd, service) == {ADDRESS}, (ttl + 2) * 3)
        assert monotonic() - began > 0.3, "the control: they did not go by themselves"
        for one in frozen:
            one.signal(signal.SIGCONT)
        eventually(lambda: registered(etcd, service) == {ADDRESS, *back}, 3 * SLACK)
        assert len(etcd.api.rows(f"{service}/")) == 3, "one key for each"


def test_a_rolling_restart_of_services_fails_no_rpc(
    etcd: Cluster, service: str, run_service: Run, connect: Connect
) -> None:
    other_stack = {"sync": "aio", "aio": "sync"}[connect.stack]
    options: dict[str, Any] = {"target": etcd.target(service), "stack": other_stack}
    options |= {"drain": 1.0, "grace": 5, "work": 0.01}
    serving = [run_service(**options) for _ in range(2)]
    for one in serving:
        one.wait_serving()
    eventually(lambda: len(registered(etcd, service)) == 2, 20)
    client = connect(etcd.target(service))
    with client.load(8, timeout=10) as load:
        load.wait(50)
        for old in list(serving):
            new = run_service(**options)
            address = new.wait_serving()
            eventually(lambda: address in registered(etcd, service), 20)  # noqa: B023
            old.signal(signal.SIGTERM)
            assert old.wait() == 0
            serving = [new if one is old else one for one in serving]
            assert old.address not in registered(etcd, service)
        load.wait(50)
    assert load.failures == []
    answered = {result.response.decode() for result in load.results[-40:]}
    assert answered == {one.address for one in serving}
    assert len({r.response for r in load.results}) == 4, "old and new ones have had their part"
