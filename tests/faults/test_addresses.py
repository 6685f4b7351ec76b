"""Every kind of address, large messages, long lists, and addresses that no resolver may give."""

from __future__ import annotations

import socket
import sys
import uuid
from pathlib import Path

import pytest

import grpclb
from grpclb.testing import ManualResolver
from tests.faults.fixtures import Launch
from tests.faults.harness import (
    Connect,
    calls_on,
    eventually,
    failures,
    held,
    snapshot,
    target_of,
    wait_ready,
)
from tests.support.backend import Backend, steer

pytestmark = pytest.mark.slow


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("form", ["unix:{}", "unix://{}"])
def test_unix_sockets(connect: Connect, launch: Launch, tmp_path: Path, form: str) -> None:
    (backend,) = launch("u", unix=f"unix:{tmp_path}/plain.sock")
    (tmp_path / "plain.sock").rename(tmp_path / "50% odd.sock")
    client = connect(form.format(tmp_path / "50%25%20odd.sock"))
    assert failures(client.calls(5)) == []
    assert calls_on([backend]) == [5]


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux'")
def test_abstract_unix_sockets(connect: Connect, launch: Launch) -> None:
    name = f"unix-abstract:grpclb-{uuid.uuid4().hex}"
    (backend,) = launch("u", unix=name)
    assert failures(connect(name).calls(5)) == []
    assert calls_on([backend]) == [5]


@pytest.mark.skipif(not _has_ipv6(), reason="no IPv6 loopback here")
def test_ipv6(connect: Connect, launch: Launch) -> None:
    backends = launch("six", "six too", host="[::1]")
    client = connect("ipv6:" + ",".join(b.address for b in backends))
    wait_ready(client, 2)
    assert failures(client.calls(9)) == []
    assert sum(calls_on(backends)) == 10


@pytest.mark.parametrize("size", [64 * 1024, 1 << 20])
def test_large_messages(connect: Connect, fleet: list[Backend], size: int) -> None:
    client = connect(target_of(fleet))
    result = client.call(bytes(size), timeout=20)
    assert (result.code.name, len(result.response)) == ("OK", size)


def test_a_message_above_the_limit_is_refused_and_the_channel_goes_on(
    connect: Connect, fleet: list[Backend]
) -> None:
    options = [("grpc.max_receive_message_length", 1 << 20)]
    client = connect(target_of(fleet), options=options)
    result = client.call(metadata=steer(size=2 << 20), timeout=20)
    assert result.code.name == "RESOURCE_EXHAUSTED"
    assert failures(client.calls(10)) == []


def test_of_ten_thousand_endpoints_a_subset_is_connected(
    connect: Connect, fleet: list[Backend]
) -> None:
    """Nothing listens at 127.1.x.y; what counts is how many addresses are held at all."""
    first = [f"127.1.{i // 250}.{1 + i % 250}:9" for i in range(10_000)]
    second = [*first[100:], *(f"127.2.0.{1 + i}:9" for i in range(100))]
    resolver = ManualResolver([fleet[0].address])
    client = connect("manual:///api", resolver=resolver)

    def give(addresses: list[str], note: str) -> set[str]:
        resolver.update(grpclb.ResolverState.of(addresses, note))
        eventually(lambda: snapshot(client)["resolver"]["note"] == note, 15, note, every=0.1)
        return set(held(client))

    assert client.call().ok
    before = give(first, "10,000 addresses")
    after = give(second, "100 of them replaced")
    assert (len(before), len(after)) == (100, 100)
    # 1 in 100 of the list changed, so about 1 in 100 of the subset does, and not all of it.
    assert len(before - after) <= 15
    give([fleet[1].address], "one again")
    assert client.call(timeout=20, wait_for_ready=True).ok


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("unix:/var/run/docker.sock", "not an IP address"),
        ("unix-abstract:x", "not an IP address"),
        ("dns:///evil.example:443", "expected 'ip:port'"),
        ("vsock:1:2", "expected 'ip:port'"),
        ("evil.example:443", "not an IP address"),
        ("127.0.0.1:0", "not in 1..65535"),
        ("127.0.0.1:65536", "not in 1..65535"),
        ("127.0.0.1:80\n", "not in 1..65535"),
        ("127.0.0.1:80\x00", "not in 1..65535"),
        ("[fe80::1%eth0]:80", "zone ids"),
        ("0.0.0.0:80", "not dialable"),
        ("[::]:80", "not dialable"),
        ("224.0.0.1:80", "not dialable"),
        ("127.0.0.1", "expected 'ip:port'"),
        ("127.1:80", "not an IP address"),
        ("", "expected 'ip:port'"),
    ],
)
def test_a_hostile_address_is_rejected(text: str, reason: str) -> None:
    with pytest.raises(grpclb.AddressError, match=reason):
        grpclb.ResolverState.of([text])


def test_a_hostile_update_changes_nothing(connect: Connect, fleet: list[Backend]) -> None:
    resolver = ManualResolver([fleet[0].address])
    client = connect("manual:///api", resolver=resolver)
    assert client.call().ok
    with pytest.raises(grpclb.AddressError):
        resolver.update([fleet[1].address, "evil.example:443"])
    assert failures(client.calls(10)) == []
    assert calls_on(fleet[:2]) == [11, 0]


def test_a_resolver_cannot_set_options_or_authority(connect: Connect, fleet: list[Backend]) -> None:
    """FIGURES F60, S7: attributes are for policies; nothing of them reaches C-core."""
    import json

    endpoint = grpclb.Endpoint.of(fleet[0].address)
    endpoint = grpclb.Endpoint(
        endpoint.addresses,
        {
            "grpc.default_authority": "evil.example",
            "grpc.ssl_target_name_override": "evil.example",
            "authority": "evil.example",
            "grpc.primary_user_agent": "evil",
        },
    )
    client = connect("manual:///api.test", resolver=ManualResolver([endpoint]))
    report = json.loads(client.call(metadata=steer(report=True)).response)
    assert report["authority"] == "api.test"
    assert "evil" not in str(report)
