"""The meaning of a service config, read off the corpus, and what its values promise."""

from __future__ import annotations

import dataclasses
import json
from types import MappingProxyType
from typing import Any

import grpc
import pytest

from grpclb.core.config_node import Node, ServiceConfigError
from grpclb.core.service_config import (
    EMPTY,
    MethodConfig,
    ServiceConfig,
    message_limits_json,
    parse_lb_config,
    parse_service_config,
)
from tests.core.service_config_corpus import POLICIES, FakePolicy, documents, parse, text_of


def _as_json(value: Any) -> Any:
    """A parsed value in the words of the corpus: what is set, by name."""
    if isinstance(value, frozenset):
        return sorted(code.name for code in value)
    if dataclasses.is_dataclass(value):
        return {f.name: _as_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value


def _said(config: MethodConfig) -> dict[str, Any]:
    return {name: value for name, value in _as_json(config).items() if value is not None}


@pytest.mark.parametrize("case", documents("valid"))
def test_valid(case: dict[str, Any]) -> None:
    expect = case.get("expect", {})
    config = parse(text_of(case))

    lb = None if config.lb is None else [config.lb.policy.name, config.lb.config]
    assert lb == expect.get("lb")
    assert config.health_check_service == expect.get("health")
    throttling = config.retry_throttling and list(_as_json(config.retry_throttling).values())
    assert throttling == expect.get("throttling")
    assert list(config.ignored) == expect.get("ignored", [])
    for path, said in expect.get("methods", {"/s.S/M": {}}).items():
        assert _said(config.method_config(path)) == said, path
    assert config.raw == json.loads(text_of(case))


@pytest.mark.parametrize("case", documents("invalid"))
def test_invalid(case: dict[str, Any]) -> None:
    with pytest.raises(ServiceConfigError) as caught:
        parse(text_of(case))
    assert caught.value.path == case["path"]
    assert str(caught.value).startswith(f"service config: {case['path']}: ")
    assert case["says"] in str(caught.value)


@pytest.mark.parametrize("name", ["valid", "invalid"])
def test_a_dict_means_what_its_text_means(name: str) -> None:
    for case in (parameter.values[0] for parameter in documents(name)):
        if not isinstance(case.get("config"), dict):
            continue
        if name == "valid":
            assert parse(case["config"]) == parse(text_of(case)), case["name"]
        else:
            with pytest.raises(ServiceConfigError) as caught:
                parse(case["config"])
            assert caught.value.path == case["path"], case["name"]


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(documents("invalid")) >= 80
    assert len(documents("valid")) >= 40


@pytest.mark.parametrize(
    ("raw", "path", "says"),
    [
        (None, "$", "expected a dict or JSON text, got null"),
        (b"{}", "$", "expected a dict or JSON text, got bytes"),
        ([], "$", "expected a dict or JSON text, got an array"),
        ({1: {}}, "$", "keys are text in JSON, got 1"),
        ({"a": {b"b": 1}}, "$.a", "keys are text in JSON, got bytes"),
        ({"a": b"x"}, "$.a", "JSON has no bytes"),
        ({"a": {"x", "y"}}, "$.a", "JSON has no set"),
        ({"a": object}, "$.a", "JSON has no type"),
        ({"a": float("nan")}, "$.a", "finite"),
        ({"a": 10**400}, "$.a", "finite"),
        ({"a": "x" * 70_000}, "$", "larger than 65536 bytes"),
        ({"a": ["é" * 20_000, "é" * 20_000]}, "$", "larger than 65536 bytes"),
        (
            {"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": grpc.StatusCode.OK}}]},
            "$.methodConfig[0].retryPolicy.maxAttempts",
            "JSON has no StatusCode (StatusCode.OK)",
        ),
    ],
)
def test_values_that_json_does_not_have(raw: Any, path: str, says: str) -> None:
    with pytest.raises(ServiceConfigError, match=r"^service config: ") as caught:
        parse(raw)
    assert caught.value.path == path
    assert says in str(caught.value)


def test_a_value_that_holds_itself() -> None:
    loop: dict[str, Any] = {}
    loop["a"] = [loop]
    with pytest.raises(ServiceConfigError, match="nested deeper than 64"):
        parse(loop)


def test_a_small_value_that_unfolds_without_end() -> None:
    wide: list[Any] = []
    for _ in range(60):
        wide = [wide, wide, wide]
    with pytest.raises(ServiceConfigError, match="more than 10000 values"):
        parse({"a": wide})


def test_tuples_and_other_mappings_are_as_good_as_lists_and_dicts() -> None:
    raw: Any = MappingProxyType({"loadBalancingConfig": (MappingProxyType({"round_robin": {}}),)})
    assert parse(raw) == parse('{"loadBalancingConfig": [{"round_robin": {}}]}')


