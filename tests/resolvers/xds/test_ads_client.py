"""The shared xDS client against a real gRPC management server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc import StatusCode

from grpclb.resolvers.rpc import ControlChannel
from grpclb.resolvers.xds import ads_session
from grpclb.resolvers.xds.ads import Ambient, Changed, Failed, News
from grpclb.resolvers.xds.ads_session import LARGEST_MESSAGE
from grpclb.resolvers.xds.bootstrap import Bootstrap, load_bootstrap
from grpclb.resolvers.xds.client import XdsClient, shared_client
from tests.resolvers.xds.ads_harness import CDS, EDS, KINDS, LDS, short
from tests.support.xds_resources import cluster, endpoints, listener, pack
from tests.support.xds_server import XdsServer

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[XdsServer]:
    with XdsServer() as server:
        yield server


class Watch:
    """One watch, and what it was told."""

    def __init__(self, client: XdsClient, kind: Any, name: str) -> None:
        self.news: list[News] = []
        self.cancel = client.watch(kind, name, self.news.append)
        assert not self.news, "nothing from within watch()"

    @property
    def told(self) -> list[str]:
        return [short(item) for item in self.news]


async def until(condition: Callable[[], object], what: str, patience: float = 15.0) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"not within {patience} s: {what}"
        await asyncio.sleep(0.005)


def client_of(server: XdsServer, **more: Any) -> Any:
    return shared_client(load_bootstrap(server.bootstrap(**more)), KINDS)


async def test_a_resource_comes_changes_and_is_answered(server: XdsServer) -> None:
    server.set(LDS.type_url, {"lis": listener("lis")})
    async with client_of(server) as client:
        watch = Watch(client, LDS, "lis")
        await until(lambda: watch.told, "the listener")
        server.set(LDS.type_url, {"lis": listener("lis", common_http_protocol_options={
            "max_stream_duration": {"seconds": 5}})})  # fmt: skip
        await until(lambda: len(watch.told) == 2, "the change")
        server.set(LDS.type_url, {"lis": listener("lis", http_filters=[])})
        await until(lambda: len(watch.told) == 3, "the complaint")
        assert watch.told == ["use lis", "use lis", "note INVALID_ARGUMENT"]
        await until(lambda: len(server.requests) == 4, "all answers")
    first, *answers = server.requests
    assert first.node.id == "test"
    assert first.node.user_agent_name == "grpclb"
    assert [r.HasField("node") for r in answers] == [False] * 3
    assert [r.version_info for r in answers] == ["1", "2", "2"]
    assert [bool(r.error_detail.message) for r in answers] == [False, False, True]
    assert server.streams == 1
    await until(lambda: not server.open_streams, "the stream ends with its last user")


async def test_clients_of_one_bootstrap_share_one_stream(server: XdsServer) -> None:
    server.set(CDS.type_url, {name: cluster(name) for name in "ab"})
    async with client_of(server) as one:
        watch = Watch(one, CDS, "a")
        async with client_of(server) as two, client_of(server, node={"id": "other"}) as other:
            assert one is two
            assert one is not other
            again, second = Watch(two, CDS, "a"), Watch(two, CDS, "b")
            await until(lambda: watch.told and again.told and second.told, "all of them")
            assert server.streams == 1
            Watch(other, CDS, "a")
            await until(lambda: server.streams == 2, "another node has a stream of its own")
        server.set(CDS.type_url, {"a": cluster("a", circuit_breakers={"thresholds": [
            {"max_requests": {"value": 3}}]}), "b": cluster("b")})  # fmt: skip
        await until(lambda: len(watch.told) == 2, "one user is left, and the stream with it")
    async with client_of(server) as three:
        assert three is not one


async def test_a_cancelled_watch_is_told_nothing(server: XdsServer) -> None:
    server.set(CDS.type_url, {"a": cluster("a")})
    async with client_of(server) as client:
        keeper, gone, late = (Watch(client, CDS, "a") for _ in range(3))
        gone.cancel()
        await until(lambda: keeper.told and late.told, "those that stayed")
        late.cancel()
        late.cancel()
        server.set(CDS.type_url, {})
        await until(lambda: len(keeper.told) == 2, "the deletion")
        assert (gone.told, late.told) == ([], ["use a"])
        keeper.cancel()
        await until(lambda: not server.open_streams, "no watch, no stream")


async def test_a_restarted_server_is_found_again(server: XdsServer) -> None:
    server.set(CDS.type_url, {"a": cluster("a")})
    async with client_of(server) as client:
        watch = Watch(client, CDS, "a")
        await until(lambda: watch.told, "the cluster")
        server.stop()
        await until(lambda: len(watch.told) == 2, "the outage")
        assert watch.told == ["use a", "note UNAVAILABLE"]
        new = Watch(client, CDS, "b")
        await until(lambda: new.told, "what is not there cannot be had")
        assert new.told == ["fail UNAVAILABLE"]
        server.set(CDS.type_url, {"a": cluster("a"), "b": cluster("b")})
        server.start()
        await until(lambda: len(new.told) == 2 and len(watch.told) == 3, "all is well again")
        assert watch.told[2] == "well"
        assert new.told[1] == "use b"
    again = next(r for r in reversed(server.requests) if r.HasField("node"))
    assert (again.version_info, again.response_nonce) == ("1", "")
    assert list(again.resource_names) == ["a", "b"]


async def test_a_stream_that_ends_after_a_response_is_opened_again_at_once(
    server: XdsServer,
) -> None:
    server.set(CDS.type_url, {"a": cluster("a")})
    async with client_of(server) as client:
        watch = Watch(client, CDS, "a")
        await until(lambda: watch.told, "the cluster")
        server.end_streams(StatusCode.UNAVAILABLE, "max connection age")
        await until(lambda: server.streams == 2, "the next stream")
        assert watch.told == ["use a"]


async def test_the_next_server_is_asked_while_the_first_is_away(server: XdsServer) -> None:
    with XdsServer() as primary:
        pass  # its port is known, and nobody listens there
    server.set(CDS.type_url, {"a": cluster("a")})
    document = {"xds_servers": [primary.entry(), server.entry()]}
    async with shared_client(load_bootstrap(document), KINDS) as client:
        watch = Watch(client, CDS, "a")
        await until(lambda: watch.told, "the second server's answer")
        assert watch.told == ["use a"]
        primary.set(CDS.type_url, {"a": cluster("a", circuit_breakers={"thresholds": [
            {"max_requests": {"value": 3}}]})})  # fmt: skip
        with primary:
            await until(lambda: len(watch.told) == 2, "the first server's answer")
            await until(lambda: not server.open_streams, "the second one is let go")
            (_, changed) = watch.news
            assert isinstance(changed, Changed)
            assert client.snapshot()[""]["servers"][0]["in_use"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff\xff", "INTERNAL: a message is no DiscoveryResponse"),
        (bytes(LARGEST_MESSAGE + 1), "RESOURCE_EXHAUSTED"),
    ],
    ids=["no response", "too large"],
)
async def test_a_message_that_cannot_be_taken_ends_the_stream_and_is_told(
    server: XdsServer, data: bytes, reason: str
) -> None:
    server.set(CDS.type_url, {"a": cluster("a")})
    async with client_of(server) as client:
        watch, other = Watch(client, CDS, "a"), Watch(client, CDS, "other")
        await until(lambda: watch.told, "the cluster")
        server.push_bytes(data)
        await until(lambda: len(watch.told) == 2 and other.told, "the complaint")
        assert watch.told == ["use a", "note UNAVAILABLE"]
        assert other.told == ["fail UNAVAILABLE"]
        (failed,) = other.news
        assert isinstance(failed, Failed)
        assert reason in failed.status.details
        await until(lambda: len(watch.told) == 3, "the next stream's answer")
        assert watch.told[2] == "well"


async def test_tls_with_certificates_of_both(tmp_path: Path) -> None:
    ca = trustme.CA()
    leaf, client_leaf = ca.issue_cert("localhost"), ca.issue_cert("client")
    ca.cert_pem.write_to_path(tmp_path / "ca")
    client_leaf.private_key_pem.write_to_path(tmp_path / "key")
    client_leaf.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    pair = (leaf.private_key_pem.bytes(), leaf.cert_chain_pems[0].bytes())
    credentials = grpc.ssl_server_credentials(
        [pair], root_certificates=ca.cert_pem.bytes(), require_client_auth=True
    )
    config = {
        "ca_certificate_file": str(tmp_path / "ca"),
        "certificate_file": str(tmp_path / "cert"),
        "private_key_file": str(tmp_path / "key"),
    }
    with XdsServer(credentials) as server:
        server.set(EDS.type_url, {"c": endpoints("c")})
        entry = {
            "server_uri": f"localhost:{server.port}",
            "channel_creds": [{"type": "tls", "config": config}],
        }
        bootstrap = load_bootstrap({"xds_servers": [entry]})
        async with shared_client(bootstrap, KINDS) as client:
            watch = Watch(client, EDS, "c")
            await until(lambda: watch.told, "the endpoints")
            assert watch.told == ["use c"]


async def test_files_that_are_not_there_are_a_failure_that_mends_itself(
    tmp_path: Path, server: XdsServer
) -> None:
    config = {"ca_certificate_file": str(tmp_path / "nowhere")}
    entry = {
        "server_uri": "127.0.0.1:1",
        "channel_creds": [{"type": "tls", "config": config}],
    }
    async with shared_client(load_bootstrap({"xds_servers": [entry]}), KINDS) as client:
        watch = Watch(client, EDS, "c")
        await until(lambda: watch.told, "the failure")
        assert "nowhere: No such file" in str(watch.news[0])


async def test_names_of_an_authority_come_from_its_servers(server: XdsServer) -> None:
    name = "xdstp://auth/envoy.config.cluster.v3.Cluster/c?b=1&a=2"
    eds = {"eds_config": {"ads": {}}, "service_name": "s"}
    same = "xdstp://auth/envoy.config.cluster.v3.Cluster/c?a=2&b=1"
    server.set(CDS.type_url, {same: cluster(same, type=3, eds_cluster_config=eds)})
    with XdsServer() as other:
        document = other.bootstrap(authorities={"auth": {"xds_servers": [server.entry()]}})
        async with shared_client(load_bootstrap(document), KINDS) as client:
            watch = Watch(client, CDS, name)
            unknown = Watch(client, CDS, "xdstp://nobody/t/c")
            silent = Watch(client, CDS, "xdstp://nobody/t/c")
            silent.cancel()
            await until(lambda: watch.told and unknown.told, "both")
            assert watch.told == [f"use {same}"]
            assert "no authority 'nobody'" in str(unknown.news[0])
            assert silent.told == []
            assert other.streams == 0
            assert client.snapshot()["auth"]["resources"][0]["client_status"] == "ACKED"


async def test_a_watcher_that_fails_hurts_nobody_else(server: XdsServer) -> None:
    server.set(CDS.type_url, {"a": cluster("a")})
    failures: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, c: failures.append(c["exception"]))
    async with client_of(server) as client:

        def bad(news: News) -> None:
            raise ValueError("mine")

        client.watch(CDS, "a", bad)
        watch = Watch(client, CDS, "a")
        await until(lambda: watch.told, "the cluster")
        await until(lambda: server.of_kind(CDS.type_url)[1:], "the ACK")
    assert [str(failure) for failure in failures] == ["mine"]


async def test_servers_with_others_behind_them_get_less_time_to_connect_at_first(
    server: XdsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience: list[tuple[str, int | None]] = []

    class Noting(ControlChannel):
        def __init__(self, target: str, credentials: Any, options: Any) -> None:
            patience.append((target, dict(options).get("grpc.min_reconnect_backoff_ms")))
            super().__init__(target, credentials, options)

    monkeypatch.setattr(ads_session, "ControlChannel", Noting)
    server.set(LDS.type_url, {"lis": listener("lis")})
    gone = server.entry() | {"server_uri": "127.0.0.1:1"}
    async with client_of(server, xds_servers=[gone, server.entry()]) as client:
        watch = Watch(client, LDS, "lis")
        await until(lambda: watch.told == ["use lis"], "the second server's answer")
        await until(lambda: len(patience) == 3, "the first one is tried again")
    # Together less than the 5 s that RPCs wait; nobody waits for the third.
    assert patience == [("127.0.0.1:1", 2_000), (server.target, None), ("127.0.0.1:1", None)]


async def test_a_closed_client_takes_no_watches(server: XdsServer) -> None:
    async with client_of(server) as client:
        watch = Watch(client, CDS, "a")
    with pytest.raises(RuntimeError, match="closed"):
        client.watch(CDS, "a", print)
    watch.cancel()
    assert repr(client) == f"<XdsClient {server.target}>"


async def test_an_update_of_one_cluster_among_many_costs_little(server: XdsServer) -> None:
    many = {f"c{i}": endpoints(f"c{i}") for i in range(300)}
    server.set(EDS.type_url, many)
    async with client_of(server) as client:
        watches = [Watch(client, EDS, name) for name in many]
        await until(lambda: all(watch.told for watch in watches), "all of them")
        assert len(server.of_kind(EDS.type_url)) <= 3, "one request for all, and its ACK"
        server.push(EDS.type_url, [pack(endpoints("c7", {"priority": 0}))])
        server.set(EDS.type_url, {**many, "c7": endpoints("c7", policy={"drop_overloads": [
            {"category": "x", "drop_percentage": {"numerator": 1}}]})})  # fmt: skip
        await until(lambda: len(watches[7].told) == 2, "the change")
        assert sum(len(watch.told) for watch in watches) == 301


async def test_ambient_news_are_told_to_late_watchers_too(server: XdsServer) -> None:
    server.set(CDS.type_url, {"a": cluster("a")})
    async with client_of(server) as client:
        watch = Watch(client, CDS, "a")
        await until(lambda: watch.told, "the cluster")
        server.set(CDS.type_url, {})
        await until(lambda: len(watch.told) == 2, "the deletion")
        late = Watch(client, CDS, "a")
        await until(lambda: len(late.told) == 2, "both news")
        assert isinstance(late.news[1], Ambient)
        assert late.told == ["use a", "note NOT_FOUND"]


def test_bootstraps_are_keys() -> None:
    one, two = (load_bootstrap({"xds_servers": [_ENTRY], "node": {"id": "x"}}) for _ in "ab")
    assert {one: 1}[two] == 1
    assert isinstance(one, Bootstrap)


_ENTRY = {"server_uri": "s", "channel_creds": [{"type": "insecure"}]}
