"""Channels of both stacks to a Service: real backends, and the API server behind real TLS."""

from __future__ import annotations

import asyncio
import collections
import gc
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

import grpclb
import grpclb.kubernetes
from grpclb.resolvers.kubernetes.reflector import Reflector
from grpclb.resolvers.kubernetes.resolver import KubernetesResolver
from grpclb.resolvers.kubernetes.shared import Watch
from tests.faults.harness import eventually
from tests.support.backend import Backend, steer
from tests.support.kubernetes_api import Fault, KubernetesApi
from tests.support.kubernetes_objects import endpoint_object, slice_object
from tests.support.kubernetes_tls import TlsServer
from tests.support.tls import Authority

TARGET = "kubernetes:///api.shop:grpc"
UNARY = "/test.Echo/UnaryUnary"
_IPS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
_AUTHORITY = Authority()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Three backends on one port, as pods have it; their certificates are the Service's."""
    tls = _AUTHORITY.server("api.shop.svc")
    first = Backend.start(name=_IPS[0], host=_IPS[0], tls=tls)
    others = [Backend.launch(name=ip, host=ip, port=first.port, tls=tls) for ip in _IPS[1:]]
    try:
        for backend in others:
            backend.wait_ready()
        yield first.port
    finally:
        for backend in (first, *others):
            backend.kill()


@pytest.fixture
def server() -> Iterator[TlsServer]:
    with TlsServer() as running:
        yield running


def stop(api: KubernetesApi) -> None:
    api.up = False
    api.restart()


def start_with_another_token(api: KubernetesApi) -> None:
    api.tokens = {"second"}
    api.up = True


class Cluster:
    """What the tests do to the Service, from any thread."""

    def __init__(self, server: TlsServer, port: int) -> None:
        self.server = server
        self.port = port

    def put(self, name: str, *endpoints: Any) -> None:
        raw = slice_object(name, "api", endpoints, ports=[("http", 80), ("grpc", self.port)])
        self.server.do(lambda api: api.put(raw))


def who(answer: bytes) -> str:
    name: str = json.loads(answer)["name"]
    return name


class SyncClient:
    """Calls on a sync channel."""

    def __init__(self, resolver: grpclb.Resolver) -> None:
        self._channel = grpclb.secure_channel(TARGET, _AUTHORITY.credentials(), resolver=resolver)
        self._call = self._channel.unary_unary(UNARY)

    def calls(self, count: int, **options: Any) -> collections.Counter[str]:
        """How many of `count` calls each backend had."""
        asked = {"timeout": 10, "metadata": steer(report=True), **options}
        return collections.Counter(who(self._call(b"", **asked)) for _ in range(count))

    def close(self) -> None:
        self._channel.close()


class AioClient:
    """The same on an aio channel, with a loop of its own."""

    def __init__(self, resolver: grpclb.Resolver) -> None:
        self._runner = asyncio.Runner()
        self._resolver = resolver
        self._channel = self._runner.run(self._open())
        self._call = self._channel.unary_unary(UNARY)

    async def _open(self) -> Any:
        credentials = _AUTHORITY.credentials()
        return grpclb.aio.secure_channel(TARGET, credentials, resolver=self._resolver)

    def calls(self, count: int, **options: Any) -> collections.Counter[str]:
        return self._runner.run(self._calls(count, options))

    async def _calls(self, count: int, options: Any) -> collections.Counter[str]:
        asked = {"timeout": 10, "metadata": steer(report=True), **options}
        await asyncio.sleep(0.01)  # the watch is on this loop, which else stands still
        return collections.Counter([who(await self._call(b"", **asked)) for _ in range(count)])

    def close(self) -> None:
        self._runner.run(self._channel.close())
        self._runner.close()


