"""The resolver of one service in etcd: a list, then a watch from the next revision, for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from grpclb.core.backoff import Backoff
from grpclb.core.resolver import ResolverState, Update
from grpclb.core.status import Status
from grpclb.resolvers.etcd.model import EtcdFailed, Listing, WatchBatch
from grpclb.resolvers.etcd.table import Table, shown

if TYPE_CHECKING:
    from random import Random

_LOG = logging.getLogger("grpclb.etcd")
# Clients of an etcd that comes back should know within seconds, not minutes, and not all at once.
_FIRST_DELAY = 0.25  # seconds
_LONGEST_DELAY = 5.0
# A storm of puts becomes one update in each such time; a single one is told at once.
_PACE = 0.05  # seconds


class Source(Protocol):
    """Where keys come from: an EtcdClient, or an adapter. Failures are EtcdFailed."""

    async def list(self, prefix: bytes, *, fall_back: bool) -> Listing:
        """All keys; with `fall_back`, without a quorum if need be."""
        ...

    def watch(
        self, prefix: bytes, start_revision: int
    ) -> AbstractAsyncContextManager[AsyncIterator[WatchBatch]]:
        """What happens from `start_revision` on."""
        ...

    async def close(self) -> None:
        """Give everything back."""
        ...


class EtcdResolver:
    """Follows the keys below ``service/``. Can be run again after it was cancelled.

    Whatever ends the watch (a compaction, a closed stream, a lost leader, a restart, an expired
    token) has it list again and go on, with backoff; the channel keeps the last list meanwhile.
    `authority` is the name that the backends' certificates carry: a key of etcd is none, so there
    is one only if the user gave it.
    """

    def __init__(
        self,
        target: str,
        prefix: bytes,
        make_source: Callable[[], Source],
        random: Random,
        authority: str | None = None,
    ) -> None:
        self._target = target
        self._prefix = prefix
        self._make_source = make_source
        self._random = random
        self.authority = authority

    def __repr__(self) -> str:
        return f"<EtcdResolver {self._target}>"

    def resolve_now(self) -> None:
        """Nothing: the watch tells of every change, and a broken one is tried by itself."""

    async def run(self, update: Update) -> None:
        """List, watch and report until cancelled."""
        source = self._make_source()
        table = _Reports(self._target, self._prefix, update)
        backoff = Backoff(self._random, initial=_FIRST_DELAY, cap=_LONGEST_DELAY)
        try:
            while True:
                try:
                    await self._follow(source, table, backoff)
                except EtcdFailed as failure:
                    if failure.interrupted:
                        continue
                    table.failed(failure)
                await asyncio.sleep(backoff.next_delay())
        finally:
            table.close()
            await source.close()

    async def _follow(self, source: Source, reports: _Reports, backoff: Backoff) -> None:
        """One list and its watch, which ends by raising EtcdFailed."""
        listing = await source.list(self._prefix, fall_back=not reports.listed)
        reports.list(listing)
        async with source.watch(self._prefix, listing.revision + 1) as watch:
            reports.watching()
            backoff.reset()
            async for batch in watch:
                reports.batch(batch)


class _Reports:
    """From lists and events to the states that the channel is told, at a bearable pace."""

    def __init__(self, target: str, prefix: bytes, update: Update) -> None:
        self.listed = False
        self._target = target
        self._prefix = shown(prefix)
        self._update = update
        self._table = Table()
        self._revision = 0
        self._stale = False  # the list came from one member without a quorum
        self._timer: asyncio.TimerHandle | None = None
        self._told_at = float("-inf")

    def list(self, listing: Listing) -> None:
        self.listed = True
        self._table.replace(listing.items, complete=listing.complete)
        self._revision, self._stale = listing.revision, listing.serializable
        self._tell()

    def watching(self) -> None:
        """The watch stands, so there is a leader: the list was of now, or will be in a moment."""
        if self._stale:
            self._stale = False
            self._tell()

    def batch(self, batch: WatchBatch) -> None:
        self._revision = batch.revision
        if not self._table.apply(batch.events) or self._timer is not None:
            return
        loop = asyncio.get_running_loop()
        delay = self._told_at + _PACE - loop.time()
        if delay <= 0:
            self._tell()
        else:
            self._timer = loop.call_later(delay, self._tell)

    def failed(self, failure: EtcdFailed) -> None:
        """What etcd refuses us with says nothing about the backends: always UNAVAILABLE."""
        if self._timer is not None:
            self._tell()
        self._update(ResolverState(Status.unavailable(f"{self._target}: {failure}")))

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell(self) -> None:
        self.close()
        self._told_at = asyncio.get_running_loop().time()
        for key, problem in self._table.unreported():
            _LOG.warning("%s: key %r: %s", self._target, shown(key), problem)
        endpoints, skipped = self._table.endpoints(), self._table.skipped
        noun = "endpoint" if len(endpoints) == 1 else "endpoints"
        note = f"{self._target}: {len(endpoints)} {noun} below key {self._prefix!r}"
        if skipped:
            first = next(iter(skipped.items()))
            note += f", {len(skipped)} of {len(self._table)} keys skipped ({first[0]}: {first[1]})"
        note += f", revision {self._revision}"
        if self._stale:
            note += ", as one member knew it (no quorum)"
        attributes = MappingProxyType({"skipped": skipped})
        self._update(ResolverState(endpoints, attributes=attributes, note=note))
