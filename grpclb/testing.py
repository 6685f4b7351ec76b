"""A kit for authors of resolvers and policies, and for tests of code that uses grpclb.

`ManualResolver` hands a channel the addresses that a test (or a program with a discovery of its
own) decides on. `FakeClock`, `FakeHelper` and `FakeSubchannel` run a policy without a channel, a
thread or a real second.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from random import Random

from grpc import StatusCode

from grpclb.core.address import Address, Endpoint
from grpclb.core.balancer import (
    QUEUE_PICKER,
    Picker,
    PickInfo,
    PickResult,
    SubchannelState,
)
from grpclb.core.connectivity import CONNECTING, IDLE, TRANSIENT_FAILURE, ConnectivityState
from grpclb.core.resolver import ResolverState, Update
from grpclb.core.status import Status

__all__ = ["FakeClock", "FakeHelper", "FakeSubchannel", "ManualResolver"]

_MOST_TIMERS = 100_000  # in one advance(); more is a policy that re-arms itself without end


class _FakeTimer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class FakeClock:
    """core.clock.Clock whose time passes only in `advance`. One thread."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        self._order = itertools.count()
        self._timers: list[tuple[float, int, _FakeTimer]] = []

    def now(self) -> float:
        return self._now

    def call_later(self, delay: float, callback: Callable[[], None]) -> _FakeTimer:
        """A timer that runs in `advance`, not before, even when `delay` is 0."""
        if delay < 0:
            raise ValueError(f"delay {delay} is negative")
        timer = _FakeTimer(callback)
        heapq.heappush(self._timers, (self._now + delay, next(self._order), timer))
        return timer

    @property
    def pending(self) -> int:
        """How many timers wait."""
        return sum(timer.callback is not None for _, _, timer in self._timers)

    def advance(self, seconds: float = 0.0) -> None:
        """Let time pass and run what falls due, in order, each at its own time.

        Timers that callbacks add run too, if they fall due; `advance(0)` is one turn of the loop.
        """
        end = self._now + seconds
        for _ in range(_MOST_TIMERS):
            if not self._timers or self._timers[0][0] > end:
                self._now = end
                return
            due, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, due)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()
        raise RuntimeError(f"{_MOST_TIMERS} timers ran in {seconds} s: does one re-arm itself?")


class FakeSubchannel:
    """core.balancer.Subchannel that connects nowhere: a test says with `set` what happens to it.

    As a real one it reports CONNECTING from within `connect`, is silent when a state repeats,
    and after `release`. Use after release is a bug of the policy and raises RuntimeError.
    """

    def __init__(self, address: Address, on_state: Callable[[SubchannelState], None]) -> None:
        self.address = address
        self.state = SubchannelState(IDLE)
        self.connects = 0
        self.released = False
        self._on_state = on_state

    def connect(self) -> None:
        if self.released:
            raise RuntimeError(f"{self.address}: connect() after release()")
        self.connects += 1
        if self.state.connectivity is IDLE:
            self.set(CONNECTING)

    def release(self) -> None:
        if self.released:
            raise RuntimeError(f"{self.address}: release() twice")
        self.released = True

    def set(self, state: ConnectivityState, status: Status | str | None = None) -> None:
        """The connection comes into `state`; a text is the error of a TRANSIENT_FAILURE."""
        if isinstance(status, str):
            status = Status.unavailable(status)
        if status is None and state is TRANSIENT_FAILURE:
            status = Status.unavailable(f"{self.address}: connection refused")
        new = SubchannelState(state, status)
        if self.released or new == self.state:
            return
        self.state = new
        self._on_state(new)

    def __repr__(self) -> str:
        end = " released" if self.released else ""
        return f"<FakeSubchannel {self.address} {self.state.connectivity.name}{end}>"


