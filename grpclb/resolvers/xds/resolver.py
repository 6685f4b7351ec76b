"""The resolver of ``xds`` targets: from what management servers say to what the channel does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grpclb.core.address import Endpoint
from grpclb.core.balancer import Policy
from grpclb.core.config_selector import ConfigSelector
from grpclb.core.registry import Registry
from grpclb.core.resolver import ResolverState, Update
from grpclb.core.status import Status
from grpclb.resolvers.xds.dependencies import Dependencies, LookUp
from grpclb.resolvers.xds.kinds import Kinds
from grpclb.resolvers.xds.selector import ClusterUse, FailingSelector, RouteSelector
from grpclb.resolvers.xds.source import Source
from grpclb.resolvers.xds.survey import ClusterConfig, Key, XdsConfig, survey
from grpclb.resolvers.xds.tree import Tree

if TYPE_CHECKING:
    from random import Random

OpenSource = Callable[[], AbstractAsyncContextManager[Source]]

_GRACE = 1.0  # seconds in which RPCs may still meet the selector of routes that were replaced


@dataclass(frozen=True, slots=True)
class Plan:
    """What one channel asks for.

    `listener` is the resource's name, `authority` chooses the virtual host. `grace` is how long a
    cluster outlives its routes at least, in seconds: no less than the channel takes to apply an
    update. Clusters choose among `policies`.
    """

    target: str
    listener: str
    authority: str
    kinds: Kinds
    policies: Registry[Policy]
    grace: float = _GRACE


class XdsResolver:
    """core.resolver.Resolver. Runs on one loop at a time."""

    def __init__(
        self, plan: Plan, open_source: OpenSource, look_up: LookUp, random: Random
    ) -> None:
        self._plan = plan
        self._open_source = open_source
        self._look_up = look_up
        self._random = random
        self._session: _Session | None = None

    @property
    def authority(self) -> str:
        """The host name that the target means."""
        return self._plan.authority

    def __repr__(self) -> str:
        return f"<XdsResolver {self._plan.target}>"

    def resolve_now(self) -> None:
        if self._session is not None:
            self._session.resolve_now()

    async def run(self, update: Update) -> None:
        """Report until cancelled."""
        async with self._open_source() as source:
            session = _Session(self._plan, source, self._look_up, self._random, update)
            self._session = session
            try:
                session.look()
                await asyncio.get_running_loop().create_future()
            finally:
                self._session = None
                session.close()

    def waiting_for(self) -> str:
        """What has not come yet, for the error of RPCs that waited for it; may be empty."""
        return "" if self._session is None else self._session.waiting_for()

    def snapshot(self) -> dict[str, Any]:
        """For `debug_snapshot`, JSON-ready."""
        return {} if self._session is None else self._session.snapshot()


class _Session:
    """One life of a resolver."""

    def __init__(
        self, plan: Plan, source: Source, look_up: LookUp, random: Random, update: Update
    ) -> None:
        self._plan = plan
        self._random = random
        self._update = update
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._dependencies = Dependencies(source, plan.kinds, look_up, self._look_soon)
        self._wanted: frozenset[Key] = frozenset()
        self._tree = Tree(plan.policies)
        self._uses: dict[str, ClusterUse] = {}
        self._unrouted: dict[str, float] = {}  # since when
        self._last: dict[str, ClusterConfig | Status] = {}  # what was shown of each cluster
        self._told: tuple[object, ...] | None = None
        self._routes: tuple[object, ...] | None = None
        self._selector: ConfigSelector | None = None
        self._looking: asyncio.Handle | None = None
        self._reaping: asyncio.TimerHandle | None = None
        self._closed = False

    def resolve_now(self) -> None:
        self._dependencies.resolve_now()

    def close(self) -> None:
        self._closed = True
        for handle in (self._looking, self._reaping):
            if handle is not None:
                handle.cancel()
        if not self._loop.is_closed():  # else all of it was dropped with the loop
            self._dependencies.close()

    def waiting_for(self) -> str:
        known = self._dependencies.known
        missing = sorted(
            f"{kind.value} {name}" for kind, name in self._wanted if known(kind, name) is None
        )
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        return ", ".join(missing[:3]) + more

    def snapshot(self) -> dict[str, Any]:
        wrong = self._dependencies.ambient
        return {
            "listener": self._plan.listener,
            "clusters": {
                use.name: {"routed": use.routed, "rpcs": use.rpcs}
                for use in tuple(self._uses.values())
            },
            "errors": {f"{kind.value} {name}": str(s) for (kind, name), s in tuple(wrong.items())},
            "client": self._source.snapshot(),
        }

    # -- looking ---------------------------------------------------------------------------------

    def _look_soon(self) -> None:
        """Much news at once is looked at once: at the end of the loop's turn."""
        if self._looking is None and not self._closed:
            self._looking = self._loop.call_soon(self.look)

    def look(self) -> None:
        """Survey, watch what is wanted now, and tell the channel if there is a whole."""
        self._looking = None
        plan = self._plan
        found = survey(self._dependencies.known, plan.listener, plan.authority, self._uses)
        self._wanted = found.wanted
        self._dependencies.want(found.wanted)
        match found.config:
            case XdsConfig() as config:
                self._show(config, found.held)
            case Status() as status:
                self._fail(Status.unavailable(f"{plan.target}: {status.details}"), found.held)

    def _show(self, config: XdsConfig, held: Mapping[str, ClusterConfig | Status]) -> None:
        self._route(config.routed)
        routes = (config.listener, config.virtual_host)
        if self._selector is None or self._routes != routes:
            uses = {name: self._uses[name] for name in config.routed}
            self._routes = routes
            self._selector = RouteSelector(*routes, uses, self._random)
        self._tell({**config.clusters, **self._kept(config.routed, held)}, self._selector)

    def _fail(self, status: Status, held: Mapping[str, ClusterConfig | Status]) -> None:
        """There is no way to route an RPC; those under way go on."""
        if self._told is None:
            self._update(ResolverState(status))
            return
        self._route(frozenset())
        if self._routes != (status,):
            self._routes = (status,)
            self._selector = FailingSelector(status)
        assert self._selector is not None
        self._tell(self._kept(frozenset(), held), self._selector)

    def _kept(
        self, routed: frozenset[str], held: Mapping[str, ClusterConfig | Status]
    ) -> dict[str, ClusterConfig | Status]:
        """The clusters that only RPCs under way need, by what is known or was known last."""
        last = self._last
        return {
            name: held.get(name) or last[name]
            for name in self._uses
            if name not in routed and (name in held or name in last)
        }

    def _tell(
        self, clusters: Mapping[str, ClusterConfig | Status], selector: ConfigSelector
    ) -> None:
        self._last = dict(clusters)
        config, endpoints = self._tree.grow(clusters)
        told = (config, endpoints, selector)
        if self._told is not None and _same(self._told, told):
            return
        self._told = told
        self._update(
            ResolverState(
                endpoints,
                config,
                config_selector=selector,
                note=_note(self._plan, endpoints, clusters),
            )
        )

    # -- clusters come and go --------------------------------------------------------------------

    def _route(self, names: frozenset[str]) -> None:
        """From now on these are routed to; the others are let go when nobody needs them."""
        for name in names:
            use = self._uses.get(name)
            if use is None:
                use = self._uses[name] = ClusterUse(name, self._freed)
            use.routed = True
            self._unrouted.pop(name, None)
        for name, use in self._uses.items():
            if name not in names and use.routed:
                use.routed = False
                self._unrouted[name] = self._loop.time()
                self._reap_in(self._plan.grace)

    def _freed(self) -> None:
        """Any thread: the last RPC to a cluster without routes is over."""
        try:
            self._loop.call_soon_threadsafe(self._reap)
        except RuntimeError:  # the loop has ended
            return

    def _reap_in(self, seconds: float) -> None:
        if self._reaping is None:
            self._reaping = self._loop.call_later(seconds, self._reap)

    def _reap(self) -> None:
        """Let go of clusters that have been without routes for long enough and have no RPCs."""
        if self._reaping is not None:
            self._reaping.cancel()
            self._reaping = None
        if self._closed:
            return
        now = self._loop.time()
        gone = False
        for name, since in tuple(self._unrouted.items()):
            left = since + self._plan.grace - now
            if left > 0:
                self._reap_in(left)
            elif self._uses[name].drop():
                del self._uses[name], self._unrouted[name]
                gone = True
        if gone:
            self._look_soon()


def _same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    """The config and the selector are the same objects if they are equal; endpoints mostly."""
    return one[0] is other[0] and one[2] is other[2] and one[1] == other[1]


def _note(
    plan: Plan, endpoints: tuple[Endpoint, ...], clusters: Mapping[str, ClusterConfig | Status]
) -> str:
    things = "endpoint" if len(endpoints) == 1 else "endpoints"
    noun = "cluster" if len(clusters) == 1 else "clusters"
    return f"{plan.target} resolved {len(endpoints)} {things} in {len(clusters)} {noun}"
