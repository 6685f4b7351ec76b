"""A child policy that does what a test says, and a tree of policies over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpclb.core.address import Address, Endpoint
from grpclb.core.balancer import (
    QUEUE_PICKER,
    Fail,
    FixedPicker,
    Helper,
    Pick,
    Policy,
    SubchannelState,
)
from grpclb.core.connectivity import READY, TRANSIENT_FAILURE, ConnectivityState
from grpclb.core.resolver import ResolverState
from grpclb.core.status import Status
from grpclb.policies.pick_first import PICK_FIRST
from grpclb.policies.priority import PriorityPolicy
from grpclb.policies.round_robin import ROUND_ROBIN
from grpclb.policies.weighted_target import WeightedTargetPolicy
from grpclb.policies.xds_cluster_impl import ClusterImplPolicy
from grpclb.policies.xds_cluster_manager import ClusterManagerPolicy
from grpclb.policies.xds_wrr_locality import WrrLocalityPolicy
from grpclb.testing import FakeHelper, FakeSubchannel


class StubBalancer:
    """core.balancer.LoadBalancer. `publish` is the test's."""

    def __init__(self, helper: Helper, name: str) -> None:
        self.helper = helper
        self.name = name
        self.updates: list[tuple[ResolverState, object]] = []
        self.closed = False
        self.woken = 0

    @property
    def addresses(self) -> list[str]:
        endpoints = self.updates[-1][0].endpoints
        assert isinstance(endpoints, tuple)
        return [str(endpoint) for endpoint in endpoints]

    def update(self, state: ResolverState, config: object) -> bool:
        self.updates.append((state, config))
        return bool(state.endpoints)

    def publish(self, state: ConnectivityState) -> None:
        """READY picks this child (known by a subchannel to `label`), failing names it."""
        picker: Any = QUEUE_PICKER
        if state is READY:
            picker = FixedPicker(Pick(FakeSubchannel(self.label, _ignore)))
        elif state is TRANSIENT_FAILURE:
            picker = FixedPicker(Fail(Status.unavailable(f"{self.label} failed")))
        self.helper.update_picker(state, picker)

    @property
    def label(self) -> Address:
        config = self.updates[-1][1]
        return Address.parse(f"10.0.0.1:{config}")

    def exit_idle(self) -> None:
        self.woken += 1

    def close(self) -> None:
        self.closed = True


def _ignore(state: SubchannelState) -> None:
    pass


class StubPolicy:
    """core.balancer.Policy. Its config ``{"id": 7}`` tells children apart."""

    def __init__(self, name: str = "stub") -> None:
        self.name = name
        self.built: list[StubBalancer] = []

    def parse_config(self, raw: Mapping[str, Any]) -> object:
        return raw.get("id", 1)

    def build(self, helper: Helper) -> StubBalancer:
        self.built.append(StubBalancer(helper, self.name))
        return self.built[-1]

    def by_id(self, number: int) -> StubBalancer:
        """The newest child with this id."""
        return next(b for b in reversed(self.built) if b.updates and b.updates[-1][1] == number)

    @property
    def live(self) -> set[object]:
        return {b.updates[-1][1] for b in self.built if not b.closed}


class House:
    """All policies that have children, over one stub policy."""

    def __init__(self) -> None:
        self.stub = StubPolicy()
        self.other = StubPolicy("other")
        classes: tuple[Any, ...] = (
            PriorityPolicy,
            WeightedTargetPolicy,
            ClusterImplPolicy,
            ClusterManagerPolicy,
            WrrLocalityPolicy,
        )
        policies: list[Policy] = [cls(self.find) for cls in classes]
        leaves: tuple[Policy, ...] = (self.stub, self.other, PICK_FIRST, ROUND_ROBIN)
        self._table = {p.name: p for p in (*policies, *leaves)}
        self.helper = FakeHelper()

    def find(self, name: str) -> Policy | None:
        return self._table.get(name)

    def policy(self, name: str) -> Policy:
        return self._table[f"{name}_experimental"]

    def parse(self, name: str, **raw: Any) -> object:
        return self.policy(name).parse_config(raw)

    def build(self, name: str) -> Any:
        return self.policy(name).build(self.helper)

    def settle(self) -> None:
        self.helper.clock.advance(0)

    def picked(self) -> object:
        """The id of the stub that the newest picker picks, or the result that is no pick."""
        result = self.helper.pick()
        return port_of(result) if isinstance(result, Pick) else result


def port_of(pick: Pick) -> int:
    return int(pick.subchannel.address.target.rpartition(":")[2])


def child(number: int = 1, policy: str = "stub") -> list[dict[str, Any]]:
    return [{policy: {"id": number}}]


def state(*endpoints: Endpoint) -> ResolverState:
    return ResolverState(endpoints)


def at(address: str, *path: str, **attributes: Any) -> Endpoint:
    return Endpoint.of(address, hierarchy=path, **attributes)
