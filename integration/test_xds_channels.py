"""Channels to ``xds:///svc``: a real management server, real backends, both stacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

import grpclb
import grpclb.xds
from grpclb.resolvers.xds import messages as m
from tests.retries.servers import Scripted, Step
from tests.selector.stacks import AioStack, SyncStack
from tests.support import xds_resources as make
from tests.support.backend import Backend
from tests.support.xds_server import XdsServer
from tests.support.xds_world import CDS, EDS, LDS, RDS, World, wait

Stack = type[SyncStack] | type[AioStack]
both = pytest.mark.parametrize("stack", [SyncStack, AioStack], ids=["sync", "aio"])


@pytest.fixture(scope="module")
def backends() -> Iterator[Scripted]:
    scripted = Scripted(4)
    yield scripted
    scripted.stop()


@pytest.fixture
def world(backends: Scripted) -> Iterator[World]:
    with XdsServer() as server:
        yield World(server, backends)


@both
@pytest.mark.expect_log("there are no endpoints")
def test_localities_and_priorities(stack: Stack, world: World) -> None:
    world.cluster("one", ("a", 3, 0), ("b", 1, 0), ("c", 1, 1))
    world.routes(make.route("one"))
    world.publish()
    with world.channel(stack) as channel:
        world.until(channel, "b")
        seen = world.spread(channel, 80)
        assert abs(seen["a"] - 60) <= 6
        assert abs(seen["b"] - 20) <= 6
        world.cluster("one", ("c", 1, 0))
        world.publish()
        world.until(channel, "c")
        world.cluster("one")
        world.publish()
        wait(channel, lambda: world.goes_to(channel).startswith("UNAVAILABLE"))


@both
def test_weighted_clusters_and_a_change_of_routes(stack: Stack, world: World) -> None:
    world.cluster("one", "a")
    world.cluster("two", "b")
    weights = [{"name": n, "weight": {"value": w}} for n, w in (("one", 3), ("two", 1))]
    world.routes({"match": {"prefix": ""}, "route": {"weighted_clusters": {"clusters": weights}}})
    world.publish()
    with world.channel(stack) as channel:
        for name in "ab":
            world.until(channel, name)
        seen = world.spread(channel, 200)
        assert seen.total() == seen["a"] + seen["b"]
        assert abs(seen["a"] - 150) <= 36
        slow: Step = {"delay": 0.4}
        call = channel.start("unary_unary", world.script(slow)[1], timeout=20)
        world.cluster("three", "d")
        world.publish()
        world.routes(make.route("three"))
        world.until(channel, "d")
        assert channel.end(call)[0] is grpc.StatusCode.OK, "an RPC under way is not cut off"


@both
def test_drops_and_the_circuit_breaker(stack: Stack, world: World) -> None:
    world.cluster("one", "a", drop=100)
    thresholds = {"thresholds": [{"max_requests": {"value": 1}}]}
    world.cluster("two", "b", circuit_breakers=thresholds)
    world.routes(make.route("one", "/s/unary_stream"), make.route("two"))
    world.publish()
    with world.channel(stack) as channel:
        assert "dropped by the category 'lb'" in world.goes_to(channel, kind="unary_stream")
        assert world.goes_to(channel) == "b"
        slow: Step = {"delay": 0.5}
        call = channel.start("unary_unary", world.script(slow)[1], timeout=20)
        assert "circuit breaker: 1 RPCs" in world.goes_to(channel)
        assert channel.end(call)[0] is grpc.StatusCode.OK
        world.until(channel, "b")


@both
def test_timeouts_and_retries(stack: Stack, world: World) -> None:
    world.cluster("one", "ab")
    limit = {"max_stream_duration": make.seconds(0.3)}
    retry = {
        "retry_on": "unavailable,cancelled",
        "num_retries": {"value": 2},
        "retry_back_off": {"base_interval": make.seconds(0.002)},
    }
    world.routes(
        {
            "match": {"prefix": "/s/unary_stream"},
            "route": {"cluster": "one", "max_stream_duration": limit},
        },
        {"match": {"prefix": ""}, "route": {"cluster": "one", "retry_policy": retry}},
    )
    world.publish()
    with world.channel(stack) as channel:
        slow: Step = {"delay": 5}
        code, _ = channel.call("unary_stream", world.script(slow)[1], timeout=20)
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        fails: Step = {"code": grpc.StatusCode.UNAVAILABLE}
        key, metadata = world.script(fails, fails)
        code, _ = channel.call("unary_unary", metadata, timeout=20)
        assert code is grpc.StatusCode.OK
        assert len(world.backends.attempts_of(key)) == 3


@both
def test_logical_dns_and_aggregates(stack: Stack, world: World) -> None:
    host, _, port = world.backends.addresses[3].rpartition(":")
    place = {"socket_address": {"address": host, "port_value": int(port)}}
    assignment = {"endpoints": [{"lb_endpoints": [{"endpoint": {"address": place}}]}]}
    world.cluster("eds", "a")
    world.clusters["dns"] = make.cluster("dns", type=2, load_assignment=assignment)
    both_of_them = make.make(m.AGGREGATE, {"clusters": ["eds", "dns"]})
    world.clusters["top"] = make.cluster(
        "top", cluster_type={"name": "aggregate", "typed_config": make.pack(both_of_them)}
    )
    world.routes(make.route("dns", "/s/unary_stream"), make.route("top"))
    world.publish()
    with world.channel(stack) as channel:
        assert world.goes_to(channel, kind="unary_stream") == "d"
        assert world.goes_to(channel) == "a"
        world.cluster("eds")
        world.publish()
        world.until(channel, "d")


@both
@pytest.mark.expect_log("listener 'svc'|no endpoints")
def test_an_outage_of_the_server_and_a_deleted_listener(stack: Stack, world: World) -> None:
    world.cluster("one", "a")
    world.routes(make.route("one"))
    world.publish()
    bootstrap = world.control.bootstrap()
    bootstrap["xds_servers"][0]["server_features"] = ["fail_on_data_errors"]
    resolver: Any = grpclb.xds.resolver("xds:///svc", bootstrap=bootstrap)
    with stack(resolver) as channel:
        assert world.goes_to(channel) == "a"
        world.control.stop()
        assert world.spread(channel, 20) == {"a": 20}
        world.control.start()
        wait(channel, lambda: world.control.open_streams)
        world.control.set(LDS, {})
        world.control.push(LDS)
        wait(channel, lambda: "listener 'svc'" in world.goes_to(channel))
        world.publish()
        world.until(channel, "a")


@both
def test_a_resource_that_is_wrong_keeps_the_last_good_one(stack: Stack, world: World) -> None:
    world.cluster("one", "a")
    world.routes(make.route("one"))
    world.publish()
    with world.channel(stack) as channel:
        assert world.goes_to(channel) == "a"
        world.clusters["one"] = make.cluster("one", lb_policy=5)
        world.publish()
        wait(channel, lambda: any(r.HasField("error_detail") for r in world.control.of_kind(CDS)))
        assert world.spread(channel, 10) == {"a": 10}


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("stack", ["sync", "aio"])
def test_a_hundred_channels_leave_nothing(stack: str, fleet: list[Backend]) -> None:
    """FIGURES F46: the program counts its threads, tasks, descriptors and objects."""
    with XdsServer() as control:
        places = [make.endpoint("127.0.0.1", int(b.address.rpartition(":")[2])) for b in fleet]
        control.set(EDS, {"one": make.endpoints("one", make.locality(*places))})
        control.set(CDS, {"one": make.cluster("one")})
        control.set(RDS, {"routes": make.route_config("routes", [make.route("one")])})
        control.set(LDS, {"svc": make.listener("svc")})
        environment = {**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(control.bootstrap())}
        command = [sys.executable, "-W", "error", "-m", "tests.faults.programs.come_and_go"]
        done = subprocess.run(
            [*command, stack, "xds:///svc", "100"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        assert control.streams >= 100
        control.wait_for(lambda: control.open_streams == 0, "the streams to end")
