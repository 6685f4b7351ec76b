"""pick_first: the first address that connects takes every RPC (gRFC A61, A62, A113).

Also the leaf under every policy that balances over endpoints: there it connects one endpoint by
whichever of its addresses answers first. A READY endpoint with one address costs one small object
beside its subchannel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from grpclb.core.address import Address
from grpclb.core.attributes import STRAYS
from grpclb.core.balancer import (
    QUEUE_PICKER,
    Fail,
    FixedPicker,
    Helper,
    Pick,
    Picker,
    Subchannel,
    SubchannelState,
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
from grpclb.policies.connect_order import connect_order, shuffled

if TYPE_CHECKING:
    from grpclb.core.clock import Timer

# The channel option, and the key under which the channel passes it on in ResolverState.attributes.
ATTEMPT_DELAY_MS: Final = "grpc.happy_eyeballs_connection_attempt_delay_ms"
# While a subchannel stays in TRANSIENT_FAILURE, the attempts that it makes by itself are not seen
# one by one: ask for a look-up as often as a resolver would grant one (SEMANTICS 2).
RERESOLVE_EVERY: Final = 30.0

_DEFAULT_DELAY_MS = 250


@dataclass(frozen=True, slots=True)
class PickFirstConfig:
    """``{"shuffleAddressList": true}`` (gRFC A62); other fields are ignored."""

    shuffle: bool = False


_DEFAULT_CONFIG = PickFirstConfig()


class PickFirstPolicy:
    """core.balancer.Policy."""

    name = "pick_first"

    def parse_config(self, raw: Mapping[str, Any]) -> PickFirstConfig:
        return PickFirstConfig(Node(raw).optional("shuffleAddressList", Node.boolean) or False)

    def build(self, helper: Helper) -> PickFirst:
        return PickFirst(helper)


PICK_FIRST = PickFirstPolicy()


class _Attempt:
    """One address' subchannel, its state as last reported, and whether it failed in this pass."""

    __slots__ = ("failed", "owner", "state", "subchannel")

    subchannel: Subchannel

    def __init__(self, owner: PickFirst) -> None:
        self.owner = owner
        self.state: ConnectivityState = IDLE
        self.failed = False

    def on_state(self, reported: SubchannelState) -> None:
        self.owner._on_state(self, reported)


def why_empty(state: ResolverState) -> str:
    """Why a policy was given no endpoints, for the error of its RPCs."""
    return str(state.attributes.get(STRAYS) or "the resolver found no endpoints")


