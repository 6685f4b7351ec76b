"""What a target string means, and what a person reads who wrote a wrong one."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpclb.core.target import Target, default_authority, parse_target, split_host_port, srv_domain

KNOWN = ("dns", "etcd", "ipv4", "ipv6", "kubernetes", "unix", "unix-abstract", "xds")


@pytest.mark.parametrize(
    ("text", "scheme", "authority", "endpoint"),
    [
        # no scheme means dns
        ("localhost:50051", "dns", "", "localhost:50051"),
        ("api", "dns", "", "api"),
        ("api.ns.svc.cluster.local.", "dns", "", "api.ns.svc.cluster.local."),
        ("10.0.0.1:80", "dns", "", "10.0.0.1:80"),
        ("[::1]:80", "dns", "", "[::1]:80"),
        ("::1", "dns", "", "::1"),
        # also where the host's name is a scheme of ours, which grpcio does not know
        ("etcd:2379", "dns", "", "etcd:2379"),
        ("xds:18000", "dns", "", "xds:18000"),
        # the forms of dns
        ("dns:api", "dns", "", "api"),
        ("dns:/api", "dns", "", "api"),
        ("dns:///api:80", "dns", "", "api:80"),
        ("DNS:///Api:80", "dns", "", "Api:80"),
        ("dns://10.0.0.10/api", "dns", "10.0.0.10", "api"),
        ("dns://[fd00::a]:53/api:80", "dns", "[fd00::a]:53", "api:80"),
        ("dns:///_grpc._tcp.api", "dns", "", "_grpc._tcp.api"),
        ("dns:///localhos%74:80", "dns", "", "localhost:80"),
        ("dns:///%5B::1%5D:80", "dns", "", "[::1]:80"),
        # addresses
        ("ipv4:10.0.0.1:80,10.0.0.2:80", "ipv4", "", "10.0.0.1:80,10.0.0.2:80"),
        ("ipv4:///10.0.0.1:80", "ipv4", "", "10.0.0.1:80"),
        ("ipv6:[::1]:80", "ipv6", "", "[::1]:80"),
        # the slash of a socket's path is a part of it
        ("unix:/run/a.sock", "unix", "", "/run/a.sock"),
        ("unix:///run/a.sock", "unix", "", "/run/a.sock"),
        ("unix:a.sock", "unix", "", "a.sock"),
        ("unix:/run/a%20b%3F", "unix", "", "/run/a b?"),
        ("unix-abstract:name", "unix-abstract", "", "name"),
        # everybody else's
        ("etcd:///service", "etcd", "", "service"),
        ("etcd://10.0.0.1:2379,10.0.0.2:2379/a/b", "etcd", "10.0.0.1:2379,10.0.0.2:2379", "a/b"),
        ("kubernetes://ns/svc:grpc", "kubernetes", "ns", "svc:grpc"),
        ("kubernetes:///svc.ns:80", "kubernetes", "", "svc.ns:80"),
        ("etcd:///service?prefix=x", "etcd", "", "service"),
        ("xds:///name", "xds", "", "name"),
    ],
)
def test_a_target_is_taken_apart(text: str, scheme: str, authority: str, endpoint: str) -> None:
    target = parse_target(text, KNOWN)
    assert target == Target(scheme, authority, endpoint, text)
    assert str(target) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "target '' is empty; write for example host:port"),
        ("  ", "target '  ' is empty"),
        (":80", "target ':80': the host is missing; write host:port"),
        ("dns:///", "target 'dns:///': nothing after 'dns'; write for example host:port"),
        ("dns:", "nothing after 'dns'"),
        (
            "dns://api:50051",
            "target 'dns://api:50051': two slashes make it the DNS server; write dns:///api:50051",
        ),
        ("dns://api/", "write dns:///api"),
        ("ipv4:", "nothing after 'ipv4'"),
        ("unix:/", "nothing after 'unix'"),
        ("h:0", "target 'h:0': port '0' is not a number in 1..65535"),
        ("h:70000", "port '70000' is not a number in 1..65535"),
        ("h:http", "port 'http' is not a number in 1..65535"),
        ("h:", "port '' is not a number"),
        ("h:٣", "port '٣' is not a number"),
        ("h:" + "9" * 10_000, "port '99999999999999999999' is not a number"),
        ("a b:80", "target 'a b:80': ' ' at character 1; remove it, or write it as %XX"),
        ("h:80\n", r"'\n' at character 4"),
        ("h\0:80", r"'\x00' at character 1"),
        ("h%00:80", "%00 (NUL)"),
        ("h%FF:80", "the percent-encoded bytes are not UTF-8"),
        ("h%20:80", "'h ' cannot be part of a host name"),
        ("a..b:80", "'' cannot be part of a host name"),
        ("-a:80", "'-a' cannot be part of a host name"),
        ("a" * 64, "expected 1 to 63 letters"),
        ("a." * 130 + "a", "261 characters; DNS ends at 253"),
        ("bücher.example:80", "'bücher.example' is not ASCII; write its IDNA form"),
        ("10.0.0.256:80", "'10.0.0.256' is not an IPv4 address; expected for example 10.0.0.7:443"),
        ("[::g]:80", "'::g' is not an IPv6 address; expected for example [fd00::7]:443"),
        ("[10.0.0.1]:80", "'10.0.0.1' is not an IPv6 address"),
        ("[::1:80", "expected '[ipv6]:port'"),
        ("[::1]80", "expected '[ipv6]:port'"),
        ("fd00::7:99999", "is not an IPv6 address"),
        ("dns:///api?x=1", "'?' in the endpoint; write it as %3F"),
        ("unix:/a#b", "'#' in the endpoint; write it as %23"),
        ("dns:50051", "ambiguous; write dns:///dns:50051 for port 50051 of a host named 'dns'"),
        ("unix://run/a", "unix: takes no authority; write unix:///run/a"),
        ("ipv4://10.0.0.1:80", "ipv4: takes no authority; write ipv4:10.0.0.1:80"),
        ("consul:///x", "unknown scheme 'consul'; known: dns, etcd, ipv4, ipv6, kubernetes, unix"),
        ("foo://", "unknown scheme 'foo'; known: dns"),
        ("kubernetess:///x", "did you mean kubernetes?"),
        ("nacos:///x", "register_resolver adds one"),
        ("http://api:80/x", "gRPC targets are not URLs; write host:port, here api:80"),
        ("https://api:443", "write host:port, here api:443 with secure_channel for TLS"),
    ],
)
def test_a_wrong_target_is_refused_with_place_and_way_out(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_target(text, KNOWN)


@pytest.mark.parametrize("text", [None, 80, b"h:80", ["h:80"]])
def test_a_target_is_text(text: Any) -> None:
    with pytest.raises(TypeError, match="target must be str such as 'host:port', got"):
        parse_target(text, KNOWN)


@given(st.text() | st.text(alphabet="ad:/.[]%1?#_-0"))
def test_any_text_parses_or_is_refused(text: str) -> None:
    target = problem = None
    try:
        target = parse_target(text, KNOWN)
    except ValueError as error:
        problem = str(error)
    if target is None:
        assert problem is not None
        assert problem.startswith("target ")
    else:
        assert target.scheme in KNOWN
        assert default_authority(target).isascii()


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("api", "api", None),
        ("api:80", "api", 80),
        ("[::1]", "::1", None),
        ("[::1]:80", "::1", 80),
        ("::1", "::1", None),
        ("10.0.0.1:65535", "10.0.0.1", 65535),
    ],
)
def test_host_and_port(text: str, host: str, port: int | None) -> None:
    assert split_host_port(text, "here") == (host, port)


def test_the_names_of_srv_records() -> None:
    assert srv_domain("_grpc._tcp.api.ns") == "api.ns"
    assert [srv_domain(n) for n in ("api.ns", "_grpc.api.ns", "_grpc._udp.api", "_grpc._tcp")] == [
        None
    ] * 4


def test_the_authority_of_an_srv_name_is_its_domain() -> None:
    assert default_authority(parse_target("dns:///_grpc._tcp.api.ns", KNOWN)) == "api.ns"


# ---- the authority that grpcio itself sends


class _Authorities(grpc.GenericRpcHandler):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        def handle(request: bytes, context: Any) -> bytes:
            self.seen.append(context._rpc_event.call_details.host.decode())
            return b""

        return grpc.unary_unary_rpc_method_handler(handle)


@pytest.fixture(scope="module")
def grpcio() -> Iterator[Any]:
    """Sends one RPC by plain grpcio, and returns the authority that the server saw."""
    handler = _Authorities()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((handler,))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a b.sock"
        port = server.add_insecure_port("127.0.0.1:0")
        server.add_insecure_port(f"unix:{folder}/a%20b.sock")
        server.start()

        def send(form: str) -> tuple[str, str]:
            target = form.replace("PORT", str(port)).replace("SOCK", str(path).replace(" ", "%20"))
            with grpc.insecure_channel(target) as channel:
                call: Any = channel.unary_unary("/s/m")
                call(b"", timeout=10)
            return target, handler.seen.pop()

        yield send
        server.stop(None).wait()


@pytest.mark.parametrize(
    "form",
    [
        "localhost:PORT",
        "127.0.0.1:PORT",
        "dns:localhost:PORT",
        "dns:/localhost:PORT",
        "dns:///localhost:PORT",
        "DNS:///LocalHost:PORT",
        "dns:///localhos%74:PORT",
        "ipv4:127.0.0.1:PORT",
        "ipv4:///127.0.0.1:PORT",
        "ipv4:127.0.0.1:PORT,127.0.0.1:PORT",
        "unix:SOCK",
        "unix://SOCK",
    ],
)
def test_the_authority_is_the_one_that_grpcio_sends(grpcio: Any, form: str) -> None:
    target, sent = grpcio(form)
    assert default_authority(parse_target(target, KNOWN)) == sent
