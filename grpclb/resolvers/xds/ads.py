"""The xDS client as a machine: a cache of resources, their watchers, and servers in order.

Pure: events come in, actions are taken out with `take`. It speaks the state-of-the-world variant
of ADS, with the failure rules of A57, A71 and A88 and NACKs resource by resource (A46). One event
at a time; between two events all actions are carried out, watchers included, which is what keeps a
server from being read faster than its news is digested.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from grpc import StatusCode

from grpclb.core.status import Status
from grpclb.resolvers.xds.ads_actions import (
    Action,
    Ambient,
    Changed,
    Close,
    Failed,
    News,
    Notify,
    Open,
    Send,
    Watcher,
)
from grpclb.resolvers.xds.ads_stream import AdsStream, Phase
from grpclb.resolvers.xds.bootstrap import Server
from grpclb.resolvers.xds.kinds import Kinds, Parsed, ResourceKind
from grpclb.resolvers.xds.resources import Resource
from grpclb.resolvers.xds.wire import Response

if TYPE_CHECKING:
    from random import Random

# What watchers know this machine by.
__all__ = ["AdsMachine", "Ambient", "Changed", "Failed", "News", "State", "Watcher"]

# xRFC TP3: what the server says of the resource itself; anything else is its own trouble.
_DATA_ERRORS = frozenset({StatusCode.NOT_FOUND, StatusCode.PERMISSION_DENIED})


class State(Enum):
    """Of a cache entry, by CSDS' names (A40, A88)."""

    REQUESTED = "REQUESTED"
    DOES_NOT_EXIST = "DOES_NOT_EXIST"
    ACKED = "ACKED"
    NACKED = "NACKED"
    RECEIVED_ERROR = "RECEIVED_ERROR"
    TIMEOUT = "TIMEOUT"


@dataclass(slots=True)
class _Entry:
    """What is known of one resource. `value` is used; `error` is the last bad news of it."""

    watchers: list[Watcher] = field(default_factory=list)
    value: Resource | None = None
    raw: tuple[str, bytes] | None = None
    version: str = ""
    state: State = State.REQUESTED
    error: Status | None = None


