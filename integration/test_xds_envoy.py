"""Envoy takes the resources that grpclb takes, and as a proxy does with RPCs what grpclb does."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import grpc
import pytest

import grpclb
import grpclb.xds
from integration.test_xds_parity import MATCHES
from integration.xds.envoy import MISSING, Envoy, find
from integration.xds.server import XdsServer
from integration.xds.side import World
from tests.support import xds_resources as x
from tests.support.xds_resources import locality

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]
TARGET = "xds:///api"
# Fields of a Cluster that only Envoy needs: HTTP/2 to the backends, and weights of localities.
FOR_ENVOY = b"\x72\x00\xda\x01\x02\x1a\x00"


@pytest.fixture(scope="module")
def program() -> str:
    found = find()
    if found is None:
        if os.environ.get("CI") == "true" and os.uname().machine == "x86_64":
            pytest.fail(MISSING, pytrace=False)
        pytest.skip(MISSING)
    return found


class Both:
    """The same RPCs through Envoy, and by grpclb to the backends."""

    def __init__(self, server: XdsServer, envoy: Envoy, world: World) -> None:
        self.server = server
        self.envoy = envoy
        self._world = world
        resolver = grpclb.xds.resolver(TARGET, bootstrap=server.bootstrap("grpclb"))
        self._channels = {
            "envoy": grpc.insecure_channel(envoy.address),
            "grpclb": grpclb.insecure_channel(TARGET, resolver=resolver),
        }

    def at(self, name: str) -> dict[str, Any]:
        return x.endpoint("127.0.0.1", self._world.backends.port(name))

    def cluster(self, name: str, *localities: Any) -> tuple[Any, Any]:
        cluster = x.cluster(name)
        cluster.MergeFromString(FOR_ENVOY)
        return cluster, x.endpoints(name, *localities)

    def answers(self, method: str, metadata: dict[str, str], count: int) -> dict[str, list[str]]:
        found = {}
        for name, channel in self._channels.items():
            call: Any = channel.unary_unary(f"/test.Echo/{method}")
            pairs = tuple(metadata.items())
            found[name] = [
                call(b"", metadata=pairs, timeout=20, wait_for_ready=True).decode()
                for _ in range(count)
            ]
        return found

    def until(self, name: str, method: str = "P") -> None:
        """Call until this backend answers, and no other."""
        end = time.monotonic() + 20
        while any(set(found) != {name} for found in self.answers(method, {}, 4).values()):
            assert time.monotonic() < end, (name, method)
            time.sleep(0.01)

    def taken(self, *kinds: str) -> None:
        """Both have said yes to what is served now."""
        for kind in kinds:
            for node in ("envoy", "grpclb"):
                seen = self.server.wait_for(partial(self.server.verdict, node, kind))
                assert not seen.error, seen

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()


@pytest.fixture
def both(program: str, xds_world: World) -> Iterator[Both]:
    with XdsServer() as server:
        server.put(x.listener("api"), x.route_config("routes", [x.route("c")]))
        with Envoy(program, server.address, node="envoy", routes="routes") as envoy:
            both = Both(server, envoy, xds_world)
            yield both
            both.close()


def test_localities_and_changes(both: Both) -> None:
    both.server.put(
        *both.cluster("c", locality(both.at("a"), weight=3), locality(both.at("b"), zone="b"))
    )
    both.answers("P", {}, 1)
    both.taken("LDS", "RDS", "CDS", "EDS")
    for name, answers in both.answers("P", {}, 400).items():
        assert abs(answers.count("a") - 300) <= 8, (name, answers.count("a"))
    both.server.put(x.endpoints("c", locality(both.at("c"))))
    both.until("c")
    both.taken("EDS")
    assert '"cluster_name": "c"' in both.envoy.config("endpoints")


def test_routes_match(both: Both) -> None:
    """The table of the parity tests: every route of it is one of Envoy's, too."""
    both.server.put(
        *both.cluster("a", locality(both.at("a"))),
        *both.cluster("b", locality(both.at("b"))),
        *both.cluster("mark", locality(both.at("c"))),
    )
    wrong = []
    for number, (what, (match, calls)) in enumerate(MATCHES.items()):
        to = {"route": {"cluster": "a"}}
        mark = {"match": {"path": f"/test.Echo/Row{number}"}, "route": {"cluster": "mark"}}
        both.server.put(x.route_config("routes", [mark, {"match": match, **to}, x.route("b", "/")]))
        both.until("c", f"Row{number}")
        both.taken("RDS")
        for method, metadata, name in calls:
            for client, (answer,) in both.answers(method, metadata, 1).items():
                if answer != name:
                    wrong.append((client, what, method, metadata, answer))
    assert not wrong
