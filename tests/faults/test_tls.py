"""Who a backend must prove to be, whatever the resolver says: FIGURES F59-F61, promise P9.

The name comes from the target or from the user; the resolver gives 127.0.0.1 only. A refused
backend executes nothing: each test that expects a refusal counts the handler calls.
"""

from __future__ import annotations

import datetime
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
import trustme

import grpclb
from grpclb.testing import ManualResolver
from tests.faults.fixtures import Launch
from tests.faults.harness import (
    Client,
    Connect,
    calls_on,
    eventually,
    failures,
    wait_ready,
)
from tests.support.backend import Backend, steer
from tests.support.tls import Authority

pytestmark = pytest.mark.slow

NAME = "api.shop.svc.cluster.local"
TARGET = f"manual:///{NAME}"
AUTHORITY = Authority()


@contextmanager
def started(*names: str, **tls: Any) -> Iterator[list[Backend]]:
    backends = Backend.start_many(names, tls=AUTHORITY.server(NAME, **tls))
    yield backends
    for backend in backends:
        backend.kill()


@pytest.fixture(scope="module")
def secure() -> Iterator[list[Backend]]:
    """Two backends that prove to be NAME."""
    with started("s1", "s2") as backends:
        yield backends


@pytest.fixture(scope="module")
def mutual() -> Iterator[list[Backend]]:
    """The same, and they ask for the client's certificate."""
    with started("m1", client_ca=AUTHORITY.pem) as backends:
        yield backends


def over_tls(
    connect: Connect,
    backends: list[Backend],
    target: str = TARGET,
    credentials: grpc.ChannelCredentials | None = None,
    **arguments: Any,
) -> Client:
    for backend in backends:
        backend.reset()
    resolver = ManualResolver([b.address for b in backends])
    credentials = credentials or AUTHORITY.credentials()
    return connect(target, credentials=credentials, resolver=resolver, **arguments)


def assert_refused(client: Client, backends: list[Backend], reason: str) -> None:
    def details() -> str:
        result = client.call(timeout=10)
        assert result.code.name == "UNAVAILABLE"
        return result.details.lower()

    # A busy machine may learn the reason only after the first RPC has failed.
    eventually(lambda: reason.lower() in details(), 10, reason, every=0.1)
    assert sum(calls_on(backends)) == 0


def test_backends_found_by_address_prove_the_name_in_the_target(
    connect: Connect, secure: list[Backend]
) -> None:
    client = over_tls(connect, secure)
    wait_ready(client, 2)
    assert failures(client.calls(20)) == []
    report = json.loads(client.call(metadata=steer(report=True)).response)
    assert report["authority"] == NAME


def test_another_name_is_refused(connect: Connect, secure: list[Backend]) -> None:
    client = over_tls(connect, secure, "manual:///bank.example")
    assert_refused(client, secure, "hostname")


def test_the_address_is_not_a_name(connect: Connect, launch: Launch) -> None:
    """A certificate for 127.0.0.1 proves nothing about NAME (S1)."""
    by_ip = launch("ip", tls=AUTHORITY.server("127.0.0.1"))
    assert_refused(over_tls(connect, by_ip), by_ip, "hostname")


def test_another_authority_is_refused(connect: Connect, secure: list[Backend]) -> None:
    client = over_tls(connect, secure, credentials=Authority().credentials())
    assert_refused(client, secure, "verify")


def test_an_expired_certificate_is_refused(connect: Connect, launch: Launch) -> None:
    ca = trustme.CA()
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    leaf = ca.issue_cert(NAME, not_after=yesterday)
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems).decode()
    tls = {"cert": chain, "key": leaf.private_key_pem.bytes().decode()}
    expired = launch("expired", tls=tls)
    trusting = grpc.ssl_channel_credentials(ca.cert_pem.bytes())
    assert_refused(over_tls(connect, expired, credentials=trusting), expired, "verify")


def test_a_plaintext_server_is_refused(connect: Connect, fleet: list[Backend]) -> None:
    assert_refused(over_tls(connect, fleet[:1]), fleet[:1], "ssl")


def test_a_bad_backend_takes_no_rpc_from_the_good_ones(
    connect: Connect, secure: list[Backend], fleet: list[Backend]
) -> None:
    client = over_tls(connect, [*secure, fleet[0]])
    wait_ready(client, 2)
    assert failures(client.calls(30)) == []
    assert calls_on(fleet[:1]) == [0]


