"""Whatever the bytes: a value or a reason, and never an exception.

`test_random_bytes.hypothesis.fuzz_one_input` is a target for a coverage-guided fuzzer (Atheris).
"""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpclb.resolvers.xds import messages as m
from grpclb.resolvers.xds.kinds import Kinds, Parsed, ResourceKind
from tests.support.xds_resources import (
    cluster,
    endpoint,
    endpoints,
    lb,
    listener,
    locality,
    make,
    pack,
    policies,
    registry,
    route,
    route_config,
    typed_struct,
    wrapped,
)

KINDS = Kinds.of(registry("my"))
ALL = (KINDS.lds, KINDS.rds, KINDS.cds, KINDS.eds)
HOST = {"domains": ["*"], "routes": [route(), {"match": {"path": "/a/b"}, "route": {}}]}
SEEDS: list[tuple[ResourceKind, Any]] = [
    (KINDS.lds, listener()),
    (KINDS.lds, listener(route_config={"virtual_hosts": [HOST]})),
    (
        KINDS.rds,
        route_config(
            "r",
            [
                {
                    "match": {
                        "safe_regex": {"regex": "/[a-z]+/(x|y){2,3}"},
                        "headers": [{"name": "k", "range_match": {"start": 1, "end": 9}}],
                        "runtime_fraction": {"default_value": {"numerator": 3}},
                    },
                    "route": {
                        "weighted_clusters": {
                            "clusters": [{"name": "a", "weight": {"value": 1}}] * 2
                        },
                        "retry_policy": {"retry_on": "unavailable", "retry_back_off": {}},
                        "max_stream_duration": {"max_stream_duration": {"seconds": 5}},
                    },
                }
            ],
            typed_per_filter_config={"f": pack(m.FILTER_CONFIG)},
        ),
    ),
    (KINDS.cds, cluster(outlier_detection={"interval": {"seconds": 1}})),
    (
        KINDS.cds,
        cluster(
            load_balancing_policy=policies(
                lb("ring_hash.v3.RingHash"),
                typed_struct("t/my", {"a": [1, {"b": None}]}),
            )
        ),
    ),
    (
        KINDS.cds,
        cluster(cluster_type={"typed_config": pack(make(m.AGGREGATE, {"clusters": ["a"]}))}),
    ),
    (
        KINDS.eds,
        endpoints(
            "c",
            locality(endpoint(), endpoint("::1", load_balancing_weight={"value": 3})),
            locality(zone="b", priority=1),
            policy={"drop_overloads": [{"category": "x", "drop_percentage": {"numerator": 1}}]},
        ),
    ),
]


def check(parsed: Parsed) -> None:
    assert (parsed.resource is None) == bool(parsed.error)
    assert "grpclb could not read it" not in parsed.error  # the net under mistakes of ours
    if parsed.resource is not None:
        assert parsed.name
        assert parsed.resource.name == parsed.name or parsed.name.startswith("xdstp:")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(ALL), st.binary(max_size=200), st.booleans())
def test_random_bytes(kind: ResourceKind, data: bytes, wrapper: bool) -> None:
    url = m.TYPE_PREFIX + m.RESOURCE_WRAPPER if wrapper else kind.type_url
    check(kind.parse(url, data))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_good_bytes_with_some_of_them_changed(seed: tuple[ResourceKind, Any], data: Any) -> None:
    kind, message = seed
    packed = pack(message)
    mutated = bytearray(packed.value)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, max(0, len(mutated) - 1)))
        match data.draw(st.integers(0, 3)):
            case 0 if mutated:
                mutated[at] = data.draw(st.integers(0, 255))
            case 1 if mutated:
                del mutated[at : at + data.draw(st.integers(1, 8))]
            case 2:
                mutated[at:at] = mutated[at : at + data.draw(st.integers(1, 40))]
            case _:
                mutated[at:at] = data.draw(st.binary(max_size=4))
    check(kind.parse(packed.type_url, bytes(mutated)))


@pytest.mark.parametrize(("kind", "message"), SEEDS)
def test_in_a_wrapper_with_the_name_outside(kind: ResourceKind, message: Any) -> None:
    bare = kind.parse(pack(message).type_url, pack(message).value)
    packed = wrapped(message, "outside")
    parsed = kind.parse(packed.type_url, packed.value)
    assert parsed.name == "outside"
    assert (parsed.resource, parsed.error) == (bare.resource, bare.error)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.short)
@pytest.mark.parametrize(
    ("url", "data", "reason"),
    [
        ("", b"", "is of type '' instead of"),
        ("no-slash", b"", "is of type 'no-slash' instead of"),
        ("t/a.Other", b"", "is of type 't/a.Other' instead of"),
        ("t/" + m.RESOURCE_WRAPPER, b"\xff", "is no envoy.service.discovery.v3.Resource"),
        ("t/" + m.RESOURCE_WRAPPER, b"", "is of type ''"),
    ],
)
def test_not_even_the_kind(kind: ResourceKind, url: str, data: bytes, reason: str) -> None:
    assert reason in kind.parse(url, data).error


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.short)
def test_bytes_of_nothing_have_no_name(kind: ResourceKind) -> None:
    assert kind.parse(kind.type_url, b"") == Parsed("", None, "has no name")
    assert "cannot be decoded" in kind.parse(kind.type_url, b"\xff").error
    assert "cannot be decoded" in kind.parse(kind.type_url, b"\x0a\x01\xff").error  # no UTF-8


def test_a_mistake_of_ours_is_a_reason_too() -> None:
    def broken(proto: object, problems: object) -> None:
        raise RuntimeError("oops")

    kind = ResourceKind("LDS", m.LISTENER, True, "name", broken)
    packed = pack(listener("x"))
    parsed = kind.parse(packed.type_url, packed.value)
    assert parsed == Parsed("x", None, "resource: grpclb could not read it: RuntimeError: oops")


def test_structs_and_messages_nested_without_end() -> None:
    nested: dict[str, Any] = {}
    for _ in range(90):
        nested = {"a": nested}
    # protobuf itself stops reading at a hundred levels; before that, we do.
    policy = typed_struct("t/my", nested)
    packed = pack(cluster(load_balancing_policy=policies(policy)))
    parsed = KINDS.cds.parse(packed.type_url, packed.value)
    assert parsed.resource is None
    assert "nested deeper" in parsed.error or "is no xds.type.v3.TypedStruct" in parsed.error


def test_five_thousand_endpoints_take_a_moment() -> None:
    many = [endpoint(f"10.{i >> 8}.{i & 255}.1") for i in range(5_000)]
    packed = pack(endpoints("c", locality(*many)))
    started = time.perf_counter()
    parsed = KINDS.eds.parse(packed.type_url, packed.value)
    assert time.perf_counter() - started < 5
    assert parsed.error == ""
