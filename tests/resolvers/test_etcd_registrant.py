"""A registration at work on virtual time, with an etcd of the test's own; and serving with one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any, Self

import pytest
from grpc import StatusCode

import grpclb.etcd
from grpclb.etcd import Registration, RegistrationError, RegistrationState, SyncRegistration
from grpclb.resolvers.etcd.model import EtcdFailed, EtcdRefused, KeyValue, LeaseGrant
from grpclb.resolvers.etcd.plan import Plan
from grpclb.resolvers.etcd.registrant import Registrant
from tests.support.virtual_loop import run_virtual

TARGET, ADDRESS = "etcd://etcd:2379/shop/api", "10.0.0.7:443"
KEY = b"shop/api/10.0.0.7:443"


def away() -> EtcdFailed:
    return EtcdFailed(StatusCode.UNAVAILABLE, "connection refused", "etcd:2379")


class Etcd:
    """An EtcdClient and its etcd. `answers` replace what the next calls of a method do."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, str]] = []
        self.leases: set[int] = set()
        self.key: KeyValue | None = None
        self.answers: dict[str, list[Callable[[], Any]]] = {}
        self.closed = False

    def next(self, method: str, *answers: Callable[[], Any] | Exception) -> None:
        self.answers[method] = [_raising(a) if isinstance(a, Exception) else a for a in answers]

    async def _call(self, method: str) -> None:
        self.calls.append((round(asyncio.get_running_loop().time(), 2), method))
        await asyncio.sleep(0)
        if answers := self.answers.get(method):
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if asyncio.iscoroutine(result := answer()):
                await result

    async def lease_grant(self, ttl: int, *, lease: int) -> LeaseGrant:
        await self._call("grant")
        self.leases.add(lease)
        return LeaseGrant(lease, ttl)

    async def put(self, key: bytes, value: bytes, *, lease: int) -> int:
        await self._call("put")
        if lease not in self.leases:
            raise EtcdFailed(StatusCode.NOT_FOUND, "requested lease not found", "etcd:2379")
        self.key = KeyValue(key, value, 1, 1, lease)
        return 1

    async def get(self, key: bytes) -> KeyValue | None:
        await self._call("get")
        return self.key

    async def lease_revoke(self, lease: int) -> bool:
        await self._call("revoke")
        self.leases.discard(lease)
        self.key = None
        return True

    def keep_alive(self, lease: int) -> Any:
        return _KeepAlive(self, lease)

    async def close(self) -> None:
        self.closed = True

    def names(self) -> list[str]:
        return [name for _, name in self.calls]


class _KeepAlive:
    def __init__(self, etcd: Etcd, lease: int) -> None:
        self._etcd, self._lease = etcd, lease

    async def __aenter__(self) -> Self:
        await self._etcd._call("keep_alive")
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def ping(self) -> int:
        return 10 if self._lease in self._etcd.leases else 0


def _raising(error: Exception) -> Callable[[], None]:
    def answer() -> None:
        raise error

    return answer


def nothing() -> None:
    """An answer that lets the call succeed."""


async def never() -> None:
    await asyncio.get_running_loop().create_future()


Scenario = Callable[[Registrant, Etcd], Awaitable[None]]


def play(scenario: Scenario, ttl: int = 10) -> Etcd:
    """Run a scenario; what it leaves open is an error."""
    etcd = Etcd()

    async def main() -> None:
        registrant = Registrant(Plan.of(TARGET, ADDRESS, ttl, {}), {"weight": 2})
        registrant._make_client = lambda: etcd  # type: ignore[assignment]
        await scenario(registrant, etcd)
        await registrant.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(main())
    assert etcd.closed
    return etcd


def test_it_registers_keeps_and_takes_away(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "grpclb.etcd")

    async def scenario(registrant: Registrant, etcd: Etcd) -> None:
        await registrant.start(10, keep_trying=False)
        assert registrant.state is RegistrationState.REGISTERED
        assert etcd.key is not None
        assert etcd.key.key == KEY
        assert etcd.key.value == (b'{"Op":0,"Addr":"10.0.0.7:443","Metadata":{"weight":2}}')
        await asyncio.sleep(60)
        assert {registrant.lease} == etcd.leases

    etcd = play(scenario)
    assert etcd.names().count("keep_alive") == 17
    assert etcd.names()[-1] == "revoke"
    assert (etcd.key, etcd.leases) == (None, set())
    assert [record.getMessage().rpartition(": ")[2].split(" ")[0] for record in caplog.records] == [
        "registered",
        "deregistered",
    ]


