"""Backends killed under load, with and without retries: FIGURES F2 and F3."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import grpc
import pytest

import grpclb
from grpclb.testing import ManualResolver
from tests.faults.fixtures import Launch
from tests.faults.harness import Connect, eventually, held, wait_ready
from tests.support.backend import Backend, steer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.05s",
    "maxBackoff": "0.5s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
HANDLER_50_MS = {"metadata": steer(delay_ms=50), "timeout": 10}


def _failures_of_five_kills(connect: Connect, launch: Launch, config: dict[str, Any]) -> list[Any]:
    serving = launch(*"abcde")
    resolver = ManualResolver([b.address for b in serving])
    client = connect("manual:///api", resolver=resolver, service_config=config)
    wait_ready(client, 5)
    with client.load(16, **HANDLER_50_MS) as load:
        load.wait(300)
        for old in list(serving):
            (new,) = launch(f"{old.name}2")
            old.kill()
            serving = [new if b is old else b for b in serving]
            resolver.update([b.address for b in serving])
            eventually(lambda: old.address not in held(client))  # noqa: B023
            load.wait(120)
    assert len(load.results) >= 800
    return load.failures


def test_kills_under_load_with_retries(connect: Connect, launch: Launch) -> None:
    """F2: with a retry policy no RPC fails."""
    config = {"methodConfig": [{"name": [{}], "retryPolicy": RETRY}]}
    assert _failures_of_five_kills(connect, launch, config) == []


def test_control_kills_under_load_without_retries(connect: Connect, launch: Launch) -> None:
    assert len(_failures_of_five_kills(connect, launch, {})) >= 3


def test_what_may_not_be_retried_is_not_sent_again(launch: Launch) -> None:
    """F3: an RPC whose bytes left, on a backend that is killed, reaches no other backend."""
    config = {
        "methodConfig": [{"name": [{}], "retryPolicy": {**RETRY, "retryableStatusCodes": [8]}}]
    }
    survivor: Backend
    victim, survivor = launch("victim", "survivor")
    resolver = ManualResolver([victim.address, survivor.address])
    failed: list[str] = []
    numbers = itertools.count()
    stop = threading.Event()
    with grpclb.insecure_channel(
        "manual:///f3", resolver=resolver, service_config=config
    ) as channel:
        stub: Any = channel.unary_unary("/test.Echo/UnaryUnary")

        def work() -> None:
            while not stop.is_set():
                name = f"id{next(numbers)}"
                try:
                    stub(b"", metadata=steer(name, delay_ms=20), timeout=10)
                except grpc.RpcError:
                    failed.append(name)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for kill in range(20):
            sent = next(numbers)
            eventually(lambda: next(numbers) > sent + 60)  # noqa: B023
            victim.kill()
            (victim,) = launch(f"victim{kill}")
            resolver.update([victim.address, survivor.address])
        stop.set()
        for thread in threads:
            thread.join()
    executed = survivor.stats()["ids"]
    assert len(failed) >= 5, "the kills hit RPCs"
    assert [name for name in failed if executed.get(name)] == []
    assert max(executed.values()) == 1
