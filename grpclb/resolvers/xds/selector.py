"""Which cluster an RPC goes to, and how long clusters are needed (A28, A31, A44)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Any

from grpclb.core.attributes import CLUSTER
from grpclb.core.balancer import Fail, PickInfo
from grpclb.core.config_selector import OUTDATED, Selected, SelectResult
from grpclb.core.method_config import MethodConfig
from grpclb.core.status import Status
from grpclb.resolvers.xds.resources import Listener, RouteAction, VirtualHost
from grpclb.resolvers.xds.route_table import RouteTable
from grpclb.resolvers.xds.routing import choose_cluster, longest_call
from grpclb.resolvers.xds.tree import child_name


class ClusterUse:
    """Who needs one cluster: routes, and RPCs that were routed to it.

    `acquire` and `release` run on any thread, without a lock; the rest on the control loop.
    """

    __slots__ = ("_dropped", "_on_free", "_rpcs", "attributes", "name", "routed")

    def __init__(self, name: str, on_free: Callable[[], None]) -> None:
        self.name = name
        self.routed = True
        self.attributes: Mapping[str, Any] = MappingProxyType({CLUSTER: child_name(name)})
        self._rpcs: list[None] = []  # appending and popping are atomic
        self._dropped = False
        self._on_free = on_free

    @property
    def rpcs(self) -> int:
        return len(self._rpcs)

    def acquire(self) -> bool:
        """For one RPC; False if the cluster is gone already."""
        self._rpcs.append(None)
        if not self._dropped:
            return True
        self.release()
        return False

    def release(self) -> None:
        """The RPC is over."""
        self._rpcs.pop()
        if not self._rpcs and not self.routed:
            self._on_free()

    def drop(self) -> bool:
        """Let it go if nobody needs it: no RPC gets it any more."""
        if self.routed or self._rpcs:
            return False
        self._dropped = True
        # An RPC may have come in between: it sees the mark, or we see the RPC.
        self._dropped = not self._rpcs
        return self._dropped


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What a route's RPCs get; `action` None: they fail."""

    action: RouteAction | None
    config: MethodConfig


class RouteSelector:
    """core.config_selector.ConfigSelector over one virtual host. Any thread."""

    def __init__(
        self,
        listener: Listener,
        host: VirtualHost,
        uses: Mapping[str, ClusterUse],
        random: Random,
    ) -> None:
        self._routes = tuple(_Prepared(*_settings(route.action, listener)) for route in host.routes)
        self._table = RouteTable(tuple(route.matcher for route in host.routes))
        self._needs_headers = any(route.matcher.headers for route in host.routes)
        self._host = host
        self._uses = uses
        self._random = random

    def select(self, info: PickInfo) -> SelectResult:
        headers = _headers(info.metadata) if self._needs_headers and info.metadata else _NO_HEADERS
        position = self._table.find(info.method, headers, self._random)
        if position is None:
            return _fail(f"no route of virtual host {self._host.name!r} matches {info.method}")
        route = self._routes[position]
        if route.action is None:
            return _fail(f"the route of {info.method} asks for what is not supported")
        use = self._uses[choose_cluster(route.action, self._random)]
        if not use.acquire():
            return OUTDATED
        return Selected(route.config, use.attributes, use.release)

    def __repr__(self) -> str:
        return f"<RouteSelector {self._host.name!r} {len(self._routes)} routes>"


class FailingSelector:
    """core.config_selector.ConfigSelector of a channel without routes."""

    def __init__(self, status: Status) -> None:
        self._fail = Fail(status)

    def select(self, info: PickInfo) -> SelectResult:
        return self._fail


_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


def _settings(action: object, listener: Listener) -> tuple[RouteAction | None, MethodConfig]:
    if not isinstance(action, RouteAction):
        return None, MethodConfig()
    timeout = longest_call(action, listener.max_stream_duration)
    return action, MethodConfig(timeout=timeout, retry=action.retry_policy)


def _headers(metadata: Iterable[tuple[str, str | bytes]]) -> Mapping[str, str]:
    """By name, values joined by commas. Binary ones are invisible to routes (A28)."""
    found: dict[str, str] = {}
    for key, value in metadata:
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        found[key] = f"{found[key]},{text}" if key in found else text
    return found


def _fail(details: str) -> Fail:
    return Fail(Status.unavailable(f"xds: {details}"))
