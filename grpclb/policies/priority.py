"""priority: the first of several children that works gets all RPCs (gRFC A56)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from grpclb.core.address import Endpoint
from grpclb.core.balancer import Helper, PolicyConfig
from grpclb.core.config_node import Node
from grpclb.core.connectivity import CONNECTING, IDLE, READY, TRANSIENT_FAILURE, ConnectivityState
from grpclb.core.resolver import ResolverState
from grpclb.core.service_config import FindPolicy
from grpclb.core.status import Status
from grpclb.policies.child_policies import ChildPolicies, ChildPolicy, child_config, named_nodes
from grpclb.policies.hierarchy import Splitter
from grpclb.policies.weighted_target import failing

if TYPE_CHECKING:
    from grpclb.core.clock import Timer

FAILOVER_SECONDS: Final = 10.0  # that a child may take to connect before the next one is tried
KEPT_SECONDS: Final = 15 * 60.0  # that a child lives on when a better one has taken over

_NO_CHILDREN = Status.unavailable("priority: there are no children")


@dataclass(frozen=True, slots=True)
class PriorityChild:
    """One child. `ignore_reresolution`: its wishes to resolve again are nobody's business."""

    child: PolicyConfig
    ignore_reresolution: bool = False


@dataclass(frozen=True, slots=True)
class PriorityConfig:
    """``{"children": {"a": {"config": [...]}}, "priorities": ["a"]}``, the best first."""

    children: Mapping[str, PriorityChild] = field(default_factory=lambda: MappingProxyType({}))
    priorities: tuple[str, ...] = ()


class PriorityPolicy:
    """core.balancer.Policy."""

    name = "priority_experimental"

    def __init__(self, find_policy: FindPolicy) -> None:
        self._find_policy = find_policy

    def parse_config(self, raw: Mapping[str, Any]) -> PriorityConfig:
        root = Node(raw)
        children = {}
        for name, node in named_nodes(root, "children").items():
            ignore = False
            for spelling in ("ignore_reresolution_requests", "ignoreReresolutionRequests"):
                ignore = node.optional(spelling, Node.boolean) or ignore
            children[name] = PriorityChild(child_config(node, "config", self._find_policy), ignore)
        priorities: list[str] = []
        for item in root.need("priorities").items():
            name = item.text()
            if name not in children:
                raise item.fail(f"no child is called {name!r}")
            if name in priorities:
                raise item.fail(f"{name!r} is there already")
            priorities.append(name)
        unused = next((name for name in children if name not in priorities), None)
        if unused is not None:
            raise root.need("children").fail(f"child {unused!r} has no place in priorities")
        return PriorityConfig(MappingProxyType(children), tuple(priorities))

    def build(self, helper: Helper) -> Priority:
        return Priority(helper)


make = PriorityPolicy


class _Watch:
    """What is known of a child beside its state: may it still connect, is it wanted at all?"""

    __slots__ = ("deactivated", "failed", "failover", "seen")

    def __init__(self) -> None:
        self.seen: ConnectivityState = CONNECTING
        self.failed = False  # since it was last READY
        self.failover: Timer | None = None
        self.deactivated: Timer | None = None

    def stop_waiting(self) -> None:
        if self.failover is not None:
            self.failover.cancel()
            self.failover = None

    def reactivate(self) -> None:
        if self.deactivated is not None:
            self.deactivated.cancel()
            self.deactivated = None

    def close(self) -> None:
        self.stop_waiting()
        self.reactivate()


class Priority:
    """core.balancer.LoadBalancer. Endpoints find their child by `hierarchy`.

    Children are created in order, each when those before it have failed or took too long.
    """

    def __init__(self, helper: Helper) -> None:
        self._helper = helper
        self._children = ChildPolicies(helper, self._changed, self._resolution_wanted)
        self._watches: dict[str, _Watch] = {}
        self._splitter = Splitter()
        self._config = PriorityConfig()
        self._state: ResolverState = ResolverState(())
        self._groups: Mapping[str, Sequence[Endpoint]] = {}
        self._choosing = False

    def update(self, state: ResolverState, config: object) -> bool:
        if not isinstance(config, PriorityConfig):
            raise TypeError(f"expected a PriorityConfig, got {config!r}")
        self._config = config
        if not isinstance(state.endpoints, Status):
            self._groups = self._splitter.split(state.endpoints, config.children)
        self._state = self._splitter.told(state)
        self._choosing = True  # nothing is chosen while children are told
        accepted = bool(config.priorities)
        for name in tuple(self._children.children):
            if name in config.children:
                accepted &= self._feed(name)
        self._choosing = False
        self._choose()  # before the rest goes: nobody may pick from what is released
        for name in tuple(self._children.children):
            if name not in config.children:
                self._drop(name)
        return accepted

    def exit_idle(self) -> None:
        self._children.exit_idle()

    def close(self) -> None:
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()
        self._children.close()

    # -- children come and go ----------------------------------------------------------------

    def _feed(self, name: str) -> bool:
        child = self._config.children[name].child
        return self._children.feed(name, self._state, child, self._groups.get(name, ()))

    def _start(self, name: str) -> ChildPolicy:
        watch = self._watches[name] = _Watch()
        self._arm(watch)
        self._feed(name)
        return self._children.children[name]

    def _arm(self, watch: _Watch) -> None:
        def expired() -> None:
            watch.failover = None
            self._choose()

        watch.failover = self._helper.clock.call_later(FAILOVER_SECONDS, expired)

    def _drop(self, name: str) -> None:
        self._watches.pop(name).close()
        self._children.drop(name)

    def _deactivate(self, name: str) -> None:
        watch = self._watches[name]
        if watch.deactivated is None:
            watch.deactivated = self._helper.clock.call_later(
                KEPT_SECONDS, lambda: self._drop(name)
            )

    # -- which one -----------------------------------------------------------------------------

    def _changed(self) -> None:
        """A child has published something."""
        for name, watch in self._watches.items():
            state = self._children.children[name].reported
            if state is not watch.seen:
                watch.seen = state
                self._note(watch, state)
        # One that is being created or told of an update is asked afterwards.
        if not self._choosing:
            self._choose()

    def _choose(self) -> None:
        """Publish the picker of the best child."""
        self._choosing = True
        chosen = self._decide()
        self._choosing = False
        if chosen is None:
            self._helper.update_picker(*failing(_NO_CHILDREN))
        else:
            self._helper.update_picker(chosen.reported, chosen.newest)

    def _decide(self) -> ChildPolicy | None:
        children, priorities = self._children.children, self._config.priorities
        for index, name in enumerate(priorities):
            child = children.get(name) or self._start(name)
            watch = self._watches[name]
            watch.reactivate()
            if child.reported in (READY, IDLE):
                for lower in priorities[index + 1 :]:
                    if lower in children:
                        self._deactivate(lower)
                return child
            if watch.failover is not None:
                return child
        started = [children[name] for name in priorities]
        connecting = (child for child in started if child.reported is CONNECTING)
        return next(connecting, started[-1] if started else None)

    def _note(self, watch: _Watch, state: ConnectivityState) -> None:
        """The failover timer runs while a child connects for the first time since it was well."""
        if state in (READY, IDLE):
            watch.failed = False
            watch.stop_waiting()
        elif state is TRANSIENT_FAILURE:
            watch.failed = True
            watch.stop_waiting()
        elif not watch.failed:
            self._arm(watch)

    def _resolution_wanted(self, child: ChildPolicy) -> None:
        config = self._config.children.get(child.name)
        if config is not None and not config.ignore_reresolution:
            self._helper.request_resolution()
