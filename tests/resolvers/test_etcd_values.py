"""What services write into etcd: three formats, and whatever else somebody may write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpclb.core.address import Endpoint
from grpclb.resolvers.etcd.values import MOST_BYTES, Found, Rejected, parse_value


def go(addr: Any, metadata: Any = None, **more: Any) -> bytes:
    return json.dumps({"Op": 0, "Addr": addr, "Metadata": metadata, **more}).encode()


def kratos(*endpoints: Any, **metadata: Any) -> bytes:
    instance = {"id": "7d", "name": "shop", "version": "1.2", "metadata": metadata}
    return json.dumps({**instance, "endpoints": list(endpoints)}).encode()


A = "10.0.0.7:443"
FOUND: list[tuple[bytes, list[str], Mapping[str, Any]]] = [
    # Go's endpoints manager
    (b'{"Op":0,"Addr":"10.0.0.7:443","Metadata":null}', [A], {}),
    (go("[fd00::7]:443"), ["[fd00::7]:443"], {}),
    (b'{"Addr":"10.0.0.7:443"}', [A], {}),
    (go(A, "any JSON"), [A], {}),
    (go(A, [1, {"weight": 2}]), [A], {}),
    (go(A, {"weight": 5, "zone": "eu-1"}), [A], {"weight": 5, "zone": "eu-1"}),
    (go(A, {"weight": "5", "v": "3", "n": 1}), [A], {"weight": 5, "metadata": {"v": "3"}}),
    (go(A, {"weight": 2**32 - 1}), [A], {"weight": 2**32 - 1}),
    (go(A, Unknown={"deep": [1]}), [A], {}),
    # go-zero
    (b"10.0.0.7:443", [A], {}),
    (b"[fd00::7]:443", ["[fd00::7]:443"], {}),
    # kratos
    (kratos("grpc://10.0.0.7:443?isSecure=true"), [A], {"secure": True}),
    (kratos("http://10.0.0.7:80", "grpc://10.0.0.7:443?isSecure=false"), [A], {"secure": False}),
    (kratos("grpc://10.0.0.7:443", weight="100", zone="z"), [A], {"weight": 100, "zone": "z"}),
    (kratos("grpc://10.0.0.7:443", "grpc://[fd00::7]:443"), [A, "[fd00::7]:443"], {}),
    (kratos("grpc://10.0.0.7:443", "grpc://10.0.0.7:443/"), [A], {}),
]  # fmt: skip


@pytest.mark.parametrize(("value", "addresses", "attributes"), FOUND)
def test_values_that_name_an_endpoint(
    value: bytes, addresses: list[str], attributes: Mapping[str, Any]
) -> None:
    assert parse_value(value) == Found(Endpoint.of(*addresses, **attributes))


REJECTED: list[tuple[bytes, str]] = [
    (b"", "0 characters that are no 'ip:port'"),
    (b"hello", "address 'hello': expected 'ip:port'"),
    (b"10.0.0.7", "expected 'ip:port'"),
    (b"10.0.0.7:443\n", "13 characters that are no 'ip:port'"),
    (b" 10.0.0.7:443", "13 characters that are no 'ip:port'"),
    (b"10.0.0.7:0", "port '0' is not in 1..65535"),
    (b"10.0.0.7:70000", "port '70000' is not in"),
    (b"api.shop:443", "not an IP address; resolvers hand over IP addresses, names belong"),
    (b"localhost:443", "not an IP address"),
    (b"unix:/run/x", "not an IP address"),
    (b"dns:///api:80", "expected 'ip:port'"),
    (b"0.0.0.0:443", "multicast and unspecified"),
    (b"224.0.0.1:443", "multicast and unspecified"),
    (b"[fe80::1%eth0]:443", "zone ids"),
    (b"fd00::7:443", "expected 'ip:port'"),
    (b"\xff\xfe", "not UTF-8"),
    (b"x" * 400, "400 characters that are no 'ip:port'"),
    (b"password=s3cr3t!", "16 characters that are no 'ip:port'"),
    (b"1" * (MOST_BYTES + 1), "16385 bytes; at most 16384"),
    (b"{", "not JSON"),
    (b"{}", "neither 'Addr' (Go) nor 'endpoints' (kratos)"),
    (b"[]", "expected 'ip:port'"),
    (b'"10.0.0.7:443"', "14 characters that are no 'ip:port'"),
    (b'{"Addr":' + b"[" * 100 + b"]" * 100 + b"}", "nested deeper than 64"),
    (b'{"a":' * 3000, "nested deeper than 64"),
    (b'{"Addr":"10.0.0.7:443","Addr":"10.0.0.8:443"}', "Addr"),
    (go(7), "'Addr' is not text"),
    (go(None), "'Addr' is not text"),
    (go(""), "0 characters that are no 'ip:port'"),
    (go("api:80"), "not an IP address"),
    (go(A, Op=1), "'Op' is 1, expected 0"),
    (go(A, Op="DEL" * 50), "'Op' is DELDELDELDELDELDELDE, expected 0"),
    (kratos(), "no grpc:// address"),
    (kratos("http://10.0.0.7:80"), "no grpc:// address"),
    (kratos("grpc://api:80"), "not an IP address"),
    (kratos("grpc://user:pw@10.0.0.7:80"), "19 characters that are no 'ip:port'"),
    (kratos("grpc://[10.0.0.7:80"), "'endpoints'[0]: Invalid IPv6 URL"),
    (kratos("grpc://10.0.0.7:443?" + "a=1&" * 100), "Max number of fields"),
    (kratos(7), "not a list of texts"),
    (b'{"endpoints":"grpc://10.0.0.7:443"}', "not a list of texts"),
    (kratos(*(f"grpc://10.0.0.7:{n}" for n in range(1, 30))), "29 addresses, at most 16"),
]


@pytest.mark.parametrize(("value", "reason"), REJECTED)
def test_values_that_do_not(value: bytes, reason: str) -> None:
    found = parse_value(value)
    assert isinstance(found, Rejected)
    assert reason in found.reason
    assert len(found.reason) < 1_000  # it goes to a log


@pytest.mark.parametrize(
    "weight", [0, -1, 1.5, True, None, "0", "-1", "many", "9" * 400, 2**32, [1], {"a": 1}, "٣"]
)
def test_a_weight_that_makes_no_sense_costs_no_endpoint(weight: Any) -> None:
    found = parse_value(go(A, {"weight": weight, "zone": "z"}))
    assert isinstance(found, Found)
    assert found.endpoint == Endpoint.of(A, zone="z")
    assert "weight" in found.remark
    assert len(found.remark) < 200


def test_metadata_has_bounds() -> None:
    many = {f"k{n}": "v" for n in range(40)}
    found = parse_value(go(A, {**many, "weight": 2}))
    assert isinstance(found, Found)
    assert len(found.endpoint.attributes["metadata"]) == 16
    assert "more than 16 entries" in found.remark
    found = parse_value(go(A, {"big": "x" * 257, "é" * 129: "v", "ok": "x" * 256}))
    assert isinstance(found, Found)
    assert set(found.endpoint.attributes["metadata"]) == {"ok"}
    assert "longer than 256 bytes" in found.remark


def test_a_value_cannot_set_anything_else() -> None:
    evil = {"hash_key": "h", "locality": "l", "server_name": "evil", "grpc.default_authority": "e"}
    for value in (go(A, evil, server_name="evil", hash_key="h"), kratos(f"grpc://{A}", **evil)):
        found = parse_value(value)
        assert isinstance(found, Found)
        assert set(found.endpoint.attributes) == {"metadata"}
        assert found.endpoint.addresses[0].server_name is None


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
_URLS = st.text() | st.text().map("grpc://".__add__) | st.just(f"grpc://{A}")


@given(
    st.binary(max_size=60)
    | st.text().map(str.encode)
    | _JSON.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {},
        optional={
            "Addr": _JSON | st.just(A),
            "Op": _JSON | st.just(0),
            "Metadata": _JSON | st.fixed_dictionaries({"weight": _JSON, "zone": _JSON}),
            "endpoints": st.lists(_URLS) | _JSON,
            "metadata": _JSON,
        },
    ).map(lambda value: json.dumps(value).encode())
)
def test_nothing_raises_and_every_rejection_has_a_reason(value: bytes) -> None:
    match parse_value(value):
        case Found(endpoint):
            assert endpoint.addresses
            assert set(endpoint.attributes) <= {"weight", "zone", "metadata", "secure"}
        case Rejected(reason):
            assert reason
