"""weighted_target: RPCs shared among named children by weight (gRFC A28)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from grpclb.core.address import Endpoint
from grpclb.core.balancer import (
    QUEUE_PICKER,
    Fail,
    FixedPicker,
    Helper,
    Picker,
    PolicyConfig,
)
from grpclb.core.config_node import Node
from grpclb.core.connectivity import CONNECTING, IDLE, ConnectivityState
from grpclb.core.resolver import ResolverState
from grpclb.core.service_config import FindPolicy
from grpclb.core.status import Status
from grpclb.policies.child_policies import ChildPolicies, aggregate, child_config, named_nodes
from grpclb.policies.hierarchy import Splitter
from grpclb.policies.weighted_turns import WeightedPicker

MOST_WEIGHT = 2**32 - 1  # of one target, and of all together

_NO_TARGETS = Status.unavailable("weighted_target: there are no targets")


@dataclass(frozen=True, slots=True)
class Target:
    """One child and its share; a weight is at least 1."""

    weight: int
    child: PolicyConfig


@dataclass(frozen=True, slots=True)
class WeightedTargetConfig:
    """``{"targets": {"a": {"weight": 3, "childPolicy": [{"round_robin": {}}]}}}``"""

    targets: Mapping[str, Target] = field(default_factory=lambda: MappingProxyType({}))


class WeightedTargetPolicy:
    """core.balancer.Policy."""

    name = "weighted_target_experimental"

    def __init__(self, find_policy: FindPolicy) -> None:
        self._find_policy = find_policy

    def parse_config(self, raw: Mapping[str, Any]) -> WeightedTargetConfig:
        root = Node(raw)
        targets = {}
        for name, node in named_nodes(root, "targets").items():
            weight = node.need("weight").integer(1, MOST_WEIGHT)
            targets[name] = Target(weight, child_config(node, "childPolicy", self._find_policy))
        if sum(target.weight for target in targets.values()) > MOST_WEIGHT:
            raise root.need("targets").fail(f"expected weights of at most {MOST_WEIGHT} in total")
        return WeightedTargetConfig(MappingProxyType(targets))

    def build(self, helper: Helper) -> WeightedTarget:
        return WeightedTarget(helper)


make = WeightedTargetPolicy


class WeightedTarget:
    """core.balancer.LoadBalancer. Endpoints find their target by `hierarchy`."""

    def __init__(self, helper: Helper) -> None:
        self._helper = helper
        self._children = ChildPolicies(helper, self._publish)
        self._splitter = Splitter()
        self._config = WeightedTargetConfig()
        # A random start: many clients that start together must not begin with the same target.
        self._turns = itertools.count(helper.random.randrange(1 << 32))

    def update(self, state: ResolverState, config: object) -> bool:
        if not isinstance(config, WeightedTargetConfig):
            raise TypeError(f"expected a WeightedTargetConfig, got {config!r}")
        endpoints = () if isinstance(state.endpoints, Status) else state.endpoints
        groups = self._splitter.split(endpoints, config.targets)
        return self.apply(self._splitter.told(state), config, groups)

    def apply(
        self,
        state: ResolverState,
        config: WeightedTargetConfig,
        groups: Mapping[str, Sequence[Endpoint]],
    ) -> bool:
        """An update whose endpoints are grouped by target already."""
        self._config = config
        children = {name: target.child for name, target in config.targets.items()}
        return self._children.update(state, children, groups)

    def exit_idle(self) -> None:
        self._children.exit_idle()

    def close(self) -> None:
        self._children.close()

    def _publish(self) -> None:
        children = self._children.children
        if not children:
            self._helper.update_picker(*failing(_NO_TARGETS))
            return
        state = aggregate(child.state for child in children.values())
        picker: Picker = QUEUE_PICKER
        if state not in (CONNECTING, IDLE):  # READY by those that are, else by those that fail
            targets = self._config.targets
            of_state = [
                (targets[name].weight, child.picker)
                for name, child in children.items()
                if child.state is state
            ]
            picker = of_state[0][1] if len(of_state) == 1 else WeightedPicker(of_state, self._turns)
        self._helper.update_picker(state, picker)


def failing(status: Status) -> tuple[ConnectivityState, Picker]:
    """What to publish when there is nobody to ask."""
    return ConnectivityState.TRANSIENT_FAILURE, FixedPicker(Fail(status))
