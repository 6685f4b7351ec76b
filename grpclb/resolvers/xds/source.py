"""What a channel's resolver needs of the client that speaks ADS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from grpclb.resolvers.xds.ads import Watcher
from grpclb.resolvers.xds.kinds import ResourceKind


class Source(Protocol):
    """A client of management servers, shared by the channels with the same bootstrap."""

    def watch(self, kind: ResourceKind, name: str, watcher: Watcher) -> Callable[[], None]:
        """Tell `watcher` what is known of a resource and what comes, until the result is called.

        On one loop; `watcher` is called on it too, not from within this call, and never after the
        watch has ended.
        """
        ...

    def snapshot(self) -> dict[str, Any]:
        """What the client knows of servers and resources, JSON-ready."""
        ...