class PickFirst:
    """core.balancer.LoadBalancer. A `leaf` leaves its name out of errors and starts no long timers.

    The published state is `_state`. A *pass* goes through the addresses in order; it ends with a
    connection or when each address failed once. After a failed pass all subchannels keep trying.
    """

    __slots__ = (
        "_addresses",
        "_attempts",
        "_delay",
        "_error",
        "_failures",
        "_helper",
        "_in_pass",
        "_leaf",
        "_next",
        "_selected",
        "_state",
        "_timer",
    )

    def __init__(self, helper: Helper, *, leaf: bool = False) -> None:
        self._helper = helper
        self._leaf = leaf
        self._addresses: tuple[Address, ...] = ()
        self._attempts: dict[Address, _Attempt] = {}
        self._state: ConnectivityState = IDLE
        self._selected: _Attempt | None = None
        self._in_pass = False
        self._next = 0  # index of the address that the pass tries next
        self._failures = 0  # in the pass, or since the last request for resolution
        self._error: Status | None = None
        self._delay = _DEFAULT_DELAY_MS / 1000
        self._timer: Timer | None = None

    # -- from the channel or the parent ----------------------------------------------------

    def update(self, state: ResolverState, config: object) -> bool:
        endpoints = state.endpoints
        if isinstance(endpoints, Status):
            if not self._addresses:
                self._publish(TRANSIENT_FAILURE, FixedPicker(Fail(endpoints)))
            return False
        if not endpoints:
            self._give_up(why_empty(state))
            return False
        shuffle = isinstance(config, PickFirstConfig) and config.shuffle
        self._delay = _clamped(state.attributes.get(ATTEMPT_DELAY_MS))
        ordered = shuffled(endpoints, self._helper.random) if shuffle else endpoints
        addresses = connect_order(ordered)
        if not self._same(addresses, shuffle):
            self._replace(addresses)
        return True

    def exit_idle(self) -> None:
        if self._state is IDLE and self._addresses:
            self._start_pass()

    def close(self) -> None:
        self._state = SHUTDOWN
        self._cancel_timer()
        self._keep_only(())

    # -- address lists ---------------------------------------------------------------------

    def _give_up(self, why: str) -> None:
        """There is nobody."""
        self._cancel_timer()
        self._keep_only(())
        self._addresses = ()
        self._in_pass = False
        status = Status.unavailable(f"pick_first: {why}")
        self._publish(TRANSIENT_FAILURE, FixedPicker(Fail(status)))

    def _same(self, addresses: tuple[Address, ...], shuffle: bool) -> bool:
        """Nothing new: a pass under way goes on, or lists that come quickly would never end one."""
        if addresses == self._addresses:
            return True
        return shuffle and set(addresses) == set(self._addresses)

    def _replace(self, addresses: tuple[Address, ...]) -> None:
        first = not self._addresses
        self._addresses = addresses
        chosen = self._selected
        if chosen is not None and chosen.subchannel.address in addresses:
            return
        was_ready = chosen is not None
        self._keep_only(addresses)
        if first or was_ready:
            self._state = CONNECTING
            self._helper.update_picker(CONNECTING, QUEUE_PICKER)
        if self._state is not IDLE:
            self._start_pass()

    def _keep_only(self, addresses: Iterable[Address]) -> None:
        wanted = set(addresses)
        for address in [a for a in self._attempts if a not in wanted]:
            attempt = self._attempts.pop(address)
            if attempt is self._selected:
                self._selected = None
            attempt.subchannel.release()

    # -- a pass over the addresses ---------------------------------------------------------

    def _start_pass(self) -> None:
        self._in_pass = True
        self._next = self._failures = 0
        for attempt in self._attempts.values():
            attempt.failed = False
        if self._state is not TRANSIENT_FAILURE:
            self._publish(CONNECTING, QUEUE_PICKER)
        self._try_next()

    def _try_next(self) -> None:
        """Start the next address that is not in backoff. A subchannel may report within connect."""
        self._cancel_timer()
        while self._next < len(self._addresses):
            address = self._addresses[self._next]
            self._next += 1
            attempt = self._attempts.get(address) or self._create(address)
            if attempt.state is TRANSIENT_FAILURE:
                self._mark_failed(attempt)
                continue
            if self._next < len(self._addresses):
                self._timer = self._helper.clock.call_later(self._delay, self._try_next)
            if attempt.state is IDLE:
                attempt.subchannel.connect()
            return
        self._end_pass_if_all_failed()

    def _create(self, address: Address) -> _Attempt:
        attempt = self._attempts[address] = _Attempt(self)
        attempt.subchannel = self._helper.create_subchannel(address, attempt.on_state)
        return attempt

    def _mark_failed(self, attempt: _Attempt) -> None:
        if not attempt.failed:
            attempt.failed = True
            self._failures += 1

    def _end_pass_if_all_failed(self) -> None:
        if self._failures < len(self._addresses):
            return
        self._in_pass = False
        self._failures = 0
        self._cancel_timer()
        self._publish_failure()
        self._reresolve_later()
        for attempt in tuple(self._attempts.values()):
            if attempt.state is IDLE and self._state is TRANSIENT_FAILURE:
                attempt.subchannel.connect()
        self._helper.request_resolution()

    # -- from the subchannels --------------------------------------------------------------

    def _on_state(self, attempt: _Attempt, reported: SubchannelState) -> None:
        before, attempt.state = attempt.state, reported.connectivity
        if reported.connectivity is READY:
            self._select(attempt)
        elif attempt is self._selected:
            self._lost(attempt, reported)
        elif reported.connectivity is TRANSIENT_FAILURE:
            self._failed(attempt, reported.status, again=before is TRANSIENT_FAILURE)
        elif reported.connectivity is IDLE:
            self._fell_idle(attempt, before)

    def _select(self, attempt: _Attempt) -> None:
        if attempt is self._selected:
            return
        self._cancel_timer()
        self._selected = attempt
        self._in_pass = False
        self._error = None
        self._keep_only((attempt.subchannel.address,))
        self._publish(READY, FixedPicker(Pick(attempt.subchannel)))

    def _lost(self, attempt: _Attempt, reported: SubchannelState) -> None:
        """The connection is gone: idle until an RPC comes, then from the first address on."""
        self._selected = None
        if reported.status is not None:
            self._error = self._named(attempt, reported.status)
        self._go_idle(attempt)

    def _go_idle(self, attempt: _Attempt) -> None:
        self._cancel_timer()
        self._in_pass = False
        self._keep_only((attempt.subchannel.address,))
        self._publish(IDLE, QUEUE_PICKER)
        self._helper.request_resolution()

    def _failed(self, attempt: _Attempt, status: Status | None, *, again: bool) -> None:
        """`again`: it was in TRANSIENT_FAILURE before, and this is but a better description."""
        if status is not None:
            self._error = self._named(attempt, status)
        if self._in_pass:
            self._mark_failed(attempt)
            if self._attempts.get(self._addresses[self._next - 1]) is attempt:
                self._try_next()
            else:
                self._end_pass_if_all_failed()
        elif self._state is TRANSIENT_FAILURE:
            self._publish_failure()
            self._failures += not again
            if self._failures >= len(self._attempts):
                self._failures = 0
                self._helper.request_resolution()

    def _fell_idle(self, attempt: _Attempt, before: ConnectivityState) -> None:
        if self._in_pass:
            # It was READY for less time than it takes to see it: as a connection that was lost.
            if before is CONNECTING and self._state is not TRANSIENT_FAILURE:
                self._go_idle(attempt)
            elif before is CONNECTING:
                attempt.subchannel.connect()
        elif self._state is TRANSIENT_FAILURE:
            attempt.subchannel.connect()

    # -- publishing ------------------------------------------------------------------------

    def _publish(self, state: ConnectivityState, picker: Picker) -> None:
        if state is self._state is CONNECTING:
            return
        self._state = state
        self._helper.update_picker(state, picker)

    def _publish_failure(self) -> None:
        error = self._error or Status.unavailable("connection failed")
        if not self._leaf:
            text = f"pick_first: 0 of {len(self._addresses)} addresses connected"
            error = Status(error.code, f"{text}; last: {error.details}")
        self._publish(TRANSIENT_FAILURE, FixedPicker(Fail(error)))

    def _named(self, attempt: _Attempt, status: Status) -> Status:
        """The error with the address that it is about."""
        target = attempt.subchannel.address.target
        if target in status.details:
            return status
        return Status(status.code, f"{target}: {status.details}")

    def _reresolve_later(self) -> None:
        if not self._leaf:
            self._timer = self._helper.clock.call_later(RERESOLVE_EVERY, self._reresolve)

    def _reresolve(self) -> None:
        self._helper.request_resolution()
        self._reresolve_later()

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


def _clamped(delay_ms: object) -> float:
    """The connection attempt delay in seconds, within gRFC A61's bounds."""
    if isinstance(delay_ms, bool) or not isinstance(delay_ms, int | float):
        delay_ms = _DEFAULT_DELAY_MS
    return min(max(delay_ms, 100), 2000) / 1000
