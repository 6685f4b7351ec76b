"""The DNS server under the resolver tests does what its scripts say, asked by dnspython itself."""

import socket
from collections.abc import Iterator

import dns.exception
import dns.resolver
import pytest

from tests.support.dns_server import DnsServer, Fault

NAME = "api.test"


@pytest.fixture
def server() -> Iterator[DnsServer]:
    with DnsServer() as server:
        server.set(NAME, "A", "127.0.0.1", "127.0.0.2", ttl=5)
        yield server


def resolve(server: DnsServer, name: str = NAME, rdtype: str = "A") -> list[str]:
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port, resolver.lifetime = [server.host], server.port, 0.2
    answer = resolver.resolve(name, rdtype)
    return [record.to_text() for record in answer]


def test_records_keep_their_order_and_ttl(server: DnsServer) -> None:
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = [server.host], server.port
    answer = resolver.resolve(NAME, "A")
    assert answer.rrset is not None
    assert ([r.to_text() for r in answer.rrset], answer.rrset.ttl) == (
        ["127.0.0.1", "127.0.0.2"],
        5,
    )


def test_the_zone_changes_while_the_server_runs(server: DnsServer) -> None:
    server.set(NAME, "A", "127.0.0.9")
    assert resolve(server) == ["127.0.0.9"]
    server.remove(NAME)
    with pytest.raises(dns.resolver.NXDOMAIN):
        resolve(server)


def test_a_cname_is_followed_and_srv_and_long_txt_are_served(server: DnsServer) -> None:
    server.set("alias.test", "CNAME", "api.test.")
    server.set("_grpc._tcp.api.test", "SRV", "1 2 50051 api.test.")
    server.set("_grpc_config.api.test", "TXT", "grpc_config=" + "x" * 600)
    assert resolve(server, "ALIAS.test") == ["127.0.0.1", "127.0.0.2"]
    assert resolve(server, "_grpc._tcp.api.test", "SRV") == ["1 2 50051 api.test."]
    (text,) = resolve(server, "_grpc_config.api.test", "TXT")
    assert text.count("x") == 600


def test_a_large_answer_is_truncated_on_udp_and_whole_on_tcp(server: DnsServer) -> None:
    server.set("big.test", "A", *(f"10.0.{i // 250}.{i % 250}" for i in range(1000)))
    assert len(resolve(server, "big.test")) == 1000
    assert [query.transport for query in server.queries("big.test")] == ["udp", "tcp"]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.SERVFAIL, dns.resolver.NoNameservers),
        (Fault.FORMERR, dns.resolver.NoNameservers),
        (Fault.REFUSED, dns.resolver.NoNameservers),
        (Fault.CNAME_LOOP, dns.resolver.NoNameservers),
        (Fault.TRUNCATE_NO_TCP, dns.resolver.NoNameservers),
        (Fault.NXDOMAIN, dns.resolver.NXDOMAIN),
        (Fault.NODATA, dns.resolver.NoAnswer),
        (Fault.DROP, dns.resolver.LifetimeTimeout),
        (Fault.GARBAGE, dns.resolver.LifetimeTimeout),
        (Fault.WRONG_ID, dns.resolver.LifetimeTimeout),
        (Fault.WRONG_PORT, dns.resolver.LifetimeTimeout),
    ],
)
def test_a_fault_is_seen_by_the_client_as_often_as_scripted(
    server: DnsServer, fault: Fault, error: type[dns.exception.DNSException]
) -> None:
    queries_seen = 2 if fault is Fault.TRUNCATE_NO_TCP else 1
    server.fault(NAME, fault, times=queries_seen)
    with pytest.raises(error):
        resolve(server)
    assert len(server.queries(NAME)) == queries_seen
    assert resolve(server) == ["127.0.0.1", "127.0.0.2"]


def test_truncate_sends_the_client_to_tcp(server: DnsServer) -> None:
    server.fault(NAME, Fault.TRUNCATE)
    assert resolve(server) == ["127.0.0.1", "127.0.0.2"]
    assert len(server.queries(NAME, "A", "tcp")) == 1


def test_the_narrowest_rule_wins_and_can_be_lifted(server: DnsServer) -> None:
    server.fault("*", Fault.REFUSED)
    server.fault(NAME, Fault.NXDOMAIN, rdtype="AAAA")
    server.fault(NAME, Fault.NONE, delay=0.05)
    assert resolve(server) == ["127.0.0.1", "127.0.0.2"]
    with pytest.raises(dns.resolver.NXDOMAIN):
        resolve(server, rdtype="AAAA")
    server.clear_faults(NAME)
    with pytest.raises(dns.resolver.NoNameservers):
        resolve(server)


def test_the_port_survives_an_outage(server: DnsServer) -> None:
    server.stop()
    with pytest.raises(dns.exception.DNSException):
        resolve(server)
    server.start()
    assert resolve(server) == ["127.0.0.1", "127.0.0.2"]


def test_tcp_can_be_refused_and_an_open_connection_ends_with_the_server() -> None:
    with (
        DnsServer(tcp=False) as server,
        pytest.raises(ConnectionRefusedError),
    ):
        socket.create_connection((server.host, server.port))
    with DnsServer() as server:
        connection = socket.create_connection((server.host, server.port))
    with connection:
        connection.settimeout(5)
        assert connection.recv(1) == b""


def test_waiting_for_queries_gives_up_in_time(server: DnsServer) -> None:
    resolve(server)
    assert server.wait_for_queries(1, NAME)[0].rdtype == "A"
    with pytest.raises(TimeoutError, match="1 of 2 queries"):
        server.wait_for_queries(2, NAME, timeout=0.01)