class AdsMachine:
    """See the module. Servers are known by their index; the first is the primary."""

    def __init__(self, servers: tuple[Server, ...], kinds: Kinds, random: Random) -> None:
        self._kinds = kinds.by_url
        all_kinds = tuple(self._kinds.values())
        self._streams = [AdsStream(server, all_kinds, random) for server in servers]
        self._active = 0
        self._troubled = False  # watchers were told that no server can be reached
        self._entries: dict[ResourceKind, dict[str, _Entry]] = {
            kind: {} for kind in self._kinds.values()
        }
        self._actions: list[Action] = []

    # -- watchers --------------------------------------------------------------------------------

    def watch(self, kind: ResourceKind, name: str, watcher: Watcher) -> None:
        """Tell `watcher` of this resource: at once what is known, and then what comes."""
        entries = self._entries[kind]
        entry = entries.get(name)
        if entry is None:
            entry = entries[name] = _Entry()
            for stream in self._streams:
                stream.changed(kind)
        entry.watchers.append(watcher)
        if self._streams[self._active].phase is Phase.IDLE:
            self._open(self._active)
        self._tell_state(entry, watcher)

    def _tell_state(self, entry: _Entry, watcher: Watcher) -> None:
        if entry.value is not None:
            self._actions.append(Notify(watcher, Changed(entry.value)))
            ambient = entry.error or self._failure
            if ambient is not None:
                self._actions.append(Notify(watcher, Ambient(ambient)))
        elif entry.error is not None:
            self._actions.append(Notify(watcher, Failed(entry.error)))
        elif self._failure is not None and not self._fall_back():
            self._actions.append(Notify(watcher, Failed(self._failure)))

    def unwatch(self, kind: ResourceKind, name: str, watcher: Watcher) -> None:
        """Tell it no more. Harmless when repeated."""
        entry = self._entries[kind].get(name)
        if entry is None or watcher not in entry.watchers:
            return
        entry.watchers.remove(watcher)
        # News that is on its way must not reach it either.
        self._actions = [
            a for a in self._actions if not (isinstance(a, Notify) and a.watcher is watcher)
        ]
        if entry.watchers:
            return
        del self._entries[kind][name]
        for stream in self._streams:
            stream.forget(kind, name)
        if not any(self._entries.values()):
            for index in range(len(self._streams)):
                self._shut(index)
            self._active, self._troubled = 0, False

    # -- streams ---------------------------------------------------------------------------------

    def opened(self, server: int, serial: int, now: float) -> None:
        """The stream takes requests (which does not say that anybody is connected)."""
        stream = self._stream(server, serial)
        if stream is not None:
            stream.opened(now)

    def sent(self, server: int, serial: int, now: float) -> None:
        """A connection has taken the oldest request that was not taken yet."""
        stream = self._stream(server, serial)
        if stream is None:
            return
        for kind, name in stream.sent():
            entry = self._entries[kind].get(name)
            if entry is not None and entry.value is None and entry.error is None:
                stream.expect(kind, name, now)

    def closed(
        self, server: int, serial: int, status: Status, now: float, *, our_fault: bool = False
    ) -> None:
        """The stream ended, or never came to be. `our_fault`: we refused what it brought."""
        stream = self._stream(server, serial)
        if stream is None:
            return
        details = f"xDS server {stream.server.uri}: {status}"
        failure = Status.unavailable(details)
        if not stream.closed(failure, now, our_fault=our_fault) or server != self._active:
            return
        if not (self._misses_something() and self._fall_back()):
            self._troubled = True
            for entry in self._all():
                self._tell_failure(entry, failure)

    def interrupted(self, server: int, serial: int, now: float) -> None:
        """The stream ended for reasons of this process (a fork)."""
        stream = self._stream(server, serial)
        if stream is not None:
            stream.interrupted(now)

    def _stream(self, server: int, serial: int) -> AdsStream | None:
        stream = self._streams[server]
        return stream if stream.serial == serial and stream.phase is not Phase.WAITING else None

    def _open(self, server: int) -> None:
        self._actions.append(Open(server, self._streams[server].open()))

    def _shut(self, server: int) -> None:
        stream = self._streams[server]
        if stream.phase is Phase.IDLE:
            return
        if stream.phase is not Phase.WAITING:
            self._actions.append(Close(server))
        stream.shut()

    def _misses_something(self) -> bool:
        return any(entry.state is State.REQUESTED for entry in self._all())

    def _fall_back(self) -> bool:
        """Ask the next server in the list (A71), beside those that fail; False: there is none."""
        if self._active + 1 == len(self._streams):
            return False
        self._active += 1
        self._open(self._active)
        return True

    @property
    def _failure(self) -> Status | None:
        """Why nothing new comes, if so."""
        return self._streams[self._active].failure

    def _tell_failure(self, entry: _Entry, failure: Status) -> None:
        news: News
        if entry.value is not None:
            news = Ambient(failure)
        elif entry.state is State.REQUESTED:
            news = Failed(failure)
        else:
            return  # it knows of something worse
        self._tell(entry, news)

    def hasty(self, server: int) -> bool:
        """Whether this stream should give up soon if nobody connects: another server is next, and
        nothing is known against this one."""
        return server + 1 < len(self._streams) and self._streams[server].failure is None

    # -- time ------------------------------------------------------------------------------------

    @property
    def next_wake(self) -> float | None:
        """When `wake` should be called; None: only events bring anything."""
        times = [s.retry_at for s in self._streams if s.phase is Phase.WAITING]
        times += [min(s.deadlines.values()) for s in self._streams if s.deadlines]
        return min(times, default=None)

    def wake(self, now: float) -> None:
        """Time has passed. Harmless when early."""
        for index, stream in enumerate(self._streams):
            if stream.phase is Phase.WAITING and stream.retry_at <= now:
                self._open(index)
            for kind, name in stream.expired(now):
                self._expire(stream.server, kind, name)

    def _expire(self, server: Server, kind: ResourceKind, name: str) -> None:
        entry = self._entries[kind].get(name)
        if entry is None or entry.value is not None:
            return
        what = f"{kind.short} resource {name!r}"
        if server.timer_is_transient:
            entry.state = State.TIMEOUT
            entry.error = Status.unavailable(f"{what}: xDS server {server.uri} did not send it")
        else:
            entry.state = State.DOES_NOT_EXIST
            details = f"{what} does not exist: xDS server {server.uri} did not send it"
            entry.error = Status(StatusCode.NOT_FOUND, details)
        self._tell(entry, Failed(entry.error))

    # -- responses -------------------------------------------------------------------------------

    def response(self, server: int, serial: int, response: Response, now: float) -> None:
        """A response came on the stream."""
        stream = self._stream(server, serial)
        if stream is None:
            return
        stream.received()
        self._prefer(server)
        if self._troubled:
            self._troubled = False
            self._all_is_well()
        kind = self._kinds.get(response.type_url)
        # What was not asked for is neither right nor wrong. An answer would be a subscription.
        if kind is None or not stream.asked_for(kind):
            return
        found, errors, nameless = self._parse(kind, response)
        stream.reply(kind, response.version, response.nonce, "; ".join(errors))
        for name, (parsed, raw) in found.items():
            entry = self._entries[kind].get(name)
            if entry is None:
                continue
            stream.came(kind, name)
            if parsed.resource is not None:
                self._accept(entry, parsed.resource, raw, response.version)
            else:
                self._refuse(entry, kind, parsed, stream.server)
        for name, status in response.errors:
            entry = self._entries[kind].get(name)
            if entry is not None:
                stream.came(kind, name)
                self._server_error(entry, f"{kind.short} resource {name!r}", status, stream.server)
        # A resource whose name could not be read may be any of those that seem to be missing.
        if kind.whole and not nameless:
            told = {name for name, _ in response.errors}
            self._delete_others(kind, found.keys() | told, stream.server)

    def _prefer(self, server: int) -> None:
        """A server that answers makes those behind it superfluous (A71)."""
        if server < self._active:
            self._active = server
            for index in range(server + 1, len(self._streams)):
                self._shut(index)

    def _all_is_well(self) -> None:
        for entry in self._all():
            if entry.value is not None and entry.error is None:
                self._tell(entry, Ambient(None))

    def _parse(
        self, kind: ResourceKind, response: Response
    ) -> tuple[dict[str, tuple[Parsed, tuple[str, bytes]]], list[str], bool]:
        """The resources by name, each with the Any it came in; what a NACK has to say; and
        whether there was one whose name could not be read."""
        known = {e.raw: (n, e.value) for n, e in self._entries[kind].items() if e.raw is not None}
        found: dict[str, tuple[Parsed, tuple[str, bytes]]] = {}
        errors: list[str] = []
        nameless = False
        for index, raw in enumerate(response.resources):
            before = known.get(raw)  # most of a response is what it was the last time
            parsed = Parsed(*before) if before is not None else kind.parse(*raw)
            if not parsed.name:
                nameless = True
                errors.append(f"resource {index}: {parsed.error}")
            elif parsed.name in found:
                errors.append(f"{parsed.name}: is in the response twice")
            else:
                found[parsed.name] = parsed, raw
                if parsed.resource is None:
                    errors.append(f"{parsed.name}: {parsed.error}")
        return found, errors, nameless

    def _accept(
        self, entry: _Entry, resource: Resource, raw: tuple[str, bytes], version: str
    ) -> None:
        changed = entry.value != resource
        erred = entry.error is not None
        entry.value, entry.raw, entry.version = resource, raw, version
        entry.state, entry.error = State.ACKED, None
        if changed:
            self._tell(entry, Changed(resource))
        elif erred:
            self._tell(entry, Ambient(None))

    def _refuse(self, entry: _Entry, kind: ResourceKind, parsed: Parsed, server: Server) -> None:
        details = f"{kind.short} resource {parsed.name!r} is invalid: {parsed.error}"
        status = Status(StatusCode.INVALID_ARGUMENT, details)
        self._data_error(entry, State.NACKED, status, server)

    def _server_error(self, entry: _Entry, what: str, status: Status, server: Server) -> None:
        told = Status(status.code, f"{what}: xDS server {server.uri} says {status}")
        if status.code in _DATA_ERRORS:
            self._data_error(entry, State.RECEIVED_ERROR, told, server)
        else:
            self._bad_news(entry, State.RECEIVED_ERROR, told)

    def _delete_others(self, kind: ResourceKind, present: Iterable[str], server: Server) -> None:
        """What a complete response lacks was deleted, if it was ever there."""
        here = set(present)
        for name, entry in self._entries[kind].items():
            if entry.value is None or name in here or entry.state is State.DOES_NOT_EXIST:
                continue
            details = f"{kind.short} resource {name!r}: xDS server {server.uri} deleted it"
            status = Status(StatusCode.NOT_FOUND, details)
            self._data_error(entry, State.DOES_NOT_EXIST, status, server)

    def _data_error(self, entry: _Entry, state: State, status: Status, server: Server) -> None:
        if server.fail_on_data_errors:
            entry.value = entry.raw = None
        self._bad_news(entry, state, status)

    def _bad_news(self, entry: _Entry, state: State, status: Status) -> None:
        """Something is wrong with a resource; what there is of it stays in use (A88)."""
        known = entry.error == status and entry.state is state
        entry.state, entry.error = state, status
        if not known:
            self._tell(entry, Failed(status) if entry.value is None else Ambient(status))

    # -- out -------------------------------------------------------------------------------------

    def _all(self) -> Iterable[_Entry]:
        return (entry for entries in self._entries.values() for entry in entries.values())

    def _tell(self, entry: _Entry, news: News) -> None:
        self._actions.extend(Notify(watcher, news) for watcher in entry.watchers)

    def take(self) -> list[Action]:
        """What is to be done now, in this order. Call until there is nothing left.

        Requests wait until all watchers were told, who may want other resources by then.
        """
        actions, self._actions = self._actions, []
        if any(isinstance(action, Notify) for action in actions):
            return actions
        for index, stream in enumerate(self._streams):
            for request in stream.requests(self._entries):
                actions.append(Send(index, stream.serial, request))
        return actions

    def dump(self) -> list[dict[str, Any]]:
        """All entries as CSDS would list them, JSON-ready."""
        return [
            {
                "type": kind.short,
                "name": name,
                "version": entry.version,
                "client_status": entry.state.value,
                "cached": entry.value is not None,
                "error": str(entry.error) if entry.error is not None else None,
            }
            for kind, entries in self._entries.items()
            for name, entry in entries.items()
        ]

    def dump_servers(self) -> list[dict[str, Any]]:
        """The servers in order, JSON-ready."""
        return [
            {
                "server_uri": stream.server.uri,
                "stream": stream.phase.value,
                "in_use": index == self._active,
                "failure": stream.failure.details if stream.failure is not None else None,
            }
            for index, stream in enumerate(self._streams)
        ]
