"""The resolver and an API server, from list to 403: the tests' own server, or a real one.

A real kube-apiserver takes part if these name it (a kube-apiserver and its etcd are enough; it
needs no nodes), with a token that may do everything in namespaces of its own:

    GRPCLB_KUBERNETES_API=https://127.0.0.1:6443
    GRPCLB_KUBERNETES_TOKEN_FILE=admin-token  GRPCLB_KUBERNETES_CA_FILE=ca.crt
    GRPCLB_KUBERNETES_LIMITED_TOKEN_FILE=token-without-rights   # optional: for 403
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

import grpclb
import grpclb.kubernetes
from grpclb import Status
from grpclb.resolvers.kubernetes.api import Timeouts
from grpclb.resolvers.kubernetes.resolver import Plan
from tests.support.kubernetes_api import Fault
from tests.support.kubernetes_objects import endpoint_object, slice_object
from tests.support.kubernetes_scene import addresses
from tests.support.kubernetes_tls import TlsServer

_URL = os.environ.get("GRPCLB_KUBERNETES_API")
A, B, C, D = "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"


class Cluster(Protocol):
    """A namespace of an API server. `access` are arguments of `grpclb.kubernetes.resolver`."""

    namespace: str
    access: dict[str, Any]

    def put(self, name: str, *endpoints: Any, **slice_: Any) -> None: ...
    def delete(self, name: str) -> None: ...
    def add_service(self) -> None: ...
    def forbidden(self) -> dict[str, Any] | None: ...


class OwnCluster:
    """The tests' own server."""

    def __init__(self, server: TlsServer, folder: Path) -> None:
        self.namespace = "shop"
        self.access = server.write_files(folder)
        self._server = server

    def put(self, name: str, *endpoints: Any, **slice_: Any) -> None:
        raw = slice_object(name, "api", endpoints, **slice_)
        self._server.do(lambda api: api.put(raw))

    def delete(self, name: str) -> None:
        self._server.do(lambda api: api.delete(name))

    def add_service(self) -> None:
        self._server.do(lambda api: api.services.add(("shop", "api")))

    def forbidden(self) -> dict[str, Any] | None:
        self._server.do(lambda api: api.fail_next("any", *[Fault(403)] * 20))
        return self.access


class RealCluster:
    """A namespace of its own at a real API server, by REST."""

    def __init__(self) -> None:
        self.namespace = f"grpclb-{secrets.token_hex(4)}"
        self._ca_file = os.environ["GRPCLB_KUBERNETES_CA_FILE"]
        self._token_file = os.environ["GRPCLB_KUBERNETES_TOKEN_FILE"]
        self._tls = ssl.create_default_context(cafile=self._ca_file)
        self._tls.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
        self.access = {
            "api_server": _URL,
            "token_file": self._token_file,
            "ca_file": self._ca_file,
        }
        self._slices: set[str] = set()
        body = {"kind": "Namespace", "metadata": {"name": self.namespace}}
        self._ask("POST", "/api/v1/namespaces", body)

    def _ask(self, method: str, path: str, body: Any = None) -> None:
        request = urllib.request.Request(
            f"{_URL}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {Path(self._token_file).read_text().strip()}",
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=10, context=self._tls) as answer:
            answer.read()

    def put(self, name: str, *endpoints: Any, **slice_: Any) -> None:
        raw = slice_object(name, "api", endpoints, namespace=self.namespace, **slice_)
        for endpoint in raw["endpoints"]:
            if "targetRef" in endpoint:
                endpoint["targetRef"]["namespace"] = self.namespace
        path = f"/apis/discovery.k8s.io/v1/namespaces/{self.namespace}/endpointslices"
        if name in self._slices:
            self._ask("PUT", f"{path}/{name}", raw)
        else:
            self._ask("POST", path, raw)
        self._slices.add(name)

    def delete(self, name: str) -> None:
        path = f"/apis/discovery.k8s.io/v1/namespaces/{self.namespace}/endpointslices/{name}"
        self._ask("DELETE", path)
        self._slices.discard(name)

    def add_service(self) -> None:
        body = {
            "kind": "Service",
            "metadata": {"name": "api"},
            "spec": {"clusterIP": "None", "ports": [{"name": "grpc", "port": 50051}]},
        }
        self._ask("POST", f"/api/v1/namespaces/{self.namespace}/services", body)

    def forbidden(self) -> dict[str, Any] | None:
        token_file = os.environ.get("GRPCLB_KUBERNETES_LIMITED_TOKEN_FILE")
        return None if token_file is None else {**self.access, "token_file": token_file}

    def close(self) -> None:
        self._ask("DELETE", f"/api/v1/namespaces/{self.namespace}")


@pytest.fixture(params=["own", *(["real"] if _URL else [])])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    if request.param == "own":
        with TlsServer() as server:
            yield OwnCluster(server, tmp_path)
    else:
        real = RealCluster()
        with contextlib.closing(real):
            yield real


