"""Targets, lines of a watch and pages of a list: tables, and any bytes whatever. No I/O."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpclb.core.target import parse_target
from grpclb.resolvers.kubernetes.events import (
    Bookmark,
    Delete,
    Failure,
    JunkError,
    Malformed,
    Put,
    parse_event,
    parse_page,
)
from grpclb.resolvers.kubernetes.merge import Merger
from grpclb.resolvers.kubernetes.target import ServiceTarget
from tests.support.kubernetes_objects import slice_object

A = "10.0.0.1"


# ---- targets


@pytest.mark.parametrize(
    ("text", "service", "namespace", "port"),
    [
        ("kubernetes:///api", "api", None, None),
        ("kubernetes:api", "api", None, None),
        ("kubernetes:///api:50051", "api", None, 50051),
        ("kubernetes:///api:grpc", "api", None, "grpc"),
        ("kubernetes:///api.shop", "api", "shop", None),
        ("kubernetes:///api.shop:grpc", "api", "shop", "grpc"),
        ("kubernetes:///api.shop.svc:1", "api", "shop", 1),
        ("kubernetes:///api.shop.svc.cluster.local:grpc-web", "api", "shop", "grpc-web"),
        ("kubernetes:///api.shop.svc.cluster.local.:7", "api", "shop", 7),
        ("kubernetes://shop/api:50051", "api", "shop", 50051),
        ("kubernetes://shop/api", "api", "shop", None),
        ("kubernetes://shop/api.shop.svc:grpc", "api", "shop", "grpc"),
        ("kubernetes://api.shop:50051/", "api", "shop", 50051),
        ("kubernetes://api.shop:grpc", "api", "shop", "grpc"),
        ("kubernetes://api", "api", None, None),
    ],
)
def test_targets(text: str, service: str, namespace: str | None, port: object) -> None:
    target = ServiceTarget.of(parse_target(text, ["kubernetes"]))
    assert target == ServiceTarget(service, namespace, port)  # type: ignore[arg-type]
    assert target.authority("mine") == f"{service}.{namespace or 'mine'}.svc"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("kubernetes:///", "the Service is missing"),
        ("kubernetes:///:80", "the Service is missing"),
        ("kubernetes:///api:0", "port '0' is not in 1..65535"),
        ("kubernetes:///api:65536", "is not in 1..65535"),
        ("kubernetes:///api:" + "9" * 1000, "is not in 1..65535"),
        ("kubernetes:///api:", "port name ''"),
        ("kubernetes:///api:GRPC", "port name 'GRPC'"),
        ("kubernetes:///API", "Service 'API'"),
        ("kubernetes:///api.shop.pod", "'pod' where 'svc' was expected"),
        ("kubernetes:///a/b", "'a/b' has a '/'"),
        ("kubernetes://shop/api.other", "two namespaces, 'shop' and 'other'"),
        ("kubernetes://shop:80/api", "'shop:80' is not a namespace"),
        ("kubernetes://a.b/api", "'a.b' is not a namespace"),
        ("kubernetes:///api..svc", "namespace ''"),
        ("kubernetes:///-api", "Service '-api'"),
        ("kubernetes:///" + "a" * 64, "expected 1 to 63"),
        ("kubernetes:///%2e%2e", "Service ''"),
        ("kubernetes:///api.sh%3fop", "namespace 'sh?op'"),
    ],
)
def test_wrong_targets(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match="write kubernetes:///service") as error:
        ServiceTarget.of(parse_target(text, ["kubernetes"]))
    assert problem in str(error.value)


# ---- lines and pages


def line(kind: str, raw: object) -> bytes:
    return json.dumps({"type": kind, "object": raw}).encode()


def stamped(name: str, version: str) -> dict[str, Any]:
    raw = slice_object(name, "api", [A])
    raw["metadata"]["resourceVersion"] = version
    return raw


def test_events() -> None:
    put = parse_event(line("ADDED", stamped("s", "7")))
    assert isinstance(put, Put)
    assert (put.slice.name, put.version) == ("s", "7")
    assert parse_event(line("MODIFIED", stamped("s", "7"))) == put
    assert parse_event(line("DELETED", stamped("s", "8"))) == Delete("s", "8")
    bookmark = {"metadata": {"resourceVersion": "150"}}
    assert parse_event(line("BOOKMARK", bookmark)) == Bookmark("150")
    gone = {"kind": "Status", "code": 410, "message": "too old\nresource version"}
    assert parse_event(line("ERROR", gone)) == Failure(410, "too old resource version")
    assert parse_event(line("ERROR", {})) == Failure(500, "")
    new = parse_event(line("RENAMED", stamped("s", "9")))
    assert isinstance(new, Malformed)
    assert new.version == "9"
    # A slice that is gone need not make sense otherwise.
    broken = {**stamped("s", "9"), "ports": 7, "endpoints": 7}
    assert parse_event(line("DELETED", broken)) == Delete("s", "9")


@pytest.mark.parametrize("version", [7, "", "a b\n", "é", "9" * 200, None, ["1"]])
def test_a_version_that_could_harm_the_next_request_is_none(version: object) -> None:
    raw = {"metadata": {"resourceVersion": version}}
    assert parse_event(line("BOOKMARK", raw)) == Bookmark(None)
    with pytest.raises(JunkError):
        parse_page(json.dumps({"items": [], **raw}).encode())


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'{"type": "ADDED"}',
        b'{"type": "ADDED", "object": []}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"<html>",
    ],
    ids=lambda junk: junk[:20],
)
def test_junk_is_junk(junk: bytes) -> None:
    with pytest.raises(JunkError):
        parse_event(junk)
    with pytest.raises(JunkError):
        parse_page(junk)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=20,
)
KEYS = st.sampled_from(
    [
        ("type",),
        ("object",),
        ("object", "metadata"),
        ("object", "metadata", "name"),
        ("object", "metadata", "resourceVersion"),
        ("object", "addressType"),
        ("object", "ports"),
        ("object", "ports", 0),
        ("object", "ports", 0, "port"),
        ("object", "endpoints"),
        ("object", "endpoints", 0),
        ("object", "endpoints", 0, "addresses"),
        ("object", "endpoints", 0, "addresses", 0),
        ("object", "endpoints", 0, "conditions"),
        ("object", "endpoints", 0, "targetRef"),
        ("object", "endpoints", 0, "hints"),
        ("object", "endpoints", 0, "zone"),
    ]
)


@settings(max_examples=80, deadline=None)
@given(kind=st.sampled_from(["ADDED", "DELETED", "BOOKMARK", "ERROR"]), key=KEYS, value=JSON)
def test_no_value_anywhere_raises_anything_else(
    kind: str, key: tuple[Any, ...], value: Any
) -> None:
    raw: Any = {"type": kind, "object": stamped("s", "7")}
    place = raw
    for step in key[:-1]:
        place = place[step]
    place[key[-1]] = value
    try:
        event = parse_event(json.dumps(raw).encode())
    except JunkError:
        return
    if isinstance(event, Put):
        merged = Merger("grpc").merge([event.slice])
        assert all(len(remark) < 1_000 for remark in merged.remarks)


@settings(max_examples=80, deadline=None)
@given(data=st.binary(max_size=200), cut=st.integers(0, 400))
def test_no_bytes_raise_anything_else(data: bytes, cut: int) -> None:
    good = line("ADDED", stamped("s", "7"))
    for junk in (data, good[:cut] + data):
        try:
            parse_event(junk)
            parse_page(junk)
        except JunkError:
            pass
