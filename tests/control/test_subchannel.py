"""Connections are shared, kept for a while, drained and closed; on a fake clock."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from grpclb.control.subchannel import Connection, SubchannelHandle, SubchannelPool
from grpclb.core.address import Address
from grpclb.core.balancer import SubchannelState
from grpclb.core.connectivity import CONNECTING, IDLE, READY, SHUTDOWN, TRANSIENT_FAILURE
from grpclb.core.status import Status
from grpclb.testing import FakeClock
from tests.control.harness import FakeTransport

A = Address.ip("10.0.0.1", 80)
B = Address.ip("10.0.0.2", 80)


class Pool:
    """A pool with a fake clock, and all the transports it ever opened."""

    def __init__(self, linger: float = 5.0, drain_timeout: float = 0.0) -> None:
        self.clock = FakeClock()
        self.opened: list[FakeTransport] = []
        self.errors: list[Exception] = []
        self.pool = SubchannelPool(
            self.clock, self._open, linger, drain_timeout, self.errors.append
        )

    def _open(self, connection: Connection) -> FakeTransport:
        self.opened.append(FakeTransport(connection))
        return self.opened[-1]

    def acquire(
        self, address: Address = A, args: str | None = None
    ) -> tuple[SubchannelHandle, list[str]]:
        """A handle, and the states that its holder hears."""
        heard: list[str] = []
        handle = self.pool.acquire(address, args, lambda s: heard.append(s.connectivity.name))
        return handle, heard

    def ready(self, address: Address = A) -> SubchannelHandle:
        handle, _ = self.acquire(address)
        handle.connect()
        handle.connection.report(READY)
        return handle

    @property
    def open(self) -> list[str]:
        return [str(t.connection.address) for t in self.opened if not t.closes]


def test_a_new_subchannel_is_idle_and_says_nothing() -> None:
    p = Pool()
    handle, heard = p.acquire()
    p.clock.advance(1)
    assert handle.address == A
    assert handle.connection.state == SubchannelState(IDLE)
    assert (p.opened[0].connects, heard) == (0, [])


def test_connect_reports_at_once_and_only_leaves_idle() -> None:
    p = Pool()
    handle, heard = p.acquire()
    handle.connect()
    handle.connect()
    assert (p.opened[0].connects, heard) == (1, ["CONNECTING"])
    handle.connection.report(READY)
    handle.connect()
    assert p.opened[0].connects == 1
    handle.connection.report(IDLE)
    handle.connect()
    assert p.opened[0].connects == 2
    assert heard == ["CONNECTING", "READY", "IDLE", "CONNECTING"]


def test_a_repeated_state_is_no_news_but_a_new_error_is() -> None:
    p = Pool()
    handle, heard = p.acquire()
    connection = handle.connection
    connection.report(TRANSIENT_FAILURE, Status.unavailable("one"))
    connection.report(TRANSIENT_FAILURE, Status.unavailable("one"))
    connection.report(TRANSIENT_FAILURE)  # without a reason: still the last one
    connection.report(TRANSIENT_FAILURE, Status.unavailable("two"))
    assert heard == ["TRANSIENT_FAILURE"] * 2
    assert connection.last_error == Status.unavailable("two")
    connection.report(READY)
    assert connection.last_error is None
    connection.report(TRANSIENT_FAILURE)
    assert str(connection.last_error) == f"UNAVAILABLE: {A}: connection failed"


def test_two_holders_share_one_connection() -> None:
    """As the old and the new policy do while one replaces the other."""
    p = Pool()
    first, first_heard = p.acquire()
    second, second_heard = p.acquire()
    assert len(p.opened) == 1
    first.connect()
    first.connection.report(READY)
    assert first_heard == second_heard == ["CONNECTING", "READY"]
    first.release()
    first.connection.report(IDLE)
    assert first_heard == ["CONNECTING", "READY"]
    assert second_heard[-1] == "IDLE"
    p.clock.advance(60)
    assert p.open == [str(A)]
    second.release()
    p.clock.advance(0.25)
    assert p.open == []


def test_other_arguments_are_another_connection() -> None:
    """A health check that is switched on needs C-core channels with another service config."""
    p = Pool()
    p.acquire(A)
    p.acquire(A, '{"healthCheckConfig": {}}')
    p.acquire(Address.ip("10.0.0.1", 80, "other.name"))
    assert len(p.opened) == 3


@pytest.mark.parametrize(
    ("state", "heard"),
    [(READY, ["READY"]), (CONNECTING, ["CONNECTING"]), (TRANSIENT_FAILURE, ["TRANSIENT_FAILURE"])],
)
def test_a_new_holder_is_told_the_present_state_a_moment_later(
    state: object, heard: list[str]
) -> None:
    p = Pool()
    p.acquire()[0].connection.report(state)  # type: ignore[arg-type]
    _, told = p.acquire()
    assert told == []  # never before create_subchannel returns
    p.clock.advance()
    assert told == heard


def test_a_new_holder_hears_each_state_once() -> None:
    p = Pool()
    p.acquire()[0].connection.report(READY)
    handle, told = p.acquire()
    handle.connection.report(IDLE)
    handle.connection.report(CONNECTING)
    p.clock.advance()
    assert told == ["CONNECTING"]  # for it, the connection was IDLE from the beginning


def test_nothing_is_heard_after_release() -> None:
    p = Pool()
    handle, heard = p.acquire()
    handle.connect()
    other, other_heard = p.acquire()  # its present state is on the way
    other.release()
    handle.release()
    handle.connection.report(READY)
    p.clock.advance(1)
    assert (heard, other_heard) == (["CONNECTING"], [])


def test_release_within_a_report_stops_it() -> None:
    p = Pool()
    handles: list[SubchannelHandle] = []
    heard: list[int] = []
    for number in range(3):

        def saw(_: SubchannelState, number: int = number) -> None:
            heard.append(number)
            handles[2].release()

        handles.append(p.pool.acquire(A, None, saw))
    handles[0].connection.report(CONNECTING)
    assert heard == [0, 1]


def test_release_twice_is_harmless() -> None:
    p = Pool()
    first, _ = p.acquire()
    p.acquire()
    first.release()
    first.release()
    first.connect()
    assert p.open == [str(A)]
    assert p.opened[0].connects == 0


def test_an_address_that_comes_back_keeps_its_connection() -> None:
    p = Pool(linger=5)
    p.ready().release()
    p.clock.advance(4.9)
    assert p.open == [str(A)]
    handle, heard = p.acquire()
    p.clock.advance(100)
    assert len(p.opened) == 1
    assert p.open == [str(A)]
    assert heard == ["READY"]
    handle.release()
    p.clock.advance(5.1)
    assert p.open == []


def test_a_lingering_connection_closes_in_the_end() -> None:
    p = Pool(linger=5)
    p.ready().release()
    p.clock.advance(5)
    assert p.open == []
    assert p.opened[0].closes == 1
    assert p.clock.pending == 0
    p.acquire()
    assert len(p.opened) == 2


def test_a_connection_that_was_lost_while_it_lingered_is_handed_out_as_it_is() -> None:
    p = Pool(linger=5)
    p.ready().release()
    p.opened[0].connection.report(IDLE)
    handle, heard = p.acquire()
    p.clock.advance()
    assert heard == []  # IDLE, as every new one
    handle.connect()
    assert heard == ["CONNECTING"]


@pytest.mark.parametrize("state", [IDLE, CONNECTING, TRANSIENT_FAILURE])
def test_only_a_working_connection_lingers(state: object) -> None:
    p = Pool(linger=5)
    handle, _ = p.acquire()
    handle.connection.report(state)  # type: ignore[arg-type]
    handle.release()
    assert p.open == []


def test_running_calls_finish_before_a_connection_closes() -> None:
    p = Pool(linger=0)
    handle = p.ready()
    p.opened[0].inflight = 2
    handle.release()
    p.clock.advance(3600)
    assert p.open == [str(A)]
    assert p.pool.inflight == 2
    p.opened[0].inflight = 0
    p.clock.advance(0.25)
    assert p.open == []
    assert p.clock.pending == 0


def test_a_call_that_was_picked_just_before_is_waited_for() -> None:
    """A thread has picked the connection, and its call is not counted yet when it is retired."""
    p = Pool(linger=0)
    p.ready().release()
    p.clock.advance(0.05)
    assert p.open == [str(A)]
    p.opened[0].inflight = 1
    p.clock.advance(10)
    assert p.open == [str(A)]
    p.opened[0].inflight = 0
    p.clock.advance(0.25)
    assert p.open == []
    assert p.clock.pending == 0


def test_a_draining_connection_is_not_handed_out_again() -> None:
    """It may be about to close, and an RPC on it could be lost."""
    p = Pool(linger=0)
    handle = p.ready()
    p.opened[0].inflight = 1
    handle.release()
    p.acquire()
    assert len(p.opened) == 2
    p.opened[0].inflight = 0
    p.clock.advance(1)
    assert [t.closes for t in p.opened] == [1, 0]


def test_drain_timeout_ends_calls_that_do_not_finish() -> None:
    p = Pool(linger=5, drain_timeout=30)
    handle = p.ready()
    p.opened[0].inflight = 1
    handle.release()
    p.clock.advance(29.9)
    assert p.open == [str(A)]
    p.clock.advance(0.5)
    assert p.open == []


def test_a_call_that_starts_on_a_lingering_connection_is_waited_for() -> None:
    """A thread may hold a picker from before the removal."""
    p = Pool(linger=5)
    p.ready().release()
    p.clock.advance(4)
    p.opened[0].inflight = 1
    p.clock.advance(10)
    assert p.open == [str(A)]
    p.opened[0].inflight = 0
    p.clock.advance(1)
    assert p.open == []


def test_close_closes_all_at_once() -> None:
    p = Pool()
    p.ready(A)
    p.ready(B).release()  # lingers
    drained = p.ready(Address.ip("10.0.0.3", 80))
    p.opened[2].inflight = 1
    drained.release()
    p.clock.advance(5)  # B is gone, the third drains
    p.pool.close()
    assert p.open == []
    assert [t.closes for t in p.opened] == [1, 1, 1]
    assert p.pool.connections() == []
    assert p.clock.pending == 0


def test_after_close_a_late_report_and_a_late_connect_do_nothing() -> None:
    p = Pool()
    handle, heard = p.acquire()
    p.pool.close()
    handle.connection.report(READY)
    handle.connect()
    handle.release()
    assert heard == []
    assert p.opened[0].connects == 0
    assert p.opened[0].closes == 1


def test_after_close_a_new_subchannel_is_dead() -> None:
    """A policy whose timer outlives it must not open a connection that nobody closes."""
    p = Pool()
    p.pool.close()
    handle, heard = p.acquire()
    handle.connect()
    handle.release()
    p.clock.advance(1)
    assert (p.opened, heard) == ([], [])
    assert handle.connection.state == SubchannelState(SHUTDOWN)


def test_a_holder_that_raises_harms_no_other() -> None:
    p = Pool()

    def broken(_: SubchannelState) -> None:
        raise RuntimeError("a mistake")

    p.pool.acquire(A, None, broken).connect()
    _, heard = p.acquire()
    p.opened[0].connection.report(READY)
    assert heard == ["READY"]
    assert [str(e) for e in p.errors] == ["a mistake"] * 2


def test_flapping_between_two_lists_opens_each_connection_once() -> None:
    """FIGURES F36, without the network: lists A and B alternate every 50 ms."""
    p = Pool(linger=5)
    held = p.ready(A)
    for turn in range(600):
        old, held = held, p.ready(B if turn % 2 == 0 else A)
        old.release()
        p.clock.advance(0.05)
    assert len(p.opened) == 2


def test_the_snapshot_answers_what_a_person_asks() -> None:
    p = Pool()
    handle, _ = p.acquire()
    p.clock.advance(2.5)
    handle.connect()
    p.clock.advance(1.25)
    handle.connection.report(TRANSIENT_FAILURE, Status.unavailable("connection refused"))
    p.opened[0].inflight = 3
    now = p.clock.now() + 4
    seen = handle.connection.snapshot(now)
    assert json.loads(json.dumps(seen)) == seen
    assert seen == {
        "address": "10.0.0.1:80",
        "state": "TRANSIENT_FAILURE",
        "for_seconds": 4.0,
        "inflight": 3,
        "last_error": "connection refused",
        "failures": 1,
        "removed": False,
    }
    handle.connection.report(CONNECTING)
    handle.connection.report(TRANSIENT_FAILURE)
    assert handle.connection.snapshot(now)["failures"] == 2
    handle.connection.report(READY)
    assert handle.connection.snapshot(now)["failures"] == 0
    handle.release()
    assert handle.connection.snapshot(now)["removed"] is True


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda handle: handle, "<Subchannel 10.0.0.1:80 IDLE>"),
        (lambda handle: handle.connection, "<Connection 10.0.0.1:80 IDLE>"),
    ],
)
def test_repr(make: Callable[[SubchannelHandle], object], text: str) -> None:
    assert repr(make(Pool().acquire()[0])) == text
