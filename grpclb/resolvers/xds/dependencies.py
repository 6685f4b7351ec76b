"""Watching what a survey wants, and remembering what was heard (A74)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from grpclb.core.resolver import Resolver, ResolverState
from grpclb.core.status import Status
from grpclb.resolvers.xds.ads import Ambient, Changed, Failed, News
from grpclb.resolvers.xds.kinds import Kinds, ResourceKind
from grpclb.resolvers.xds.source import Source
from grpclb.resolvers.xds.survey import Key, Kind, Known

LookUp = Callable[[str], Resolver]  # for a name host:port; raises ValueError


class Dependencies:
    """The watches of one channel, and one DNS resolver per LOGICAL_DNS cluster's host.

    Lives on one loop. `on_change` is called for news that change what is known.
    """

    def __init__(
        self, source: Source, kinds: Kinds, look_up: LookUp, on_change: Callable[[], None]
    ) -> None:
        self._source = source
        self._kinds: dict[Kind, ResourceKind] = {
            Kind.LDS: kinds.lds,
            Kind.RDS: kinds.rds,
            Kind.CDS: kinds.cds,
            Kind.EDS: kinds.eds,
        }
        self._look_up = look_up
        self._on_change = on_change
        self._known: dict[Key, Known] = {}
        self._stops: dict[Key, Callable[[], None]] = {}
        self._hosts: dict[Key, Resolver] = {}
        self.ambient: dict[Key, Status] = {}  # what is wrong with resources that are in use

    def known(self, kind: Kind, name: str) -> Known:
        """What was heard last; None: nothing yet."""
        return self._known.get((kind, name))

    def want(self, keys: frozenset[Key]) -> None:
        """Watch exactly these."""
        for key in keys - self._stops.keys():
            self._stops[key] = self._host(key) if key[0] is Kind.DNS else self._resource(key)
        for key in self._stops.keys() - keys:
            self._stops.pop(key)()
            self._known.pop(key, None)
            self._hosts.pop(key, None)
            self.ambient.pop(key, None)

    def resolve_now(self) -> None:
        """Look all hosts up again; xDS itself pushes (A74)."""
        for host in self._hosts.values():
            host.resolve_now()

    def close(self) -> None:
        self.want(frozenset())

    def _resource(self, key: Key) -> Callable[[], None]:
        def hear(news: News) -> None:
            match news:
                case Changed(resource):
                    self.ambient.pop(key, None)
                    self._learn(key, resource)
                case Failed(status):
                    self.ambient.pop(key, None)
                    self._learn(key, status)
                case Ambient(None):
                    self.ambient.pop(key, None)
                case Ambient(status):
                    self.ambient[key] = cast("Status", status)

        return self._source.watch(self._kinds[key[0]], key[1], hear)

    def _host(self, key: Key) -> Callable[[], None]:
        def hear(state: ResolverState) -> bool:
            found = state.endpoints
            if not isinstance(found, Status) or not isinstance(self._known.get(key), tuple):
                self._learn(key, found)  # a failed look-up leaves the last good one
            return not isinstance(found, Status)

        try:
            resolver = self._look_up(key[1])
        except ValueError as error:
            self._known[key] = Status.unavailable(str(error))
            asyncio.get_running_loop().call_soon(self._on_change)
            return lambda: None
        self._hosts[key] = resolver
        task = asyncio.get_running_loop().create_task(
            resolver.run(hear), name=f"grpclb xds DNS {key[1]}"
        )
        return lambda: _cancel(task)

    def _learn(self, key: Key, what: Known) -> None:
        if key in self._stops and self._known.get(key) != what:
            self._known[key] = what
            self._on_change()


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