def test_what_the_caller_does_with_the_dict_later_changes_nothing() -> None:
    raw: dict[str, Any] = {"loadBalancingConfig": [{"pick_first": {"shuffleAddressList": True}}]}
    config = parse(raw)
    raw["loadBalancingConfig"][0]["pick_first"]["shuffleAddressList"] = "junk"
    config.raw.clear()
    assert config.lb is not None
    assert config.lb.config == {"shuffleAddressList": True}
    assert config.raw == {"loadBalancingConfig": [{"pick_first": {"shuffleAddressList": True}}]}


def test_equal_is_what_asks_for_the_same() -> None:
    one = parse('{"methodConfig": [{"name": [{}], "timeout": "0.5s"}], "x": 1}')
    other = parse({"methodConfig": [{"timeout": "0.500s", "name": [{"service": ""}]}]})
    assert one == other
    assert hash(one) == hash(other)
    assert one != parse({"methodConfig": [{"timeout": "0.6s", "name": [{}]}]})
    assert one != parse({"methodConfig": [{"timeout": "0.5s", "name": [{"service": "s"}]}]})
    assert parse({"healthCheckConfig": {"serviceName": ""}}) != parse({"healthCheckConfig": {}})
    first = parse({"loadBalancingConfig": [{"pick_first": {}}]})
    assert first == parse({"loadBalancingPolicy": "pick_first"})
    assert first != parse({"loadBalancingConfig": [{"pick_first": {"shuffleAddressList": True}}]})
    assert first != parse({"loadBalancingConfig": [{"round_robin": {}}]})


def test_empty() -> None:
    assert parse("{}") == EMPTY == ServiceConfig()
    assert EMPTY.method_config("/s.S/M") == MethodConfig()
    assert EMPTY.raw == {}
    assert message_limits_json(EMPTY) is None


@pytest.mark.parametrize(("cap", "attempts"), [(2, 2), (5, 5), (8, 8), (20, 9)])
def test_the_cap_on_attempts_is_the_clients(cap: int, attempts: int) -> None:
    retry = {
        "maxAttempts": 9,
        "initialBackoff": "1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": [14],
    }
    names = ({"service": "r"}, {"service": "h"})
    config = parse(
        {
            "methodConfig": [
                {"name": [names[0]], "retryPolicy": retry},
                {"name": [names[1]], "hedgingPolicy": {"maxAttempts": 9}},
            ]
        },
        max_retry_attempts=cap,
    )
    retried, hedged = config.method_config("/r/M").retry, config.method_config("/h/M").hedging
    assert retried is not None
    assert hedged is not None
    assert retried.max_attempts == hedged.max_attempts == attempts


class _Raising(FakePolicy):
    def parse_config(self, raw: Any) -> object:
        raise {"value": ValueError("weights: must add up"), "slip": KeyError("x")}[self.name]


@pytest.mark.parametrize(
    ("name", "says"),
    [("value", "weights: must add up"), ("slip", "the policy's parser raised KeyError: 'x'")],
)
def test_what_a_policys_parser_raises(name: str, says: str) -> None:
    with pytest.raises(ServiceConfigError) as caught:
        parse_service_config(
            {"loadBalancingConfig": [{name: {}}]}, find_policy={name: _Raising(name)}.get
        )
    assert caught.value.path == f"$.loadBalancingConfig[0].{name}"
    assert str(caught.value).endswith(says)


class _Parent(FakePolicy):
    def parse_config(self, raw: Any) -> object:
        child = Node(raw).need("childPolicy")
        try:
            return parse_lb_config(child.value, find_policy=POLICIES.get)
        except ServiceConfigError as error:
            raise error.under(child.path) from None


def test_a_child_policys_mistake_has_the_whole_path() -> None:
    child = {"childPolicy": [{"pick_first": {"shuffleAddressList": 3}}]}
    with pytest.raises(ServiceConfigError) as caught:
        parse_service_config(
            {"loadBalancingConfig": [{"parent": child}]}, find_policy={"parent": _Parent("p")}.get
        )
    assert caught.value.path == (
        "$.loadBalancingConfig[0].parent.childPolicy[0].pick_first.shuffleAddressList"
    )


def test_an_error_stays_short_whatever_it_quotes() -> None:
    long = "x" * 20_000
    mistakes: list[dict[str, Any]] = [
        {"loadBalancingPolicy": long},
        {"loadBalancingConfig": [{long: {}}]},
        {"methodConfig": [{"name": [{"method": long}]}]},
        {"methodConfig": [{"name": [{"service": long}, {"service": long}]}]},
        {"methodConfig": [{"timeout": long}]},
        {long: float("nan")},
    ]
    for raw in mistakes:
        with pytest.raises(ServiceConfigError) as caught:
            parse(raw)
        assert len(str(caught.value)) < 400


def test_ignored_is_a_hint_and_not_a_leak() -> None:
    config = parse({str(i): 1 for i in range(5_000)})
    assert 1 <= len(config.ignored) <= 100
