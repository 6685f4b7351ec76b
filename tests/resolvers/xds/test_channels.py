"""Channels to ``xds:///svc``: a real management server, real backends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

import grpclb
import grpclb.xds
from tests.retries.servers import Scripted
from tests.selector.stacks import KINDS, AioStack, SyncStack
from tests.support import xds_resources as make
from tests.support.xds_server import XdsServer
from tests.support.xds_world import World

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


@pytest.mark.slow
@both
def test_every_kind_of_rpc_goes_where_routes_say(stack: Stack, world: World) -> None:
    world.cluster("one", "ab")
    world.cluster("two", "c")
    exact = {"name": "user", "string_match": {"exact": "beta"}}
    world.routes(
        {"match": {"prefix": "", "headers": [exact]}, "route": {"cluster": "two"}},
        make.route("one"),
    )
    world.publish()
    with world.channel(stack) as channel:
        for kind in KINDS:
            assert world.goes_to(channel, ("user", "beta"), kind=kind) == "c"
            assert world.goes_to(channel, kind=kind) in "ab"
        seen = world.spread(channel, 40)
        assert seen == {"a": 20, "b": 20}
        resolver = channel.channel.debug_snapshot()["resolver"]
        assert "cluster:one" in json.dumps(resolver["service_config"])
        assert resolver["details"]["clusters"]["one"]["routed"] is True
        assert "ACKED" in json.dumps(resolver["details"]["client"])
    world.control.wait_for(lambda: world.control.open_streams == 0, "the stream to end")


@pytest.mark.slow
def test_an_xds_target_by_the_environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.cluster("one", "a")
    world.routes(make.route("one"))
    world.publish()
    monkeypatch.setenv("GRPC_XDS_BOOTSTRAP_CONFIG", json.dumps(world.control.bootstrap()))
    with grpclb.insecure_channel("xds:///svc") as one, grpclb.insecure_channel("xds:///svc") as two:
        for channel in (one, two):
            assert channel.unary_unary("/s/unary_unary")(b"x", timeout=20) == b"x"
        assert world.control.streams == 1, "channels share a stream"
    monkeypatch.delenv("GRPC_XDS_BOOTSTRAP_CONFIG")
    monkeypatch.delenv("GRPC_XDS_BOOTSTRAP", raising=False)
    with pytest.raises(ValueError, match="no bootstrap: set GRPC_XDS_BOOTSTRAP"):
        grpclb.insecure_channel("xds:///svc")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("xds:///", "nothing after xds:///"),
        ("xds://nobody/svc", "the bootstrap has no authority 'nobody'; known: here"),
    ],
)
def test_a_target_that_leads_nowhere(target: str, said: str) -> None:
    server = {"server_uri": "127.0.0.1:1", "channel_creds": [{"type": "insecure"}]}
    bootstrap = {"xds_servers": [server], "authorities": {"here": {}}}
    with pytest.raises(ValueError, match=said):
        grpclb.xds.resolver(target, bootstrap=bootstrap)


def test_names_of_resources_and_hosts() -> None:
    server = {"server_uri": "127.0.0.1:1", "channel_creds": [{"type": "insecure"}]}
    bootstrap = {
        "xds_servers": [server],
        "client_default_listener_resource_name_template": "lis/%s",
        "authorities": {"here": {}},
    }
    plain: Any = grpclb.xds.resolver("xds:///svc:80", bootstrap=bootstrap)
    assert (plain._plan.listener, plain.authority) == ("lis/svc:80", "svc:80")
    named: Any = grpclb.xds.resolver(
        "xds://here/svc", bootstrap=bootstrap, options=[("grpc.default_authority", "other")]
    )
    assert named._plan.listener == "xdstp://here/envoy.config.listener.v3.Listener/svc"
    assert named.authority == "other"


def test_without_a_place_for_the_name_all_targets_share_one_listener() -> None:
    """Of no use to most, but what grpc-go and C-core do."""
    server = {"server_uri": "127.0.0.1:1", "channel_creds": [{"type": "insecure"}]}
    fixed = {"client_listener_resource_name_template": "xdstp://here/l/only"}
    bootstrap = {
        "xds_servers": [server],
        "client_default_listener_resource_name_template": "only",
        "authorities": {"here": fixed},
    }
    wanted = {"xds:///a": "only", "xds:///b": "only", "xds://here/a": "xdstp://here/l/only"}
    for target, name in wanted.items():
        found: Any = grpclb.xds.resolver(target, bootstrap=bootstrap)
        assert found._plan.listener == name


def test_the_stream_of_a_loop_that_was_closed_ends_with_the_next_client(world: World) -> None:
    """`asyncio.run` again and again, and no channel is ever closed: streams do not add up."""
    target, bootstrap = "xds:///svc", world.control.bootstrap()

    def watch(loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        async def start() -> asyncio.Task[None]:
            resolver = grpclb.xds.resolver(target, bootstrap=bootstrap)
            return asyncio.ensure_future(resolver.run(lambda _: True))

        before = world.control.streams
        task = loop.run_until_complete(start())
        while world.control.streams == before:
            loop.run_until_complete(asyncio.sleep(0.01))
        return task

    for _ in range(3):
        loop = asyncio.new_event_loop()
        task: Any = watch(loop)
        task._log_destroy_pending = False
        loop.close()
        del task
    with asyncio.Runner() as runner:
        task = watch(runner.get_loop())
        world.control.wait_for(lambda: world.control.open_streams == 1, "the others to end")
        task.cancel()
    world.control.wait_for(lambda: world.control.open_streams == 0, "the last one to end")
