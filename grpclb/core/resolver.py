"""The contract between a resolver and the channel (gRPC's name resolution, gRFC A21)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from grpclb.core.address import Address, Endpoint
from grpclb.core.config_selector import ConfigSelector
from grpclb.core.service_config import ServiceConfig
from grpclb.core.status import Status

if TYPE_CHECKING:
    from random import Random

    from grpclb.core.target import Target

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ResolverState:
    """All that a resolver knows at one moment; every update carries the whole world.

    `endpoints` is a Status when the look-up failed: a channel that already has a good list
    keeps it. An empty tuple is different: the source says that there is nobody, and the channel
    believes it. `service_config` is None when the source has none, a Status when it has a bad
    one. `note` is a remark for a person (``dns:///api resolved 3 addresses, TTL 30 s``).
    `config_selector` decides per RPC and belongs to this state (gRFC A31); None: nobody does.
    """

    endpoints: tuple[Endpoint, ...] | Status
    service_config: ServiceConfig | Mapping[str, Any] | str | Status | None = None
    attributes: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    note: str = ""
    config_selector: ConfigSelector | None = None

    @classmethod
    def of(cls, addresses: Iterable[Address | Endpoint | str], note: str = "") -> ResolverState:
        """A state from addresses, endpoints or ``ip:port`` texts, each an endpoint of its own."""
        return cls(
            tuple(a if isinstance(a, Endpoint) else Endpoint.of(a) for a in addresses), note=note
        )


Update = Callable[[ResolverState], bool]


class Resolver(Protocol):
    """Finds endpoints. Lives on the control loop; holds no lock and blocks nowhere."""

    async def run(self, update: Update) -> None:
        """Resolve until cancelled, which closes the resolver.

        `update` returns False when the channel rejected the state (an empty list, a wrong
        service config): a polling resolver then backs off and looks again. Returning ends
        resolution with the last state kept; raising is reported as a failed look-up, and the
        channel runs the resolver again after a backoff.
        """
        ...

    def resolve_now(self) -> None:
        """A hint that the list may be stale. Called on the control loop; must not block."""
        ...


@dataclass(frozen=True, slots=True)
class ResolverContext:
    """What a resolver factory is given beside the target.

    `options` are the channel's options (later ones win), `random` is the channel's source of
    chance, `default_port` is used where the target has none.
    """

    random: Random
    options: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    default_port: int = 443


class ResolverFactory(Protocol):
    """Makes a resolver for one channel; raises ValueError for a target that it cannot take."""

    def __call__(self, target: Target, context: ResolverContext) -> Resolver: ...
