"""The etcd resolver against a scripted etcd: what it tells the channel, whatever etcd does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from grpc import StatusCode

from grpclb.core.resolver import Resolver, ResolverContext, ResolverState
from grpclb.core.status import Status
from grpclb.core.target import parse_target
from grpclb.resolvers.etcd import members
from grpclb.resolvers.etcd import resolver as module
from grpclb.resolvers.etcd.build import build
from grpclb.resolvers.etcd.model import EtcdFailed, KeyValue, Listing
from grpclb.resolvers.etcd.resolver import EtcdResolver
from grpclb.resolvers.etcd.settings import EtcdSettings
from tests.support.fake_etcd import FakeEtcd
from tests.support.virtual_loop import run_virtual

pytestmark = pytest.mark.slow
A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"


@pytest.fixture
def etcd() -> Iterator[FakeEtcd]:
    with FakeEtcd() as etcd:
        yield etcd


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less waiting between tries than a real etcd should be given."""
    monkeypatch.setattr(module, "_FIRST_DELAY", 0.05)
    monkeypatch.setattr(members, "_AUTH_PAUSE", 0.1)


class Channel:
    """What a channel would be told."""

    def __init__(self) -> None:
        self.states: list[ResolverState] = []

    def update(self, state: ResolverState) -> bool:
        self.states.append(state)
        return True

    @property
    def addresses(self) -> list[str] | None:
        """Of the last good list, which a channel keeps; None before there is one."""
        for state in reversed(self.states):
            if not isinstance(state.endpoints, Status):
                return [str(endpoint) for endpoint in state.endpoints]
        return None

    @property
    def error(self) -> Status | None:
        last = self.states[-1].endpoints if self.states else None
        return last if isinstance(last, Status) else None

    @property
    def good(self) -> ResolverState:
        return next(s for s in reversed(self.states) if not isinstance(s.endpoints, Status))

    async def until(self, condition: Callable[[Channel], bool], patience: float = 15.0) -> None:
        end = time.monotonic() + patience
        while not condition(self):
            assert time.monotonic() < end, self.states[-3:]
            await asyncio.sleep(0.005)

    async def until_addresses(self, *addresses: str) -> None:
        await self.until(lambda c: c.addresses == list(addresses) and c.error is None)


@contextlib.asynccontextmanager
async def running(resolver: Resolver) -> AsyncIterator[Channel]:
    channel = Channel()
    task = asyncio.create_task(resolver.run(channel.update))
    try:
        yield channel
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def resolver_of(target: str, settings: EtcdSettings | None = None, **more: Any) -> EtcdResolver:
    return build(parse_target(target, ["etcd"]), ResolverContext(Random(1)), settings, **more)


def follow(*etcds: FakeEtcd, service: str = "svc", **settings: Any) -> Any:
    endpoints = ",".join(etcd.endpoint for etcd in etcds)
    given = EtcdSettings.of(endpoints, **{"timeout": 10, **settings})
    return running(resolver_of(f"etcd://{endpoints}/{service}", given))


async def test_a_list_and_then_what_happens(etcd: FakeEtcd) -> None:
    etcd.put("svc/a", json.dumps({"Op": 0, "Addr": A, "Metadata": {"weight": 3}}))
    etcd.put("svc2/x", C)
    etcd.put("svc", C)
    async with follow(etcd) as channel:
        await channel.until_addresses(A)
        assert dict(channel.good.endpoints[0].attributes) == {"weight": 3}
        await channel.until(lambda c: etcd.watching == 1)
        etcd.put("svc/b", B)
        await channel.until_addresses(A, B)
        etcd.put("svc/a", C)
        await channel.until_addresses(C, B)
        etcd.delete("svc/a")
        await channel.until_addresses(B)
        etcd.put("svc2/y", A)
        etcd.delete("svc/b")
        await channel.until_addresses()
        assert "0 endpoints below key 'svc/'" in channel.good.note
        assert etcd.calls["Range"] == 1
    await channel.until(lambda c: etcd.watching == 0)


async def test_nothing_is_told_where_nothing_changed(etcd: FakeEtcd) -> None:
    etcd.put("svc/a", A)
    async with follow(etcd) as channel:
        await channel.until(lambda c: etcd.watching == 1)
        etcd.put("svc/a", A)
        etcd.progress()
        etcd.put("svc/b", B)
        await channel.until_addresses(A, B)
        assert len(channel.states) == 2


