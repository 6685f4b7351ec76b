"""A channel's engine without grpcio: fake connections, and a loop on virtual time."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

import pytest

import grpclb  # registers the built-in resolvers and policies  # noqa: F401
from grpclb.control.channel_core import ChannelCore
from grpclb.control.channel_spec import ChannelSpec, build_spec
from grpclb.control.picker_slot import PickerSlot
from grpclb.control.subchannel import Connection
from grpclb.core.balancer import Fail, FixedPicker, Helper, Pick, PickInfo, PickResult
from grpclb.core.connectivity import READY, ConnectivityState
from grpclb.core.resolver import ResolverState, Update
from grpclb.core.status import Status
from tests.support.virtual_loop import run_virtual

INFO = PickInfo("/test.Service/Method")
A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
SCRIPTED: dict[str, Any] = {"loadBalancingConfig": [{"scripted": {}}]}


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on virtual time."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_virtual(test(*args, **kwargs))

    return run


class FakeTransport:
    """control.subchannel.Transport that does nothing but remember."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.connects = 0
        self.closes = 0
        self.inflight = 0

    def connect(self) -> None:
        self.connects += 1

    def check(self) -> None:
        raise AssertionError("the engine never checks by itself")

    def close(self) -> None:
        self.closes += 1


class Script:
    """A resolver whose `run` is a function of the test's."""

    def __init__(self, run: Callable[[Update], Coroutine[Any, Any, None]] | None = None) -> None:
        self._run = run
        self.update: Update = _not_running
        self.runs = 0
        self.hints = 0
        self.ended = 0

    async def run(self, update: Update) -> None:
        self.update = update
        self.runs += 1
        try:
            if self._run is None:
                await asyncio.Event().wait()
            else:
                await self._run(update)
        finally:
            self.ended += 1

    def resolve_now(self) -> None:
        self.hints += 1


def _not_running(state: ResolverState) -> bool:
    raise AssertionError("the resolver was not started")


class Channel:
    """A ChannelCore at work; call it from within a virtual loop."""

    def __init__(
        self,
        resolver: Any = None,
        options: Iterable[tuple[str, Any]] = (),
        service_config: Mapping[str, Any] | str | None = None,
        target: str = "test:///api",
    ) -> None:
        self.resolver = Script() if resolver is None else resolver
        self.spec: ChannelSpec = build_spec(target, list(options), service_config, self.resolver)
        self.slot = PickerSlot(self.spec.default_config)
        self.transports: list[FakeTransport] = []
        self.core = ChannelCore(self.spec, self.slot, asyncio.get_running_loop(), self._open)

    def _open(self, connection: Connection) -> FakeTransport:
        transport = FakeTransport(connection)
        self.transports.append(transport)
        return transport

    async def started(self) -> Channel:
        self.core.exit_idle()
        await turn()
        return self

    def update(self, *addresses: str, **more: Any) -> bool:
        """What the resolver is told about a list of addresses."""
        endpoints = ResolverState.of(addresses).endpoints
        return bool(self.resolver.update(ResolverState(endpoints, **more)))

    def fail(self, details: str, **attributes: Any) -> bool:
        state = ResolverState(Status.unavailable(details), attributes=attributes)
        return bool(self.resolver.update(state))

    def transport(self, address: str) -> FakeTransport:
        """The newest connection to an address."""
        return next(t for t in reversed(self.transports) if str(t.connection.address) == address)

    def ready(self, *addresses: str) -> None:
        for address in addresses:
            self.transport(address).connection.report(READY)

    async def up(self, *addresses: str, **more: Any) -> None:
        """Resolve to these addresses, with a connection to each."""
        assert self.update(*addresses, **more)
        await turn()
        self.ready(*addresses)
        await asyncio.sleep(0.2)

    @property
    def state(self) -> str:
        return self.slot.current.state.name

    def pick(self) -> PickResult:
        return self.slot.current.picker.pick(INFO)

    def picks(self, count: int = 12) -> set[str]:
        """The addresses that this many picks go to."""
        results = [self.pick() for _ in range(count)]
        assert all(isinstance(r, Pick) for r in results), results
        return {str(r.subchannel.address) for r in results if isinstance(r, Pick)}

    def failure(self) -> str:
        """Why RPCs fail now."""
        result = self.pick()
        assert isinstance(result, Fail), result
        return f"{result.status.code.name}: {self.core.explain(result.status)}"


class ScriptedPolicy:
    """A policy that records its updates, publishes what it is told to, and raises on request."""

    def __init__(self, name: str = "scripted") -> None:
        self.name = name
        self.raises: set[str] = set()
        self.updates: list[ResolverState] = []
        self.closed = 0
        self.helpers: list[Helper] = []
        self.subchannels: list[Any] = []
        self.states: list[Any] = []

    def parse_config(self, raw: Mapping[str, Any]) -> object:
        if "bad" in raw:
            raise ValueError("'bad' is not allowed")
        return dict(raw)

    def build(self, helper: Helper) -> ScriptedPolicy:
        self.helpers.append(helper)
        self._may_raise("build")
        return self

    def _may_raise(self, where: str) -> None:
        if where in self.raises:
            raise RuntimeError(f"a mistake in {where}")

    def update(self, state: ResolverState, config: object) -> bool:
        self.updates.append(state)
        self._may_raise("update")
        if isinstance(state.endpoints, Status):
            return False
        for endpoint in state.endpoints:
            subchannel = self.helpers[-1].create_subchannel(endpoint.addresses[0], self._on_state)
            self.subchannels.append(subchannel)
            subchannel.connect()
        return bool(state.endpoints)

    def _on_state(self, state: Any) -> None:
        self.states.append(state)
        self._may_raise("on_state")

    def publish(self, state: ConnectivityState, picker: Any = None) -> None:
        self.helpers[-1].update_picker(state, picker or FixedPicker(Pick(self.subchannels[-1])))

    def exit_idle(self) -> None:
        self._may_raise("exit_idle")

    def close(self) -> None:
        self.closed += 1
        self._may_raise("close")
        while self.subchannels:
            self.subchannels.pop().release()


async def turn() -> None:
    """Let everything run that is due now."""
    for _ in range(5):
        await asyncio.sleep(0)


async def scripted_channel(resolver: Any = None, **options: int) -> Channel:
    """A started channel whose policy is the fixture `scripted`; options without their prefix."""
    knobs = [(f"grpclb.{name}", value) for name, value in options.items()]
    return await Channel(resolver, knobs, SCRIPTED).started()


def lists(policy: ScriptedPolicy) -> list[Any]:
    """What the policy was told, in order: addresses, or why there are none."""
    return [
        state.endpoints.details
        if isinstance(state.endpoints, Status)
        else [str(e) for e in state.endpoints]
        for state in policy.updates
    ]


def messages(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """What was logged at this level and above."""
    return [r.getMessage() for r in caplog.records if r.levelno >= level]


def address(number: int) -> str:
    return f"10.0.{number // 250}.{number % 250 + 1}:80"
