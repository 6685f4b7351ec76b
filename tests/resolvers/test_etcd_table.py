"""The keys of one service, and the endpoints that they name."""

from __future__ import annotations

import json

from grpclb.core.address import Endpoint
from grpclb.resolvers.etcd.model import Event, KeyValue
from grpclb.resolvers.etcd.table import MOST_KEYS, Table, shown

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"


def kv(key: str, value: str, revision: int = 1) -> KeyValue:
    return KeyValue(key.encode(), value.encode(), revision)


def put(key: str, value: str, revision: int = 2) -> Event:
    return Event(key.encode(), value.encode(), revision)


def gone(key: str, revision: int = 3) -> Event:
    return Event(key.encode(), None, revision)


def listed(*items: KeyValue) -> Table:
    table = Table()
    table.replace(items)
    return table


def addresses(table: Table) -> list[str]:
    return [str(endpoint) for endpoint in table.endpoints()]


def test_a_list_is_the_whole_truth() -> None:
    table = listed(kv("s/b", B), kv("s/a", A))
    assert addresses(table) == [A, B]  # in the order of keys
    table.replace([kv("s/c", C), kv("s/b", B)])
    assert addresses(table) == [B, C]
    table.replace([])
    assert addresses(table) == []
    assert len(table) == 0


def test_events_change_it() -> None:
    table = listed(kv("s/a", A))
    assert table.apply([put("s/b", B), put("s/c", C), gone("s/a")])
    assert addresses(table) == [B, C]
    assert table.apply([put("s/b", A)])  # moved
    assert addresses(table) == [A, C]
    assert table.apply([gone("s/b"), put("s/b", B)])  # in the order in which they came
    assert addresses(table) == [B, C]


def test_what_changes_nothing_is_not_told() -> None:
    table = listed(kv("s/a", A))
    assert not table.apply([])
    assert not table.apply([put("s/a", A)])
    assert not table.apply([gone("s/z")])


def test_a_bad_value_removes_no_endpoint() -> None:
    table = listed(kv("s/a", A), kv("s/b", B))
    assert table.apply([put("s/a", "oops")])
    assert addresses(table) == [A, B]
    assert list(table.skipped) == ["s/a"]
    table.replace([kv("s/a", "oops", 2), kv("s/b", B)])  # nor does a list after it
    assert addresses(table) == [A, B]
    assert table.apply([put("s/a", C)])
    assert addresses(table) == [C, B]
    assert not table.skipped
    table.apply([put("s/a", "oops"), gone("s/a")])
    assert addresses(table) == [B]
    assert not table.skipped


def test_a_bad_value_is_reported_once() -> None:
    table = listed(kv("s/a", "oops"), kv("s/b", B))
    ((key, reason),) = table.unreported()
    assert (key, reason) == (b"s/a", table.skipped["s/a"])
    table.replace([kv("s/a", "oops"), kv("s/b", B)])
    table.apply([gone("s/a"), put("s/a", "oops")])
    assert table.unreported() == []
    table.apply([put("s/a", "{")])  # another mistake
    assert len(table.unreported()) == 1


def test_a_remark_is_shown_and_the_endpoint_used() -> None:
    table = listed(kv("s/a", '{"Addr": "10.0.0.1:80", "Metadata": {"weight": -1}}'))
    assert addresses(table) == [A]
    assert "weight" in table.skipped["s/a"]


def test_an_address_under_two_keys_is_one_endpoint_as_the_newest_says() -> None:
    old, new = (json.dumps({"Addr": A, "Metadata": {"weight": n}}) for n in (1, 2))
    table = listed(kv("s/z", old, 5), kv("s/a", new, 9))
    assert table.endpoints() == (Endpoint.of(A, weight=2),)
    table.apply([gone("s/a")])
    assert table.endpoints() == (Endpoint.of(A, weight=1),)


def test_there_is_a_cap() -> None:
    items = [kv(f"s/{n:06}", "x") for n in range(MOST_KEYS + 10)]
    table = listed(*items)
    assert len(table) == MOST_KEYS
    assert "50000 keys" in table.skipped["..."]
    assert len(table.skipped) == 100
    assert len(table.unreported()) == 100
    assert not table.apply([put("s/new", A)])
    assert (b"...", table.skipped["..."]) in table.unreported(), "the last of very many problems"
    assert not table.apply([put("s/new", A)])
    assert not table.unreported(), "once"
    assert table.apply([gone("s/000000"), put("s/new", A)])
    assert addresses(table) == [A]


def test_a_list_that_was_cut_short_says_so() -> None:
    table = Table()
    table.replace([kv("s/a", A)], complete=False)
    assert list(table.skipped) == ["..."]
    assert [key for key, _ in table.unreported()] == [b"..."]
    table.replace([kv("s/a", A)])
    assert not table.skipped


def test_keys_are_shown_to_people() -> None:
    assert shown(b"s/\xff\n") == "s/\\xff\\n"
    assert len(shown(b"k" * 9_000)) < 300
