"""What keeps a key in etcd alive, step by step on a clock of the test's own."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Any

import pytest

from grpclb.resolvers.etcd.registrar import (
    Finished,
    Grant,
    KeepAlive,
    Look,
    Put,
    Registrar,
    RegistrationState,
    Revoke,
    Step,
    Wait,
)

NEW_VALUE = b'{"Addr":"10.0.0.7:1","Metadata":{"weight":5}}'
VALUE = b'{"Addr":"10.0.0.7:1"}'


class Etcd:
    """The other side: leases with their ends, one key, and whether anybody answers."""

    def __init__(self) -> None:
        self.leases: dict[int, float] = {}
        self.key: tuple[bytes, int] | None = None
        self.away = False
        self.forbidden: type[Step] | None = None


class Run:
    """A registrar that is obeyed on a clock; `steps` is what it has asked for."""

    def __init__(self, ttl: int = 10) -> None:
        self.now = 100.0
        self.etcd = Etcd()
        self.registrar = Registrar(VALUE, ttl, Random(1))
        self.steps: list[tuple[float, Step]] = []

    def until(self, end: float) -> None:
        """Let the clock run to `end` seconds after the beginning."""
        while True:
            step = self.registrar.step(self.now)
            if isinstance(step, Wait):
                if self.now + step.seconds > 100 + end:
                    self.now = 100 + end
                    return
                self.now += step.seconds
            else:
                self.steps.append((round(self.now - 100, 3), step))
                assert len(self.steps) < 1_000, "it runs hot"
                if isinstance(step, Finished):
                    return
                self._do(step)

    def _do(self, step: Step) -> None:
        etcd, registrar, now = self.etcd, self.registrar, self.now
        for lease in [lease for lease, end in etcd.leases.items() if end <= now]:
            self.revoke(lease)
        if etcd.away or (etcd.forbidden is not None and isinstance(step, etcd.forbidden)):
            if isinstance(step, Revoke):
                registrar.revoked()
            else:
                registrar.failed(now, "connection refused")
            return
        match step:
            case Grant(lease, ttl):
                etcd.leases[lease] = now + ttl
                registrar.granted(now, ttl)
            case Put(lease, _) if lease not in etcd.leases:
                registrar.lease_lost(now)
            case Put(lease, value):
                etcd.key = (value, lease)
                registrar.put(now, value)
            case KeepAlive(lease):
                if lease in etcd.leases:
                    etcd.leases[lease] = now + 10
                registrar.kept_alive(now, 10 if lease in etcd.leases else 0)
            case Look():
                if etcd.key is None:
                    registrar.looked(now, None)
                else:
                    registrar.looked(now, etcd.key[1], etcd.key[0])
            case Revoke(lease):
                self.revoke(lease)
                registrar.revoked()

    def revoke(self, lease: int) -> None:
        """As etcd does, by itself or for somebody."""
        self.etcd.leases.pop(lease, None)
        if self.etcd.key is not None and self.etcd.key[1] == lease:
            self.etcd.key = None

    @property
    def lease(self) -> int:
        assert self.registrar.lease is not None
        return self.registrar.lease

    @property
    def state(self) -> str:
        return self.registrar.state.value

    def kinds(self, since: float = 0.0) -> list[str]:
        return [type(step).__name__ for at, step in self.steps if at >= since]

    def times(self, kind: type[Any]) -> list[float]:
        return [at for at, step in self.steps if isinstance(step, kind)]


def test_it_registers_and_keeps_the_lease_alive_at_a_third_of_its_life() -> None:
    run = Run(ttl=10)
    assert run.state == "registering"
    run.until(30)
    assert run.kinds()[:2] == ["Grant", "Put"]
    assert run.times(KeepAlive) == pytest.approx([10 / 3 * n for n in range(1, 10)], abs=0.01)
    looks = run.times(Look)
    assert max(b - a for a, b in pairwise(looks)) <= 1.51
    assert run.etcd.key == (VALUE, run.lease)
    assert (run.state, run.registrar.settled, run.registrar.error) == ("registered", True, None)


def test_a_lease_that_was_revoked_is_seen_and_granted_anew_within_two_seconds() -> None:
    run = Run()
    run.until(4)
    old = run.lease
    run.revoke(old)
    run.until(6)
    assert run.etcd.key == (VALUE, run.lease)
    assert run.lease != old
    assert list(run.etcd.leases) == [run.lease]
    assert run.state == "registered"


def test_a_key_that_was_deleted_comes_back_under_the_same_lease() -> None:
    run = Run()
    run.until(4)
    lease, run.etcd.key = run.lease, None
    run.until(6)
    assert run.etcd.key == (VALUE, lease)
    assert run.kinds().count("Grant") == 1


def test_a_process_that_stood_still_longer_than_its_lease_lives() -> None:
    run = Run()
    run.until(4)
    old = run.lease
    run.now += 60
    assert run.registrar.step(run.now) == KeepAlive(old), "the first it does is to ask"
    run.until(64)
    assert run.etcd.key == (VALUE, run.lease)
    assert list(run.etcd.leases) == [run.lease]
    assert run.steps[-1][0] < 64.1


def test_etcd_that_is_away_is_asked_with_backoff_and_loses_nothing() -> None:
    run = Run()
    run.until(4)
    run.etcd.away, failed_from = True, len(run.steps)
    run.until(64)
    tries = len(run.steps) - failed_from
    assert 60 / 4.2 <= tries <= 35, "3.3 s at most from one try to the next, and not hot"
    assert (run.state, run.registrar.error) == ("recovering", "connection refused")
    run.etcd.away = False
    run.until(68.1)
    assert run.state == "registered"
    assert run.etcd.key == (VALUE, run.lease)


def test_a_lease_outlives_keepalives_that_were_late() -> None:
    run = Run()
    run.until(3)
    run.etcd.away, old = True, run.lease
    run.until(7)
    run.etcd.away = False
    run.until(20)
    assert run.lease == old
    assert run.state == "registered"


def test_an_update_is_written_at_once_or_as_soon_as_etcd_is_back() -> None:
    run = Run()
    run.until(4)
    run.registrar.update(NEW_VALUE)
    assert not run.registrar.settled
    run.until(4)
    assert run.etcd.key == (NEW_VALUE, run.lease)
    assert run.registrar.settled
    run.etcd.away = True
    run.until(6)
    run.registrar.update(VALUE)
    run.until(8)
    assert run.etcd.key == (NEW_VALUE, run.lease)
    run.etcd.away = False
    run.until(12)
    assert run.etcd.key == (VALUE, run.lease)


def test_updates_while_away_become_one() -> None:
    run = Run()
    run.until(4)
    run.etcd.away = True
    run.until(6)
    for value in (b"1", b"2", NEW_VALUE):
        run.registrar.update(value)
    run.etcd.away = False
    run.until(12)
    assert [step.value for _, step in run.steps if isinstance(step, Put)] == [VALUE, NEW_VALUE]


def test_nothing_is_asked_of_an_etcd_that_was_never_asked_when_it_closes() -> None:
    run = Run()
    run.registrar.close()
    assert run.registrar.step(run.now) == Finished()
    assert run.state == "closed"


def test_a_lease_whose_grant_was_not_answered_is_revoked_on_closing() -> None:
    run = Run()
    grant = run.registrar.step(run.now)
    assert isinstance(grant, Grant)
    run.etcd.leases[grant.lease] = run.now + 10  # it has arrived, but nobody was told
    run.registrar.close()
    run.until(1)
    assert run.kinds() == ["Revoke", "Finished"]
    assert run.etcd.leases == {}


def test_a_grant_whose_answer_was_lost_is_repeated_under_the_same_lease() -> None:
    run = Run()
    first = run.registrar.step(run.now)
    run.registrar.failed(run.now, "deadline exceeded")
    assert isinstance(run.registrar.step(run.now), Wait)
    run.now += 1
    assert run.registrar.step(run.now) == first


def test_closing_deregisters_and_an_etcd_that_is_away_does_not_hold_it_up() -> None:
    for away in (False, True):
        run = Run()
        run.until(4)
        run.etcd.away = away
        run.registrar.close()
        run.until(5)
        assert run.kinds(since=4)[-2:] == ["Revoke", "Finished"]
        assert (run.etcd.key is None) is not away


def test_a_key_that_somebody_else_took_is_left_alone_until_it_goes() -> None:
    run = Run()
    run.until(4)
    other = 7
    run.etcd.leases[other] = 1_000.0
    run.etcd.key = (b"other", other)
    run.until(30)
    assert run.etcd.key == (b"other", other)
    assert run.state == "recovering"
    assert "somebody else, under lease 7" in str(run.registrar.error)
    run.registrar.update(NEW_VALUE)
    run.until(31)
    assert run.etcd.key == (b"other", other)
    run.revoke(other)
    run.until(33)
    assert run.etcd.key == (NEW_VALUE, run.lease)
    assert run.state == "registered"


def test_an_old_value_that_came_to_etcd_late_is_written_over() -> None:
    run = Run()
    run.until(4)
    run.registrar.update(NEW_VALUE)
    run.until(5)
    run.etcd.key = (VALUE, run.lease)  # a Put that was given up, at a member that stood still
    run.until(7)
    assert run.etcd.key == (NEW_VALUE, run.lease)


def test_leases_that_vanish_again_and_again_do_not_make_it_run_hot() -> None:
    run = Run()
    run.until(4)
    for _ in range(20):  # etcd forgets each lease before the key is written
        step = run.registrar.step(run.now)
        while isinstance(step, Wait):
            run.now += step.seconds
            step = run.registrar.step(run.now)
        if isinstance(step, Grant):
            run.registrar.granted(run.now, 10)
        else:
            run.registrar.lease_lost(run.now)
    assert run.now > 104 + 10


def test_a_user_who_may_not_write_still_keeps_its_lease_and_asks_rarely() -> None:
    run = Run()
    run.etcd.forbidden = Put
    run.until(60)
    assert run.kinds().count("Grant") == 1
    assert len(run.times(Put)) <= 35
    assert run.state == "registering"
    run.etcd.forbidden = None
    run.until(64)
    assert run.state == RegistrationState.REGISTERED.value
