"""The examples in docs/policies/custom.md and docs/resolvers/custom.md work as they stand."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import grpclb
from grpclb.control.registries import POLICIES, RESOLVERS
from grpclb.testing import ManualResolver
from tests.faults.harness import eventually
from tests.support.backend import Backend

DOCS = Path(__file__).parents[2] / "docs"
METHOD = "/test.Echo/UnaryUnary"


def examples(page: str) -> list[str]:
    """The Python code on a page, block by block."""
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def pair() -> Iterator[list[Backend]]:
    backends = Backend.start_many(["near", "far"])
    yield backends
    for backend in backends:
        backend.kill()


@pytest.fixture(autouse=True)
def _tables_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the examples register is gone after each test."""
    for registry in (POLICIES, RESOLVERS):
        monkeypatch.setattr(registry, "_table", registry._table)


def _until_both_are_ready(channel: Any) -> None:
    eventually(
        lambda: [s["state"] for s in channel.debug_snapshot()["subchannels"]] == ["READY", "READY"]
    )


def _code(error: Any) -> grpc.StatusCode:
    code: grpc.StatusCode = error.code()
    return code


def calls_on(channel: grpc.Channel, pair: list[Backend], count: int = 10) -> Counter[str]:
    for backend in pair:
        backend.reset()
    call: Any = channel.unary_unary(METHOD)
    for _ in range(count):
        call(b"", wait_for_ready=True, timeout=10)
    return Counter({b.name: b.stats()["calls"].get(METHOD, 0) for b in pair})


@pytest.mark.parametrize("page", ["policies/custom.md", "resolvers/custom.md"])
def test_the_complete_examples_are_short(page: str) -> None:
    code = [line for line in examples(page)[0].splitlines() if line.strip()]
    assert len(code) < 40


def test_the_policy_passes_the_test_on_its_page() -> None:
    complete, *_, test = examples("policies/custom.md")
    exec(complete + test, {})


@pytest.mark.slow
def test_the_policy_balances_real_calls(pair: list[Backend]) -> None:
    exec(examples("policies/custom.md")[0], {})
    resolver = ManualResolver([grpclb.Endpoint.of(b.address, zone=b.name) for b in pair])
    config = {"loadBalancingConfig": [{"zone_first": {"zone": "near"}}]}
    with grpclb.insecure_channel("api", resolver=resolver, service_config=config) as channel:
        call = channel.unary_unary(METHOD)
        call(b"", wait_for_ready=True, timeout=10)
        _until_both_are_ready(channel)
        assert calls_on(channel, pair) == {"near": 10, "far": 0}
        resolver.update([grpclb.Endpoint.of(pair[1].address, zone="far")])
        eventually(lambda: calls_on(channel, pair) == {"near": 0, "far": 10})


@pytest.mark.slow
@pytest.mark.expect_log("the registry is away")
def test_the_policy_fails_calls_with_the_resolvers_words() -> None:
    exec(examples("policies/custom.md")[0], {})
    resolver = ManualResolver()
    resolver.fail(details="the registry is away")
    config = {"loadBalancingConfig": [{"zone_first": {"zone": "near"}}]}
    with grpclb.insecure_channel("api", resolver=resolver, service_config=config) as channel:
        with pytest.raises(grpc.RpcError, match="the registry is away") as caught:
            channel.unary_unary(METHOD)(b"", timeout=10)
        assert _code(caught.value) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("zone", [{}, {"zone": 7}])
def test_the_policys_config_errors_reach_the_user(zone: dict[str, Any]) -> None:
    exec(examples("policies/custom.md")[0], {})
    config = {"loadBalancingConfig": [{"zone_first": zone}]}
    with pytest.raises(ValueError, match=r"loadBalancingConfig\[0\]\.zone_first.*zone: expected"):
        grpclb.insecure_channel("ipv4:127.0.0.1:1", service_config=config)


@pytest.mark.slow
def test_the_resolver_follows_its_file(pair: list[Backend], tmp_path: Path) -> None:
    exec(examples("resolvers/custom.md")[0], {})
    path = tmp_path / "backends"
    path.write_text(f"{pair[0].address}\n")
    with grpclb.insecure_channel(f"file://{path}") as channel:
        assert calls_on(channel, pair) == {"near": 10, "far": 0}
        path.write_text(f"{pair[1].address}\n")
        channel.resolve_now()
        eventually(
            lambda: pair[1].address in str(channel.debug_snapshot()["resolver"]["endpoints"])
        )
        assert calls_on(channel, pair) == {"near": 0, "far": 10}


@pytest.mark.slow
@pytest.mark.expect_log("No such file")
def test_the_resolver_says_what_is_wrong_with_its_file(tmp_path: Path) -> None:
    exec(examples("resolvers/custom.md")[0], {})
    with grpclb.insecure_channel(f"file://{tmp_path}/none") as channel:
        with pytest.raises(grpc.RpcError, match=r"none: .*No such file") as caught:
            channel.unary_unary(METHOD)(b"", timeout=10)
        assert _code(caught.value) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.slow
@pytest.mark.expect_log("not-an-address")
def test_a_wrong_line_leaves_the_last_good_list_in_use(pair: list[Backend], tmp_path: Path) -> None:
    exec(examples("resolvers/custom.md")[0], {})
    path = tmp_path / "backends"
    path.write_text(f"{pair[0].address}\n")
    with grpclb.insecure_channel(f"file://{path}") as channel:
        assert calls_on(channel, pair) == {"near": 10, "far": 0}
        path.write_text("not-an-address\n")
        channel.resolve_now()
        eventually(
            lambda: "not-an-address" in str(channel.debug_snapshot()["resolver"]["last_error"])
        )
        assert calls_on(channel, pair) == {"near": 10, "far": 0}


@pytest.mark.slow
def test_addresses_from_the_programs_own_code(pair: list[Backend]) -> None:
    code = examples("resolvers/custom.md")[-1]
    for written, backend in zip(["10.0.0.1:443", "10.0.0.2:443"], pair, strict=True):
        code = code.replace(written, backend.address)
    names: dict[str, Any] = {"grpclb": grpclb}
    exec(code, names)
    with names["channel"] as channel:
        channel.unary_unary(METHOD)(b"", wait_for_ready=True, timeout=10)
        _until_both_are_ready(channel)
        assert calls_on(channel, pair) == {"near": 5, "far": 5}
