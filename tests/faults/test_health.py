"""Health checks on the data connection (gRFC A17): FIGURES F14."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.fixtures import Launch
from tests.faults.harness import (
    Connect,
    calls_on,
    eventually,
    failures,
    states,
    target_of,
    wait_ready,
)
from tests.support.backend import Backend, steer

pytestmark = pytest.mark.slow

SERVICE = "test.Echo"
CHECKED: dict[str, Any] = {"healthCheckConfig": {"serviceName": SERVICE}}


@pytest.fixture(scope="module")
def silent_health() -> Iterator[str]:
    """The address of a server whose health service never answers."""
    command = [sys.executable, "-m", "tests.faults.programs.silent_health"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


@pytest.fixture
def healthy(fleet: list[Backend]) -> list[Backend]:
    for backend in fleet[:3]:
        backend.set_health("SERVING", SERVICE)
    return fleet[:3]


@pytest.mark.parametrize(
    ("service", "named"),
    [("no.Such", "service 'no.Such'"), ("", "the server as a whole (service '')")],
)
def test_an_error_names_the_backend_and_the_health_service(
    service: str, named: str, connect: Connect, fleet: list[Backend]
) -> None:
    backend = fleet[0]
    why = f"backend unhealthy: its health check does not say SERVING of {named}"
    reason = f"{backend.address}: {why}"
    backend.set_health("NOT_SERVING")
    try:
        config = {"healthCheckConfig": {"serviceName": service}}
        client = connect(target_of([backend]), service_config=config)
        # The reason of a failure may come a moment after it.
        eventually(lambda: reason in client.call(timeout=10).details, what=reason)
        (seen,) = client.on_channel(lambda channel: channel.debug_snapshot())["subchannels"]
        assert seen["last_error"] == reason
    finally:
        backend.set_health("SERVING")


def test_not_serving_takes_a_backend_out_and_serving_brings_it_back(
    connect: Connect, healthy: list[Backend]
) -> None:
    client = connect(target_of(healthy), service_config=CHECKED)
    wait_ready(client, 3)
    with client.load(4, metadata=steer(delay_ms=5), timeout=10) as load:
        healthy[0].set_health("NOT_SERVING", SERVICE)
        eventually(lambda: states(client).count("READY") == 2, what="out of rotation")
        load.wait(10)  # those that were picked before
        healthy[0].reset()
        load.wait(100)
        assert calls_on(healthy[:1]) == [0]
        healthy[0].set_health("SERVING", SERVICE)
        eventually(lambda: calls_on(healthy[:1])[0] > 10, 5, "back in rotation")
    assert load.failures == []


def test_control_without_the_check_a_sick_backend_keeps_its_share(
    connect: Connect, healthy: list[Backend]
) -> None:
    client = connect(target_of(healthy))
    wait_ready(client, 3)
    healthy[0].set_health("NOT_SERVING", SERVICE)
    assert failures(client.calls(60)) == []
    assert calls_on(healthy[:1])[0] >= 20
    healthy[0].set_health("SERVING", SERVICE)


def test_an_option_turns_the_check_off(connect: Connect, healthy: list[Backend]) -> None:
    healthy[0].set_health("NOT_SERVING", SERVICE)
    options = [("grpc.inhibit_health_checking", 1)]
    client = connect(target_of(healthy), service_config=CHECKED, options=options)
    wait_ready(client, 3)
    healthy[0].set_health("SERVING", SERVICE)


def test_nobody_serving_fails_rpcs_until_somebody_does(
    connect: Connect, healthy: list[Backend]
) -> None:
    for backend in healthy:
        backend.set_health("NOT_SERVING", SERVICE)
    client = connect(target_of(healthy), service_config=CHECKED)
    result = client.call(timeout=10)
    assert result.code.name == "UNAVAILABLE"
    assert "0 of 3 backends ready" in result.details
    waiting = client.start(wait_for_ready=True, timeout=20)
    healthy[2].set_health("SERVING", SERVICE)
    assert waiting.result().ok


def test_a_server_without_health_service_counts_as_healthy(
    connect: Connect, launch: Launch
) -> None:
    plain = launch("plain", health=False)
    client = connect(target_of(plain), service_config=CHECKED)
    assert failures(client.calls(10, timeout=10)) == []


def test_a_health_service_that_never_answers_keeps_the_backend_out(
    connect: Connect, fleet: list[Backend], silent_health: str
) -> None:
    fleet[0].set_health("SERVING", SERVICE)
    client = connect(f"ipv4:{fleet[0].address},{silent_health}", service_config=CHECKED)
    assert failures(client.calls(30, timeout=10)) == []
    assert calls_on(fleet[:1]) == [30]
    assert sorted(states(client)) == ["CONNECTING", "READY"]


def test_pick_first_ignores_health(connect: Connect, healthy: list[Backend]) -> None:
    """As gRPC's own pick_first does, which plain grpcio shows."""
    healthy[0].set_health("NOT_SERVING", SERVICE)
    config = ("grpc.service_config", json.dumps(CHECKED))
    options = [("grpc.lb_policy_name", "pick_first"), config]
    for plain in (False, True):
        client = connect(target_of(healthy[:1]), plain=plain, options=options)
        assert failures(client.calls(3)) == []
