"""grpclb.testing: the kit keeps the contracts that it stands in for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable

import pytest
from grpc import StatusCode

from grpclb.core.address import Address, AddressError, Endpoint
from grpclb.core.balancer import QUEUE, Fail, FixedPicker, SubchannelState
from grpclb.core.connectivity import CONNECTING, IDLE, READY, TRANSIENT_FAILURE
from grpclb.core.resolver import ResolverState
from grpclb.core.status import Status
from grpclb.testing import FakeClock, FakeHelper, ManualResolver

A, B = "10.0.0.1:1", "10.0.0.2:1"

# -- FakeClock -----------------------------------------------------------------------------------


def test_timers_run_in_order_each_at_its_own_time() -> None:
    clock = FakeClock(now=0)
    ran: list[tuple[str, float]] = []
    for name, delay in [("c", 2), ("a", 1), ("b", 1), ("late", 3.5)]:
        clock.call_later(delay, lambda name=name: ran.append((name, clock.now())))  # type: ignore[misc]
    clock.advance(3)
    assert ran == [("a", 1), ("b", 1), ("c", 2)]
    assert (clock.now(), clock.pending) == (3, 1)


def test_a_timer_of_no_delay_waits_for_the_next_turn() -> None:
    clock = FakeClock()
    ran: list[int] = []
    clock.call_later(0, lambda: ran.append(1))
    assert ran == []
    clock.advance(0)
    assert ran == [1]


def test_timers_that_timers_make_run_if_they_fall_due() -> None:
    clock = FakeClock(now=0)
    ran: list[float] = []

    def again() -> None:
        ran.append(clock.now())
        clock.call_later(1, again)

    clock.call_later(1, again)
    clock.advance(3)
    assert ran == [1, 2, 3]
    assert clock.pending == 1


def test_a_cancelled_timer_does_not_run() -> None:
    clock = FakeClock()
    ran: list[int] = []
    later = clock.call_later(2, lambda: ran.append(2))
    first = clock.call_later(1, later.cancel)
    clock.advance(2)
    first.cancel()
    assert (ran, clock.pending) == ([], 0)


def test_a_timer_that_rearms_itself_without_end_is_told() -> None:
    clock = FakeClock()

    def forever() -> None:
        clock.call_later(0, forever)

    forever()
    with pytest.raises(RuntimeError, match="re-arm"):
        clock.advance(0)


def test_a_negative_delay_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="negative"):
        FakeClock().call_later(-1, lambda: None)


# -- FakeHelper and FakeSubchannel ---------------------------------------------------------------


def test_a_subchannel_reports_as_a_real_one() -> None:
    seen: list[SubchannelState] = []
    subchannel = FakeHelper().create_subchannel(Address.parse(A), seen.append)
    assert seen == []
    subchannel.connect()
    subchannel.connect()
    subchannel.set(CONNECTING)
    subchannel.set(TRANSIENT_FAILURE, "refused")
    subchannel.set(TRANSIENT_FAILURE, Status.unavailable("reset"))
    assert seen == [
        SubchannelState(CONNECTING),
        SubchannelState(TRANSIENT_FAILURE, Status.unavailable("refused")),
        SubchannelState(TRANSIENT_FAILURE, Status.unavailable("reset")),
    ]
    assert subchannel.connects == 2
    subchannel.release()
    subchannel.set(READY)
    assert len(seen) == 3


@pytest.mark.parametrize("use", ["connect", "release"])
def test_use_after_release_is_told(use: str) -> None:
    subchannel = FakeHelper().create_subchannel(Address.parse(A), lambda state: None)
    subchannel.release()
    with pytest.raises(RuntimeError, match=r"10\.0\.0\.1:1: release\(\) twice|after release"):
        getattr(subchannel, use)()


def test_the_helper_writes_down_what_it_is_told() -> None:
    helper = FakeHelper()
    assert (helper.state, helper.pick()) == (IDLE, QUEUE)
    fail = Fail(Status.unavailable("down"))
    helper.update_picker(TRANSIENT_FAILURE, FixedPicker(fail))
    helper.request_resolution()
    assert (helper.state, helper.pick(), helper.resolution_requests) == (TRANSIENT_FAILURE, fail, 1)
    old, new = (helper.create_subchannel(Address.parse(A), lambda state: None) for _ in range(2))
    assert helper.subchannel(A) is new
    new.release()
    assert helper.subchannel(A) is old
    assert helper.live == [old]
    with pytest.raises(LookupError, match=r"10\.0\.0\.2:1"):
        helper.subchannel(B)


# -- ManualResolver ------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def running(
    resolver: ManualResolver, update: Callable[[ResolverState], bool]
) -> AsyncIterator[asyncio.Task[None]]:
    """A channel's run of the resolver."""
    task = asyncio.create_task(resolver.run(update))
    await asyncio.sleep(0)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Seen(list[ResolverState]):
    """What a channel was told; `until` waits for a number of states."""

    def __init__(self) -> None:
        super().__init__()
        self.news = asyncio.Event()

    def __call__(self, state: ResolverState) -> bool:
        self.append(state)
        self.news.set()
        return True

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self) < count:
                self.news.clear()
                await self.news.wait()


