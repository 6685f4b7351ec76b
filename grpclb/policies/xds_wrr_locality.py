"""xds_wrr_locality: localities get RPCs by the weights that their endpoints carry (gRFC A52).

Every endpoint has the name of its locality in `attributes["locality"]`, and that locality's weight
in `attributes[LOCALITY_WEIGHT]`. Below it is `weighted_target`, with a child per locality.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from grpclb.core.address import Endpoint
from grpclb.core.attributes import LOCALITY, LOCALITY_WEIGHT
from grpclb.core.balancer import Helper, PolicyConfig
from grpclb.core.config_node import Node
from grpclb.core.resolver import ResolverState
from grpclb.core.service_config import FindPolicy
from grpclb.core.status import Status
from grpclb.policies.child_policies import child_config
from grpclb.policies.weighted_target import (
    MOST_WEIGHT,
    Target,
    WeightedTarget,
    WeightedTargetConfig,
)


@dataclass(frozen=True, slots=True)
class WrrLocalityConfig:
    """``{"childPolicy": [{"round_robin": {}}]}``"""

    child: PolicyConfig


class WrrLocalityPolicy:
    """core.balancer.Policy."""

    name = "xds_wrr_locality_experimental"

    def __init__(self, find_policy: FindPolicy) -> None:
        self._find_policy = find_policy

    def parse_config(self, raw: Mapping[str, Any]) -> WrrLocalityConfig:
        return WrrLocalityConfig(child_config(Node(raw), "childPolicy", self._find_policy))

    def build(self, helper: Helper) -> WrrLocality:
        return WrrLocality(helper)


make = WrrLocalityPolicy


class WrrLocality:
    """core.balancer.LoadBalancer."""

    def __init__(self, helper: Helper) -> None:
        self._targets = WeightedTarget(helper)
        self._config = WeightedTargetConfig()

    def update(self, state: ResolverState, config: object) -> bool:
        if not isinstance(config, WrrLocalityConfig):
            raise TypeError(f"expected a WrrLocalityConfig, got {config!r}")
        if isinstance(state.endpoints, Status):  # those there were, with the newest child policy
            targets = {n: Target(t.weight, config.child) for n, t in self._config.targets.items()}
            groups: dict[str, list[Endpoint]] = {}
        else:
            groups = {}
            for endpoint in state.endpoints:
                groups.setdefault(str(endpoint.attributes.get(LOCALITY, "")), []).append(endpoint)
            targets = {n: Target(_weight(g[0]), config.child) for n, g in groups.items()}
        self._config = WeightedTargetConfig(MappingProxyType(targets))
        return self._targets.apply(state, self._config, groups) and bool(targets)

    def exit_idle(self) -> None:
        self._targets.exit_idle()

    def close(self) -> None:
        self._targets.close()


def _weight(endpoint: Endpoint) -> int:
    """A resolver that says no weight, or nonsense, wants all localities to be equal."""
    weight = endpoint.attributes.get(LOCALITY_WEIGHT, 1)
    if isinstance(weight, bool) or not isinstance(weight, int) or not 0 < weight <= MOST_WEIGHT:
        return 1
    return weight
