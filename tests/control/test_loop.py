"""The shared background loop: counted, restarted, parked around forks."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import grpclb
from grpclb.control import loop as control_loop
from grpclb.control.loop import ControlLoop, run_on
from grpclb.core.resolver import Update
from tests.control.harness import Script


@pytest.fixture
def control() -> Iterator[ControlLoop]:
    control = ControlLoop()
    yield control
    control.shut_down()


def thread_of(loop: asyncio.AbstractEventLoop) -> threading.Thread:
    found = run_on(loop, threading.current_thread, 5)
    assert isinstance(found, threading.Thread)
    return found


def test_nothing_runs_before_the_first_lease(control: ControlLoop) -> None:
    assert control.thread is None


def test_leases_share_one_daemon_thread(control: ControlLoop) -> None:
    one, two = control.acquire(), control.acquire()
    assert one.loop is two.loop
    thread = thread_of(one.loop)
    assert thread is control.thread
    assert (thread.name, thread.daemon) == ("grpclb-control", True)


def test_the_last_one_out_stops_the_thread_and_the_loop(control: ControlLoop) -> None:
    one, two = control.acquire(), control.acquire()
    thread = thread_of(one.loop)
    one.release()
    one.release()  # harmless, and counts once
    assert thread.is_alive()
    two.release()
    assert not thread.is_alive()
    assert two.loop.is_closed()
    assert control.thread is None


def test_a_thread_that_cannot_be_started_is_the_trouble_of_one_caller(
    control: ControlLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="can't start new thread"):
            control.acquire()
        assert control.thread is None
    monkeypatch.setattr(threading.Thread, "start", start)
    lease = control.acquire()
    thread = thread_of(lease.loop)
    lease.release()
    assert not thread.is_alive(), "the ones that failed are not counted"


def test_it_starts_again(control: ControlLoop) -> None:
    one = control.acquire()
    first = thread_of(one.loop)
    one.release()
    two = control.acquire()
    assert two.loop is not one.loop
    assert thread_of(two.loop) is not first
    one.release()  # a lease on the loop before this one
    assert two.loop.is_running()
    two.release()
    assert two.loop.is_closed()


def test_a_finalizer_s_release_does_not_wait(control: ControlLoop) -> None:
    lease = control.acquire()
    thread = thread_of(lease.loop)
    blocked = threading.Event()
    lease.loop.call_soon_threadsafe(blocked.wait)
    lease.release(wait=False)  # would otherwise wait for `blocked`
    assert thread.is_alive()
    blocked.set()
    thread.join(5)
    assert lease.loop.is_closed()


def test_a_lease_can_be_released_on_the_loop_itself(control: ControlLoop) -> None:
    """A channel that is closed in a resolver or a policy."""
    lease = control.acquire()
    thread = thread_of(lease.loop)
    run_on(lease.loop, lease.release, 5)
    thread.join(5)
    assert not thread.is_alive()


def test_many_threads_take_and_give(control: ControlLoop) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                lease = control.acquire()
                assert run_on(lease.loop, lambda: 42, 10) == 42
                lease.release()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert control.thread is None


def test_tasks_are_cancelled_and_may_clean_up(control: ControlLoop) -> None:
    lease = control.acquire()
    ended: list[str] = []

    async def resolver() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("resolver")

    async def generate() -> object:
        try:
            while True:
                yield
        finally:
            ended.append("generator")

    kept: list[object] = []

    async def start() -> None:
        generator = generate()
        kept.append(generator)
        await anext(generator)  # type: ignore[call-overload]

    started = asyncio.run_coroutine_threadsafe(start(), lease.loop)
    started.result(5)
    run_on(lease.loop, lambda: kept.append(lease.loop.create_task(resolver())), 5)
    lease.release()
    assert ended == ["resolver", "generator"]


def test_a_task_that_clings_to_life_does_not_hold_up_close(
    control: ControlLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_loop, "_STOP_PATIENCE", 0.1)
    lease = control.acquire()
    thread = thread_of(lease.loop)
    let_go = False

    async def stubborn() -> None:
        while not let_go:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass

    task = run_on(lease.loop, lambda: lease.loop.create_task(stubborn()), 5)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    run_on(lease.loop, lambda: None, 5)
    before = time.monotonic()
    lease.release()
    thread.join(5)
    assert time.monotonic() - before < 3
    assert lease.loop.is_closed()
    let_go = True  # so that the coroutine ends when it is collected
    del task
    gc.collect()


@pytest.mark.expect_log(r"sys\.exit\(\) was called on the control loop")
def test_sys_exit_in_a_callback_does_not_end_the_loop_of_all_channels(
    control: ControlLoop,
) -> None:
    lease = control.acquire()
    thread = thread_of(lease.loop)
    lease.loop.call_soon_threadsafe(sys.exit, 3)
    assert run_on(lease.loop, lambda: 42, 5) == 42
    lease.release()
    assert not thread.is_alive()
    assert lease.loop.is_closed()


# -- run_on ----------------------------------------------------------------------------------------


def test_run_on_returns_or_raises_what_the_function_does(control: ControlLoop) -> None:
    lease = control.acquire()
    assert run_on(lease.loop, lambda: "x", 5) == "x"
    with pytest.raises(ZeroDivisionError):
        run_on(lease.loop, lambda: 1 // 0, 5)


def test_run_on_gives_up_on_a_blocked_loop(control: ControlLoop) -> None:
    lease = control.acquire()
    blocked, ran = threading.Event(), threading.Event()
    lease.loop.call_soon_threadsafe(blocked.wait)
    with pytest.raises(TimeoutError, match=r"the control loop did not answer in 0\.02 s"):
        run_on(lease.loop, ran.set, 0.02)
    blocked.set()
    assert ran.wait(5)  # what was asked for still happens


def test_run_on_a_closed_loop_is_an_error(control: ControlLoop) -> None:
    lease = control.acquire()
    lease.release()
    with pytest.raises(RuntimeError, match="closed"):
        run_on(lease.loop, lambda: None, 5)


# -- fork hooks: called in one process, in the order that os.fork calls them -----------------------


class Member:
    """Something that lives on the loop."""

    def __init__(self) -> None:
        self.forgotten = 0

    def forget_after_fork(self) -> None:
        self.forgotten += 1


def test_around_a_fork_the_loop_stands_still_in_python(control: ControlLoop) -> None:
    lease = control.acquire()
    ran = threading.Event()
    control.before_fork()
    lease.loop.call_soon_threadsafe(ran.set)
    assert not ran.wait(0.05)
    control.after_fork_in_parent()
    assert ran.wait(5)


def test_no_lease_is_taken_while_a_fork_is_under_way(control: ControlLoop) -> None:
    control.before_fork()
    taken: list[object] = []
    thread = threading.Thread(target=lambda: taken.append(control.acquire()))
    thread.start()
    thread.join(0.05)
    assert taken == []
    control.after_fork_in_parent()
    thread.join(5)
    assert len(taken) == 1


def test_a_fork_of_an_idle_process_costs_nothing(control: ControlLoop) -> None:
    control.before_fork()
    control.after_fork_in_parent()
    assert control.thread is None


def test_a_fork_on_the_loop_s_own_thread_does_not_wait_for_itself(control: ControlLoop) -> None:
    lease = control.acquire()

    def fork() -> bool:
        control.before_fork()
        control.after_fork_in_parent()
        return True

    assert run_on(lease.loop, fork, 5)


def test_a_blocked_loop_delays_a_fork_for_a_while_only(
    control: ControlLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_loop, "_PARK_PATIENCE", 0.05)
    lease = control.acquire()
    blocked = threading.Event()
    lease.loop.call_soon_threadsafe(blocked.wait)
    control.before_fork()
    control.after_fork_in_parent()
    blocked.set()
    assert run_on(lease.loop, lambda: 1, 5) == 1  # nor does it park afterwards


def in_child(check: Callable[[], bool]) -> bool:
    """Run `check` in a forked child that has nothing else to do."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if check() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("used", [True, False])
