"""What an AdsMachine has its owner do, and what watchers of a resource are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from grpclb.core.status import Status
from grpclb.resolvers.xds.resources import Resource
from grpclb.resolvers.xds.wire import Request


@dataclass(frozen=True, slots=True)
class Changed:
    """Use this from now on."""

    resource: Resource


@dataclass(frozen=True, slots=True)
class Failed:
    """There is no such resource to use, for this reason: stop using what there was."""

    status: Status


@dataclass(frozen=True, slots=True)
class Ambient:
    """Go on with what there is; this is worth knowing. None: all is well again (A88)."""

    status: Status | None


News: TypeAlias = Changed | Failed | Ambient
# One object per watch: watchers are told apart by identity.
Watcher: TypeAlias = Callable[[News], None]


@dataclass(frozen=True, slots=True)
class Open:
    """Open a stream to this server, number `serial` of it."""

    server: int
    serial: int


@dataclass(frozen=True, slots=True)
class Close:
    """Close the stream to this server; nothing of it is wanted any longer."""

    server: int


@dataclass(frozen=True, slots=True)
class Send:
    server: int
    serial: int
    request: Request


@dataclass(frozen=True, slots=True)
class Notify:
    watcher: Watcher
    news: News


Action: TypeAlias = Open | Close | Send | Notify
