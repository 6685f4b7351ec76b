"""List, watch, and begin again: keeps a picture of one Service's slices that is the server's.

The rules are those of the API: a list in pages gives the slices and a version, a watch gives what
happened since; bookmarks move the version on; a version that is too old (410) means a new list.
Whatever else goes wrong, the picture stays, and the watch goes on from the version it had.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, assert_never

from grpclb.core.backoff import Backoff
from grpclb.resolvers.kubernetes.api import Api, ApiError, Session
from grpclb.resolvers.kubernetes.events import Bookmark, Delete, Event, Failure, Malformed, Put
from grpclb.resolvers.kubernetes.slices import Slice

if TYPE_CHECKING:
    from random import Random

_LOG = logging.getLogger("grpclb.resolver.kubernetes")
# The first retry is quick, as most failures are a server that is restarted behind a balancer; ten
# minutes of outage cost some 25 attempts.
_FIRST_RETRY, _LAST_RETRY = 0.25, 45.0
_STEADY = 5.0  # a watch that lasted so long was a good one
_PATIENCE = 4.0  # for a first answer; then somebody is told that there is none
_MOST_REMARKS = 256
_PAGE = 100  # slices, so some 10,000 endpoints
_MOST_PAGES = 1_000
_QUIET_FAILURES = 3  # of a watch that began well
_EXPIRED = 410
# After these the same request may succeed; anything else asks for a new list.
_PASSING = frozenset({401, 429, 500, 502, 503})


@dataclass(frozen=True, slots=True)
class View:
    """What is known. `slices` is None before the first list.

    `problem` is why it may be out of date (or is not there at all); `exists` whether there is such
    a Service, asked only when it has no slices, None for unknown.
    """

    slices: Mapping[str, Slice] | None = None
    problem: str | None = None
    exists: bool | None = None


@dataclass(slots=True)
class _Lap:
    """One connection's worth of work."""

    watching_since: float | None = None
    expired: bool = False
    error: ApiError | None = field(default=None)