def test_an_etcd_that_is_away_at_first_is_waited_for() -> None:
    async def scenario(registrant: Registrant, etcd: Etcd) -> None:
        etcd.next("grant", away(), away(), nothing)
        await registrant.start(10, keep_trying=False)
        assert registrant.state is RegistrationState.REGISTERED

    play(scenario)


def test_but_not_longer_than_patience_lasts() -> None:
    async def scenario(registrant: Registrant, etcd: Etcd) -> None:
        etcd.next("grant", away())
        with pytest.raises(RegistrationError, match=f"{TARGET}: could not .*{ADDRESS}.*refused"):
            await registrant.start(10, keep_trying=False)
        assert asyncio.get_running_loop().time() == pytest.approx(10, abs=0.1)
        assert registrant.state is RegistrationState.CLOSED
        with pytest.raises(RuntimeError, match="entered once"):
            await registrant.start(10, keep_trying=False)

    play(scenario)


def test_a_refusal_is_not_waited_for_and_leaves_no_lease() -> None:
    async def scenario(registrant: Registrant, etcd: Etcd) -> None:
        etcd.next(
            "put", EtcdRefused(StatusCode.PERMISSION_DENIED, "permission denied", "etcd:2379")
        )
        with pytest.raises(RegistrationError, match="permission denied"):
            await registrant.start(10, keep_trying=False)
        assert asyncio.get_running_loop().time() < 1
        assert etcd.leases == set()

    play(scenario)


@pytest.mark.expect_log("connection refused; trying again")
def test_once_registered_nothing_is_raised_and_an_outage_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(registrant: Registrant, etcd: Etcd) -> None:
        await registrant.start(10, keep_trying=False)
        for method in ("grant", "put", "keep_alive", "get"):
            etcd.next(method, away())
        await asyncio.sleep(60)
        assert registrant.state is RegistrationState.RECOVERING
        registrant.update(b"{}")
        assert not await registrant.settled(5)
        etcd.answers.clear()
        assert await registrant.settled(5)
        assert etcd.key is not None
        assert etcd.key.value == b"{}"

    play(scenario)
    assert sum("trying again" in record.getMessage() for record in caplog.records) == 1


def test_with_keep_trying_it_is_entered_without_an_etcd() -> None:
    async def scenario(registrant: Registrant, etcd: Etcd) -> None:
        etcd.next("grant", away())
        await registrant.start(10, keep_trying=True)
        assert asyncio.get_running_loop().time() == 0
        await asyncio.sleep(100)
        assert registrant.state is RegistrationState.REGISTERING
        etcd.answers.clear()
        assert await registrant.settled(6)

    play(scenario)


def test_closing_while_a_grant_is_under_way_revokes_it() -> None:
    async def scenario(registrant: Registrant, etcd: Etcd) -> None:
        etcd.next("grant", never)
        start = asyncio.create_task(registrant.start(10, keep_trying=False))
        await asyncio.sleep(1)
        start.cancel()
        await asyncio.gather(start, return_exceptions=True)
        assert start.cancelled()

    assert play(scenario).names() == ["grant", "revoke"]


@pytest.mark.expect_log("could not be deregistered .no answer within 2 s.; it ends with its lease")
def test_closing_does_not_wait_for_an_etcd_that_is_silent() -> None:
    async def scenario(registrant: Registrant, etcd: Etcd) -> None:
        await registrant.start(10, keep_trying=False)
        waiting = asyncio.create_task(registrant.settled(None))
        etcd.next("revoke", never)
        began = asyncio.get_running_loop().time()
        registrant.update(b"{}")
        await registrant.close()
        await registrant.close()
        assert asyncio.get_running_loop().time() - began == pytest.approx(2, abs=0.1)
        await waiting

    play(scenario)