def test_a_child_begins_anew(
    control: ControlLoop, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRPC_ENABLE_FORK_SUPPORT", "1")
    member = Member()
    control.watch_forks(member)
    lease = control.acquire() if used else None

    def check() -> bool:
        control.after_fork_in_child()
        if control.thread is not None or member.forgotten != 1:
            return False
        if lease is not None:
            lease.release()  # the parent's: must not count here
        mine = control.acquire()
        alive = run_on(mine.loop, lambda: 7, 5) == 7
        mine.release()
        return alive and mine.loop.is_closed()

    control.before_fork()
    try:
        assert in_child(check)
    finally:
        control.after_fork_in_parent()
    assert member.forgotten == 0
    if lease is not None:
        assert run_on(lease.loop, lambda: 7, 5) == 7


def test_a_member_that_is_gone_is_not_told(control: ControlLoop) -> None:
    member = Member()
    told: list[int] = []
    member.forget_after_fork = lambda: told.append(1)  # type: ignore[method-assign]
    control.watch_forks(member)
    del member
    gc.collect()
    assert list(control._members) == []
    assert told == []


def test_shut_down_at_exit_ends_the_thread_with_leases_open(control: ControlLoop) -> None:
    lease = control.acquire()
    thread = thread_of(lease.loop)
    control.shut_down()
    control.shut_down()
    assert not thread.is_alive()
    lease.release()
    assert control.thread is None


@pytest.mark.expect_log("closed while the control loop was blocked")
def test_a_channel_closes_in_bounded_time_while_the_loop_is_blocked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """FIGURES F43, P6: a resolver that blocks holds up neither close() nor the loop's end."""
    monkeypatch.setattr("grpclb.sync.engine._CLOSE_PATIENCE", 0.05)
    blocked, freed = threading.Event(), threading.Event()

    async def block(update: Update) -> None:
        blocked.set()
        freed.wait()

    channel = grpclb.insecure_channel("test:///api", resolver=Script(block))
    channel.subscribe(lambda state: None, try_to_connect=True)
    assert blocked.wait(5)
    thread = control_loop.CONTROL.thread
    before = time.monotonic()
    channel.close()
    took = time.monotonic() - before
    freed.set()
    assert took < 3
    assert thread is not None
    thread.join(5)
    assert not thread.is_alive()
