"""Service configs in DNS TXT records (gRFC A2): which one is ours, and what it may not do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from grpclb.core.status import Status
from grpclb.core.txt_config import choose, draw_percentage


def txt(*choices: Any) -> str:
    return "grpc_config=" + json.dumps(choices)


def config(number: int) -> dict[str, Any]:
    return {"retryThrottling": {"maxTokens": number, "tokenRatio": 1}}


def chosen(*records: Any, hostname: str = "host-1", draw: int = 0) -> Any:
    return choose(records, hostname=hostname, draw=draw)


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ([{"serviceConfig": {}}], {}),
        ([{"serviceConfig": config(1)}, {"serviceConfig": config(2)}], config(1)),
        ([], None),
        # languages, in any case
        ([{"clientLanguage": ["Python"], "serviceConfig": config(1)}], config(1)),
        ([{"clientLanguage": ["go", "PYTHON"], "serviceConfig": config(1)}], config(1)),
        ([{"clientLanguage": ["go"], "serviceConfig": config(1)}], None),
        (
            [
                {"clientLanguage": ["c++"], "serviceConfig": config(1)},
                {"serviceConfig": config(2)},
            ],
            config(2),
        ),
        # host names, exactly, under either spelling of the key
        ([{"clientHostname": ["host-2", "host-1"], "serviceConfig": config(1)}], config(1)),
        ([{"clientHostName": ["host-1"], "serviceConfig": config(1)}], config(1)),
        ([{"clientHostname": ["HOST-1"], "serviceConfig": config(1)}], None),
        ([{"clientHostName": ["host"], "serviceConfig": config(1)}], None),
        # absent, empty and null match everybody
        (
            [
                {
                    "clientLanguage": [],
                    "clientHostname": [],
                    "percentage": None,
                    "serviceConfig": config(1),
                }
            ],
            config(1),
        ),
        ([{"clientHostname": [], "clientHostName": ["host-1"], "serviceConfig": {}}], {}),
        # all of them must match
        (
            [{"clientLanguage": ["python"], "clientHostname": ["x"], "serviceConfig": config(1)}],
            None,
        ),
        (
            [{"clientLanguage": ["python"], "percentage": 0, "serviceConfig": config(1)}],
            None,
        ),
    ],
)
def test_the_first_choice_that_matches(choices: list[Any], expected: Any) -> None:
    assert chosen(txt(*choices)) == expected


@pytest.mark.parametrize(
    ("percentage", "share"), [(0, 0), (1, 1), (37, 37), (99, 99), (100, 100), (None, 100)]
)
def test_a_percentage_is_that_share_of_all_draws(percentage: int | None, share: int) -> None:
    record = txt({"percentage": percentage, "serviceConfig": config(1)})
    hits = [chosen(record, draw=draw) is not None for draw in range(100)]
    assert sum(hits) == share


def test_draws_are_even_and_whole() -> None:
    random = Random(1)
    draws = [draw_percentage(random) for _ in range(20_000)]
    assert set(draws) == set(range(100))
    assert 0.28 < sum(draw < 30 for draw in draws) / len(draws) < 0.32


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ("grpc_config=", "$: not JSON"),
        ("grpc_config={}", "$: expected a JSON array, got an object"),
        ("grpc_config=null", "$: expected a JSON array, got null"),
        ("grpc_config=[", "$: not JSON"),
        ("grpc_config=[1]", "$[0]: expected an object, got 1"),
        ("grpc_config=[NaN]", "$[0]: expected a finite number"),
        (txt({}), "$[0].serviceConfig: this field is required"),
        (txt({"serviceConfig": None}), "$[0].serviceConfig: this field is required"),
        (txt({"serviceConfig": "x"}), "$[0].serviceConfig: expected an object"),
        (txt({"serviceConfig": {}, "x": 1}), "$[0].x: unknown key"),
        (txt({"serviceConfig": {}, "clientlanguage": []}), "$[0].clientlanguage: unknown key"),
        (txt({"serviceConfig": {}}, {"serviceConfig": []}), "$[1].serviceConfig"),
        (txt({"serviceConfig": {}}, {"serviceConfig": {}, "y": 1}), "$[1].y: unknown key"),
        (txt({"percentage": 101, "serviceConfig": {}}), "$[0].percentage: expected an integer in"),
        (txt({"percentage": -1, "serviceConfig": {}}), "$[0].percentage"),
        (txt({"percentage": "50", "serviceConfig": {}}), "$[0].percentage"),
        (txt({"percentage": 50.0, "serviceConfig": {}}), "$[0].percentage"),
        (txt({"percentage": True, "serviceConfig": {}}), "$[0].percentage"),
        (txt({"clientLanguage": "python", "serviceConfig": {}}), "$[0].clientLanguage: expected"),
        (txt({"clientLanguage": [1], "serviceConfig": {}}), "$[0].clientLanguage[0]"),
        (txt({"clientHostname": {}, "serviceConfig": {}}), "$[0].clientHostname"),
        (
            txt({"clientHostname": ["a"], "clientHostName": ["a"], "serviceConfig": {}}),
            "$[0]: both clientHostname and clientHostName",
        ),
        (
            'grpc_config=[{"serviceConfig": {}, "serviceConfig": {}}]',
            "$[0].serviceConfig: this key",
        ),
        (b"grpc_config=[\xff]", "$: not UTF-8 at byte 1"),
        ("grpc_config=" + "[" * 1_000, "$: nested deeper than 64"),
        ("grpc_config=" + "[" * 10_000, "$: more than 10000 values"),
        ("grpc_config=" + " " * 70_000, "$: larger than 65536 bytes"),
    ],
)
def test_one_mistake_makes_all_of_it_unusable(record: str | bytes, says: str) -> None:
    found = chosen(record)
    assert isinstance(found, Status)
    assert found.code is StatusCode.UNAVAILABLE
    assert found.details.startswith("TXT grpc_config=: ")
    assert says in found.details


@pytest.mark.parametrize(
    "records",
    [
        (txt({"serviceConfig": config(1)}),),
        (txt({"serviceConfig": config(1)}).encode(),),
        ([txt({"serviceConfig": config(1)}).encode()],),
        ([bytes([byte]) for byte in txt({"serviceConfig": config(1)}).encode()],),
        ((b"grpc_con", b"fig=", txt({"serviceConfig": config(1)}).encode()[12:]),),
        ("v=spf1 -all", txt({"serviceConfig": config(1)}), b"", (), "grpc_configuration=x"),
        (txt({"serviceConfig": config(1)}), txt({"serviceConfig": config(1)})),
    ],
)
def test_records_come_in_strings_among_others(records: Sequence[Any]) -> None:
    assert chosen(*records) == config(1)


@pytest.mark.parametrize("records", [(), ("v=spf1",), ("GRPC_CONFIG=[]",), (" grpc_config=[]",)])
def test_no_record_is_no_config(records: Sequence[Any]) -> None:
    assert chosen(*records) is None


def test_two_different_records_have_no_order() -> None:
    found = chosen(txt({"serviceConfig": config(1)}), txt({"serviceConfig": config(2)}))
    assert isinstance(found, Status)
    assert "2 different records" in found.details


@given(st.lists(st.binary() | st.binary().map(b"grpc_config=".__add__) | st.lists(st.binary())))
def test_any_bytes(records: list[Any]) -> None:
    choose(records, hostname="h", draw=0)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-1, 101) | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["clientLanguage", "percentage", "clientHostname", "serviceConfig", "x"]
                ),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_any_json(value: Any) -> None:
    found = chosen("grpc_config=" + json.dumps(value))
    assert found is None or isinstance(found, Status | dict)


def test_a_full_answer_in_a_thousand_strings_is_read() -> None:
    choices = [{"clientHostname": [f"host-{i}"], "serviceConfig": {}} for i in range(1_100)]
    text = txt(*choices).encode()
    size = len(text) // 1_000 + 1
    strings = [text[i : i + size] for i in range(0, len(text), size)]
    assert len(text) > 60_000
    assert chosen(strings, hostname="host-1099") == {}
