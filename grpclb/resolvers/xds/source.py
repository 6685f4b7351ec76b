"""What a channel's resolver needs of the client that speaks ADS (A74, A88)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from grpclb.core.status import Status
from grpclb.resolvers.xds.kinds import ResourceKind
from grpclb.resolvers.xds.resources import Resource


class Watcher(Protocol):
    """Who waits for one resource. Called on the loop on which `Source.watch` was called, never
    from within it, and never after the watch was cancelled."""

    def on_resource(self, result: Resource | Status) -> None:
        """The resource as it is now; or why there is none to work with.

        A Status replaces what was there before (it was deleted, does not exist, or the server
        wants errors to count); NOT_FOUND says that it does not exist.
        """
        ...

    def on_ambient_error(self, status: Status) -> None:
        """Something is wrong, and the resource that there is stays in use. For people."""
        ...


class Source(Protocol):
    """A client of management servers, shared by the channels with the same bootstrap."""

    def watch(self, kind: ResourceKind, name: str, watcher: Watcher) -> Callable[[], None]:
        """Ask for a resource and report on it until the returned function is called.

        What is cached is reported in the next turn of the loop.
        """
        ...
