"""xds_cluster_impl: what an xDS cluster asks of every RPC before its child picks (gRFC A37).

Drops: categories in order, each with a draw of its own, while the child is READY. The circuit
breaker (gRFC A32): RPCs at a time to one cluster and EDS service from all channels of the process.
"""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from grpclb.core.balancer import (
    CallOutcome,
    Drop,
    Fail,
    Helper,
    Pick,
    Picker,
    PickInfo,
    PickResult,
    PolicyConfig,
)
from grpclb.core.config_node import Node
from grpclb.core.connectivity import READY, ConnectivityState
from grpclb.core.resolver import ResolverState
from grpclb.core.service_config import FindPolicy
from grpclb.core.status import Status
from grpclb.policies.child_policies import ChildPolicies, child_config

if TYPE_CHECKING:
    from random import Random

DEFAULT_MAX_REQUESTS: Final = 1024

_MILLION = 1_000_000
_UINT32 = 2**32 - 1
_CHILD = "child"


@dataclass(frozen=True, slots=True)
class DropCategory:
    """`per_million` of the RPCs are dropped for the reason `category`."""

    category: str
    per_million: int


@dataclass(frozen=True, slots=True)
class ClusterImplConfig:
    """``{"cluster": "a", "childPolicy": [...], "maxConcurrentRequests": 1024, "dropCategories":
    [{"category": "lb", "requestsPerMillion": 10000}]}``; only the child must be there.

    `note` (``resolutionNote``) is why the resolver knows no better endpoints: failures tell it.
    """

    cluster: str
    eds_service_name: str
    child: PolicyConfig
    max_requests: int = DEFAULT_MAX_REQUESTS
    drops: tuple[DropCategory, ...] = ()
    note: str = ""


class ClusterImplPolicy:
    """core.balancer.Policy."""

    name = "xds_cluster_impl_experimental"

    def __init__(self, find_policy: FindPolicy) -> None:
        self._find_policy = find_policy

    def parse_config(self, raw: Mapping[str, Any]) -> ClusterImplConfig:
        root = Node(raw)
        limit = root.optional("maxConcurrentRequests", lambda node: node.integer(0, _UINT32))
        drops = root.get("dropCategories")
        return ClusterImplConfig(
            cluster=root.optional("cluster", Node.text) or "",
            eds_service_name=root.optional("edsServiceName", Node.text) or "",
            child=child_config(root, "childPolicy", self._find_policy),
            max_requests=DEFAULT_MAX_REQUESTS if limit is None else limit,
            drops=tuple(map(_drop_category, drops.items())) if drops else (),
            note=root.optional("resolutionNote", Node.text) or "",
        )

    def build(self, helper: Helper) -> ClusterImpl:
        return ClusterImpl(helper)


make = ClusterImplPolicy


def _drop_category(node: Node) -> DropCategory:
    category = node.optional("category", Node.text) or ""
    per_million = node.optional("requestsPerMillion", lambda n: n.integer(0, _UINT32)) or 0
    return DropCategory(category, min(per_million, _MILLION))


# -- the circuit breaker: any thread ----------------------------------------------------------


class RequestCounter:
    """The RPCs under way to one cluster. Appending to a list and popping from it are atomic."""

    __slots__ = ("__weakref__", "_running")

    def __init__(self) -> None:
        self._running: list[None] = []

    @property
    def running(self) -> int:
        return len(self._running)

    def start(self, limit: int) -> bool:
        """Count one more; False, and nothing is counted, if that would be too many."""
        running = self._running
        while len(running) < limit:
            running.append(None)
            if len(running) <= limit:
                return True
            # Others came in the same moment. If all of them stepped back for good, nobody would
            # get the place that there is: who looks last gets it.
            running.pop()
        return False

    def end(self) -> None:
        self._running.pop()


# Per process, as gRFC A32 counts. A counter lives as long as a balancer of its cluster, or an RPC
# that it counts. A forked child's RPCs are not its parent's.
_COUNTERS: weakref.WeakValueDictionary[tuple[str, str], RequestCounter] = (
    weakref.WeakValueDictionary()
)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_COUNTERS.clear)


def request_counter(cluster: str, eds_service_name: str) -> RequestCounter:
    """The one counter of a cluster and EDS service.

    Two loops that ask for a new one in the same instant may get two; they agree at the next update.
    """
    return _COUNTERS.setdefault((cluster, eds_service_name), RequestCounter())


# -- the policy ----------------------------------------------------------------------------------


class ClusterImpl:
    """core.balancer.LoadBalancer with one child, which gets the endpoints as they are."""

    def __init__(self, helper: Helper) -> None:
        self._helper = helper
        self._children = ChildPolicies(helper, self._publish)
        self._config: ClusterImplConfig | None = None
        self._counter: RequestCounter | None = None

    def update(self, state: ResolverState, config: object) -> bool:
        if not isinstance(config, ClusterImplConfig):
            raise TypeError(f"expected a ClusterImplConfig, got {config!r}")
        self._config = config
        self._counter = request_counter(config.cluster, config.eds_service_name)
        endpoints = () if isinstance(state.endpoints, Status) else state.endpoints
        return self._children.update(state, {_CHILD: config.child}, {_CHILD: endpoints})

    def exit_idle(self) -> None:
        self._children.exit_idle()

    def close(self) -> None:
        self._children.close()

    def _publish(self) -> None:
        child, config, counter = self._children.children[_CHILD], self._config, self._counter
        assert config is not None
        assert counter is not None
        picker = _Gate(child.reported, child.newest, config, counter, self._helper.random)
        self._helper.update_picker(child.reported, picker)


class _Gate:
    """core.balancer.Picker."""

    __slots__ = ("_counter", "_drops", "_limit", "_name", "_note", "_picker", "_random")

    def __init__(
        self,
        state: ConnectivityState,
        picker: Picker,
        config: ClusterImplConfig,
        counter: RequestCounter,
        random: Random,
    ) -> None:
        self._picker = picker
        self._counter = counter
        self._limit = config.max_requests
        self._name = config.cluster
        self._note = config.note
        self._drops = config.drops if state is READY else ()
        self._random = random.random  # atomic

    def pick(self, info: PickInfo) -> PickResult:
        for drop in self._drops:
            if self._random() * _MILLION < drop.per_million:
                text = f"cluster {self._name!r}: dropped by the category {drop.category!r}"
                return Drop(Status.unavailable(text))
        counter = self._counter
        if not counter.start(self._limit):
            text = f"cluster {self._name!r}: circuit breaker: {self._limit} RPCs are under way"
            return Drop(Status.unavailable(text))
        try:
            result = self._picker.pick(info)
        except BaseException:
            counter.end()
            raise
        if type(result) is not Pick:
            counter.end()
            if type(result) is Fail and self._note:
                status = result.status
                return Fail(Status(status.code, f"{status.details}; {self._note}"))
            return result
        return Pick(result.subchannel, functools.partial(_done, counter, result.on_done))


def _done(
    counter: RequestCounter, then: Callable[[CallOutcome], None] | None, outcome: CallOutcome
) -> None:
    counter.end()
    if then is not None:
        then(outcome)