class Client:
    """A resolver at work, and what it said."""

    def __init__(self) -> None:
        self.told: list[grpclb.ResolverState] = []

    def take(self, state: grpclb.ResolverState) -> bool:
        self.told.append(state)
        return True

    @property
    def now(self) -> set[str] | str:
        if not self.told:
            return "nothing yet"
        last = self.told[-1].endpoints
        return last.details if isinstance(last, Status) else addresses(last)

    async def until(self, condition: Callable[[], object], within: float = 30.0) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        while not condition():
            assert loop.time() < end, f"not within {within} s; last: {self.now!s:.300}"
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def client_of(
    cluster: Cluster, service: str = "api", access: dict[str, Any] | None = None, **more: Any
) -> AsyncIterator[Client]:
    target = f"kubernetes:///{service}.{cluster.namespace}"
    resolver = grpclb.kubernetes.resolver(target, **(access or cluster.access), **more)
    client = Client()
    task = asyncio.create_task(resolver.run(client.take))
    try:
        yield client
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def act(what: Callable[..., None], *arguments: Any, **more: Any) -> None:
    """Off the loop, which has a watch to follow."""
    await asyncio.to_thread(what, *arguments, **more)


async def test_changes(cluster: Cluster) -> None:
    """A list, a change, a slice more, one that drains, a move, a deletion, zero and back."""
    await act(cluster.add_service)
    await act(cluster.put, "api-1", A, endpoint_object("10.0.0.9", ready=False))
    async with client_of(cluster) as client:
        await client.until(lambda: client.now == {A})
        await act(cluster.put, "api-1", A, B)
        await client.until(lambda: client.now == {A, B})
        await act(cluster.put, "api-2", C)
        await client.until(lambda: client.now == {A, B, C})
        leaving = endpoint_object(B, ready=False, serving=True, terminating=True)
        await act(cluster.put, "api-1", A, leaving)
        await client.until(lambda: client.now == {A, C})
        count = len(client.told)
        await act(cluster.put, "api-1", A, C)
        await act(cluster.delete, "api-2")
        await asyncio.sleep(0.5)
        assert client.now == {A, C}
        # A state on the way may tell other attributes, but never without one of the two.
        assert all(addresses(s.endpoints) == {A, C} for s in client.told[count:])  # type: ignore[arg-type]
        await act(cluster.put, "api-1")
        await client.until(lambda: client.now == set())
        await act(cluster.put, "api-3", D)
        await client.until(lambda: client.now == {D})


async def test_pods_with_two_addresses_and_all_attributes(cluster: Cluster) -> None:
    pod: dict[str, Any] = {
        "pod": "api-7",
        "zone": "a",
        "nodeName": "n1",
        "hints": {"forZones": [{"name": "a"}]},
    }
    await act(cluster.put, "v4", endpoint_object(A, **pod))
    await act(cluster.put, "v6", endpoint_object("fd00::1", **pod), family="IPv6")
    async with client_of(cluster) as client:
        await client.until(lambda: client.now == {f"{A}+[fd00::1]"})
        (endpoint,) = client.told[-1].endpoints  # type: ignore[misc]
        assert endpoint.attributes == {
            "pod": "api-7",
            "zone": "a",
            "node_name": "n1",
            "hints": ("a",),
        }


async def test_pages(cluster: Cluster) -> None:
    ips = [f"10.7.0.{number}" for number in range(130)]

    def fill() -> None:
        for number, ip in enumerate(ips):
            cluster.put(f"api-{number}", ip)

    await act(fill)
    async with client_of(cluster) as client:
        await client.until(lambda: client.told)
        assert client.now == set(ips)
        assert len(client.told) == 1
        await act(cluster.delete, "api-5")
        await client.until(lambda: client.now == set(ips) - {"10.7.0.5"})


async def test_a_watch_that_ends_in_its_time_goes_on(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three watches of a second each: what happens meanwhile is seen, and nothing is told twice."""
    plan = Plan.__init__

    def shortened(self: Any, *arguments: Any, **more: Any) -> None:
        plan(self, *arguments, **more)
        object.__setattr__(self, "timeouts", Timeouts(watch=(1, 1)))

    monkeypatch.setattr(Plan, "__init__", shortened)
    await act(cluster.put, "api-1", A)
    async with client_of(cluster) as client:
        await client.until(lambda: client.now == {A})
        await asyncio.sleep(2.5)
        await act(cluster.put, "api-1", A, B)
        await client.until(lambda: client.now == {A, B})
        assert len(client.told) == 2


async def test_a_service_that_is_not_there(cluster: Cluster) -> None:
    await act(cluster.add_service)
    async with client_of(cluster, "web") as client:
        await client.until(lambda: client.told)
        assert f"there is no Service 'web' in namespace {cluster.namespace!r}" in client.now


@pytest.mark.expect_log("has no EndpointSlices")
async def test_a_service_without_pods(cluster: Cluster) -> None:
    await act(cluster.add_service)
    async with client_of(cluster) as client:
        await client.until(lambda: client.told)
        assert client.now == set()
        assert "has no EndpointSlices" in client.told[0].note


async def test_403_and_401(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("wrong-token")
    wrong = {**cluster.access, "token_file": str(tmp_path / "wrong")}
    async with client_of(cluster, access=wrong) as client:
        await client.until(lambda: client.told)
        assert "does not accept the token" in client.now
    limited = cluster.forbidden()
    if limited is None:
        return
    async with client_of(cluster, access=limited) as client:
        await client.until(lambda: client.told)
        assert "(403)" in client.now
        assert "verbs: [get, list, watch]" in client.now
