"""The xDS client that channels share: one per loop and bootstrap, as long as any of them needs it.

All sync channels live on one loop, so that they share one stream to their management server.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from grpclb.core.status import Status
from grpclb.resolvers.xds.ads import Failed, News, Watcher
from grpclb.resolvers.xds.ads_session import AdsSession
from grpclb.resolvers.xds.bootstrap import Bootstrap
from grpclb.resolvers.xds.kinds import Kinds, ResourceKind
from grpclb.resolvers.xds.names import authority_of, canonical


class XdsClient:
    """source.Source for one bootstrap. Made and used on one loop."""

    def __init__(self, bootstrap: Bootstrap, kinds: Kinds, random: Random) -> None:
        self._loop = asyncio.get_running_loop()
        self._bootstrap = bootstrap
        self._kinds = kinds
        self._random = random
        self._sessions: dict[str | None, AdsSession] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<XdsClient {', '.join(server.uri for server in self._bootstrap.servers)}>"

    def watch(self, kind: ResourceKind, name: str, watcher: Watcher) -> Callable[[], None]:
        """Tell `watcher` what is known of a resource and what comes, until the result is called.

        It is called on this loop, not from within this call, and never after the watch has ended.
        """
        if self._closed:
            raise RuntimeError("the xDS client is closed")
        # The machine tells watchers apart by identity; the caller may use one for many resources.
        own = _Own(watcher)
        name = canonical(name)
        authority = authority_of(name)
        session = self._session(authority)
        if session is None:
            details = f"xDS resource {name!r}: the bootstrap has no authority {authority!r}"
            handle = self._loop.call_soon(own, Failed(Status.unavailable(details)))
            return handle.cancel
        session.watch(kind, name, own)
        return functools.partial(session.unwatch, kind, name, own)

    def _session(self, authority: str | None) -> AdsSession | None:
        """Names of an authority come from its servers (A47), others from the first ones."""
        found = self._sessions.get(authority)
        if found is not None:
            return found
        servers = self._bootstrap.servers
        if authority is not None:
            config = self._bootstrap.authority(authority)
            if config is None:
                return None
            servers = config.servers or servers
        session = AdsSession(
            servers, self._bootstrap.node, self._kinds, self._random, ("grpclb", _version())
        )
        self._sessions[authority] = session
        return session

    def snapshot(self) -> dict[str, Any]:
        """Per authority, what the client knows (as CSDS would say it), JSON-ready."""
        return {name or "": session.snapshot() for name, session in tuple(self._sessions.items())}

    def abandon(self) -> None:
        """Cancel all streams of a loop that was closed under its users. Any thread."""
        self._closed = True
        for session in self._sessions.values():
            session.abandon()

    async def close(self) -> None:
        """End all streams; no watcher is called any more. Harmless when repeated."""
        self._closed = True
        sessions, self._sessions = self._sessions, {}
        await asyncio.gather(*(session.close() for session in sessions.values()))


class _Own:
    """A watcher that is nobody else's."""

    __slots__ = ("_watcher",)

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def __call__(self, news: News) -> None:
        self._watcher(news)


@functools.cache
def _version() -> str:
    try:
        return importlib.metadata.version("grpclb-client")
    except importlib.metadata.PackageNotFoundError:  # from a source tree
        return "unknown"


class _Shared:
    """A client and the number of those who use it."""

    def __init__(self, client: XdsClient) -> None:
        self.client = client
        self.users = 0


class _Clients:
    """The clients of all loops of this process. A loop touches only its own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # several loops may begin at once
        self.by_loop: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, dict[Bootstrap, _Shared]
        ] = weakref.WeakKeyDictionary()

    def of_this_loop(self) -> dict[Bootstrap, _Shared]:
        with self.lock:
            # A loop that was closed under its channels is still held by its clients' streams,
            # and nobody is left to end them.
            for loop in [loop for loop in self.by_loop if loop.is_closed()]:
                for shared in self.by_loop.pop(loop).values():
                    shared.client.abandon()
            return self.by_loop.setdefault(asyncio.get_running_loop(), {})


_clients = _Clients()


def _begin_anew() -> None:
    """In a forked child: the parent's clients, and maybe its lock, are nothing to it."""
    global _clients
    _clients = _Clients()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


@asynccontextmanager
async def shared_client(bootstrap: Bootstrap, kinds: Kinds) -> AsyncIterator[XdsClient]:
    """This loop's client of a bootstrap, made by the first user and closed by the last one."""
    clients = _clients.of_this_loop()
    shared = clients.get(bootstrap)
    if shared is None:
        shared = clients[bootstrap] = _Shared(XdsClient(bootstrap, kinds, Random()))
    shared.users += 1
    dropped = False
    try:
        yield shared.client
    except GeneratorExit:  # with the loop, on which nothing can be waited for
        dropped = True
        raise
    finally:
        shared.users -= 1
        if not shared.users:
            clients.pop(bootstrap, None)
            if not dropped:
                await shared.client.close()