async def test_what_was_said_before_the_start_is_told_at_once() -> None:
    resolver, seen = ManualResolver([A]), Seen()
    resolver.update([B])
    async with running(resolver, seen):
        assert seen == [ResolverState.of([B])], "the newest, and only that"


async def test_a_resolver_that_knows_nothing_says_nothing() -> None:
    resolver, seen = ManualResolver(), Seen()
    async with running(resolver, seen):
        assert seen == []
        resolver.update([])
        await seen.until(1)
        assert seen[0].endpoints == ()


async def test_every_state_is_told_in_order() -> None:
    resolver, seen = ManualResolver(), Seen()
    state = ResolverState.of([A], note="by hand")
    async with running(resolver, seen):
        resolver.update(state)
        resolver.fail(StatusCode.INTERNAL, "away")
        resolver.update([Address.parse(A), Endpoint.of(B, weight=2)])
        await seen.until(3)
    assert seen[0] is state
    assert seen[1] == ResolverState(Status(StatusCode.INTERNAL, "away"))
    assert seen[2].endpoints == (Endpoint.of(A), Endpoint.of(B, weight=2))


async def test_several_channels_are_all_told() -> None:
    resolver, first, second = ManualResolver([A]), Seen(), Seen()
    async with running(resolver, first):
        async with running(resolver, second):
            resolver.update([B])
            await first.until(2)
            await second.until(2)
        resolver.update([A])
        await first.until(3)
    assert len(second) == 2, "a channel that is closed is told nothing"
    assert resolver._listeners == ()


async def test_updates_from_many_threads_arrive_all() -> None:
    resolver, seen = ManualResolver(), Seen()

    def work(number: int) -> None:
        for port in range(1, 101):
            resolver.update([f"10.0.0.{number}:{port}"])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 9)]
    async with running(resolver, seen):
        for thread in threads:
            thread.start()
        await seen.until(800)
        for thread in threads:
            await asyncio.to_thread(thread.join, 10)
    assert seen[-1] is resolver._state, "the last one told is the newest"
    for number in range(1, 9):
        texts = [str(s.endpoints[0]) for s in seen if isinstance(s.endpoints, tuple)]
        mine = [text for text in texts if text.startswith(f"10.0.0.{number}:")]
        assert mine == [f"10.0.0.{number}:{port}" for port in range(1, 101)]


def test_a_channel_whose_loop_was_closed_disturbs_nobody() -> None:
    resolver = ManualResolver()
    loop = asyncio.new_event_loop()
    run = resolver.run(lambda state: True)
    task = loop.create_task(run)
    loop.run_until_complete(asyncio.sleep(0))
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    resolver.update([A])
    assert resolver._state == ResolverState.of([A])
    run.close()


def test_requests_are_counted_from_all_threads() -> None:
    resolver = ManualResolver()

    def work() -> None:
        for _ in range(1000):
            resolver.resolve_now()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert resolver.requests == 4000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_while_another_thread_holds_the_lock_does_not_hang_the_child() -> None:
    resolver = ManualResolver([A])
    with resolver._lock:
        pid = os.fork()
        if pid == 0:
            try:
                resolver.update([B])
                resolver.resolve_now()
            finally:
                os._exit(resolver.requests - 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("wrong", [A, Address.parse(A), Endpoint.of(A)])
def test_one_address_alone_is_a_mistake(wrong: object) -> None:
    with pytest.raises(TypeError, match="expected a list of addresses"):
        ManualResolver().update(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["api:443", "10.0.0.1", "10.0.0.1:0", "unix:/run/x"])
def test_an_address_that_cannot_be_dialled_is_told_at_once(wrong: str) -> None:
    resolver = ManualResolver([A])
    with pytest.raises(AddressError, match=wrong.partition(":")[0]):
        resolver.update([A, wrong])
    assert resolver._state == ResolverState.of([A]), "and changes nothing"