def test_who_closes_while_it_is_closed_waits_for_that() -> None:
    """Ctrl-C cancels the entering, which closes; the loop may end when `close` has returned."""

    async def scenario(registrant: Registrant, etcd: Etcd) -> None:
        await registrant.start(10, keep_trying=False)
        etcd.next("revoke", lambda: asyncio.sleep(0.5))
        first = asyncio.create_task(registrant.close())
        await asyncio.sleep(0.1)
        await registrant.close()
        assert etcd.key is None
        assert etcd.closed
        await first

    play(scenario)


@pytest.mark.parametrize("entered", [True, False])
def test_closing_is_seen_through_however_often_it_is_cancelled(entered: bool) -> None:
    """A task that is cancelled again while it leaves the block: no key stays behind."""

    async def scenario(registrant: Registrant, etcd: Etcd) -> None:
        if not entered:
            etcd.next("put", never)
        start = asyncio.create_task(registrant.start(10, keep_trying=False))
        await asyncio.sleep(1)
        etcd.next("revoke", lambda: asyncio.sleep(0.5))
        leaving = asyncio.create_task(registrant.close()) if entered else start
        for _ in range(3):
            await asyncio.sleep(0.1)
            leaving.cancel()
        await asyncio.wait([leaving])
        assert leaving.cancelled()
        assert etcd.names()[-1] == "revoke"
        assert not etcd.leases
        assert etcd.closed
        await asyncio.gather(start, return_exceptions=True)

    play(scenario)


def test_metadata_that_is_replaced_before_entering_is_not_lost() -> None:
    sync = SyncRegistration(TARGET, ADDRESS, {"weight": 1})
    sync.update({"weight": 7})
    assert b'{"weight":7}' in sync._registrant._registrar._wanted


@pytest.mark.parametrize(
    "target", ["etcd://root:canary@etcd:2379/api", "etcd://root:canary@etcd:2379"]
)
@pytest.mark.parametrize("etcd", [{}, {"endpoints": "etcd:2379"}, {"endpoints": "x://u:canary@h"}])
def test_a_password_in_a_target_is_not_shown(target: str, etcd: Any) -> None:
    for make in (
        lambda: Registration(target, ADDRESS, **etcd),
        lambda: grpclb.etcd.resolver(target, **etcd),
    ):
        with pytest.raises(ValueError, match="no user belongs in it") as error:
            make()
        assert "canary" not in str(error.value)


def test_a_lease_longer_than_etcd_takes() -> None:
    with pytest.raises(ValueError, match=r"ttl: 1000.* s is too long"):
        Registration(TARGET, ADDRESS, ttl=10**30)


def test_a_grant_that_was_done_but_not_answered_counts() -> None:
    async def scenario(registrant: Registrant, etcd: Etcd) -> None:
        taken = EtcdFailed(
            StatusCode.FAILED_PRECONDITION, "etcdserver: lease already exists", "etcd:2379"
        )

        def granted_unheard() -> None:
            etcd.leases.add(registrant._registrar._lease or 0)
            raise away()

        etcd.next("grant", granted_unheard, taken)
        await registrant.start(10, keep_trying=False)
        assert etcd.names() == ["grant", "grant", "keep_alive", "put"]
        assert len(etcd.leases) == 1

    play(scenario)


def test_a_fork_of_this_process_interrupts_it_for_no_time_and_no_log() -> None:
    async def scenario(registrant: Registrant, etcd: Etcd) -> None:
        await registrant.start(10, keep_trying=False)
        cut = EtcdFailed(StatusCode.UNAVAILABLE, "forked", "etcd:2379", interrupted=True)
        etcd.next("get", cut, nothing)
        await asyncio.sleep(2)
        looks = [at for at, name in etcd.calls if name == "get"]
        assert looks == [1.5, 1.5]
        assert registrant.state is RegistrationState.REGISTERED

    play(scenario)


@pytest.mark.expect_log("Look failed", "trying again")
def test_a_mistake_of_our_own_does_not_end_it() -> None:
    async def scenario(registrant: Registrant, etcd: Etcd) -> None:
        await registrant.start(10, keep_trying=False)
        etcd.next("get", ZeroDivisionError("by zero"), nothing)
        await asyncio.sleep(4)
        assert registrant.state is RegistrationState.REGISTERED

    play(scenario)