@pytest.fixture(params=[SyncClient, AioClient], ids=["sync", "aio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[[grpclb.Resolver], Any]]:
    clients: list[Any] = []

    def make(resolver: grpclb.Resolver) -> Any:
        clients.append(request.param(resolver))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def settle(client: Any, expected: set[str], within: float = 30.0) -> float:
    """Call until just `expected` answer, evenly; the seconds that it took."""
    began = time.monotonic()
    while True:
        found = client.calls(2 * len(expected))
        if set(found) == expected and set(found.values()) == {2}:
            return time.monotonic() - began
        assert time.monotonic() - began < within, f"{found}, not {expected}"


@pytest.mark.expect_log("cannot list endpointslices|cannot watch endpointslices|no endpoints")
def test_a_life_of_a_service(
    server: TlsServer, port: int, connect: Callable[..., Any], tmp_path: Path
) -> None:
    """Scale up, drain, move between slices, an API server that is away, a rotated token, zero."""
    one, two, three = _IPS
    cluster = Cluster(server, port)
    cluster.put("api-1", one, endpoint_object("127.0.0.9", ready=False))
    files = server.write_files(tmp_path)
    client = connect(grpclb.kubernetes.resolver(TARGET, **files))
    settle(client, {one})
    cluster.put("api-2", two)
    cluster.put("api-3", three)
    settle(client, {one, two, three})
    leaving = endpoint_object(two, ready=False, serving=True, terminating=True)
    cluster.put("api-2", leaving)
    settle(client, {one, three})
    cluster.put("api-2")
    cluster.put("api-1", one, three)
    server.do(lambda api: api.delete("api-3"))
    settle(client, {one, three})

    # Away, and back with another token.
    server.do(stop)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        assert set(client.calls(4)) == {one, three}
    (tmp_path / "token").write_text("second")
    server.do(start_with_another_token)
    cluster.put("api-2", two)
    settle(client, {one, two, three})

    # To zero and back.
    for name in ("api-1", "api-2"):
        server.do(lambda api, name=name: api.delete(name))  # type: ignore[misc]
    with pytest.raises(grpc.RpcError, match="found no endpoints") as error:
        client.calls(1_000_000)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    cluster.put("api-2", two)
    assert client.calls(1, wait_for_ready=True) == {two: 1}


@pytest.mark.expect_log("does not let us list", "certificate is not accepted")
def test_what_an_rpc_is_told(
    server: TlsServer, connect: Callable[..., Any], tmp_path: Path
) -> None:
    files = server.write_files(tmp_path)
    # Other files, as channels of one loop with the same credentials share their watch.
    (tmp_path / "other.crt").write_bytes(trustme.CA().cert_pem.bytes())
    stranger = {**files, "ca_file": str(tmp_path / "other.crt")}
    with pytest.raises(grpc.RpcError, match="certificate is not accepted"):
        connect(grpclb.kubernetes.resolver(TARGET, **stranger)).calls(1)
    assert server.do(lambda api: len(api.requests)) == 0
    server.do(lambda api: api.fail_next("list", *[Fault(403)] * 30))
    with pytest.raises(grpc.RpcError) as error:
        connect(grpclb.kubernetes.resolver(TARGET, **files)).calls(1)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "(403)" in str(error.value)
    assert "verbs: [get, list, watch]" in str(error.value)


def test_a_backend_with_another_name_gets_no_call(
    server: TlsServer, port: int, tmp_path: Path
) -> None:
    Cluster(server, port).put("api-1", _IPS[0])
    server.do(lambda api: api.put(slice_object("web-1", "web", [_IPS[0]], ports=[("g", port)])))
    target = "kubernetes:///web.shop"
    resolver = grpclb.kubernetes.resolver(target, **server.write_files(tmp_path))
    credentials = _AUTHORITY.credentials()
    with grpclb.secure_channel(target, credentials, resolver=resolver) as channel:
        call = channel.unary_unary(UNARY)

        def refused() -> bool:
            with pytest.raises(grpc.RpcError) as error:
                call(b"", timeout=10)
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
            return re.search("(?i)hostname|verif", str(error.value)) is not None

        # A busy machine may learn the reason only after the first RPC has failed.
        eventually(refused, 10, every=0.1)


async def test_5000_endpoints_in_50_slices_over_tls(server: TlsServer, tmp_path: Path) -> None:
    """The list is parsed off the loop, which goes on turning meanwhile."""
    for number in range(50):
        names = [endpoint_object(f"10.1.{number}.{i}", pod=f"p-{number}-{i}") for i in range(100)]
        server.do(lambda api, n=number, e=names: api.put(slice_object(f"s-{n}", "api", e)))  # type: ignore[misc]
    resolver = grpclb.kubernetes.resolver("kubernetes:///api.shop", **server.write_files(tmp_path))
    told: asyncio.Queue[Any] = asyncio.Queue()

    def update(state: grpclb.ResolverState) -> bool:
        told.put_nowait(state)
        return True

    task = asyncio.create_task(resolver.run(update))
    state = await asyncio.wait_for(told.get(), 50)
    assert len(state.endpoints) == 5_000
    server.do(lambda api: api.delete("s-49"))
    state = await asyncio.wait_for(told.get(), 50)
    assert len(state.endpoints) == 4_900
    task.cancel()
    await asyncio.wait([task])


def test_channels_that_come_and_go_leave_nothing(
    server: TlsServer, port: int, tmp_path: Path
) -> None:
    """FIGURES F46: no watch, connection, task, thread or object stays."""
    Cluster(server, port).put("api-1", _IPS[0])
    files = server.write_files(tmp_path)

    def ours() -> int:
        gc.collect()
        kinds = (KubernetesResolver, Reflector, Watch)
        return sum(isinstance(found, kinds) for found in gc.get_objects())

    before = ours()
    for connect in (SyncClient, AioClient) * 10:
        client: Any = connect(grpclb.kubernetes.resolver(TARGET, **files))
        assert client.calls(2) == {_IPS[0]: 2}
        client.close()
        del client
    end = time.monotonic() + 20
    while (left := (server.do(lambda api: api.watching), ours() - before)) != (0, 0):
        assert time.monotonic() < end, left
        time.sleep(0.01)
