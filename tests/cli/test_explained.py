"""Every explanation is provoked by the real thing: a server, a port or a resolver that does it."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import grpclb
from grpclb.cli.explanations import RULES
from grpclb.control.registries import RESOLVERS
from grpclb.resolvers.kubernetes.build import build
from grpclb.resolvers.kubernetes.credentials import Access
from grpclb.testing import ManualResolver
from tests.cli import servers
from tests.cli.conftest import NAME, Shell, out_of_time
from tests.support.dns_server import DnsServer
from tests.support.dns_server import Fault as DnsFault
from tests.support.fake_etcd import FakeEtcd
from tests.support.kubernetes_api import Fault, KubernetesApi
from tests.support.kubernetes_objects import slice_object
from tests.support.kubernetes_tls import TlsServer
from tests.support.tls import Authority

# Shared servers come before the test, whose leak guard would take them for its own.
pytestmark = pytest.mark.usefixtures("patient", "secure", "ca")

DOCS = Path(__file__).parents[2] / "docs"
CASES: dict[str, Callable[..., tuple[str, ...]]] = {}
Case = Callable[["Ward"], tuple[str, ...]]


class Ward:
    """What a case may use: servers that live as long as it, files, and the shared ones."""

    def __init__(self, request: pytest.FixtureRequest, stack: ExitStack, folder: Path) -> None:
        self._request = request
        self._stack = stack
        self.folder = folder

    def get(self, fixture: str) -> Any:
        return self._request.getfixturevalue(fixture)

    def use(self, resource: Any) -> Any:
        return self._stack.enter_context(resource)

    def port(self, handle: Any) -> str:
        address: str = self.use(servers.Port(handle))
        return address

    def file(self, name: str, content: str) -> str:
        path = self.folder / name
        path.write_text(content)
        return str(path)


def case(explanation: str) -> Callable[[Case], Case]:
    """The arguments of a `doctor` that finds what is named."""

    def register(function: Case) -> Case:
        CASES[explanation] = function
        return function

    return register


@pytest.fixture
def ward(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ward]:
    with ExitStack() as stack:
        yield Ward(request, stack, tmp_path)


@pytest.fixture(autouse=True)
def _registry_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RESOLVERS, "_table", RESOLVERS._table)


@pytest.mark.slow
@pytest.mark.parametrize("explanation", [rule.id for rule in RULES])
@pytest.mark.expect_log(".*")  # channels tell of what the doctor is shown
def test_each_explanation(explanation: str, ward: Ward, shell: Shell) -> None:
    arguments = CASES[explanation](ward)
    found = shell("doctor", *arguments, "--json")
    assert [f["id"] for f in found.json["findings"]] == [explanation], found.out
    levels = {f["level"] for f in found.json["findings"]}
    assert found.code == (1 if "problem" in levels else 0)
    assert found.json["ok"] is (found.code == 0)
    for finding in found.json["findings"]:
        assert finding["advice"]
        assert finding["where"]
        assert "{" not in finding["meaning"] + "".join(finding["advice"])


def test_the_docs_name_every_explanation_and_no_other() -> None:
    page = (DOCS / "doctor.md").read_text()
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (problem|warning) \|", page, re.MULTILINE)
    assert rows == [(rule.id, rule.level.value) for rule in RULES]


# -- resolving -----------------------------------------------------------------------------------


def _dns(ward: Ward) -> DnsServer:
    server: DnsServer = ward.get("dns")
    return server


@case("dns-no-such-name")
def _(ward: Ward) -> tuple[str, ...]:
    return (f"dns://{_dns(ward).authority}/nobody.test:1",)


@case("dns-no-address")
def _(ward: Ward) -> tuple[str, ...]:
    _dns(ward).set(NAME, "TXT", "no address")
    return (f"dns://{_dns(ward).authority}/{NAME}:1",)


@case("dns-server-failed")
def _(ward: Ward) -> tuple[str, ...]:
    _dns(ward).fault("*", DnsFault.SERVFAIL)
    return (f"dns://{_dns(ward).authority}/{NAME}:1",)


@case("dns-no-answer")
def _(ward: Ward) -> tuple[str, ...]:
    _dns(ward).fault("*", DnsFault.DROP)
    return (f"dns://{_dns(ward).authority}/{NAME}:1", "--timeout", "0.3")


@case("dns-unreachable")
def _(ward: Ward) -> tuple[str, ...]:
    return (f"dns://{ward.use(servers.closed_port())}/{NAME}:1",)


@case("service-config-unusable")
def _(ward: Ward) -> tuple[str, ...]:
    _dns(ward).set(NAME, "A", "127.0.0.1")
    _dns(ward).set(f"_grpc_config.{NAME}", "TXT", "grpc_config=[{]")
    return (f"dns://{_dns(ward).authority}/{NAME}:1", "--txt")


@case("service-config-rejected")
def _(ward: Ward) -> tuple[str, ...]:
    host, _, port = ward.get("patient").rpartition(":")
    _dns(ward).set(NAME, "A", host, "127.0.0.1")
    _dns(ward).set(
        f"_grpc_config.{NAME}", "TXT", 'grpc_config=[{"serviceConfig": {"methodConfig": 3}}]'
    )
    _dns(ward).set(f"_grpc._tcp.{NAME}", "SRV", f"0 1 {port} {NAME}.")
    target = f"dns://{_dns(ward).authority}/_grpc._tcp.{NAME}"
    return (target, "--txt", "--service-config", "{}")


def _told(make: Callable[[], Any]) -> str:
    """A target whose resolver `make` makes."""
    grpclb.register_resolver("told", lambda target, context: make())
    return "told:///x"


class _Silent(ManualResolver):
    pass


class _Raises(ManualResolver):
    async def run(self, update: Any) -> None:
        raise OSError("the registry is on fire")


def _cluster(ward: Ward, say: Callable[[KubernetesApi], object], **access: Any) -> str:
    """A target in a cluster whose API server was told to `say` something."""
    server: TlsServer = ward.use(TlsServer())
    server.do(say)
    files: dict[str, Any] = {**server.write_files(ward.folder), **access}
    known = Access(**files)
    grpclb.register_resolver("kubernetes", lambda target, context: build(target, known))
    return "kubernetes:///api.shop:grpc"


@case("no-such-service")
def _(ward: Ward) -> tuple[str, ...]:
    return (_cluster(ward, lambda api: None),)


@case("no-such-port")
def _(ward: Ward) -> tuple[str, ...]:
    ports = slice_object("api-1", "api", ["127.0.0.1"], ports=[("gprc", 50051)])
    return (_cluster(ward, lambda api: api.put(ports)),)


@case("token-refused")
def _(ward: Ward) -> tuple[str, ...]:
    return (_cluster(ward, lambda api: setattr(api, "tokens", {"another"})),)


@case("forbidden")
def _(ward: Ward) -> tuple[str, ...]:
    return (_cluster(ward, lambda api: api.fail_next("list", Fault(403))),)


@case("no-credentials")
def _(ward: Ward) -> tuple[str, ...]:
    return (_cluster(ward, lambda api: None, token_file=f"{ward.folder}/no-token"),)


@case("etcd-unreachable")
def _(ward: Ward) -> tuple[str, ...]:
    return (f"etcd://{ward.use(servers.closed_port())}/api",)


@case("api-server-unreachable")
def _(ward: Ward) -> tuple[str, ...]:
    nobody = f"https://{ward.use(servers.closed_port())}"
    return (_cluster(ward, lambda api: None, api_server=nobody),)


@case("resolution-failed")
def _(ward: Ward) -> tuple[str, ...]:
    return (_told(_Raises),)


@case("resolver-silent")
def _(ward: Ward) -> tuple[str, ...]:
    return (_told(_Silent), "--timeout", "0.1")


@case("no-endpoints")
def _(ward: Ward) -> tuple[str, ...]:
    resolver = ManualResolver()
    resolver.update([])
    return (_told(lambda: resolver),)


# -- the name ------------------------------------------------------------------------------------


def _one_address(ward: Ward) -> str:
    host, _, port = ward.get("patient").rpartition(":")
    _dns(ward).set(NAME, "A", host)
    return f"dns://{_dns(ward).authority}/{NAME}:{port}"


@case("one-address")
def _(ward: Ward) -> tuple[str, ...]:
    return (_one_address(ward),)


@case("cluster-ip")
def _(ward: Ward) -> tuple[str, ...]:
    ward.get("monkeypatch").setenv("API_SERVICE_HOST", "127.0.0.1")
    return (_one_address(ward),)


@case("entries-skipped")
def _(ward: Ward) -> tuple[str, ...]:
    etcd: FakeEtcd = ward.use(FakeEtcd())
    etcd.put("api/a", ward.get("patient"))
    etcd.put("api/b", "localhost")
    return (f"etcd://{etcd.endpoint}/api",)


# -- connecting ----------------------------------------------------------------------------------


def _as_name(*arguments: str) -> tuple[str, ...]:
    return (*arguments, "--server-name", NAME)


@case("connection-refused")
def _(ward: Ward) -> tuple[str, ...]:
    return (ward.use(servers.closed_port()),)


@case("connection-timeout")
def _(ward: Ward) -> tuple[str, ...]:
    return (ward.use(servers.full_backlog()), "--timeout", "0.3")


@case("no-such-socket")
def _(ward: Ward) -> tuple[str, ...]:
    return (f"unix:{ward.folder}/none.sock",)


@case("tls-expected")
def _(ward: Ward) -> tuple[str, ...]:
    return (ward.get("secure"),)


@case("plaintext-expected")
def _(ward: Ward) -> tuple[str, ...]:
    return _as_name(ward.get("patient"), "--ca", ward.get("ca"))


@case("not-http2")
def _(ward: Ward) -> tuple[str, ...]:
    return (ward.port(servers.says(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")),)


@case("not-grpc")
def _(ward: Ward) -> tuple[str, ...]:
    return (ward.port(servers.says(b"SSH-2.0-OpenSSH_9.9\r\n")),)


@case("certificate-name")
def _(ward: Ward) -> tuple[str, ...]:
    return (ward.get("secure"), "--ca", ward.get("ca"), "--server-name", "other.test")


def _timed(ward: Ward, days: int) -> tuple[str, ...]:
    pem, pair = out_of_time(days=days)
    address = ward.use(servers.grpc_server(pair))
    return _as_name(address, "--ca", ward.file("ca.pem", pem))


@case("certificate-expired")
def _(ward: Ward) -> tuple[str, ...]:
    return _timed(ward, -1)


@case("certificate-not-yet-valid")
def _(ward: Ward) -> tuple[str, ...]:
    return _timed(ward, 1)


@case("certificate-unknown-ca")
def _(ward: Ward) -> tuple[str, ...]:
    return _as_name(ward.get("secure"), "--ca", ward.file("other.pem", Authority().pem))


@case("client-certificate")
def _(ward: Ward) -> tuple[str, ...]:
    authority: Authority = ward.get("authority")
    address = ward.use(servers.grpc_server(authority.issue(NAME), authority.pem))
    return _as_name(address, "--ca", ward.get("ca"))


@case("no-alpn")
def _(ward: Ward) -> tuple[str, ...]:
    pair = ward.get("authority").issue(NAME)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ward.file("cert.pem", pair.cert), ward.file("key.pem", pair.key))
    address = ward.port(servers.tls_without_alpn(context))
    return _as_name(address, "--ca", ward.get("ca"))


@case("server-silent")
def _(ward: Ward) -> tuple[str, ...]:
    return (ward.port(servers.silent), "--timeout", "0.3")


@case("server-closed")
def _(ward: Ward) -> tuple[str, ...]:
    return (ward.port(servers.closes),)


@case("connection-failed")
def _(ward: Ward) -> tuple[str, ...]:
    return (ward.port(servers.http2(servers.never, real=False)),)


# -- health --------------------------------------------------------------------------------------


@case("health-not-serving")
def _(ward: Ward) -> tuple[str, ...]:
    return (ward.get("patient"), "--health", "ill")


@case("health-service-unknown")
def _(ward: Ward) -> tuple[str, ...]:
    return (ward.get("patient"), "--health", "nobody")


@case("health-unimplemented")
def _(ward: Ward) -> tuple[str, ...]:
    return (ward.use(servers.grpc_server(with_health=False)), "--health")


# -- calling -------------------------------------------------------------------------------------


def _call(address: str, name: str, *more: str) -> tuple[str, ...]:
    return (address, "--method", f"/test.Patient/{name}", *more)


def _answers(explanation: str, code: str) -> None:
    """The server itself ends the call with `code`."""

    @case(explanation)
    def _(ward: Ward) -> tuple[str, ...]:
        return _call(ward.get("patient"), code)


_answers("resource-exhausted", "RESOURCE_EXHAUSTED")
_answers("unavailable", "UNAVAILABLE")
_answers("answered", "NOT_FOUND")
_answers("call-failed", "DATA_LOSS")
_answers("handler-raised", "Crash")
_answers("request-not-understood", "Parse")
_answers("method-unimplemented", "NotThere")


def _on_http2(explanation: str, answer: Any) -> None:
    """Something that speaks HTTP/2 and no gRPC ends the call."""

    @case(explanation)
    def _(ward: Ward) -> tuple[str, ...]:
        return _call(ward.port(servers.http2(answer)), "Echo")


_on_http2("stream-reset", servers.reset(2))
_on_http2("http-status", servers.http_status(503))
_on_http2("no-grpc-status", servers.http_status(200))
_on_http2("server-going-away", servers.goaway)
_on_http2("connection-lost", servers.hangs_up)


def _bytes(ward: Ward, size: int) -> tuple[str, ...]:
    return ("--data-file", ward.file("request", "x" * size))


@case("reply-too-large")
def _(ward: Ward) -> tuple[str, ...]:
    address = ward.use(servers.grpc_server(options=[("grpc.max_receive_message_length", -1)]))
    return _call(address, "Echo", *_bytes(ward, 5_000_000))


@case("request-too-large")
def _(ward: Ward) -> tuple[str, ...]:
    return _call(ward.get("patient"), "Echo", *_bytes(ward, 5_000_000))


@case("request-over-own-limit")
def _(ward: Ward) -> tuple[str, ...]:
    limit = ("--option", "grpc.max_send_message_length=10")
    return _call(ward.get("patient"), "Echo", *_bytes(ward, 20), *limit)


@case("metadata-too-large")
def _(ward: Ward) -> tuple[str, ...]:
    agent = f"grpc.primary_user_agent={'x' * 20_000}"
    return _call(ward.get("patient"), "Echo", "--option", agent)


@case("deadline-before-call")
def _(ward: Ward) -> tuple[str, ...]:
    return _call(ward.get("patient"), "Echo", "--deadline", "0")


@case("deadline-too-short")
def _(ward: Ward) -> tuple[str, ...]:
    far_away = ward.port(servers.http2(servers.never, first=0.2))
    return _call(far_away, "Echo", "--deadline", "0.05")


@case("deadline-exceeded")
def _(ward: Ward) -> tuple[str, ...]:
    return _call(ward.get("patient"), "Slow", "--deadline", "0.3")