def test_mutual_tls(connect: Connect, mutual: list[Backend]) -> None:
    shown = AUTHORITY.credentials(AUTHORITY.issue("client.example"))
    client = over_tls(connect, mutual, credentials=shown)
    report = json.loads(client.call(metadata=steer(report=True), timeout=10).response)
    assert report["identities"] == ["client.example"]


def test_mutual_tls_without_a_client_certificate_is_refused(
    connect: Connect, mutual: list[Backend]
) -> None:
    client = over_tls(connect, mutual)
    result = client.call(timeout=10)
    assert result.code.name == "UNAVAILABLE"
    assert calls_on(mutual) == [0]


@pytest.mark.parametrize("option", ["grpc.default_authority", "grpc.ssl_target_name_override"])
def test_the_user_may_name_another_identity(
    connect: Connect, secure: list[Backend], option: str
) -> None:
    client = over_tls(connect, secure, "manual:///whatever", options=[(option, NAME)])
    report = json.loads(client.call(metadata=steer(report=True), timeout=10).response)
    assert report["authority"] == NAME


def test_an_address_may_carry_a_name_of_its_own(
    connect: Connect, secure: list[Backend], launch: Launch
) -> None:
    """`Address.server_name` is set by a resolver that the user wrote, in code."""
    other = launch("other", tls=AUTHORITY.server("other.example"))
    endpoints = [
        grpclb.Endpoint.of(secure[0].address),
        grpclb.Endpoint.of(grpclb.Address.parse(other[0].address, server_name="other.example")),
    ]
    client = connect(
        TARGET, credentials=AUTHORITY.credentials(), resolver=ManualResolver(endpoints)
    )
    wait_ready(client, 2)
    for backend in (secure[0], *other):
        backend.reset()
    assert failures(client.calls(20)) == []
    assert calls_on([secure[0], *other]) == [10, 10]


class Token(grpc.AuthMetadataPlugin):
    """Call credentials that show a bearer token."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, context: Any, callback: Any) -> None:
        self.asked += 1
        callback((("authorization", "Bearer t0ken"),), None)


def test_call_credentials_of_the_channel_reach_every_backend(
    connect: Connect, secure: list[Backend]
) -> None:
    credentials = grpc.composite_channel_credentials(
        AUTHORITY.credentials(), grpc.metadata_call_credentials(Token())
    )
    client = over_tls(connect, secure, credentials=credentials)
    wait_ready(client, 2)
    reports = [
        json.loads(client.call(metadata=steer(report=True), timeout=10).response) for _ in range(4)
    ]
    assert {report["name"] for report in reports} == {"s1", "s2"}
    assert all(["authorization", "Bearer t0ken"] in report["metadata"] for report in reports)


def test_call_credentials_of_one_rpc_reach_the_backend(
    connect: Connect, secure: list[Backend]
) -> None:
    client = over_tls(connect, secure)
    token = grpc.metadata_call_credentials(Token())
    result = client.call(metadata=steer(report=True), credentials=token, timeout=10)
    assert ["authorization", "Bearer t0ken"] in json.loads(result.response)["metadata"]


def test_call_credentials_are_not_sent_without_encryption(
    connect: Connect, fleet: list[Backend]
) -> None:
    client = connect(f"ipv4:{fleet[0].address}")
    token = grpc.metadata_call_credentials(Token())
    if connect.stack == "aio":  # grpc.aio's way to say so
        with pytest.raises(grpc.aio.UsageError, match="secure channels"):
            client.call(credentials=token, timeout=10)
    else:
        result = client.call(credentials=token, timeout=10)
        assert result.code.name == "UNAUTHENTICATED"
    assert calls_on(fleet[:1]) == [0]
    assert client.call(timeout=10).ok


def test_no_cleartext_leaves_a_secure_channel(connect: Connect) -> None:
    """FIGURES F61: what a sniffing listener gets begins as a TLS record, always."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        resolver = ManualResolver([f"127.0.0.1:{listener.getsockname()[1]}"])
        options = [("grpc.initial_reconnect_backoff_ms", 100)]
        credentials = AUTHORITY.credentials()
        client = connect(TARGET, credentials=credentials, resolver=resolver, options=options)
        waiting = client.start(b"secret", timeout=20, wait_for_ready=True)
        for _ in range(3):  # a failed handshake must not bring a plaintext attempt
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(5)
                first = connection.recv(4096)
                assert first[:2] == b"\x16\x03"
                assert b"secret" not in first
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        waiting.cancel()
