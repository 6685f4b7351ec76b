"""xds_cluster_manager: a child per cluster; the config selector says which one an RPC goes to.

gRFC A31. The cluster's name comes with the RPC in `PickInfo.attributes[CLUSTER]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from grpclb.core.attributes import CLUSTER
from grpclb.core.balancer import Fail, Helper, Picker, PickInfo, PickResult, PolicyConfig
from grpclb.core.config_node import Node
from grpclb.core.resolver import ResolverState
from grpclb.core.service_config import FindPolicy
from grpclb.core.status import Status
from grpclb.policies.child_policies import ChildPolicies, aggregate, child_config, named_nodes
from grpclb.policies.hierarchy import Splitter

if TYPE_CHECKING:
    from grpclb.core.clock import Timer


@dataclass(frozen=True, slots=True)
class ClusterManagerConfig:
    """``{"children": {"cluster:a": {"childPolicy": [{"round_robin": {}}]}}}``"""

    children: Mapping[str, PolicyConfig] = field(default_factory=lambda: MappingProxyType({}))


class ClusterManagerPolicy:
    """core.balancer.Policy."""

    name = "xds_cluster_manager_experimental"

    def __init__(self, find_policy: FindPolicy) -> None:
        self._find_policy = find_policy

    def parse_config(self, raw: Mapping[str, Any]) -> ClusterManagerConfig:
        children = {
            name: child_config(node, "childPolicy", self._find_policy)
            for name, node in named_nodes(Node(raw), "children").items()
        }
        return ClusterManagerConfig(MappingProxyType(children))

    def build(self, helper: Helper) -> ClusterManager:
        return ClusterManager(helper)


make = ClusterManagerPolicy


class ClusterManager:
    """core.balancer.LoadBalancer. Endpoints find their cluster by `hierarchy`.

    A child lives as long as the config names it: a resolver keeps a cluster in the config while
    RPCs that were routed to it are under way.
    """

    def __init__(self, helper: Helper) -> None:
        self._helper = helper
        self._children = ChildPolicies(helper, self._changed)
        self._splitter = Splitter()
        self._updating = False
        self._timer: Timer | None = None

    def update(self, state: ResolverState, config: object) -> bool:
        if not isinstance(config, ClusterManagerConfig):
            raise TypeError(f"expected a ClusterManagerConfig, got {config!r}")
        endpoints = () if isinstance(state.endpoints, Status) else state.endpoints
        groups = self._splitter.split(endpoints, config.children)
        state = self._splitter.told(state)
        self._updating = True
        self._children.update(state, config.children, groups, only_news=True)
        self._updating = False
        # What one cluster cannot use is no reason to resolve them all again.
        return True

    def exit_idle(self) -> None:
        self._children.exit_idle()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._children.close()

    def _changed(self) -> None:
        """A changed config is published at once; changes of many children are joined."""
        if self._updating:
            self._publish()
        elif self._timer is None:
            self._timer = self._helper.clock.call_later(0, self._publish)

    def _publish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        children = self._children.children
        state = aggregate(child.state for child in children.values())
        pickers = {name: child.newest for name, child in children.items()}
        self._helper.update_picker(state, _ByCluster(pickers))


class _ByCluster:
    """core.balancer.Picker."""

    __slots__ = ("_pickers",)

    def __init__(self, pickers: Mapping[str, Picker]) -> None:
        self._pickers = pickers

    def pick(self, info: PickInfo) -> PickResult:
        cluster = info.attributes.get(CLUSTER)
        picker = self._pickers.get(cluster)  # type: ignore[arg-type]
        if picker is None:
            text = f"xds_cluster_manager: the RPC was routed to an unknown cluster: {cluster!r}"
            return Fail(Status.unavailable(text))
        return picker.pick(info)
