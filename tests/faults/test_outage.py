"""Backends that die, are away, or never speak: FIGURES F7, F9, and the crash of one of three."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic

import pytest

from grpclb.control.failures import never_left
from grpclb.testing import ManualResolver
from tests.faults.fixtures import Launch
from tests.faults.harness import (
    Connect,
    calls_on,
    established,
    eventually,
    failures,
    snapshot,
    states,
    target_of,
    wait_ready,
)
from tests.support.backend import Backend, steer

pytestmark = pytest.mark.slow

QUICK_RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 300),
]


def test_a_crash_fails_only_what_was_in_flight(connect: Connect, launch: Launch) -> None:
    backends = launch("a", "b", "victim")
    victim = backends[2]
    client = connect(target_of(backends))
    wait_ready(client, 3)
    workers = 8
    with client.load(workers, metadata=steer(delay_ms=10), timeout=10) as load:
        load.wait(60)
        victim.kill()
        # An RPC that starts before the kernel's word has been read is in flight as well.
        left = monotonic() + 0.25
        load.wait(400)
    assert len(load.failures) <= workers, "one RPC per worker can be in flight"
    assert {r.code.name for r in load.failures} <= {"UNAVAILABLE"}
    assert len(load.since(left)) > 50
    assert failures(load.since(left)) == [], "later RPCs do not see the dead backend"
    assert all(victim.address in str(r.notes) for r in load.failures)
    eventually(lambda: states(client).count("READY") == 2, what="two backends left")


def test_control_a_client_with_one_connection_loses_more(connect: Connect, launch: Launch) -> None:
    (victim,) = launch("victim")
    client = connect(victim.address, plain=True)
    with client.load(8, metadata=steer(delay_ms=10), timeout=10) as load:
        load.wait(60)
        victim.kill()
        killed = monotonic()
        load.wait(300)
    assert failures(load.since(killed)) != []


def test_an_rpc_that_never_left_goes_to_another_backend(connect: Connect, launch: Launch) -> None:
    # The backend dies while nobody looks, over and over: each time the picker may still name it.
    resolver = ManualResolver()
    client = connect("manual:///api", resolver=resolver)
    (good,) = launch("good")
    for _ in range(3):
        (doomed,) = launch("doomed")
        resolver.update([good.address, doomed.address])
        wait_ready(client, 2)
        doomed.kill()
        results = client.calls(40, workers=4, timeout=10)
        # What was on its way when the connection broke is lost; what never left is not.
        assert len(failures(results)) <= 4
        assert not any(never_left(r.code, r.details) for r in results)


def test_a_dead_backend_comes_back_on_the_same_port(connect: Connect, launch: Launch) -> None:
    stays, victim = launch("stays", "victim")
    client = connect(target_of([stays, victim]), options=QUICK_RECONNECT)
    wait_ready(client, 2)
    victim.kill()
    eventually(lambda: states(client).count("READY") == 1, what="the dead one left")
    with victim.restart() as again:
        eventually(lambda: states(client).count("READY") == 2, 10, "the backend back in rotation")
        assert failures(client.calls(40)) == []
        assert calls_on([again])[0] >= 18


def test_all_down_then_up_again(connect: Connect, launch: Launch) -> None:
    backends = launch("a", "b")
    client = connect(target_of(backends), options=QUICK_RECONNECT)
    wait_ready(client, 2)
    for backend in backends:
        backend.kill()
    eventually(lambda: set(states(client)) == {"TRANSIENT_FAILURE"}, what="both known to be down")
    results = client.calls(20, workers=1)
    assert {r.code.name for r in results} == {"UNAVAILABLE"}
    # 50 ms each, with slack for a busy machine: half of them must make it.
    assert sorted(r.seconds for r in results)[10] < 0.05
    details = results[0].details
    assert "round_robin: 0 of 2 backends ready" in details
    # A busy machine may learn the reason only after the first RPCs have failed.
    eventually(lambda: re.search("(?i)refused|reset by peer", client.call().details), every=0.1)
    assert any(f"last: {b.address}: " in details for b in backends)
    assert f"{target_of(backends)} resolved 2 addresses" in details
    waiting = [client.start(wait_for_ready=True, timeout=20) for _ in range(10)]
    again = [backend.restart() for backend in backends]
    try:
        assert failures(call.result() for call in waiting) == []
    finally:
        for backend in again:
            backend.kill()


@contextmanager
def silent_listener() -> Iterator[tuple[str, list[socket.socket]]]:
    """Accepts and never says a word; its address and the connections that it got."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connections: list[socket.socket] = []

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connections.append(listener.accept()[0])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", connections
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        for connection in connections:
            connection.close()


def test_a_listener_that_never_speaks_takes_no_rpc(connect: Connect, fleet: list[Backend]) -> None:
    with silent_listener() as (silent, _):
        options = [("grpc.min_reconnect_backoff_ms", 500)]
        client = connect(f"{target_of(fleet[:3])},{silent}", options=options)
        port = int(silent.rpartition(":")[2])
        most = 0
        with client.load(4, timeout=10) as load:

            def gave_up() -> bool:
                nonlocal most
                most = max(most, established([port]))
                return "TRANSIENT_FAILURE" in states(client)

            eventually(gave_up, 6, "the silent one TRANSIENT_FAILURE", every=0.02)
        assert load.failures == []
        assert most == 1, "one socket at a time"
        (mute,) = [s for s in snapshot(client)["subchannels"] if s["address"] == silent]
        assert mute["last_error"]
        client.close()


def test_without_any_backend_the_error_names_target_and_cause(connect: Connect) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # bound and not listening: refused
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        client = connect(f"ipv4:{address}")
        result = client.call(timeout=10)
        # A busy machine may learn the reason only after the first RPC has failed.
        eventually(lambda: "refused" in client.call(timeout=10).details.lower(), every=0.1)
    assert result.code.name == "UNAVAILABLE"
    assert address in result.details


def test_a_deadline_ends_the_wait_for_a_backend(connect: Connect) -> None:
    client = connect("manual:///api", resolver=ManualResolver())
    result = client.call(timeout=0.3, wait_for_ready=True)
    assert result.code.name == "DEADLINE_EXCEEDED"
    assert "manual:///api" in result.details
    assert 0.29 < result.seconds < 3
