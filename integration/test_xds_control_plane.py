"""go-control-plane as the control plane: its cache, server and encoder; C-core beside grpclb."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from integration.xds.client import STACKS, Client, Result
from integration.xds.control_plane import CannotBuild, ControlPlane, build
from integration.xds.side import World

# The first build on a machine takes its time.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TARGET = "xds:///shop.example:8080"
ADS = {"ads": {}, "resourceApiVersion": "V3"}
TYPE = "type.googleapis.com/envoy"
EXTENSION = f"{TYPE}.extensions"
LISTENER = f"{TYPE}.config.listener.v3.Listener"
ROUTES = f"{TYPE}.config.route.v3.RouteConfiguration"
CLUSTER = f"{TYPE}.config.cluster.v3.Cluster"
ENDPOINTS = f"{TYPE}.config.endpoint.v3.ClusterLoadAssignment"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    try:
        program = build(tmp_path_factory.mktemp("go"))
    except CannotBuild as reason:
        if os.environ.get("CI") == "true" and "go build" in str(reason):
            pytest.fail(str(reason), pytrace=False)
        pytest.skip(str(reason))
    with ControlPlane(program) as plane:
        yield plane


@pytest.fixture(params=STACKS)
def client(request: pytest.FixtureRequest, plane: ControlPlane) -> Iterator[Client]:
    with Client(request.param, plane.bootstrap(request.param)) as client:
        yield client


def endpoint(port: int) -> dict[str, Any]:
    address = {"socketAddress": {"address": "127.0.0.1", "portValue": port}}
    return {"endpoint": {"address": address}}


def shop(*groups: list[int], weights: tuple[int, ...] = (1, 1)) -> list[dict[str, Any]]:
    """All resources of one service, as another program would write them; groups are localities."""
    router = {"@type": f"{EXTENSION}.filters.http.router.v3.Router"}
    manager = {
        "@type": f"{EXTENSION}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "statPrefix": "shop",
        "rds": {"configSource": ADS, "routeConfigName": "shop-routes"},
        "httpFilters": [{"name": "envoy.filters.http.router", "typedConfig": router}],
    }
    round_robin = {
        "name": "round_robin",
        "typedConfig": {"@type": f"{EXTENSION}.load_balancing_policies.round_robin.v3.RoundRobin"},
    }
    wrr_locality = {
        "name": "wrr_locality",
        "typedConfig": {
            "@type": f"{EXTENSION}.load_balancing_policies.wrr_locality.v3.WrrLocality",
            "endpointPickingPolicy": {"policies": [{"typedExtensionConfig": round_robin}]},
        },
    }
    localities = [
        {
            "locality": {"zone": f"zone-{index}"},
            "loadBalancingWeight": weight,
            "lbEndpoints": [endpoint(port) for port in ports],
        }
        for index, (ports, weight) in enumerate(zip(groups, weights, strict=False))
    ]
    return [
        {"@type": LISTENER, "name": TARGET[7:], "apiListener": {"apiListener": manager}},
        {
            "@type": ROUTES,
            "name": "shop-routes",
            "virtualHosts": [
                {
                    "name": "shop",
                    "domains": ["shop.example:8080"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "shop"}}],
                }
            ],
        },
        {
            "@type": CLUSTER,
            "name": "shop",
            "type": "EDS",
            "edsClusterConfig": {"edsConfig": ADS, "serviceName": "shop-endpoints"},
            "loadBalancingPolicy": {"policies": [{"typedExtensionConfig": wrr_locality}]},
        },
        {"@type": ENDPOINTS, "clusterName": "shop-endpoints", "endpoints": localities},
    ]


def until(client: Client, good: Callable[[Result], Any], count: int = 20) -> None:
    end = time.monotonic() + 30
    while not good(result := client.call(TARGET, count)):
        assert time.monotonic() < end, (client, result)
        time.sleep(0.02)


def test_a_service_and_its_changes(plane: ControlPlane, client: Client, xds_world: World) -> None:
    me = client.stack
    a, b, c = (xds_world.backends.port(name) for name in "abc")

    def answered(version: str, kind: str) -> dict[str, Any]:
        """The client's answer, told by its nonce, when it had `version` last."""
        found: dict[str, Any] = plane.wait_for(
            lambda seen: (
                (seen["node"], seen["version"], seen["type"]) == (me, version, kind)
                and seen["nonce"]
            )
        )
        return found

    plane.set(me, "1", shop([a], [b], weights=(3, 1)))
    until(client, lambda result: set(result.answers) == {"a", "b"} and not result.failed)
    for kind in (LISTENER, ROUTES, CLUSTER, ENDPOINTS):
        assert not answered("1", kind)["error"]
    result = client.call(TARGET, 2000)
    assert not result.failed
    assert abs(result.share("a") - 0.75) < 0.04  # four standard deviations

    client.begin(TARGET)
    plane.set(me, "2", shop([c]))
    until(client, lambda result: set(result.answers) == {"c"})
    assert not answered("2", ENDPOINTS)["error"]

    bad = shop([c], [a])  # two localities, of the same name and priority
    bad[-1]["endpoints"][1]["locality"] = bad[-1]["endpoints"][0]["locality"]
    plane.set(me, "3", bad)
    refused = plane.wait_for(lambda seen: seen["node"] == me and seen["error"])
    assert (refused["type"], refused["version"]) == (ENDPOINTS, "2")
    assert "shop-endpoints" in refused["error"]
    assert set(client.call(TARGET, 20).answers) == {"c"}
    flow = client.end()
    assert not flow.failed, flow