class Reflector:
    """Runs on one loop, for ever, until cancelled; `tell` hears of every new view there."""

    def __init__(self, api: Api, random: Random, tell: Callable[[View], None]) -> None:
        self.view = View()
        self._api = api
        self._random = random
        self._tell = tell
        self._slices: dict[str, Slice] = {}
        self._version: str | None = None  # None: a new list is due
        self._backoff = Backoff(random, initial=_FIRST_RETRY, cap=_LAST_RETRY)
        self._rejected = self._expired = self._junk = self._failures = 0  # in a row
        self._remarks: set[str] = set()

    async def run(self) -> None:
        """List and watch until cancelled."""
        loop = asyncio.get_running_loop()
        impatience = loop.call_later(_PATIENCE, self._no_answer_yet)
        try:
            while True:
                lap = await self._lap()
                await asyncio.sleep(self._pause(lap, loop.time()))
        finally:
            impatience.cancel()

    def _no_answer_yet(self) -> None:
        if self.view == View():
            self._show(problem=f"no answer from the API server in {_PATIENCE:g} s")

    async def _lap(self) -> _Lap:
        """One connection: a list if due, then a watch until it ends."""
        lap = _Lap()
        try:
            async with self._api.session() as session:
                if self._version is None:
                    await self._list(session)
                await self._watch(session, lap)
        except ApiError as error:
            lap.error = error
            if error.status == _EXPIRED:
                lap.expired = True
            elif not self._may_pass(lap, error):
                self._show(problem=str(error))
            self._failures += 1
        return lap

    def _may_pass(self, lap: _Lap, error: ApiError) -> bool:
        """Whether a failure is nobody's business yet, as the next try is likely to succeed."""
        if error.status == 401:
            return not self._rejected  # a token that was rotated just now
        return lap.watching_since is not None and self._failures < _QUIET_FAILURES

    def _pause(self, lap: _Lap, now: float) -> float:
        """Seconds until the next lap; also says whether that begins with a list."""
        error = lap.error
        if lap.watching_since is not None and now - lap.watching_since >= _STEADY:
            self._backoff.reset()
            self._rejected = self._expired = self._junk = self._failures = 0
            if error is None:
                return 0.0
        self._decide_list(lap)
        if error is not None and error.status == 401:
            self._api.reject()
            self._rejected += 1
            if self._rejected == 1:
                return 0.0  # the token that we read may have been replaced just now
        if lap.expired and self._expired == 1:
            return 0.0
        delay = self._backoff.next_delay()
        return max(delay, (error.retry_after if error is not None else None) or 0.0)

    def _decide_list(self, lap: _Lap) -> None:
        error = lap.error
        if lap.expired:
            self._expired += 1
            self._version = None
        elif error is None:
            return
        elif error.status is not None:
            if error.status not in _PASSING:
                self._version = None
        elif lap.watching_since is not None:
            self._junk += 1
            if self._junk > 2:  # whatever the version leads to, it is no good
                self._version, self._junk = None, 0

    # -- list ----------------------------------------------------------------------------------

    async def _list(self, session: Session) -> None:
        try:
            slices, version = await self._pages(session, _PAGE)
        except ApiError as error:
            if error.status != _EXPIRED:
                raise
            # The token for the next page is too old: all at once needs none.
            slices, version = await self._pages(session, None)
        exists = True if slices else await session.service_exists()
        self._slices, self._version = slices, version
        self._show(exists=exists)

    async def _pages(self, session: Session, limit: int | None) -> tuple[dict[str, Slice], str]:
        slices: dict[str, Slice] = {}
        more: str | None = None
        for _ in range(_MOST_PAGES):
            page = await session.page(limit, more)
            slices.update((piece.name, piece) for piece in page.slices)
            for name, reason in page.kept:
                self._remark(reason)
                if name in self._slices:
                    slices[name] = self._slices[name]
            more = page.more
            if more is None:
                return slices, page.version
        raise ApiError(f"cannot list endpointslices: more than {_MOST_PAGES} pages")

    # -- watch ---------------------------------------------------------------------------------

    async def _watch(self, session: Session, lap: _Lap) -> None:
        assert self._version is not None
        loop = asyncio.get_running_loop()
        seconds = self._random.randint(*self._api.timeouts.watch)
        try:
            async with asyncio.timeout(seconds + self._api.timeouts.grace):
                events = await session.watch(self._version, seconds)
                lap.watching_since = loop.time()
                if self.view.problem is not None:
                    self._show(exists=self.view.exists)
                async with contextlib.aclosing(events):
                    async for event in events:
                        self._take(event)
        except TimeoutError:
            raise ApiError("the watch did not end in time") from None

    def _take(self, event: Event) -> None:
        match event:
            case Put(piece, version):
                self._slices = {**self._slices, piece.name: piece}
            case Delete(name, version):
                self._slices = {k: v for k, v in self._slices.items() if k != name}
            case Bookmark(version):
                pass
            case Malformed(reason, version):
                self._remark(reason)
            case Failure(status, message):
                raise ApiError(f"the watch ended ({status}): {message}", status)
            case _:
                assert_never(event)
        self._version = version or self._version
        if isinstance(event, (Put, Delete)):
            self._show(exists=True if self._slices else self.view.exists)

    def _remark(self, text: str) -> None:
        """Log what is odd about the server's data, once."""
        if text not in self._remarks and len(self._remarks) < _MOST_REMARKS:
            self._remarks.add(text)
            _LOG.warning("%s/%s: %s", self._api.namespace, self._api.service, text)

    def _show(self, *, problem: str | None = None, exists: bool | None = None) -> None:
        if problem is not None:
            view = View(self.view.slices, problem, self.view.exists)
        else:
            view = View(MappingProxyType(self._slices), None, exists)
        self.view = view
        self._tell(view)
