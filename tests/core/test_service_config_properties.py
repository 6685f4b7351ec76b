"""Hostile input: whatever comes in, a config or a ServiceConfigError comes out, and soon."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpclb.core.config_json import MAX_BYTES
from grpclb.core.config_node import ServiceConfigError
from grpclb.core.service_config import ServiceConfig, message_limits_json
from tests.core.service_config_corpus import documents, parse, text_of

WORDS = [
    "loadBalancingConfig",
    "loadBalancingPolicy",
    "methodConfig",
    "name",
    "service",
    "method",
    "timeout",
    "waitForReady",
    "maxRequestMessageBytes",
    "maxResponseMessageBytes",
    "retryPolicy",
    "hedgingPolicy",
    "maxAttempts",
    "initialBackoff",
    "maxBackoff",
    "backoffMultiplier",
    "retryableStatusCodes",
    "perAttemptRecvTimeout",
    "hedgingDelay",
    "nonFatalStatusCodes",
    "retryThrottling",
    "maxTokens",
    "tokenRatio",
    "healthCheckConfig",
    "serviceName",
    "round_robin",
    "pick_first",
    "shuffleAddressList",
    "UNAVAILABLE",
    "1s",
    "0.1s",
    "0s",
    "5",
    "-1",
    "NaN",
]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([0, 1, 2, 3, 14, 1000, 10**400, 1e308, "", *WORDS])
    | st.text()
    | st.binary(max_size=3)
)
keys = st.sampled_from(WORDS) | st.text() | st.integers()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=30,
)


def attempt(raw: Any) -> tuple[ServiceConfig | None, ServiceConfigError | None]:
    """A config or its error; every other exception is let through."""
    try:
        return parse(raw), None
    except ServiceConfigError as error:
        return None, error


def outcome(raw: Any) -> None:
    """Parse, and check what a config or an error must be like."""
    config, error = attempt(raw)
    if config is None:
        assert error is not None
        assert error.path.startswith("$")
        assert str(error).startswith(f"service config: {error.path}: ")
        return
    assert parse(config.text) == config
    assert parse(config.raw) == config
    config.method_config("/s.S/M")
    if limits := message_limits_json(config):
        json.loads(limits)


@given(values)
def test_any_value(value: Any) -> None:
    outcome(value)


@given(st.dictionaries(st.sampled_from(WORDS), values, max_size=5))
def test_any_object(value: Any) -> None:
    outcome(value)


@given(st.text(st.sampled_from('{}[]",:\\ue019.-+ntrs/') | st.characters()))
def test_any_text(text: str) -> None:
    outcome(text)


@given(st.integers(0, 2**32))
def test_valid_documents_with_one_part_put_elsewhere(seed: int) -> None:
    """A part of one document in place of a part of another: right words in wrong places."""
    random = Random(seed)
    cases = [parameter.values[0] for parameter in documents("valid")]
    target, donor = (json.loads(text_of(random.choice(cases))) for _ in range(2))
    places = list(_places(target))
    parts = [donor, *(holder[key] for holder, key in _places(donor))]
    if places:
        holder, key = random.choice(places)
        holder[key] = random.choice(parts)
    outcome(target)
    outcome(json.dumps(target))


def _places(value: Any) -> Any:
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


EVERYTHING: dict[str, Any] = {
    "loadBalancingPolicy": "round_robin",
    "loadBalancingConfig": [{"pick_first": {"shuffleAddressList": True}}],
    "healthCheckConfig": {"serviceName": "s"},
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    "methodConfig": [
        {
            "name": [{"service": "s.S", "method": "M"}],
            "timeout": "1s",
            "waitForReady": True,
            "maxRequestMessageBytes": 1,
            "maxResponseMessageBytes": 1,
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE", 14],
                "perAttemptRecvTimeout": "1s",
            },
        },
        {
            "name": [{"service": "t.T"}],
            "hedgingPolicy": {
                "maxAttempts": 3,
                "hedgingDelay": "1s",
                "nonFatalStatusCodes": ["UNAVAILABLE"],
            },
        },
    ],
}
STRANGE = [
    *(
        None,
        True,
        False,
        {},
        [],
        {"": None},
        [None],
        "",
        " ",
        "\0",
        "/",
        "s",
        "NaN",
        "1e308",
        "9" * 64,
    ),
    *(
        0,
        -0.0,
        1,
        -1,
        0.5,
        1e308,
        -1e308,
        5e-324,
        1e-5,
        2**31,
        2**32,
        2**63,
        2**64,
        10**308,
        10**309,
    ),
    *(
        "0.000000001s",
        "315576000000s",
        "999999999999s",
        "1e5s",
        "-0s",
        "\u0661s",
        "\ud800",
        "UNAVAILABLE",
    ),
]


@pytest.mark.parametrize("strange", STRANGE, ids=lambda value: repr(value)[:20])
def test_a_strange_value_in_every_place(strange: Any) -> None:
    places = len(list(_places(EVERYTHING)))
    assert places > 30
    for place in range(places):
        config = copy.deepcopy(EVERYTHING)
        holder, key = list(_places(config))[place]
        holder[key] = strange
        outcome(config)


RETRY = (
    '{"maxAttempts": 1e9, "initialBackoff": "1s", "maxBackoff": "1s", "backoffMultiplier": 1, '
    '"retryableStatusCodes": [14]}'
)
HOSTILE = {
    "10,000 deep arrays": '{"a": ' + "[" * 10_000,
    "10,000 deep objects": '{"a": ' * 10_000,
    "deep and well-formed": '{"a": ' + "[" * 30_000 + "]" * 30_000 + "}",
    "brackets in a string": '{"a": "' + "[" * 60_000 + '"}',
    "a string of quotes that never ends": '"' + '\\"' * 32_000,
    "backslashes": '{"a": "' + "\\" * 60_000,
    "quotes": '"' * MAX_BYTES,
    "one long number": '{"a": ' + "9" * 60_000 + "}",
    "one long fraction": '{"a": 0.' + "9" * 60_000 + "}",
    "a long exponent": '{"a": 1e' + "9" * 60_000 + "}",
    "a long number as text": '{"retryThrottling": {"maxTokens": "' + "9" * 60_000 + '"}}',
    "a long duration": '{"methodConfig": [{"timeout": "' + "9" * 60_000 + 's"}]}',
    "many empty arrays": '{"a": [' + "[]," * 20_000 + "[]]}",
    "as many empty arrays as allowed": '{"a": [' + "[]," * 9_990 + "[]]}",
    "as many empty objects as allowed": '{"a": [' + "{}," * 9_990 + "{}]}",
    "many small fields": "{" + ",".join(f'"{i}":0' for i in range(7_000)) + "}",
    "one key many times": "{" + ",".join(['"a":0'] * 10_000) + "}",
    "many method names": '{"methodConfig": [{"name": ['
    + ",".join(f'{{"service":"s{i}"}}' for i in range(2_900))
    + "]}]}",
    "many duplicate method names": '{"methodConfig": [{"name": ['
    + ",".join(["{}"] * 9_990)
    + "]}]}",
    "many unknown policies": '{"loadBalancingConfig": [' + ",".join(['{"p":{}}'] * 4_990) + "]}",
    "many status codes": '{"methodConfig": [{"retryPolicy": '
    + RETRY.replace("14", ",".join(["14"] * 9_980))
    + "}]}",
    "a megabyte": " " * 1_000_000 + "{}",
    "control characters": '{"a": "' + "\x01" * 60_000 + '"}',
    "other scripts": '{"a": "' + "\U0001f600" * 16_000 + '"}',
    "halves of surrogates": '{"a": "' + "\\ud800" * 10_000 + '"}',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.timeout(5)  # milliseconds, unless something is quadratic
def test_hostile_text_is_answered(text: str) -> None:
    _, error = attempt(text)
    assert len(str(error)) < 1_000


def test_an_enormous_max_attempts_is_capped() -> None:
    config = parse('{"methodConfig": [{"name": [{}], "retryPolicy": ' + RETRY + "}]}")
    retry = config.method_config("/s.S/M").retry
    assert retry is not None
    assert retry.max_attempts == 5