def test_in_a_forked_child_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(registrant: Registrant, etcd: Etcd) -> None:
        await registrant.start(10, keep_trying=False)
        pid = os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: pid + 1)
        await registrant.close()
        await asyncio.sleep(30)
        monkeypatch.undo()
        assert "revoke" not in etcd.names()
        assert len(etcd.calls) <= 3

    play(scenario)


LOOP: dict[str, Any] = {}
LOOP["x"] = LOOP

# -- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Registration, SyncRegistration])
@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        ({"target": "api:443"}, ValueError, "expected etcd://host:2379/service"),
        ({"target": "etcd://etcd:2379/"}, ValueError, "the service is missing"),
        ({"address": "0.0.0.0:443"}, ValueError, "unspecified"),
        ({"address": "api.internal:443"}, ValueError, "not an IP address"),
        ({"ttl": 1}, ValueError, "too short"),
        ({"ttl": 2.5}, TypeError, "whole seconds"),
        ({"metadata": {"weight": 0}}, ValueError, "weight"),
        ({"metadata": {"x": "y" * 20_000}}, ValueError, "16384"),
        ({"metadata": {"x": object()}}, TypeError, "JSON"),
        ({"metadata": {"x": float("nan")}}, ValueError, "JSON"),
        ({"metadata": "weight=3"}, TypeError, "metadata must be a dict, such as .* got str"),
        ({"metadata": [("weight", 3)]}, TypeError, "metadata must be a dict, .* got list"),
        ({"metadata": {"x": [1, {"y": {1}}]}}, TypeError, r"\$\.x\[1\]\.y: JSON has no set"),
        ({"metadata": {"x": b"y"}}, TypeError, r"\$\.x: JSON has no bytes"),
        ({"metadata": {7: "x"}}, TypeError, "keys are text in JSON, got 7"),
        ({"metadata": LOOP}, ValueError, "nested deeper than 64"),
        ({"metadata": {"weight": 2.5}}, ValueError, "weight '2.5' is not a whole number"),
        ({"metadata": {"weight": [3]}}, ValueError, "weight .* is not a whole number"),
        ({"metadata": {"zone": 3}}, TypeError, "zone must be text, got 3"),
        ({"metdata": {}}, TypeError, "'metdata'; did you mean 'metadata'"),
        ({"passwort": "p"}, TypeError, "'passwort'; did you mean 'password'"),
        ({"server_name": "x"}, TypeError, "'server_name'; did you mean 'etcd_server_name'"),
        ({"endpoints": "other:2379"}, ValueError, "endpoints= says where etcd is"),
        ({"target": "etcd:///api", "ca": b"no"}, ValueError, "no endpoints"),
        ({"user": "u", "password": "p"}, ValueError, "password without TLS"),
    ],
)
def test_what_cannot_work_is_said_at_once(
    kind: type[Any], changed: dict[str, Any], error: type[Exception], says: str
) -> None:
    arguments = {"target": TARGET, "address": ADDRESS, **changed}
    with pytest.raises(error, match=says):
        kind(**arguments)


def test_the_way_to_etcd_is_the_resolver_s() -> None:
    registration = Registration(
        "etcd:////microservices/api", "[fd00::7]:443",
        endpoints="a:1,b", user="u", password="p", allow_plaintext_auth=True,
    )  # fmt: skip
    assert registration.key == "/microservices/api/[fd00::7]:443"
    settings = registration._registrant.plan.settings
    assert settings.endpoints == ("a:1", "b:2379")
    assert settings.timeout == 2.5, "a silent member does not cost a lease of 10 s"
    assert "new" in repr(registration)


# -- serving -------------------------------------------------------------------------------------


