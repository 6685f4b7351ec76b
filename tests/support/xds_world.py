"""A management server and real backends, as one world: for tests of ``xds:///svc`` channels."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc

import grpclb.xds
from grpclb.resolvers.xds import messages as m
from grpclb.resolvers.xds.messages import TYPE_PREFIX
from tests.retries.servers import Scripted, Step
from tests.selector.stacks import AioStack, SyncStack
from tests.support import xds_resources as make
from tests.support.xds_server import XdsServer

OK = grpc.StatusCode.OK
LDS, RDS = TYPE_PREFIX + m.LISTENER, TYPE_PREFIX + m.ROUTE_CONFIGURATION
CDS, EDS = TYPE_PREFIX + m.CLUSTER, TYPE_PREFIX + m.CLUSTER_LOAD_ASSIGNMENT
Stack = type[SyncStack] | type[AioStack]
_KEYS = itertools.count()


class World:
    """One management server, and backends a, b, c, d of which clusters are made."""

    def __init__(self, control: XdsServer, backends: Scripted) -> None:
        self.control = control
        self.backends = backends
        self.clusters: dict[str, Any] = {}
        self.endpoints: dict[str, Any] = {}

    def cluster(self, name: str, *localities: Any, drop: int = 0, **fields: Any) -> None:
        """An EDS cluster; a locality is text of backends ("ab"), or (text, weight, priority)."""
        self.clusters[name] = make.cluster(name, **fields)
        made = []
        for zone, what in enumerate(localities):
            text, weight, priority = (what, 1, 0) if isinstance(what, str) else what
            places = [self.place(letter) for letter in text]
            made.append(make.locality(*places, zone=f"z{zone}", weight=weight, priority=priority))
        share = {"numerator": drop, "denominator": 0}
        policy = {"drop_overloads": [{"category": "lb", "drop_percentage": share}]} if drop else {}
        fields = {"policy": policy} if drop else {}
        self.endpoints[name] = make.endpoints(name, *made, **fields)

    def place(self, letter: str) -> dict[str, Any]:
        address = self.backends.addresses[ord(letter) - ord("a")]
        host, _, port = address.rpartition(":")
        return make.endpoint(host, int(port))

    def routes(self, *found: dict[str, Any], **host: Any) -> None:
        self.control.set(RDS, {"routes": make.route_config("routes", found, **host)})

    def publish(self, **manager: Any) -> None:
        self.control.set(EDS, self.endpoints)
        self.control.set(CDS, self.clusters)
        self.control.set(LDS, {"svc": make.listener("svc", **manager)})

    def channel(self, stack: Stack, **options: Any) -> Any:
        resolver: Any = grpclb.xds.resolver("xds:///svc", bootstrap=self.control.bootstrap())
        return stack(resolver, **options)

    def goes_to(self, channel: Any, *metadata: tuple[str, str], kind: str = "unary_unary") -> str:
        """The backends that an RPC went to, in order; its code if it failed."""
        key, headers = self.script()
        code, details = channel.call(kind, (*headers, *metadata), timeout=20)
        return "".join(self.backends.attempts_of(key)) if code is OK else f"{code.name}: {details}"

    def spread(self, channel: Any, count: int, *metadata: tuple[str, str]) -> Counter[str]:
        return Counter(self.goes_to(channel, *metadata) for _ in range(count))

    def until(self, channel: Any, wanted: str, *metadata: tuple[str, str]) -> None:
        end = time.monotonic() + 15
        while (seen := self.goes_to(channel, *metadata)) != wanted:
            assert time.monotonic() < end, f"{seen} instead of {wanted}"
            channel.pause(0.02)

    def script(self, *steps: Step) -> tuple[str, tuple[tuple[str, str], ...]]:
        """A new RPC's key and metadata."""
        key = f"xds{next(_KEYS)}"
        return key, self.backends.script(key, *steps)


def wait(channel: Any, condition: Callable[[], object]) -> None:
    """While the channel's loop runs, if it has one of its own."""
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end
        channel.pause(0.01)
