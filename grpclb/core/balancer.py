"""The contract between the channel and a load-balancing policy.

Everything here but `Picker.pick` and `Pick.on_done` is called on the channel's control loop, one
call at a time. A policy never blocks, never sleeps and asks nobody but its `Helper` for the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from grpclb.core.connectivity import ConnectivityState
from grpclb.core.status import Status

if TYPE_CHECKING:
    from random import Random

    from grpc import StatusCode

    from grpclb.core.address import Address
    from grpclb.core.clock import Clock
    from grpclb.core.resolver import ResolverState


@dataclass(frozen=True, slots=True)
class SubchannelState:
    """A subchannel's connectivity; `status` holds the connection error in TRANSIENT_FAILURE."""

    connectivity: ConnectivityState
    status: Status | None = None


class Subchannel(Protocol):
    """A connection to one address, owned by the channel, held by a policy until `release`.

    A policy may hand its child an object of its own in place of it (to watch its states, say). Such
    a wrapper has the one it stands for as its attribute `wrapped`, so that the channel can send
    what the child's picker picks; wrappers may wrap wrappers.
    """

    @property
    def address(self) -> Address: ...

    def connect(self) -> None:
        """Leave IDLE. Harmless in every other state; a backoff under way is not cut short."""
        ...

    def release(self) -> None:
        """The policy wants it no more: running RPCs finish, then the connection closes.

        After this returns, `on_state` is not called again.
        """
        ...


# No config selector has had a say; told apart by `is` from a selector's empty mapping.
NO_ATTRIBUTES: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class PickInfo:
    """What a picker may know of an RPC: its full method name and the caller's metadata.

    `tried` holds the addresses that earlier attempts of the same RPC went to; a picker with a
    choice avoids them. `attributes` is what a config selector said of the RPC.
    """

    method: str
    metadata: Sequence[tuple[str, str | bytes]] = ()
    tried: frozenset[Address] = frozenset()
    attributes: Mapping[str, Any] = field(default_factory=lambda: NO_ATTRIBUTES, hash=False)


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """How an attempt ended, for a policy that counts."""

    code: StatusCode
    trailing_metadata: Sequence[tuple[str, str | bytes]] = ()


@dataclass(frozen=True, slots=True)
class Pick:
    """Send the RPC here. `on_done` runs once, on any thread, when the attempt ended."""

    subchannel: Subchannel
    on_done: Callable[[CallOutcome], None] | None = None


@dataclass(frozen=True, slots=True)
class Queue:
    """No decision yet: the RPC waits for the next picker, whatever its wait_for_ready."""


@dataclass(frozen=True, slots=True)
class Fail:
    """The RPC fails with `status`, unless it is wait_for_ready, which queues it."""

    status: Status


@dataclass(frozen=True, slots=True)
class Drop:
    """The RPC fails with `status`, even if wait_for_ready, and is never retried."""

    status: Status


PickResult: TypeAlias = Pick | Queue | Fail | Drop


class Picker(Protocol):
    """An immutable snapshot of a policy's decision. Any thread; never blocks."""

    def pick(self, info: PickInfo) -> PickResult: ...


@dataclass(frozen=True, slots=True)
class FixedPicker:
    """A picker with one answer for every RPC."""

    result: PickResult

    def pick(self, info: PickInfo) -> PickResult:
        return self.result


QUEUE = Queue()
QUEUE_PICKER = FixedPicker(QUEUE)


class Helper(Protocol):
    """All that a policy can touch. A wrapping policy hands its child a delegating one."""

    @property
    def clock(self) -> Clock: ...

    @property
    def random(self) -> Random: ...

    def create_subchannel(
        self, address: Address, on_state: Callable[[SubchannelState], None]
    ) -> Subchannel:
        """A subchannel in IDLE; `on_state` reports every change, never before this returns."""
        ...

    def update_picker(self, state: ConnectivityState, picker: Picker) -> None:
        """Publish the policy's state and picker; both replace what was there before."""
        ...

    def request_resolution(self) -> None:
        """Ask the resolver to look again; a hint, coalesced by the channel."""
        ...


class LoadBalancer(Protocol):
    """One policy at work for one channel (or for one parent policy)."""

    def update(self, state: ResolverState, config: object) -> bool:
        """Take a new world, with the config that `Policy.parse_config` made.

        `state.endpoints` may be a Status: keep what there is, and fail RPCs with it if there is
        nothing. Returns False when the state cannot be used (an empty list): the resolver then
        backs off and tries again.
        """
        ...

    def exit_idle(self) -> None:
        """Connect, if idle (a call is waiting, or the user asked)."""
        ...

    def close(self) -> None:
        """Release every subchannel and timer. Nothing is called afterwards."""
        ...


class Policy(Protocol):
    """What the registry holds: a name, a parser of its config, and a maker of balancers."""

    @property
    def name(self) -> str: ...

    def parse_config(self, raw: Mapping[str, Any]) -> object:
        """The config as a frozen value with `==`. Raises ValueError that names the field."""
        ...

    def build(self, helper: Helper) -> LoadBalancer: ...


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """A policy chosen by a service config, with its parsed config."""

    policy: Policy
    config: object