ENDS: dict[str, Callable[[FakeEtcd], None]] = {
    "closed": lambda etcd: etcd.end_watches(),
    "no leader": lambda etcd: etcd.end_watches(StatusCode.UNAVAILABLE, "etcdserver: no leader"),
    "cancelled": lambda etcd: etcd.cancel_watches("etcdserver: mvcc: something"),
    "compacted": lambda etcd: etcd.cancel_watches("", 99),
    "unknown": lambda etcd: etcd.end_watches(StatusCode.UNKNOWN, "panic"),
}


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("end", ENDS)
async def test_whatever_ends_the_watch_it_lists_again_and_goes_on(etcd: FakeEtcd, end: str) -> None:
    etcd.put("svc/a", A)
    etcd.put("svc/b", B)
    async with follow(etcd) as channel:
        await channel.until(lambda c: etcd.watching == 1)
        ENDS[end](etcd)
        etcd.delete("svc/a")  # in the gap
        etcd.put("svc/c", C)
        etcd.compact()
        await channel.until_addresses(B, C)
        await channel.until(lambda c: etcd.watching == 1)
        etcd.put("svc/d", A)
        await channel.until_addresses(B, C, A)
        errors = [s.endpoints for s in channel.states if isinstance(s.endpoints, Status)]
        assert {error.code for error in errors} == {StatusCode.UNAVAILABLE}  # gRFC A54


@pytest.mark.usefixtures("hasty")
async def test_a_restart_keeps_the_list_and_finds_what_changed(etcd: FakeEtcd) -> None:
    etcd.put("svc/a", A)
    async with follow(etcd) as channel:
        await channel.until(lambda c: etcd.watching == 1)
        etcd.stop()
        await channel.until(lambda c: c.error is not None)
        await channel.until(lambda c: "refused" in str(c.error))
        assert channel.addresses == [A]
        etcd.start()
        etcd.put("svc/b", B)
        await channel.until_addresses(A, B)


@pytest.mark.usefixtures("hasty")
async def test_another_member_takes_over(etcd: FakeEtcd) -> None:
    etcd.put("svc/a", A)
    with FakeEtcd() as other:
        other.put("svc/a", A)
        async with follow(etcd, other) as channel:
            await channel.until(lambda c: etcd.watching + other.watching == 1)
            left, next_one = (etcd, other) if etcd.watching else (other, etcd)
            left.stop()
            await channel.until(lambda c: next_one.watching == 1)
            next_one.put("svc/b", B)
            await channel.until_addresses(A, B)


@pytest.mark.usefixtures("hasty")
async def test_etcd_is_away_at_first(etcd: FakeEtcd) -> None:
    etcd.stop()
    async with follow(etcd) as channel:
        await channel.until(lambda c: c.error is not None)
        assert channel.error is not None
        assert channel.error.code is StatusCode.UNAVAILABLE
        assert f"etcd://{etcd.endpoint}/svc: etcd {etcd.endpoint}: " in channel.error.details
        etcd.start()
        etcd.put("svc/a", A)
        await channel.until_addresses(A)


@pytest.mark.usefixtures("hasty")
async def test_without_a_quorum_the_first_list_is_one_members(etcd: FakeEtcd) -> None:
    etcd.put("svc/a", A)
    etcd.leader = False
    async with follow(etcd) as channel:
        await channel.until(lambda c: c.addresses == [A])
        assert "as one member knew it (no quorum)" in channel.good.note
        await channel.until(lambda c: c.error is not None)
        assert "no leader" in str(channel.error)
        await channel.until(lambda c: etcd.calls["Range"] > 3)
        assert etcd.serializable == 1  # later lists may not be old
        etcd.leader = True
        await channel.until(lambda c: c.error is None and "no quorum" not in c.good.note)


@pytest.mark.expect_log("key 'svc/bad.*'")
async def test_bad_values_are_skipped_logged_once_and_shown(
    etcd: FakeEtcd, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "grpclb.etcd")
    etcd.put("svc/a", A)
    etcd.put("svc/bad", "localhost:80")
    async with follow(etcd) as channel:
        await channel.until_addresses(A)
        assert list(channel.good.attributes["skipped"]) == ["svc/bad"]
        assert "1 of 2 keys skipped (svc/bad: address 'localhost'" in channel.good.note
        await channel.until(lambda c: etcd.watching == 1)
        etcd.put("svc/bad2", "?")
        etcd.end_watches()
        await channel.until(lambda c: etcd.calls["Range"] == 2 and etcd.watching == 1)
        etcd.put("svc/b", B)
        await channel.until_addresses(A, B)
    logged = [record.getMessage() for record in caplog.records if record.name == "grpclb.etcd"]
    assert len(logged) == 2
    assert "svc/bad'" in logged[0]
    assert "svc/bad2'" in logged[1]