class FakeHelper:
    """core.balancer.Helper that writes down what a policy does. One thread.

    `subchannels` holds all that were ever created, `states` and `pickers` all that was published,
    `resolution_requests` counts.
    """

    def __init__(self, clock: FakeClock | None = None, seed: int = 0) -> None:
        self.clock = clock or FakeClock()
        self.random = Random(seed)
        self.subchannels: list[FakeSubchannel] = []
        self.states: list[ConnectivityState] = []
        self.pickers: list[Picker] = []
        self.resolution_requests = 0

    def create_subchannel(
        self, address: Address, on_state: Callable[[SubchannelState], None]
    ) -> FakeSubchannel:
        subchannel = FakeSubchannel(address, on_state)
        self.subchannels.append(subchannel)
        return subchannel

    def update_picker(self, state: ConnectivityState, picker: Picker) -> None:
        self.states.append(state)
        self.pickers.append(picker)

    def request_resolution(self) -> None:
        self.resolution_requests += 1

    @property
    def state(self) -> ConnectivityState:
        """The state published last; IDLE before the first."""
        return self.states[-1] if self.states else IDLE

    @property
    def live(self) -> list[FakeSubchannel]:
        """The subchannels that the policy holds."""
        return [s for s in self.subchannels if not s.released]

    def subchannel(self, address: Address | str) -> FakeSubchannel:
        """The newest subchannel to `address` that the policy holds. Raises LookupError."""
        for subchannel in reversed(self.subchannels):
            if subchannel.address.target == str(address) and not subchannel.released:
                return subchannel
        raise LookupError(f"no subchannel to {address}; there are {self.live}")

    def pick(self, info: PickInfo | None = None) -> PickResult:
        """What the newest picker says to an RPC."""
        picker = self.pickers[-1] if self.pickers else QUEUE_PICKER
        return picker.pick(info or PickInfo("/test.Service/Method"))


class _Listener:
    """One running `ManualResolver.run`."""

    __slots__ = ("loop", "states", "wake")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.states: deque[ResolverState] = deque()
        self.wake = asyncio.Event()


class ManualResolver:
    """A resolver that says what it is told. All methods may be called from any thread, at any time.

    One may serve several channels, one after the other or together. A channel that starts is
    given the newest state at once (none if there was none yet); from then on it gets every state,
    in order.
    """

    def __init__(self, addresses: Iterable[Address | Endpoint | str] = ()) -> None:
        self._lock = threading.Lock()
        self._listeners: tuple[_Listener, ...] = ()
        self._requests = 0
        initial = _state(addresses)
        self._state = initial if initial.endpoints else None
        _INSTANCES.add(self)

    def update(self, addresses: Iterable[Address | Endpoint | str] | ResolverState) -> None:
        """Tell all channels: these are the addresses now, and no others."""
        self._tell(_state(addresses))

    def fail(
        self, code: StatusCode = StatusCode.UNAVAILABLE, details: str = "told to fail"
    ) -> None:
        """Tell all channels that the look-up failed; those with a good list keep it."""
        self._tell(ResolverState(Status(code, details)))

    @property
    def requests(self) -> int:
        """How often channels asked to look again."""
        return self._requests

    async def run(self, update: Update) -> None:
        """core.resolver.Resolver.run; called by the channel."""
        listener = _Listener(asyncio.get_running_loop())
        with self._lock:
            if self._state is not None:
                listener.states.append(self._state)
            self._listeners += (listener,)
        try:
            while True:
                # Cleared before the look, so that a state that comes meanwhile wakes us again.
                listener.wake.clear()
                while listener.states:
                    update(listener.states.popleft())
                await listener.wake.wait()
        finally:
            with self._lock:
                self._listeners = tuple(x for x in self._listeners if x is not listener)

    def resolve_now(self) -> None:
        """core.resolver.Resolver.resolve_now: counted, no more."""
        with self._lock:
            self._requests += 1

    def _tell(self, state: ResolverState) -> None:
        with self._lock:
            self._state = state
            for listener in self._listeners:
                listener.states.append(state)
                # A loop that was closed under its channel hears nothing any more.
                with contextlib.suppress(RuntimeError):
                    listener.loop.call_soon_threadsafe(listener.wake.set)

    def _after_fork(self) -> None:
        """In a child: the parent's threads, which may hold the lock or listen, are not here."""
        self._lock = threading.Lock()
        self._listeners = ()


def _state(addresses: Iterable[Address | Endpoint | str] | ResolverState) -> ResolverState:
    if isinstance(addresses, ResolverState):
        return addresses
    if isinstance(addresses, (str, Endpoint, Address)):
        raise TypeError(f"expected a list of addresses or a ResolverState, got {addresses!r} alone")
    return ResolverState.of(addresses)


_INSTANCES: weakref.WeakSet[ManualResolver] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for resolver in tuple(_INSTANCES):
        resolver._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
