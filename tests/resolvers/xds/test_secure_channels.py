"""``secure_channel("xds:///svc")``: a backend must prove the target's name, whatever xDS says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

import grpclb
from tests.support import xds_resources as make
from tests.support.tls import Authority
from tests.support.xds_server import XdsServer
from tests.support.xds_world import CDS, EDS, LDS, RDS

pytestmark = pytest.mark.slow
AUTHORITY = Authority()
DEFAULT_AUTHORITY, OVERRIDE = "grpc.default_authority", "grpc.ssl_target_name_override"


class Backend(grpc.GenericRpcHandler):
    """Proves to be proven.example, and nobody else. Notes the authority of what it executes."""

    def __init__(self) -> None:
        self.executed: list[str] = []
        pair = AUTHORITY.issue("proven.example")
        proof = grpc.ssl_server_credentials([(pair.key.encode(), pair.cert.encode())])
        self.server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[self])
        self.port = self.server.add_secure_port("127.0.0.1:0", proof)
        self.server.start()

    def service(self, details: Any) -> Any:
        def execute(request: bytes, context: Any) -> bytes:
            self.executed.append(context._rpc_event.call_details.host.decode())
            return request

        return grpc.unary_unary_rpc_method_handler(execute)


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    backend = Backend()
    yield backend
    backend.server.stop(0).wait()


@pytest.fixture
def control(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Iterator[XdsServer]:
    backend.executed.clear()
    with XdsServer() as server:
        place = make.locality(make.endpoint("127.0.0.1", backend.port))
        server.set(EDS, {"c": make.endpoints("c", place)})
        server.set(CDS, {"c": make.cluster("c")})
        monkeypatch.setenv("GRPC_XDS_BOOTSTRAP_CONFIG", json.dumps(server.bootstrap()))
        yield server


def call(control: XdsServer, service: str, domain: str, options: dict[str, str]) -> bytes:
    """An RPC to a service whose one virtual host is for `domain`."""
    routes = make.route_config("routes", [make.route("c")], domains=[domain])
    control.set(RDS, {"routes": routes})
    control.set(LDS, {service: make.listener(service)})
    credentials, target = AUTHORITY.credentials(), f"xds:///{service}"
    with grpclb.secure_channel(target, credentials, list(options.items())) as channel:
        answer: bytes = channel.unary_unary("/s/m")(b"x", timeout=20)
        return answer


@pytest.mark.parametrize(
    ("service", "domain", "options", "authority"),
    [
        ("proven.example:8080", "proven.example:8080", {}, "proven.example:8080"),
        ("other", "other", {OVERRIDE: "proven.example"}, "proven.example"),
        ("other", "proven.example", {DEFAULT_AUTHORITY: "proven.example"}, "proven.example"),
    ],
    ids=["target", "override", "authority"],
)
def test_the_name_is_the_target_s_unless_an_option_says_another(
    service: str,
    domain: str,
    options: dict[str, str],
    authority: str,
    control: XdsServer,
    backend: Backend,
) -> None:
    assert call(control, service, domain, options) == b"x"
    assert backend.executed == [authority]


@pytest.mark.parametrize(
    ("service", "options"),
    [("other:443", {}), ("proven.example", {DEFAULT_AUTHORITY: "other"})],
    ids=["target", "authority"],
)
def test_a_certificate_for_another_name_is_refused(
    service: str, options: dict[str, str], control: XdsServer, backend: Backend
) -> None:
    with pytest.raises(grpc.RpcError) as error:
        call(control, service, "*", options)
    failed: Any = error.value
    assert failed.code() is grpc.StatusCode.UNAVAILABLE
    assert "0 of 1 backends ready" in failed.details()
    assert backend.executed == []
