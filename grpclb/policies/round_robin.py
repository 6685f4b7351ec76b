"""round_robin: every READY backend in turn (gRFC A61; the default policy of grpclb).

The turns are exactly even from any number of threads, and go on where they were when the set of
backends changes. Our own addition is a short wait at a cold start, see `RoundRobinConfig`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from grpclb.core.balancer import (
    QUEUE,
    QUEUE_PICKER,
    Fail,
    FixedPicker,
    Helper,
    Pick,
    Picker,
    PickInfo,
    PickResult,
)
from grpclb.core.config_node import Node
from grpclb.core.connectivity import (
    CONNECTING,
    IDLE,
    READY,
    SHUTDOWN,
    TRANSIENT_FAILURE,
    ConnectivityState,
)
from grpclb.core.resolver import ResolverState
from grpclb.core.status import Status
from grpclb.policies.endpoint_sharding import NO_ENDPOINTS, EndpointSharding

if TYPE_CHECKING:
    from grpclb.core.clock import Timer

_SHORTEST_COLD_WAIT = 0.010
_MOST_SKIPPED = 16  # picks that one RPC may pass over to find a backend that it has not tried


@dataclass(frozen=True, slots=True)
class RoundRobinConfig:
    """``{"coldStartWait": "0.05s"}``; other fields are ignored.

    When the first backend is READY while others still connect, RPCs that wait are held back for
    as long as that first one took to connect, but 10 ms at least and `cold_start_wait` seconds at
    most: else all of them would land on it. 0 turns this off. Not part of gRPC.
    """

    cold_start_wait: float = 0.050


_DEFAULT_CONFIG = RoundRobinConfig()


class RoundRobinPolicy:
    """core.balancer.Policy."""

    name = "round_robin"

    def parse_config(self, raw: Mapping[str, Any]) -> RoundRobinConfig:
        wait = Node(raw).optional("coldStartWait", Node.seconds)
        return _DEFAULT_CONFIG if wait is None else RoundRobinConfig(wait)

    def build(self, helper: Helper) -> RoundRobin:
        return RoundRobin(helper)


ROUND_ROBIN = RoundRobinPolicy()


class RoundRobin:
    """core.balancer.LoadBalancer."""

    def __init__(self, helper: Helper) -> None:
        self._helper = helper
        self._shards = EndpointSharding(helper, self._on_change)
        # A random start: a thousand clients that start together must not meet on one backend.
        self._turns = itertools.count(helper.random.randrange(1 << 16))
        self._cold_start_wait = _DEFAULT_CONFIG.cold_start_wait
        self._hold: Timer | None = None
        self._let_through = itertools.count()
        self._published: tuple[ConnectivityState, object] = (IDLE, None)

    def update(self, state: ResolverState, config: object) -> bool:
        if isinstance(config, RoundRobinConfig):
            self._cold_start_wait = config.cold_start_wait
        return self._shards.update(state)

    def exit_idle(self) -> None:
        self._shards.exit_idle()

    def close(self) -> None:
        self._drop_hold()
        self._shards.close()
        self._published = (SHUTDOWN, None)

    # -- publishing ------------------------------------------------------------------------

    def _on_change(self) -> None:
        """The children changed: publish what follows, if it is news."""
        state = self._shards.state
        if state is not READY:
            self._drop_hold()
        if state is READY:
            if not self._must_hold():
                self._publish_ready()
        elif state is CONNECTING:
            self._publish(CONNECTING, None, QUEUE_PICKER)
        else:
            status = self._failure()
            self._publish(TRANSIENT_FAILURE, status, FixedPicker(Fail(status)))

    def _publish(self, state: ConnectivityState, what: object, picker: Picker) -> None:
        """`what` tells apart two pickers of the same state."""
        if self._published != (state, what):
            self._published = (state, what)
            self._helper.update_picker(state, picker)

    def _publish_ready(self) -> None:
        self._drop_hold()
        shards = self._shards
        if shards.ready and self._published != (READY, shards.ready_version):
            picker = make_picker(tuple(shards.ready.values()), self._turns)
            self._publish(READY, shards.ready_version, picker)

    def _failure(self) -> Status:
        shards = self._shards
        error = shards.last_error
        if error is NO_ENDPOINTS:
            return Status(error.code, f"round_robin: {shards.why_empty}")
        if not shards.children:
            return error  # the resolver's own words
        text = f"round_robin: 0 of {len(shards.children)} backends ready; last: {error.details}"
        return Status(error.code, text)

    # -- the cold start --------------------------------------------------------------------

    def _must_hold(self) -> bool:
        """Should RPCs that wait go on waiting, for more backends to share them?

        One of them need not: a single RPC is no burst, and its caller wants it soon.
        """
        if self._published[0] is READY or not self._shards.connecting:
            return False
        if self._hold is None:
            wait = min(self._cold_start_wait, max(_SHORTEST_COLD_WAIT, self._first_took()))
            if wait <= 0:
                return False
            self._hold = self._helper.clock.call_later(wait, self._publish_ready)
            self._let_through = itertools.count()
        first, picker = next(iter(self._shards.ready.items()))
        # Also where RPCs failed before: now there is hope, so let them wait.
        self._publish(CONNECTING, first, _OneOnly(picker, self._let_through))
        return True

    def _first_took(self) -> float:
        return min(child.took for child in self._shards.ready)

    def _drop_hold(self) -> None:
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.cancel()


# -- picking: any thread ---------------------------------------------------------------------


def make_picker(pickers: tuple[Picker, ...], turns: Iterator[int]) -> Picker:
    """A picker that takes turns among `pickers`. `turns` is shared by those before and after it."""
    # Sets of types and `map`, as C does them: this runs for 10,000 pickers at once.
    if set(map(type, pickers)) == {FixedPicker}:
        results: tuple[PickResult, ...] = tuple(map(attrgetter("result"), pickers))
        if set(map(type, results)) == {Pick}:
            return _FixedTurns(results, turns)
    return _Turns(pickers, turns)


class _FixedTurns:
    """Turns among answers that are known beforehand. `next` of a count is atomic."""

    __slots__ = ("_picks", "_size", "_turns")

    def __init__(self, picks: Any, turns: Iterator[int]) -> None:
        self._picks: tuple[Pick, ...] = picks
        self._size = len(picks)
        self._turns = turns

    def pick(self, info: PickInfo) -> PickResult:
        pick = self._picks[next(self._turns) % self._size]
        return self._untried(info, pick) if info.tried else pick

    def _untried(self, info: PickInfo, pick: Pick) -> Pick:
        """Taking further turns, not neighbours, keeps what is passed over even as well."""
        for _ in range(min(self._size - 1, _MOST_SKIPPED)):
            if pick.subchannel.address not in info.tried:
                break
            pick = self._picks[next(self._turns) % self._size]
        return pick


class _OneOnly:
    """One pick, and then none: while a cold start is held up for more backends.

    `let_through` is shared by the pickers of one cold start, should its first backend be lost.
    """

    __slots__ = ("_let_through", "_picker")

    def __init__(self, picker: Picker, let_through: Iterator[int]) -> None:
        self._picker = picker
        self._let_through = let_through

    def pick(self, info: PickInfo) -> PickResult:
        return QUEUE if next(self._let_through) else self._picker.pick(info)


class _Turns:
    """Turns among pickers that decide for each RPC."""

    __slots__ = ("_pickers", "_size", "_turns")

    def __init__(self, pickers: tuple[Picker, ...], turns: Iterator[int]) -> None:
        self._pickers = pickers
        self._size = len(pickers)
        self._turns = turns

    def pick(self, info: PickInfo) -> PickResult:
        result = self._pickers[next(self._turns) % self._size].pick(info)
        if not info.tried:
            return result
        for _ in range(min(self._size - 1, _MOST_SKIPPED)):
            if not isinstance(result, Pick) or result.subchannel.address not in info.tried:
                break
            result = self._pickers[next(self._turns) % self._size].pick(info)
        return result