class Journal:
    """A server and a registration, sync and aio, that write down what is done with them."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.lines: list[str] = []
        self.entered = threading.Event()
        self.draining: Callable[[], None] = nothing
        self._failure = failure
        self._stopped = threading.Event()

    def _enter(self) -> None:
        self.lines.append("register")
        if self._failure is not None:
            raise self._failure
        self.entered.set()

    def stop_by_itself(self) -> None:
        self._stopped.set()


class SyncJournal(Journal):
    def start(self) -> None:
        self.lines.append("start")

    def stop(self, grace: float | None) -> threading.Event:
        self.lines.append(f"stop {grace}")
        self._stopped.set()
        return self._stopped

    def wait_for_termination(self, timeout: float | None = None) -> bool:
        if timeout is not None:
            self.lines.append(f"wait {timeout}")
            self.draining()
        return not self._stopped.wait(timeout)


class AioJournal(Journal):
    async def start(self) -> None:
        self.lines.append("start")

    async def stop(self, grace: float | None) -> None:
        self.lines.append(f"stop {grace}")
        self._stopped.set()

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        if timeout is not None and timeout < 1_000:
            self.lines.append(f"wait {timeout}")
            self.draining()
        end = asyncio.get_running_loop().time() + (timeout or 0)
        while not self._stopped.is_set():
            if asyncio.get_running_loop().time() >= end:
                return True
            await asyncio.sleep(0.001)
        return False


@pytest.fixture(params=["sync", "aio"])
def serve(request: pytest.FixtureRequest) -> Callable[..., Journal]:
    """Serves with a journal, in this thread, until `then` has made it end."""
    assert threading.current_thread() is threading.main_thread(), "signals come here only"

    def run(then: Callable[[Journal], None], failure: Exception | None = None) -> Journal:
        journal = (SyncJournal if request.param == "sync" else AioJournal)(failure)

        def end() -> None:
            if journal.entered.wait(10):
                then(journal)

        ender = threading.Thread(target=end)
        ender.start()
        try:
            _serve(journal)
        finally:
            journal.entered.set()
            ender.join()
        return journal

    return run


def _serve(journal: Journal) -> None:
    if isinstance(journal, SyncJournal):
        registration = SyncRegistration(TARGET, ADDRESS)
        registration.__class__ = type(
            "Fake",
            (SyncRegistration,),
            {
                "__enter__": lambda _: journal._enter(),
                "__exit__": lambda *_: journal.lines.append("deregister"),
            },
        )
        registration.serve(journal, drain=0.01, grace=7, signals=[signal.SIGUSR1])
        return

    class Fake(Registration):
        async def __aenter__(self) -> Self:
            journal._enter()
            return self

        async def __aexit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            trace: TracebackType | None,
        ) -> None:
            journal.lines.append("deregister")

    fake = Fake(TARGET, ADDRESS)
    assert isinstance(journal, AioJournal)
    asyncio.run(fake.serve(journal, drain=0.01, grace=7, signals=[signal.SIGUSR1]))


@contextlib.contextmanager
def handler(action: Any) -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, action)
    yield
    signal.signal(signal.SIGUSR1, before)


Serve = Callable[..., Journal]


def test_a_signal_deregisters_first_and_stops_the_server_after_the_drain(serve: Serve) -> None:
    def mine(number: int, frame: object) -> None:
        raise AssertionError("a first signal is not for this one")

    with handler(mine):
        journal = serve(lambda _: os.kill(os.getpid(), signal.SIGUSR1))
        assert signal.getsignal(signal.SIGUSR1) is mine, "as it was"
    assert journal.lines == ["start", "register", "deregister", "wait 0.01", "stop 7"]


def test_a_second_signal_during_the_drain_is_the_program_s_own(serve: Serve) -> None:
    """By then nobody is registered; by default it ends the process."""
    seen: list[int] = []

    def twice(journal: Journal) -> None:
        journal.draining = lambda: os.kill(os.getpid(), signal.SIGUSR1)
        journal.draining()

    with handler(lambda number, frame: seen.append(number)):
        journal = serve(twice)
    assert seen == [signal.SIGUSR1]
    assert journal.lines == ["start", "register", "deregister", "wait 0.01", "stop 7"]


def test_a_server_that_stops_by_itself_is_deregistered(serve: Serve) -> None:
    journal = serve(Journal.stop_by_itself)
    assert journal.lines == ["start", "register", "deregister", "wait 0.01"]


def test_a_server_that_could_not_be_registered_is_stopped(serve: Serve) -> None:
    lines: list[str] = []
    with pytest.raises(RegistrationError, match="because"):
        lines = serve(lambda _: None, RegistrationError("because")).lines
    assert lines == []
