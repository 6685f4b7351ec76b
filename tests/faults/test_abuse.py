"""Resolvers and policies written by people: FIGURES F43. The channel keeps its last good state."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import pytest

import grpclb
from grpclb.testing import ManualResolver
from tests.faults.fixtures import LogGuard
from tests.faults.harness import Connect, eventually, failures, held, target_of
from tests.support.backend import Backend

pytestmark = pytest.mark.slow

BOUND = 2.0  # seconds that close() may take


class Good:
    """Says one list, then does what a subclass does."""

    def __init__(self, *addresses: str) -> None:
        self.state = grpclb.ResolverState.of(addresses)
        self.updates: list[Any] = []
        self.done = threading.Event()

    async def run(self, update: Any) -> None:
        self.updates.append(update)
        update(self.state)
        try:
            await self.misbehave(update)
        finally:
            self.done.set()

    async def misbehave(self, update: Any) -> None:
        raise NotImplementedError

    def resolve_now(self) -> None:
        raise RuntimeError("resolve_now is broken")


class Raises(Good):
    async def misbehave(self, update: Any) -> None:
        raise OSError("the registry is on fire")


class Junk(Good):
    async def misbehave(self, update: Any) -> None:
        endpoints: Any = self.state.endpoints
        for junk in (
            None,
            42,
            "127.0.0.1:80",
            list(endpoints),
            grpclb.ResolverState(None),  # type: ignore[arg-type]
            grpclb.ResolverState(list(endpoints)),  # type: ignore[arg-type]
            grpclb.ResolverState(("127.0.0.1:80",)),  # type: ignore[arg-type]
            grpclb.ResolverState(endpoints, service_config={"methodConfig": 7}),
            grpclb.ResolverState(endpoints, service_config="{"),
            grpclb.ResolverState(endpoints, service_config=b"\xff"),  # type: ignore[arg-type]
        ):
            update(junk)
            await asyncio.sleep(0)


class Threads(Good):
    async def misbehave(self, update: Any) -> None:
        def hammer() -> None:
            for _ in range(50):
                update(self.state)
                update(None)

        threads = [threading.Thread(target=hammer) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)


class ReEnters(Good):
    async def misbehave(self, update: Any) -> None:
        update(self.state)
        update(self.state)
        self_task = asyncio.current_task()
        assert self_task is not None
        await asyncio.gather(*(asyncio.to_thread(update, self.state) for _ in range(3)))


class Endless(Good):
    """Takes no notice of being cancelled until `release`."""

    def __init__(self, *addresses: str) -> None:
        super().__init__(*addresses)
        self.release = threading.Event()

    async def misbehave(self, update: Any) -> None:
        while not self.release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", [Raises, Junk, Threads, ReEnters])
def test_a_broken_resolver_keeps_the_last_good_list(
    connect: Connect, fleet: list[Backend], logs: LogGuard, kind: type[Good]
) -> None:
    logs.expect("manual:///api")
    resolver = kind(fleet[0].address, fleet[1].address)
    client = connect("manual:///api", resolver=resolver)
    assert client.call(timeout=10).ok
    assert resolver.done.wait(10)
    client.on_channel(lambda channel: channel.resolve_now())
    assert failures(client.calls(50, timeout=10)) == []
    assert len(held(client)) == 2
    assert client.close() < BOUND
    assert resolver.updates[0](resolver.state) is False, "after close nothing is taken"
    # One line for each cause, not one for each time.
    assert len(logs.lines) == len(set(logs.lines)) <= 12, logs.lines


def test_a_resolver_that_refuses_to_end_does_not_hold_up_close(
    connect: Connect, fleet: list[Backend]
) -> None:
    resolver = Endless(fleet[0].address)
    client = connect("manual:///api", resolver=resolver)
    assert client.call(timeout=10).ok
    assert client.close() < BOUND
    resolver.release.set()


def test_a_resolver_that_blocks_the_control_loop_stops_no_rpc(
    connect_sync: Connect, fleet: list[Backend], logs: LogGuard
) -> None:
    logs.expect("control loop was blocked")
    release = threading.Event()

    class Blocks(Good):
        async def misbehave(self, update: Any) -> None:
            await asyncio.sleep(0.2)
            self.done.set()
            release.wait(20)

    resolver = Blocks(fleet[0].address)
    client = connect_sync("manual:///api", resolver=resolver)
    assert client.call(timeout=10).ok
    assert resolver.done.wait(5)
    assert failures(client.calls(50, timeout=10)) == []
    assert client.close() < BOUND
    release.set()


def test_a_resolver_that_raises_at_once_fails_rpcs_with_its_message(
    connect: Connect, logs: LogGuard
) -> None:
    logs.expect("registry is on fire")

    class AtOnce(Good):
        async def run(self, update: Any) -> None:
            raise OSError("the registry is on fire")

    result = connect("manual:///api", resolver=AtOnce()).call(timeout=10)
    assert result.code.name == "UNAVAILABLE"
    assert "the resolver raised OSError: the registry is on fire" in result.details
    assert "manual:///api" in result.details


# -- policies --------------------------------------------------------------------------------------


class Abusive:
    """A policy, its balancer and its picker in one, broken where `where` says."""

    name = "abusive"

    def __init__(self, where: str) -> None:
        self.where = where
        self.helper: Any = None

    def _maybe(self, where: str) -> None:
        if self.where == where:
            raise ZeroDivisionError(f"broken in {where}")

    def parse_config(self, raw: Any) -> object:
        return self

    def build(self, helper: Any) -> Abusive:
        self._maybe("build")
        self.helper = helper
        return self

    def update(self, state: Any, config: object) -> bool:
        self._maybe("update")
        self.subchannels = [
            self.helper.create_subchannel(address, self.on_state)
            for endpoint in state.endpoints
            for address in endpoint.addresses
        ]
        for subchannel in self.subchannels:
            subchannel.connect()
        return True

    def on_state(self, state: Any) -> None:
        from grpc import ChannelConnectivity

        self._maybe("on_state")
        if state.connectivity is ChannelConnectivity.READY:
            self.helper.update_picker(ChannelConnectivity.READY, self)

    def pick(self, info: Any) -> Any:
        from grpclb.core.balancer import Pick

        self._maybe("pick")
        return None if self.where == "junk" else Pick(self.subchannels[0], self.on_done)

    def on_done(self, outcome: Any) -> None:
        self._maybe("on_done")

    def exit_idle(self) -> None:
        self._maybe("exit_idle")

    def close(self) -> None:
        for subchannel in self.subchannels:
            subchannel.release()
        self._maybe("close")

    subchannels: list[Any] = []  # noqa: RUF012


@pytest.fixture
def abusive(request: pytest.FixtureRequest) -> str:
    grpclb.register_policy(Abusive(request.param))
    return str(request.param)


WHERES = ["build", "update", "on_state", "pick", "junk", "on_done", "exit_idle", "close"]


@pytest.mark.parametrize("abusive", WHERES, indirect=True)
def test_a_broken_policy_fails_rpcs_in_bounds_and_close_works(
    connect: Connect, fleet: list[Backend], logs: LogGuard, abusive: str
) -> None:
    logs.expect("abusive|broken in|on_done")
    options = [("grpc.lb_policy_name", "abusive")]
    client = connect(target_of(fleet[:1]), options=options)
    result = client.call(timeout=1)
    if abusive in ("on_done", "exit_idle", "close"):
        assert result.ok, "not a matter of the RPC's"
    else:
        assert result.code.name in ("INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED")
    if abusive in ("build", "update", "pick"):
        assert result.code.name == "INTERNAL"
        assert f"broken in {abusive}" in result.details
    assert client.close() < BOUND


def test_a_broken_policy_in_an_update_leaves_the_working_one(
    connect: Connect, fleet: list[Backend], logs: LogGuard
) -> None:
    logs.expect("abusive|broken in|on_done")
    grpclb.register_policy(Abusive("build"))
    resolver = ManualResolver([fleet[0].address])
    client = connect("manual:///api", resolver=resolver)
    assert client.call(timeout=10).ok
    bad: dict[str, Any] = {"loadBalancingConfig": [{"abusive": {}}]}
    state = grpclb.ResolverState.of([fleet[0].address])
    resolver.update(grpclb.ResolverState(state.endpoints, service_config=bad))
    eventually(lambda: logs.lines, what="the complaint")
    assert failures(client.calls(20, timeout=10)) == []
