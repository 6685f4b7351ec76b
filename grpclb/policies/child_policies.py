"""Children that are whole policies, each with a name: what `weighted_target`, `priority` and
`xds_cluster_manager` share.

A child's config may name another policy from one update to the next: it is switched gracefully.
A child that reports IDLE is told to connect at once. For a parent that makes one state of many
children, one that failed stays failed until it is READY (gRFC A61); a parent that hands on what a
single child says hands on the newest.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from grpclb.core.address import Address, Endpoint
from grpclb.core.balancer import (
    QUEUE_PICKER,
    Helper,
    Picker,
    PolicyConfig,
    Subchannel,
    SubchannelState,
)
from grpclb.core.config_node import Node, ServiceConfigError, join
from grpclb.core.connectivity import (
    CONNECTING,
    IDLE,
    READY,
    TRANSIENT_FAILURE,
    ConnectivityState,
)
from grpclb.core.resolver import ResolverState
from grpclb.core.service_config import FindPolicy, parse_lb_config
from grpclb.core.status import Status
from grpclb.policies.graceful_switch import GracefulSwitch

if TYPE_CHECKING:
    from random import Random

    from grpclb.core.clock import Clock, Timer

_NEXT_EXIT_IDLE = 1.0


class ChildPolicy:
    """One child, of which it is the core.balancer.Helper.

    `reported` and `newest` are what the child last said; `state` is the sticky one, and `picker`
    belongs to it.
    """

    __slots__ = (
        "_owner",
        "closed",
        "given",
        "name",
        "newest",
        "picker",
        "reported",
        "state",
        "switch",
    )

    def __init__(self, owner: ChildPolicies, name: str) -> None:
        self._owner = owner
        self.name = name
        self.closed = False
        self.reported: ConnectivityState = CONNECTING
        self.state: ConnectivityState = CONNECTING
        self.picker: Picker = QUEUE_PICKER
        self.newest: Picker = QUEUE_PICKER
        self.given: tuple[PolicyConfig, ResolverState] | None = None  # if it was accepted
        self.switch = GracefulSwitch(self)

    @property
    def clock(self) -> Clock:
        return self._owner.helper.clock

    @property
    def random(self) -> Random:
        return self._owner.helper.random

    def create_subchannel(
        self, address: Address, on_state: Callable[[SubchannelState], None]
    ) -> Subchannel:
        return self._owner.helper.create_subchannel(address, on_state)

    def update_picker(self, state: ConnectivityState, picker: Picker) -> None:
        if not self.closed:
            self._owner._published(self, state, picker)

    def request_resolution(self) -> None:
        if not self.closed:
            self._owner._on_resolution_wanted(self)

    def close(self) -> None:
        self.closed = True
        self.switch.close()

    def __repr__(self) -> str:
        return f"<ChildPolicy {self.name} {self.state.name}>"


class ChildPolicies:
    """The named children of one policy. Called on the control loop.

    `on_change` is called after children changed, never in the middle of `update`.
    """

    def __init__(
        self,
        helper: Helper,
        on_change: Callable[[], None],
        on_resolution_wanted: Callable[[ChildPolicy], None] | None = None,
    ) -> None:
        self.helper = helper
        self.children: dict[str, ChildPolicy] = {}
        self._on_change = on_change
        self._on_resolution_wanted = on_resolution_wanted or self._pass_on
        self._quiet = 0
        self._idle: list[ChildPolicy] = []
        self._idle_timer: Timer | None = None

    def update(
        self,
        state: ResolverState,
        configs: Mapping[str, PolicyConfig],
        groups: Mapping[str, Sequence[Endpoint]],
        *,
        only_news: bool = False,
    ) -> bool:
        """Have exactly the children of `configs`, each with its group of endpoints.

        False if one of them cannot use what it was given. `only_news` passes over children that
        would be told the same again, with the same objects for endpoints.
        """
        self._quiet += 1
        accepted = True
        for name, config in configs.items():
            accepted &= self.feed(name, state, config, groups.get(name, ()), only_news=only_news)
        gone = [self.children.pop(name) for name in [*self.children] if name not in configs]
        self._quiet -= 1
        # The new picker first: nobody may pick from a child whose subchannels are released. And
        # after the opening: an address that moved to another child keeps its connection.
        self._changed()
        for child in gone:
            child.close()
        return accepted

    def feed(
        self,
        name: str,
        state: ResolverState,
        config: PolicyConfig,
        endpoints: Iterable[Endpoint],
        *,
        only_news: bool = False,
    ) -> bool:
        """Hand an update to one child, which is created if need be."""
        child = self.children.get(name)
        if child is None:
            child = self.children[name] = ChildPolicy(self, name)
        failed = isinstance(state.endpoints, Status)
        own = ResolverState(
            state.endpoints if failed else tuple(endpoints),
            attributes=state.attributes,
            note=state.note,
        )
        if only_news and child.given is not None and _same(child.given, (config, own)):
            return True
        accepted = child.switch.update(own, config)
        child.given = (config, own) if accepted else None
        return accepted

    def drop(self, name: str) -> None:
        """Close one child, now."""
        self.children.pop(name).close()

    def exit_idle(self) -> None:
        for child in tuple(self.children.values()):
            if child.reported is IDLE:
                child.switch.exit_idle()

    def close(self) -> None:
        self._quiet += 1  # for good
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        for name in tuple(self.children):
            self.drop(name)

    # -- from the children -------------------------------------------------------------------

    def _published(self, child: ChildPolicy, state: ConnectivityState, picker: Picker) -> None:
        child.reported, child.newest = state, picker
        if state is IDLE:
            self._connect_soon(child, 0.0)
        if child.state is not TRANSIENT_FAILURE or state in (READY, TRANSIENT_FAILURE):
            child.state, child.picker = state, picker
        self._changed()

    def _changed(self) -> None:
        if not self._quiet:
            self._on_change()

    def _pass_on(self, child: ChildPolicy) -> None:
        self.helper.request_resolution()

    def _connect_soon(self, child: ChildPolicy, delay: float) -> None:
        self._idle.append(child)
        if self._idle_timer is None:
            self._idle_timer = self.helper.clock.call_later(delay, self._connect_idle)

    def _connect_idle(self) -> None:
        idle, self._idle = self._idle, []
        for child in idle:
            if not child.closed and child.reported is IDLE:
                child.switch.exit_idle()
        self._idle_timer = None
        if self._idle:  # one that answers exit_idle with IDLE must not keep the loop busy
            self._idle_timer = self.helper.clock.call_later(_NEXT_EXIT_IDLE, self._connect_idle)


def _same(
    one: tuple[PolicyConfig, ResolverState], other: tuple[PolicyConfig, ResolverState]
) -> bool:
    before, now = one[1].endpoints, other[1].endpoints
    if isinstance(before, Status) or isinstance(now, Status) or len(before) != len(now):
        return False
    # Endpoints one by one by identity, which is quick: equal ones are a chance, not a duty.
    return (
        all(map(operator.is_, before, now))
        and one[1].attributes == other[1].attributes
        and one[0] == other[0]
    )


def aggregate(states: Iterable[ConnectivityState]) -> ConnectivityState:
    """Many children's states as one (gRFC A31): the best that there is hope for."""
    present = set(states)
    for state in (READY, CONNECTING, IDLE):
        if state in present:
            return state
    return TRANSIENT_FAILURE


def child_config(raw: Node, name: str, find_policy: FindPolicy) -> PolicyConfig:
    """The `loadBalancingConfig` list in field `name`. Raises ServiceConfigError with its path."""
    field = raw.need(name)
    try:
        return parse_lb_config(field.value, find_policy=find_policy)
    except ServiceConfigError as error:
        raise error.under(field.path) from error


def named_nodes(raw: Node, field: str) -> dict[str, Node]:
    """The entries of an object of objects."""
    node = raw.need(field)
    found: dict[str, Any] = node.object()
    return {name: Node(value, join(node.path, name)) for name, value in found.items()}
