"""Clients side by side: the same management server, the same backends, the same resources.

def test_...(side: Side):
    side.serve(eds=[locality(side.at("a"), side.at("b"))])
    for name, result in side.call(100).items(): ...        # by client, at the same time
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from operator import methodcaller
from typing import Any, TypeVar

from integration.xds.backends import Backends
from integration.xds.client import STACKS, Client, Result
from integration.xds.server import Seen, XdsServer
from tests.support import xds_resources as x

T = TypeVar("T")
_NUMBERS = itertools.count(1)
_PATIENCE = 30.0  # seconds; generous, as nothing waits for it to pass
BACKENDS = ("a", "b", "c", "d")


class World:
    """What all tests share."""

    def __init__(self, stack: ExitStack) -> None:
        self.server = stack.enter_context(XdsServer())
        self.backends = stack.enter_context(Backends(*BACKENDS))
        self.clients = {
            name: stack.enter_context(Client(name, self.server.bootstrap(name))) for name in STACKS
        }
        self.pool = stack.enter_context(ThreadPoolExecutor(len(STACKS)))


@contextmanager
def open_world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack)


class Side:
    """One test's part of the world: names of its own, for resources and for the target."""

    def __init__(self, world: World, *stacks: str) -> None:
        self.server = world.server
        self.backends = world.backends
        self.clients = {name: world.clients[name] for name in stacks or STACKS}
        self._pool = world.pool
        self.name = f"svc{next(_NUMBERS)}"
        self.target = f"xds:///{self.name}"
        self._targets = {self.target}

    # -- resources -------------------------------------------------------------------------------

    def at(self, name: str, **fields: Any) -> dict[str, Any]:
        """A backend as an endpoint of EDS."""
        return x.endpoint("127.0.0.1", self.backends.port(name), **fields)

    def named(self, name: str) -> str:
        """A resource's name that no other test uses."""
        return f"{self.name}-{name}"

    def listener(self, **fields: Any) -> Any:
        """Of this test's target; routes come by RDS unless it has them itself."""
        rds = {"config_source": x.ADS, "route_config_name": self.named("routes")}
        return x.listener(self.name, **({} if "route_config" in fields else {"rds": rds}), **fields)

    def routes(self, *routes: Mapping[str, Any], **host: Any) -> Any:
        """The route configuration; without routes, all RPCs go to the cluster ``c``."""
        return x.route_config(self.named("routes"), routes or [self.to("c")], **host)

    def to(self, cluster: str, prefix: str = "", **fields: Any) -> dict[str, Any]:
        return x.route(self.named(cluster), prefix, **fields)

    def cluster(self, name: str = "c", **fields: Any) -> Any:
        return x.cluster(self.named(name), **fields)

    def endpoints(self, name: str, *localities: Mapping[str, Any], **fields: Any) -> Any:
        return x.endpoints(self.named(name), *localities, **fields)

    def one(self, name: str, backend: str) -> tuple[Any, Any]:
        """A cluster of one backend, and its endpoints."""
        return self.cluster(name), self.endpoints(name, x.locality(self.at(backend)))

    def serve(self, *others: Any, eds: Sequence[Mapping[str, Any]] = ()) -> None:
        """A whole way to endpoints; `others` replace or add to its resources."""
        base = [self.listener(), self.routes(), self.cluster()]
        if eds:
            base.append(self.endpoints("c", *eds))
        # The last one of a name counts, and nobody is told of the others.
        self.server.put(*{(r.DESCRIPTOR.full_name, _name(r)): r for r in (*base, *others)}.values())

    def put(self, *resources: Any) -> None:
        self.server.put(*resources)

    # -- clients ---------------------------------------------------------------------------------

    def each(self, what: Callable[[Client], T]) -> dict[str, T]:
        """All clients at the same time."""
        jobs = {name: self._pool.submit(what, client) for name, client in self.clients.items()}
        return {name: job.result() for name, job in jobs.items()}

    def call(self, count: int = 1, target: str = "", **options: Any) -> dict[str, Result]:
        """RPCs by each client; the first ones wait until there is a backend."""
        self._targets.add(target or self.target)
        return self.each(lambda client: client.call(target or self.target, count, **options))

    def calls(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Result]]:
        """Several calls, each with its own options, all at the same time."""
        self._targets.update(row["target"] for row in rows)
        return self.each(lambda client: client.calls(rows))

    def until(
        self, good: Callable[[Result], bool], count: int = 8, **options: Any
    ) -> dict[str, Result]:
        """Call until the result of each client is `good`; then that."""
        target = options.pop("target", self.target)
        self._targets.add(target)

        def one(client: Client) -> Result:
            end = time.monotonic() + _PATIENCE
            while True:
                result = client.call(target, count, **options)
                if good(result):
                    return result
                assert time.monotonic() < end, (client.stack, result)
                time.sleep(0.01)

        return self.each(one)

    def ready(self, *targets: str) -> None:
        """Call until an RPC of each client to each target succeeds."""
        for target in targets or (self.target,):
            self.until(lambda r: not r.failed, 1, target=target)

    def until_from(self, *names: str, **options: Any) -> dict[str, Result]:
        """Call until exactly these backends answer, and no RPC fails."""
        return self.until(lambda r: not r.failed and set(r.answers) == set(names), **options)

    @contextmanager
    def flowing(self) -> Iterator[dict[str, Result]]:
        """RPCs by each client all the while; how they went is in the dict afterwards."""
        results: dict[str, Result] = {}
        self.each(lambda client: client.begin(self.target))
        try:
            yield results
        finally:
            results.update(self.each(Client.end))

    def verdicts(self, kind: str) -> dict[str, Seen]:
        """Each client's ACK or NACK of the newest response of this kind."""
        return {
            name: self.server.wait_for(partial(self.server.verdict, name, kind))
            for name in self.clients
        }

    def close(self) -> None:
        for target in self._targets:
            self.each(methodcaller("close", target))


def _name(resource: Any) -> str:
    name: str = getattr(resource, "name", "") or resource.cluster_name
    return name
