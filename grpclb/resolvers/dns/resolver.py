"""The resolver of DNS names: when to look up, and what to tell the channel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from grpclb.core.backoff import Backoff
from grpclb.core.resolver import ResolverState, Update
from grpclb.core.status import Status
from grpclb.resolvers.dns.look_up import Found, Missing
from grpclb.resolvers.dns.settings import Settings

if TYPE_CHECKING:
    from random import Random

# For the channel: the name itself is gone, rather than the way to its server (FIGURES S3).
_NEGATIVE: Mapping[str, Any] = MappingProxyType({"dns.negative": True})

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class DnsResolver:
    """Looks up one name, again and again, until cancelled. Lives on one loop, and on its clock.

    While all is well it looks again when the TTL has run out, within the bounds of `settings`,
    and on a hint, but not within the quiet time: hints of that time become one look-up at its
    end. After a failure, or a rejected update, it backs off, and hints wait for that.
    """

    def __init__(
        self,
        target: str,
        look_up: Callable[[], Awaitable[Found | Missing]],
        settings: Settings,
        random: Random,
    ) -> None:
        self._target = target
        self._look_up = look_up
        self._settings = settings
        self._random = random
        self._hint = asyncio.Event()

    def __repr__(self) -> str:
        return f"<DnsResolver {self._target}>"

    def resolve_now(self) -> None:
        """A look-up soon; see the class. A hint during a look-up asks for one more."""
        self._hint.set()

    async def run(self, update: Update) -> None:
        """Look up and report until cancelled."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(self._random)
        while True:
            self._hint.clear()
            started = loop.time()
            result = await self._look_up()
            accepted = update(self._state(result))
            if isinstance(result, Missing) or not accepted:
                await asyncio.sleep(backoff.next_delay())
                continue
            backoff.reset()
            refresh_at = loop.time() + self._settings.refresh_delay(result.ttl, self._random)
            await self._pause(refresh_at, started + self._settings.quiet)

    async def _pause(self, refresh_at: float, quiet_until: float) -> None:
        try:
            async with asyncio.timeout_at(refresh_at):
                await self._hint.wait()
        except TimeoutError:
            return
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, min(quiet_until, refresh_at) - now))

    def _state(self, result: Found | Missing) -> ResolverState:
        if isinstance(result, Missing):
            status = Status.unavailable(f"{self._target}: {result.details}")
            return ResolverState(status, attributes=_NEGATIVE if result.negative else _NOTHING)
        count = len(result.endpoints)
        noun = "address" if count == 1 else "addresses"
        life = f"TTL {result.ttl:.0f} s" if result.ttl < float("inf") else "hosts file"
        return ResolverState(
            result.endpoints,
            result.service_config,
            note=f"{self._target} resolved {count} {noun} ({life})",
        )