@pytest.mark.expect_log("key '...': more than 50000 keys; the rest is not read")
async def test_that_there_are_more_keys_than_are_read_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    channel = Channel()
    reports = module._Reports("etcd:///svc", b"svc/", channel.update)
    for _ in range(2):
        reports.list(Listing(1, (KeyValue(b"svc/a", A.encode(), 1),), complete=False))
    assert (channel.addresses, list(channel.good.attributes["skipped"])) == ([A], ["..."])
    assert caplog.text.count("the rest is not read") == 1


@pytest.mark.usefixtures("hasty")
async def test_an_expired_token_loses_no_update(etcd: FakeEtcd) -> None:
    etcd.users = {"app": "pw"}
    way: dict[str, Any] = {"user": "app", "password": "pw", "allow_plaintext_auth": True}
    async with follow(etcd, **way) as channel:
        await channel.until(lambda c: etcd.watching == 1)
        for number in range(3):
            await asyncio.sleep(0.15)
            etcd.expire_tokens()
            etcd.end_watches()
            etcd.put(f"svc/{number}", f"10.0.0.{number + 1}:80")
        await channel.until_addresses(A, B, C)
        assert etcd.calls["Authenticate"] <= 8


async def test_a_storm_becomes_few_updates(etcd: FakeEtcd) -> None:
    async with follow(etcd) as channel:
        await channel.until(lambda c: etcd.watching == 1)
        started = time.monotonic()
        for number in range(1_000):
            etcd.put(f"svc/{number % 100:03}", f"10.0.{number % 100}.{1 + number // 100}:80")
        last = [f"10.0.{n}.10:80" for n in range(100)]
        await channel.until_addresses(*last)
        took = time.monotonic() - started
        assert len(channel.states) <= 3 + took / module._PACE


async def test_it_can_run_again(etcd: FakeEtcd) -> None:
    etcd.put("svc/a", A)
    resolver = resolver_of(f"etcd://{etcd.endpoint}/svc")
    for _ in range(2):
        async with running(resolver) as channel:
            resolver.resolve_now()
            await channel.until_addresses(A)
    assert repr(resolver) == f"<EtcdResolver etcd://{etcd.endpoint}/svc>"


# ---- pace, on virtual time


class Script:
    """A source that fails as told, and says when it was asked."""

    def __init__(self, failure: EtcdFailed) -> None:
        self.asked: list[float] = []
        self.closed = 0
        self._failure = failure

    async def list(self, prefix: bytes, *, fall_back: bool) -> Listing:
        self.asked.append(asyncio.get_running_loop().time())
        raise self._failure

    def watch(self, prefix: bytes, start_revision: int) -> Any:
        raise AssertionError

    async def close(self) -> None:
        self.closed += 1


def test_an_etcd_that_is_away_is_asked_with_backoff() -> None:
    script = Script(EtcdFailed(StatusCode.PERMISSION_DENIED, "no", "h:1"))
    resolver = EtcdResolver("etcd:///svc", b"svc/", lambda: script, Random(1))

    async def main() -> Channel:
        async with running(resolver) as channel:
            await asyncio.sleep(600)
        return channel

    channel = run_virtual(main())
    gaps = [b - a for a, b in zip(script.asked, script.asked[1:], strict=False)]
    assert 0.2 <= gaps[0] <= 0.3
    assert all(4 <= gap <= 6 for gap in gaps[8:])
    assert len(gaps) < 140
    assert channel.error == Status.unavailable("etcd:///svc: etcd h:1: PERMISSION_DENIED: no")
    assert script.closed == 1


# ---- an etcd3-style client of the user's


class PutEvent(SimpleNamespace):
    pass


class DeleteEvent(SimpleNamespace):
    pass


