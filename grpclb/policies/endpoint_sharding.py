"""One pick_first per endpoint, and their states as one: what petiole policies share (gRFC A61).

A policy that balances over endpoints owns an `EndpointSharding`, gives it the updates, and reads
`ready`, `state` and `last_error` whenever it is told of a change. It is built for 10,000 endpoints:
an update costs one cheap look at each endpoint and real work for those that changed; changes of
children are joined, so that the owner is told once for many.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, TypeVar

from grpclb.core.address import Address, Endpoint
from grpclb.core.balancer import (
    QUEUE_PICKER,
    Fail,
    FixedPicker,
    Helper,
    LoadBalancer,
    Picker,
    Subchannel,
    SubchannelState,
)
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
from grpclb.policies.endpoint_diff import diff
from grpclb.policies.pick_first import RERESOLVE_EVERY, PickFirst, why_empty

if TYPE_CHECKING:
    from random import Random

    from grpclb.core.clock import Clock, Timer

T = TypeVar("T")

# One more READY backend among many may wait to be joined by others: 10,000 that connect one by
# one must not cost 10,000 pickers. A loss never waits longer than the present turn of the loop.
_PATIENCE_PER_ENDPOINT = 2e-6
_SHORTEST_PATIENCE = 0.001
_NEXT_EXIT_IDLE = 1.0

NO_ENDPOINTS = Status.unavailable("the resolver found no endpoints")
_UNKNOWN_ERROR = Status.unavailable("connection failed")


class Child:
    """One endpoint and its policy, of which it is the core.balancer.Helper.

    `state` is the sticky one: after TRANSIENT_FAILURE it changes on READY only. `since` is when
    it came into that state, `took` the seconds that it needed to become READY. `picker` belongs
    to `state`.
    """

    __slots__ = ("_parent", "balancer", "endpoint", "picker", "since", "state", "took")

    balancer: LoadBalancer

    def __init__(self, parent: EndpointSharding, endpoint: Endpoint) -> None:
        self._parent = parent
        self.endpoint = endpoint
        self.state: ConnectivityState = IDLE
        self.since = parent.helper.clock.now()
        self.took = 0.0
        self.picker: Picker = QUEUE_PICKER

    @property
    def clock(self) -> Clock:
        return self._parent.helper.clock

    @property
    def random(self) -> Random:
        return self._parent.helper.random

    def create_subchannel(
        self, address: Address, on_state: Callable[[SubchannelState], None]
    ) -> Subchannel:
        return self._parent.helper.create_subchannel(address, on_state)

    def update_picker(self, state: ConnectivityState, picker: Picker) -> None:
        self._parent._child_changed(self, state, picker)

    def request_resolution(self) -> None:
        self._parent._child_wants_resolution()

    def __repr__(self) -> str:
        return f"<Child {self.endpoint} {self.state.name}>"


def _leaf(child: Child) -> LoadBalancer:
    return PickFirst(child, leaf=True)


class EndpointSharding:
    """The children of one petiole policy. Called on the control loop.

    `on_change` runs after each update, and at the end of the loop's turn (or a few milliseconds
    later) after children changed; never while a child or this class is in the middle of something.
    """

    __slots__ = (
        "_config",
        "_counts",
        "_due",
        "_idle",
        "_last_failed",
        "_on_change",
        "_quiet",
        "_reresolve_timer",
        "_resolver_error",
        "_timer",
        "_wants_resolution",
        "build_child",
        "children",
        "helper",
        "ready",
        "ready_version",
        "why_empty",
    )

    def __init__(
        self,
        helper: Helper,
        on_change: Callable[[], None],
        build_child: Callable[[Child], LoadBalancer] = _leaf,
    ) -> None:
        self.helper = helper
        self.build_child = build_child
        self.children: dict[Hashable, Child] = {}
        self.ready: dict[Child, Picker] = {}
        self.ready_version = 0  # changes whenever `ready` does
        self._on_change = on_change
        self._counts = {IDLE: 0, CONNECTING: 0, READY: 0, TRANSIENT_FAILURE: 0}
        self._config: object = None
        self._idle: list[Child] = []
        self._last_failed: Child | None = None
        self._resolver_error = NO_ENDPOINTS
        self.why_empty = NO_ENDPOINTS.details
        self._wants_resolution = False
        self._quiet = False  # an update is under way, or all is closed: nothing is scheduled
        self._timer: Timer | None = None
        self._due = 0.0
        self._reresolve_timer: Timer | None = None

    # -- the children as one -----------------------------------------------------------------

    @property
    def state(self) -> ConnectivityState:
        """gRFC A61: READY if one is; else CONNECTING if one may become it; else the failure."""
        if self.ready:
            return READY
        return CONNECTING if self.connecting else TRANSIENT_FAILURE

    @property
    def connecting(self) -> int:
        """How many children are on their way, for the first time since they were well."""
        return self._counts[CONNECTING] + self._counts[IDLE]

    @property
    def last_error(self) -> Status:
        """Why nobody is READY: a child's newest error; without children the resolver's."""
        if not self.children:
            return self._resolver_error
        child = self._last_failed
        if child is None or child.state is not TRANSIENT_FAILURE:
            failing = (c for c in self.children.values() if c.state is TRANSIENT_FAILURE)
            child = self._last_failed = next(failing, None)
        return _UNKNOWN_ERROR if child is None else _error_of(child.picker)

    # -- from the owner ----------------------------------------------------------------------

    def update(self, state: ResolverState, config: object = None) -> bool:
        """Open, keep and shut children. `config` is that of the children.

        A Status in place of the endpoints counts only as long as there is no child. False: there
        is none after this, for the reason in `last_error`.
        """
        if isinstance(state.endpoints, Status):
            if not self.children:
                self._resolver_error = state.endpoints
                self._settle()
            return bool(self.children)
        self._resolver_error, self.why_empty = NO_ENDPOINTS, why_empty(state)
        change = diff(self.children.keys(), state.endpoints)
        self._quiet = True
        anew = config != self._config
        self._config = config
        for key, endpoint in change.to_keep.items():
            child = self.children[key]
            if anew or endpoint is not child.endpoint:
                self._keep(child, endpoint, state, anew)
        for key, endpoint in rotated(tuple(change.to_open.items()), self.helper.random):
            self._open(key, endpoint, state)
        # After the opening: an address that moved to another endpoint keeps its connection.
        for key in change.to_shut:
            self._shut(self.children.pop(key))
        self._quiet = False
        self._settle()
        return bool(self.children)

    def exit_idle(self) -> None:
        """Nothing to do: a child that falls idle is connected again at once."""

    def close(self) -> None:
        self._quiet = True
        for timer in (self._timer, self._reresolve_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._reresolve_timer = None
        for child in self.children.values():
            self._shut(child)
        self.children.clear()

    # -- children come and go ----------------------------------------------------------------

    def _open(self, key: Hashable, endpoint: Endpoint, state: ResolverState) -> None:
        child = self.children[key] = Child(self, endpoint)
        self._counts[IDLE] += 1
        child.balancer = self.build_child(child)
        self._update_child(child, state)

    def _keep(self, child: Child, endpoint: Endpoint, state: ResolverState, anew: bool) -> None:
        before, child.endpoint = child.endpoint, endpoint
        reordered = len(endpoint.addresses) > 1 and endpoint.addresses != before.addresses
        if anew or reordered:
            self._update_child(child, state)
        if child.state is READY and endpoint.attributes != before.attributes:
            self.ready_version += 1

    def _update_child(self, child: Child, state: ResolverState) -> None:
        own = ResolverState((child.endpoint,), attributes=state.attributes)
        child.balancer.update(own, self._config)

    def _shut(self, child: Child) -> None:
        self._count(child, SHUTDOWN)
        child.state = SHUTDOWN
        child.balancer.close()

    def _count(self, child: Child, new: ConnectivityState) -> None:
        self._counts[child.state] -= 1
        if new is not SHUTDOWN:
            self._counts[new] += 1
        if child.state is READY and new is not READY:
            del self.ready[child]
            self.ready_version += 1

    # -- from the children -------------------------------------------------------------------

    def _child_changed(self, child: Child, state: ConnectivityState, picker: Picker) -> None:
        before = child.state
        if before is SHUTDOWN:
            return
        if state is IDLE:
            self._idle.append(child)
        if before is TRANSIENT_FAILURE and state in (IDLE, CONNECTING):
            self._schedule(0.0)  # sticky: it only has to be connected again
            return
        if state is not before:
            self._enter(child, state)
        child.picker = picker
        if state is READY:
            self.ready[child] = picker
            self.ready_version += 1
        elif state is TRANSIENT_FAILURE:
            self._last_failed = child
        may_wait = len(self.ready) > 1 and before is not READY and state is not IDLE
        self._schedule(self._patience() if may_wait else 0.0)

    def _enter(self, child: Child, state: ConnectivityState) -> None:
        now = self.helper.clock.now()
        self._count(child, state)
        child.state = state
        if state is READY:
            child.took = now - child.since
        child.since = now

    def _child_wants_resolution(self) -> None:
        self._wants_resolution = True
        self._schedule(0.0)

    def _patience(self) -> float:
        patience = len(self.children) * _PATIENCE_PER_ENDPOINT
        return patience if patience >= _SHORTEST_PATIENCE else 0.0

    # -- one answer to many changes ------------------------------------------------------------

    def _schedule(self, delay: float) -> None:
        if self._quiet:
            return
        clock = self.helper.clock
        due = clock.now() + delay
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due = due
        self._timer = clock.call_later(delay, self._settle)

    def _settle(self) -> None:
        """Connect what fell idle, ask for resolution if a child did, and tell the owner."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._quiet = True
        idle, self._idle = self._idle, []
        for child in idle:
            if child.state is not SHUTDOWN:
                child.balancer.exit_idle()
        self._quiet = False
        if self._idle:  # one that answers exit_idle with IDLE must not keep the loop busy
            self._schedule(_NEXT_EXIT_IDLE)
        if self._wants_resolution:
            self._wants_resolution = False
            self.helper.request_resolution()
        self._watch_failures()
        self._on_change()

    def _watch_failures(self) -> None:
        """While children fail, look the name up now and then (see RERESOLVE_EVERY)."""
        failing = self._counts[TRANSIENT_FAILURE] > 0
        if failing and self._reresolve_timer is None:
            self._reresolve_timer = self.helper.clock.call_later(RERESOLVE_EVERY, self._reresolve)
        elif not failing and self._reresolve_timer is not None:
            self._reresolve_timer.cancel()
            self._reresolve_timer = None

    def _reresolve(self) -> None:
        self._reresolve_timer = None
        self.helper.request_resolution()
        self._watch_failures()


def rotated(items: tuple[T, ...], random: Random) -> tuple[T, ...]:
    """The same ring from a random start: else every client connects to the same backend first."""
    if len(items) < 2:
        return items
    start = random.randrange(len(items))
    return items[start:] + items[:start]


def _error_of(picker: Picker) -> Status:
    match picker:
        case FixedPicker(Fail(status)):
            return status
    return _UNKNOWN_ERROR
