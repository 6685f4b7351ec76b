"""What slices say and how they are united (FIGURES F30, F32): tables and a property, no I/O."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpclb.resolvers.kubernetes.merge import Hold, Merged, Merger
from grpclb.resolvers.kubernetes.slices import Condition, Slice, SliceError, parse_slice
from tests.support.kubernetes_objects import endpoint_object, slice_object
from tests.support.kubernetes_scene import addresses

A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"
A6, B6 = "fd00::1", "fd00::2"


def merge(
    *raw: dict[str, Any],
    port: int | str | None = None,
    families: tuple[str, ...] = ("ipv4", "ipv6"),
) -> Merged:
    return Merger(port, families).merge(parse_slice(r) for r in raw)


def found(merged: Merged) -> set[str]:
    return addresses(merged.endpoints.values())


# ---- KEP-1672: conditions

CONDITIONS = {
    # ready, serving, terminating
    (None, None, None): Condition.READY,
    (True, None, None): Condition.READY,
    (True, True, False): Condition.READY,
    (None, False, None): Condition.READY,  # `ready` is what counts
    (False, None, None): Condition.OUT,
    (False, True, False): Condition.OUT,
    (False, False, True): Condition.OUT,
    (False, None, True): Condition.OUT,
    (False, True, True): Condition.DRAINING,
    (None, None, True): Condition.DRAINING,
    (True, True, True): Condition.DRAINING,  # publishNotReadyAddresses
    (True, False, True): Condition.OUT,
}


@pytest.mark.parametrize(("given_", "expected"), CONDITIONS.items(), ids=str)
def test_conditions(given_: tuple[bool | None, ...], expected: Condition) -> None:
    ready, serving, terminating = given_
    entry = endpoint_object(A, ready=ready, serving=serving, terminating=terminating)
    assert parse_slice(slice_object("s", "api", [entry])).backends[0].condition is expected


def test_no_conditions_at_all_is_ready() -> None:
    for entry in ({"addresses": [A]}, {"addresses": [A], "conditions": None}):
        assert found(merge(slice_object("s", "api", [entry]))) == {A}


LEAVING = endpoint_object(B, ready=False, serving=True, terminating=True)
OUT = endpoint_object(C, ready=False)


def test_terminating_endpoints_are_used_when_there_is_no_other() -> None:
    both = merge(slice_object("s", "api", [A, LEAVING, OUT]))
    assert (found(both), both.ready, both.draining, both.out) == ({A}, 1, 1, 1)
    assert not both.fallback
    # The one that is ready may be in another slice.
    apart = merge(slice_object("s", "api", [LEAVING]), slice_object("t", "api", [A]))
    assert found(apart) == {A}
    last = merge(slice_object("s", "api", [LEAVING, OUT]))
    assert (found(last), last.fallback) == ({B}, True)
    assert found(merge(slice_object("s", "api", [OUT]))) == set()


# ---- ports


def test_a_port_number_is_used_as_it_is() -> None:
    merged = merge(slice_object("s", "api", [A]), port=50051)
    assert found(merged) == {A}
    assert merged.remarks == ()
    other = merge(slice_object("s", "api", [A]), port=80)
    assert found(other) == {f"{A}:80"}
    assert "it means the pod's port, not the Service's" in other.remarks[0]
    assert found(merge(slice_object("s", "api", [A], ports=None), port=7)) == {f"{A}:7"}


def test_a_named_port_is_looked_up_in_each_slice() -> None:
    merged = merge(
        slice_object("s", "api", [A], ports=[("http", 80), ("grpc", 50051)]),
        slice_object("t", "api", [B], ports=[("grpc", 9000), ("http", 80)]),
        slice_object("u", "api", [C], ports=[("http", 80)]),
        port="grpc",
    )
    assert found(merged) == {A, f"{B}:9000"}


def test_without_a_port_it_is_the_first_of_each_slice() -> None:
    udp = slice_object("t", "api", [B], ports=[("dns", 53), ("grpc", 9000)])
    udp["ports"][0]["protocol"] = "UDP"
    merged = merge(slice_object("s", "api", [A], ports=[("a", 1), ("b", 2)]), udp)
    assert found(merged) == {f"{A}:1", f"{B}:9000"}


@pytest.mark.parametrize(
    ("port", "ports", "problem"),
    [
        ("grcp", [("grpc", 50051), ("http", 80)], "no port is named 'grcp'; its TCP ports: grpc "),
        ("grcp", [("grpc", 50051)], "did you mean 'grpc'?"),
        ("grpc", [("", 50051)], "its TCP ports: (no name) (50051)"),
        (None, None, "no TCP port; write the port number into the target"),
    ],
)
def test_a_port_that_is_not_there(port: str | None, ports: Any, problem: str) -> None:
    merged = merge(slice_object("s", "api", [A, OUT], ports=ports), port=port)
    assert found(merged) == set()
    assert problem in str(merged.problem)
    # Nobody is ready: that is no question of ports.
    assert merge(slice_object("s", "api", [OUT], ports=ports), port=port).problem is None


# ---- families and identities


def dual(a: Any, b: Any) -> list[dict[str, Any]]:
    return [
        slice_object("v4", "api", [a]),
        slice_object("v6", "api", [b], family="IPv6"),
    ]


def test_both_families_of_a_pod_are_one_endpoint() -> None:
    pod = [endpoint_object(A, pod="p"), endpoint_object(A6, pod="p")]
    assert found(merge(*dual(*pod))) == {f"{A}+[{A6}]"}
    assert found(merge(*dual(*pod), families=("ipv6", "ipv4"))) == {f"[{A6}]+{A}"}
    assert found(merge(*dual(*pod), families=("ipv6",))) == {f"[{A6}]"}
    assert found(merge(*dual(*pod), families=("ipv4",))) == {A}
    other = [endpoint_object(A, pod="p"), endpoint_object(A6, pod="q")]
    assert found(merge(*dual(*other))) == {A, f"[{A6}]"}
    assert found(merge(*dual(A, A6))) == {A, f"[{A6}]"}  # without targetRef nobody knows
    unready = [endpoint_object(A, pod="p"), endpoint_object(A6, pod="p", ready=False)]
    assert found(merge(*dual(*unready))) == {A}


def test_an_endpoint_in_two_slices_is_one_and_the_better_word_counts() -> None:
    stale = slice_object("s", "api", [endpoint_object(A, pod="p", ready=False), B])
    moved = slice_object("t", "api", [endpoint_object(A, pod="p"), B])
    assert [str(e) for e in merge(stale, moved).endpoints.values()] == [f"{A}:50051", f"{B}:50051"]


def test_names_are_ignored_with_a_remark() -> None:
    merged = merge(
        slice_object("s", "api", [A]), slice_object("f", "api", ["a.example"], family="FQDN")
    )
    assert found(merged) == {A}
    assert "EndpointSlice f is ignored: its addressType 'FQDN'" in merged.remarks[0]


def test_attributes() -> None:
    entry = endpoint_object(
        A,
        pod="api-7",
        zone="eu-1a",
        nodeName="n7",
        hints={"forZones": [{"name": "eu-1a"}, {"name": "eu-1b"}]},
    )
    (endpoint,) = merge(slice_object("s", "api", [entry])).endpoints.values()
    assert endpoint.attributes == {
        "zone": "eu-1a",
        "node_name": "n7",
        "hints": ("eu-1a", "eu-1b"),
        "pod": "api-7",
    }
    (plain,) = merge(slice_object("s", "api", [A])).endpoints.values()
    assert plain.attributes == {}


@pytest.mark.parametrize(
    "bad",
    [
        7,
        {},
        {"addresses": []},
        {"addresses": "10.0.0.9"},
        {"addresses": [7]},
        {"addresses": ["x" * 300]},
        {"addresses": ["unix:/tmp/x"]},
        {"addresses": ["10.0.0.9\n"]},
        {"addresses": ["0.0.0.0"]},
        {"addresses": ["224.0.0.1"]},
        {"addresses": ["fd00::1"]},
        {"addresses": ["api.example"]},
        {"addresses": ["10.0.0.9"], "zone": "z" * 257},
        {"addresses": ["10.0.0.9"], "zone": ["a"]},
        {"addresses": ["10.0.0.9"], "nodeName": "a\nb"},
        {"addresses": ["10.0.0.9"], "targetRef": {"kind": "Pod", "name": 7}},
    ],
    ids=lambda bad: str(bad)[:60],
)
def test_a_bad_endpoint_is_left_out_alone(bad: Any) -> None:
    raw = slice_object("s", "api", [A])
    raw["endpoints"].insert(0, bad)
    merged = merge(raw)
    assert found(merged) == {A}
    assert "an endpoint is left out" in merged.remarks[0]
    assert "\n" not in merged.remarks[0]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"metadata": None}, "metadata.name must be"),
        ({"metadata": {"name": "a\nb"}}, "metadata.name must be"),
        ({"addressType": None}, "addressType must be text"),
        ({"endpoints": {}}, "endpoints must be an array"),
        ({"ports": "80"}, "ports must be an array"),
        ({"ports": [80]}, "expected objects"),
        ({"ports": [{"port": 0}]}, "port 0 is not in"),
        ({"ports": [{"port": 70000}]}, "port 70000 is not in"),
        ({"ports": [{"port": True}]}, "port True is not in"),
        ({"ports": [{"port": "80"}]}, "port '80' is not in"),
        ({"ports": [{"port": 80, "name": 7}]}, "expected a short text"),
    ],
)
def test_a_bad_slice(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(SliceError, match=problem):
        parse_slice({**slice_object("s", "api", [A]), **change})


# ---- moving, and holding on


def test_hold_keeps_what_vanished_but_not_what_was_said_to_be_gone() -> None:
    merger, hold = Merger(None), Hold(0.2)

    def apply(now: float, *raw: dict[str, Any]) -> tuple[set[str], float | None]:
        endpoints, wake = hold.apply(merger.merge([parse_slice(r) for r in raw]), now)
        return addresses(endpoints), wake

    assert apply(0.0, slice_object("s", "api", [A, B, C])) == ({A, B, C}, None)
    assert apply(1.0, slice_object("s", "api", [A, OUT])) == ({A, B}, 1.2)
    assert apply(1.1, slice_object("s", "api", [A])) == ({A, B}, 1.2)
    assert apply(1.15) == ({A, B}, 1.2)
    assert apply(1.2, slice_object("t", "api", [A])) == ({A}, None)
    assert apply(1.3) == ({A}, 1.5)
    assert apply(1.5) == (set(), None)


def test_hold_keeps_one_address_of_two() -> None:
    merger, hold = Merger(None), Hold(0.2)
    both = [parse_slice(r) for r in dual(endpoint_object(A, pod="p"), endpoint_object(A6, pod="p"))]
    hold.apply(merger.merge(both), 0.0)
    endpoints, wake = hold.apply(merger.merge(both[:1]), 1.0)
    assert (addresses(endpoints), wake) == ({f"{A}+[{A6}]"}, 1.2)
    endpoints, wake = hold.apply(merger.merge(both[:1]), 1.2)
    assert (addresses(endpoints), wake) == ({A}, None)


def test_what_did_not_change_stays_the_same_object() -> None:
    merger = Merger(None)
    first = merger.merge([parse_slice(slice_object("s", "api", [A, B]))])
    again = merger.merge([parse_slice(slice_object("s", "api", [A, C]))])
    assert again.endpoints[A] is first.endpoints[A]


def test_5000_endpoints_in_50_slices_are_cheap_to_change() -> None:
    def piece(number: int, count: int) -> Slice:
        names = [endpoint_object(f"10.{number}.0.{i}", pod=f"p-{number}-{i}") for i in range(count)]
        return parse_slice(slice_object(f"s-{number}", "api", names))

    slices = [piece(number, 100) for number in range(50)]
    merger, hold = Merger(None), Hold(0.2)
    assert len(hold.apply(merger.merge(slices), 0.0)[0]) == 5_000
    began = time.thread_time()
    for number in range(10):
        slices[number] = piece(number, 99)
        hold.apply(merger.merge(slices), 1.0 + number)
    assert time.thread_time() - began < 2.0  # 0.1 to 0.2 s when nothing else runs


Move = tuple[int, int, bool]


@settings(max_examples=80, deadline=None)
@given(
    moves=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 7), st.booleans()), max_size=30),
    order=st.randoms(use_true_random=False),
)
def test_any_order_of_slice_events_ends_in_the_truth(moves: list[Move], order: Any) -> None:
    """Events of one slice come in their order; those of different slices in any."""
    truth: dict[int, set[int]] = {}
    events: dict[int, list[frozenset[int] | None]] = {}
    for number, pod, there in moves:
        members = truth.setdefault(number, set())
        members.add(pod) if there else members.discard(pod)
        events.setdefault(number, []).append(frozenset(members))
        if not members and order.random() < 0.5:
            events[number].append(None)  # DELETED
    merger, hold, now = Merger(None), Hold(0.2), 0.0
    have: dict[str, Slice] = {}
    while any(events.values()):
        number = order.choice([n for n, left in events.items() if left])
        members_now = events[number].pop(0)
        name = f"s-{number}"
        if members_now is None:
            have.pop(name, None)
        else:
            ips = [
                endpoint_object(f"10.0.0.{p}", pod=f"p{p}") for p in sorted(members_now, key=str)
            ]
            have[name] = parse_slice(slice_object(name, "api", ips))
        hold.apply(merger.merge(have.values()), now)
        now += order.choice([0.0, 0.1, 1.0])
    endpoints, _ = hold.apply(merger.merge(have.values()), now + 1.0)
    assert addresses(endpoints) == {f"10.0.0.{p}" for members in truth.values() for p in members}