class Etcd3:
    """As etcd3's client looks from outside, watches by callback."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.revision = 1
        self.callbacks: dict[int, Callable[[Any], None]] = {}
        self.since: list[int | None] = []
        self.fails: Exception | None = None

    def get_prefix(self, prefix: bytes) -> Iterator[tuple[bytes, Any]]:
        if self.fails is not None:
            raise self.fails
        header = SimpleNamespace(revision=self.revision)
        for key, value in sorted(self.data.items()):
            yield value, SimpleNamespace(key=key, mod_revision=1, response_header=header)

    def add_watch_prefix_callback(
        self, prefix: bytes, callback: Callable[[Any], None], start_revision: int | None = None
    ) -> int:
        self.since.append(start_revision)
        self.callbacks[len(self.since)] = callback
        return len(self.since)

    def cancel_watch(self, number: int) -> None:
        del self.callbacks[number]

    def tell(self, *events: Any) -> None:
        for callback in list(self.callbacks.values()):
            callback(SimpleNamespace(events=events))

    def break_watches(self) -> None:
        for callback in list(self.callbacks.values()):
            callback(RuntimeError("the watcher died"))


class Etcd3WithIterators:
    """The other way to watch."""

    def __init__(self, inner: Etcd3) -> None:
        self.inner = inner
        self.get_prefix = inner.get_prefix

    def watch_prefix(self, prefix: bytes, **since: Any) -> tuple[Iterator[Any], Any]:
        events: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def on_response(response: Any) -> None:
            for event in response.events:
                events.put(event)

        number = self.inner.add_watch_prefix_callback(prefix, on_response, **since)

        def cancel() -> None:
            self.inner.cancel_watch(number)
            events.put(None)

        return iter(events.get, None), cancel


@pytest.mark.parametrize("wrap", [lambda client: client, Etcd3WithIterators])
async def test_a_client_of_the_users(wrap: Callable[[Etcd3], Any]) -> None:
    client = Etcd3()
    client.data, client.revision = {b"svc/a": A.encode()}, 7
    resolver = resolver_of("etcd:///svc", client=wrap(client))
    async with running(resolver) as channel:
        await channel.until_addresses(A)
        await channel.until(lambda c: bool(client.callbacks))
        assert client.since == [8]
        client.tell(PutEvent(key=b"svc/b", value=B.encode(), mod_revision=8))
        await channel.until_addresses(A, B)
        client.tell(DeleteEvent(key=b"svc/a", value=b"", mod_revision=9))
        await channel.until_addresses(B)
    await channel.until(lambda c: not client.callbacks)


@pytest.mark.usefixtures("hasty")
async def test_a_client_of_the_users_that_fails() -> None:
    client = Etcd3()
    client.data = {b"svc/a": A.encode()}
    client.fails = ConnectionError("etcd is away")
    async with running(resolver_of("etcd:///svc", client=client)) as channel:
        await channel.until(lambda c: c.error is not None)
        assert "ConnectionError: etcd is away" in str(channel.error)
        client.fails = None
        await channel.until(lambda c: bool(client.callbacks))
        client.data = {b"svc/b": B.encode()}
        client.break_watches()
        await channel.until_addresses(B)
        assert any("the watcher died" in str(s.endpoints) for s in channel.states)


async def test_a_silent_client_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from grpclb.resolvers.etcd import adapter

    monkeypatch.setattr(adapter, "_LIST_AGAIN", 0.1)
    client = Etcd3()
    client.data = {b"svc/a": A.encode()}
    async with running(resolver_of("etcd:///svc", client=client)) as channel:
        await channel.until_addresses(A)
        client.data = {b"svc/b": B.encode()}  # without a word
        await channel.until_addresses(B)
        assert not any(isinstance(s.endpoints, Status) for s in channel.states)


async def test_a_watch_that_begins_when_nobody_waits_any_more_is_cancelled() -> None:
    client, asked, go = Etcd3(), threading.Event(), threading.Event()
    begin = client.add_watch_prefix_callback

    def slow(*args: Any, **more: Any) -> int:
        asked.set()
        go.wait(10)
        return begin(*args, **more)

    client.add_watch_prefix_callback = slow  # type: ignore[method-assign]
    async with running(resolver_of("etcd:///svc", client=client)) as channel:
        await channel.until(lambda c: asked.is_set())
    go.set()
    await channel.until(lambda c: bool(client.since) and not client.callbacks)


def test_something_else_is_no_client() -> None:
    with pytest.raises(TypeError, match=r"get_prefix and add_watch_prefix_callback.*got object"):
        resolver_of("etcd:///svc", client=object())
