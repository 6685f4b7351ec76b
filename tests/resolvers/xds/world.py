"""Resources as values, and a source that says what a test tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from grpc import StatusCode

from grpclb.control.registries import POLICIES
from grpclb.core.address import Address, Endpoint
from grpclb.core.balancer import PickInfo
from grpclb.core.config_selector import Selected, SelectResult
from grpclb.core.resolver import Resolver, ResolverState, Update
from grpclb.core.retry_config import RetryPolicy
from grpclb.core.service_config import ServiceConfig
from grpclb.core.status import Status
from grpclb.resolvers.xds.ads import Ambient, Changed, Failed, News, Watcher
from grpclb.resolvers.xds.kinds import Kinds, ResourceKind
from grpclb.resolvers.xds.matchers import HeaderMatcher, RouteMatcher, TextMatcher, TextRule
from grpclb.resolvers.xds.resolver import Plan, XdsResolver
from grpclb.resolvers.xds.resources import (
    AggregateCluster,
    Cluster,
    DnsCluster,
    Drop,
    EdsCluster,
    Endpoints,
    LbEndpoint,
    LbPolicy,
    Listener,
    Locality,
    LocalityId,
    Resource,
    Route,
    RouteAction,
    RouteConfig,
    UnsupportedAction,
    VirtualHost,
    WeightedCluster,
)
from grpclb.resolvers.xds.survey import Key, Kind

KINDS = Kinds.of(POLICIES)
LOCALITIES = LbPolicy("xds_wrr_locality_experimental", {"childPolicy": [{"round_robin": {}}]})
MISSING = Status(StatusCode.NOT_FOUND, "it does not exist")


def route(
    *clusters: str | WeightedCluster,
    path: str = "",
    header: str = "",
    limit: float | None = None,
    retry: RetryPolicy | None = None,
) -> Route:
    """To these clusters, for methods that begin with `path`, with ``header: name=value``."""
    found = tuple(c if isinstance(c, WeightedCluster) else WeightedCluster(c) for c in clusters)
    action = RouteAction(found, limit, retry) if found else UnsupportedAction()
    name, _, value = header.partition("=")
    headers = (HeaderMatcher(name, TextMatcher.of(TextRule.EXACT, value)),) if header else ()
    return Route(RouteMatcher(TextMatcher.of(TextRule.PREFIX, path), headers), action)


def routes(*found: Route, domain: str = "*", name: str = "r") -> RouteConfig:
    return RouteConfig(name, (VirtualHost((domain,), found, "v"),))


def listener(of: str | RouteConfig = "r", limit: float = 0.0) -> Listener:
    return Listener("svc", of, limit)


def eds_cluster(name: str, service: str = "", **options: Any) -> Cluster:
    return Cluster(name, EdsCluster(service or name), LOCALITIES, **options)


def dns_cluster(name: str, host: str = "db.example", port: int = 80) -> Cluster:
    return Cluster(name, DnsCluster(host, port), LOCALITIES)


def aggregate(name: str, *children: str) -> Cluster:
    return Cluster(name, AggregateCluster(children), LOCALITIES)


def locality(name: str, *addresses: str, weight: int = 1) -> Locality:
    found = tuple(LbEndpoint((Address.parse(address),)) for address in addresses)
    return Locality(LocalityId(name), weight, found)


def endpoints(name: str, *priorities: tuple[Locality, ...], drops: tuple[Drop, ...] = ()) -> Any:
    return Endpoints(name, priorities, drops)


def simple(name: str = "a", address: str = "10.0.0.1:80") -> dict[Key, Resource]:
    """Everything for one cluster with one endpoint."""
    return {
        (Kind.LDS, "svc"): listener(),
        (Kind.RDS, "r"): routes(route(name)),
        **cluster_of(name, address),
    }


def cluster_of(name: str, *addresses: str) -> dict[Key, Resource]:
    return {
        (Kind.CDS, name): eds_cluster(name),
        (Kind.EDS, name): endpoints(name, (locality("x", *addresses),)),
    }


class FakeSource:
    """resolvers.xds.source.Source."""

    def __init__(self) -> None:
        self.watched: dict[Key, Watcher] = {}
        self.has: dict[Key, News] = {}
        self.opened = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[FakeSource]:
        self.opened += 1
        try:
            yield self
        finally:
            self.opened -= 1

    def watch(self, kind: ResourceKind, name: str, watcher: Watcher) -> Callable[[], None]:
        key = (Kind[kind.short], name)
        assert key not in self.watched, "a channel watches each resource once"
        self.watched[key] = watcher
        asyncio.get_running_loop().call_soon(self._tell, key)

        def stop() -> None:
            del self.watched[key]

        return stop

    def snapshot(self) -> dict[str, Any]:
        return {"watched": len(self.watched)}

    def _tell(self, key: Key) -> None:
        if key in self.watched and key in self.has:
            self.watched[key](self.has[key])

    def say(self, news: dict[Key, Any]) -> None:
        """What the management server has from now on: resources, or Status for none."""
        for key, what in news.items():
            if not isinstance(what, Ambient):
                what = Failed(what) if isinstance(what, Status) else Changed(what)  # noqa: PLW2901
                self.has[key] = what
            if key in self.watched:
                self.watched[key](what)


class FakeHost:
    """core.resolver.Resolver of one DNS name."""

    def __init__(self) -> None:
        self.update: Update | None = None
        self.hints = 0

    async def run(self, update: Update) -> None:
        self.update = update
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.update = None

    def resolve_now(self) -> None:
        self.hints += 1

    def say(self, *addresses: str) -> None:
        assert self.update is not None
        self.update(ResolverState.of(addresses))


class Scene:
    """A resolver over a fake source, on a loop of virtual time."""

    def __init__(self, grace: float = 1.0, authority: str = "svc") -> None:
        self.source = FakeSource()
        self.hosts: dict[str, FakeHost] = {}
        self.states: list[ResolverState] = []
        plan = Plan("xds:///svc", "svc", authority, KINDS, POLICIES, grace)
        self.resolver = XdsResolver(plan, self.source.open, self._host, Random(1))
        self._task: asyncio.Task[None] | None = None

    def _host(self, name: str) -> Resolver:
        if name.startswith("bad"):
            raise ValueError(f"{name}: no name")
        return self.hosts.setdefault(name, FakeHost())

    def _update(self, state: ResolverState) -> bool:
        self.states.append(state)
        return True

    async def __aenter__(self) -> Scene:
        self._task = asyncio.create_task(self.resolver.run(self._update))
        await self.settle()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait((self._task,))
        await asyncio.sleep(0)
        assert self.source.watched == {}
        assert self.source.opened == 0
        assert all(host.update is None for host in self.hosts.values())

    async def settle(self, seconds: float = 0.01) -> None:
        await asyncio.sleep(seconds)

    async def say(self, news: dict[Key, Any]) -> ResolverState | None:
        """The state that follows, if any."""
        before = len(self.states)
        self.source.say(news)
        await self.settle()
        return self.states[-1] if len(self.states) > before else None

    @property
    def addresses(self) -> set[str]:
        found = self.states[-1].endpoints
        assert isinstance(found, tuple)
        return {str(endpoint) for endpoint in found}

    @property
    def clusters(self) -> set[str]:
        config = self.states[-1].service_config
        assert isinstance(config, ServiceConfig)
        (manager,) = config.raw["loadBalancingConfig"][0].values()
        return {name.removeprefix("cluster:") for name in manager["children"]}

    def select(self, method: str = "/s/m", **headers: str) -> SelectResult:
        selector = self.states[-1].config_selector
        assert selector is not None
        return selector.select(PickInfo(method, tuple(headers.items())))

    def start(self, method: str = "/s/m") -> Selected:
        """An RPC, until `on_committed` of what this returns."""
        selected = self.select(method)
        assert isinstance(selected, Selected)
        return selected


def paths(found: tuple[Endpoint, ...]) -> dict[str, tuple[str, ...]]:
    return {str(endpoint): endpoint.attributes["hierarchy"] for endpoint in found}
