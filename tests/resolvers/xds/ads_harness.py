"""A management server's view of an AdsMachine, and its watchers', on a fake clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from grpc import StatusCode

from grpclb.core.status import Status
from grpclb.resolvers.xds.ads import AdsMachine, Ambient, Changed, Failed, News
from grpclb.resolvers.xds.ads_actions import Close, Notify, Open, Send
from grpclb.resolvers.xds.bootstrap import Server
from grpclb.resolvers.xds.credentials import Credentials
from grpclb.resolvers.xds.kinds import Kinds, ResourceKind
from grpclb.resolvers.xds.wire import Request, Response
from tests.support.xds_resources import cluster, endpoints, listener, pack, registry, route_config

KINDS = Kinds.of(registry())
LDS, RDS, CDS, EDS = KINDS.lds, KINDS.rds, KINDS.cds, KINDS.eds
MAKE = {LDS: listener, RDS: route_config, CDS: cluster, EDS: endpoints}
DOWN = Status(StatusCode.UNAVAILABLE, "connection refused")
ENDED = Status(StatusCode.UNAVAILABLE, "the stream ended")


def server(uri: str = "one", **features: bool) -> Server:
    return Server(uri, Credentials("insecure"), **features)


class Watch:
    """Remembers what it is told, and then does what `then` says."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.news: list[News] = []
        self.then: Callable[[], object] = lambda: None

    def __call__(self, news: News) -> None:
        self.news.append(news)
        self.then()

    def take(self) -> list[str]:
        """The news since the last time, in short."""
        news, self.news = self.news, []
        return [short(item) for item in news]


def short(news: News) -> str:
    match news:
        case Changed(resource):
            return f"use {resource.name}"
        case Failed(status):
            return f"fail {status.code.name}"
        case Ambient(None):
            return "well"
        case Ambient(status):
            assert status is not None
            return f"note {status.code.name}"
    raise AssertionError(news)


class World:
    """The machine, with an I/O layer that does at once what it is told.

    `connected` False: requests stay unsent, as on a channel that is connecting.
    """

    def __init__(self, *servers: Server) -> None:
        self.now = 1_000.0
        self.servers = servers or (server(),)
        self.machine = AdsMachine(self.servers, KINDS, Random(7))
        self.serials: dict[int, int] = {}
        self.opened: list[int] = []
        self.closed: list[int] = []
        self.requests: list[tuple[int, Request]] = []
        self.unsent: list[tuple[int, int]] = []
        self.connected = True
        self.nonce = 0

    # -- what the channels do

    def watch(self, kind: ResourceKind, name: str) -> Watch:
        watch = Watch(name)
        self.machine.watch(kind, name, watch)
        self.pump()
        return watch

    def unwatch(self, kind: ResourceKind, watch: Watch) -> None:
        self.machine.unwatch(kind, watch.name, watch)
        self.pump()

    # -- what the network does

    def pump(self) -> None:
        while actions := self.machine.take():
            for action in actions:
                match action:
                    case Open(index, serial):
                        self.opened.append(index)
                        self.serials[index] = serial
                    case Close(index):
                        self.closed.append(index)
                        self.serials.pop(index)
                    case Send(index, serial, request):
                        assert self.serials[index] == serial
                        self.requests.append((index, request))
                        self.unsent.append((index, serial))
                    case Notify(watcher, news):
                        watcher(news)
            if self.connected:
                self.flush()

    def flush(self) -> None:
        unsent, self.unsent = self.unsent, []
        for index, serial in unsent:
            self.machine.sent(index, serial, self.now)

    def open(self, index: int = 0) -> None:
        self.machine.opened(index, self.serials[index], self.now)
        self.pump()

    def end(self, status: Status = ENDED, index: int = 0, **how: bool) -> None:
        self.unsent = [pair for pair in self.unsent if pair[0] != index]
        self.machine.closed(index, self.serials[index], status, self.now, **how)
        self.pump()

    def pass_time(self, seconds: float) -> None:
        """Wake the machine whenever it wants to be, until then."""
        end = self.now + seconds
        while (wake := self.machine.next_wake) is not None and wake <= end:
            self.now = max(self.now, wake)
            self.machine.wake(self.now)
            self.pump()
        self.now = end

    # -- what the management server does

    def respond(
        self,
        kind: ResourceKind,
        version: str,
        *resources: Any,
        index: int = 0,
        errors: Iterable[tuple[str, Status]] = (),
    ) -> str:
        """A response with these messages, or names of plain ones. Returns its nonce."""
        self.nonce += 1
        packed = []
        for resource in resources:
            message = MAKE[kind](resource) if isinstance(resource, str) else resource
            item = message if message.DESCRIPTOR.name == "Any" else pack(message)
            packed.append((item.type_url, item.value))
        response = Response(kind.type_url, version, f"n{self.nonce}", tuple(packed), tuple(errors))
        self.machine.response(index, self.serials[index], response, self.now)
        self.pump()
        return response.nonce

    def asked(self, index: int | None = None) -> list[Request]:
        """The requests since the last time, of one server or of the only one."""
        requests, self.requests = self.requests, []
        assert index is None or all(i == index for i, _ in requests), requests
        return [request for _, request in requests]

    def taken(self) -> tuple[list[int], list[int]]:
        """Servers to which a stream was opened, and closed by the client, since the last time."""
        opened, closed = self.opened, self.closed
        self.opened, self.closed = [], []
        return opened, closed
