"""Many threads, many cancelled calls, many updates at once: FIGURES F51, F52."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

import grpclb
from grpclb.control.registries import POLICIES
from grpclb.core.balancer import CallOutcome, Pick
from grpclb.policies.round_robin import ROUND_ROBIN
from grpclb.testing import ManualResolver
from tests.faults.harness import (
    ECHO,
    STREAM,
    Connect,
    eventually,
    failures,
    snapshot,
    target_of,
    wait_ready,
)
from tests.support.backend import Backend, steer

pytestmark = pytest.mark.slow

BY_COUNTING = [("grpc.lb_policy_name", "counting")]


class Counting:
    """round_robin that counts picks and outcomes: each pick must have exactly one."""

    name = "counting"
    parse_config = staticmethod(ROUND_ROBIN.parse_config)

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.picks = 0
        self.outcomes: Counter[str] = Counter()
        self.running: Counter[int] = Counter()

    def build(self, helper: Any) -> Any:
        return ROUND_ROBIN.build(_CountingHelper(helper, self))

    def wrap(self, pick: Pick) -> Pick:
        with self.lock:
            self.picks += 1
            number = self.picks
            self.running[number] += 1

        def done(outcome: CallOutcome) -> None:
            with self.lock:
                self.outcomes[outcome.code.name] += 1
                self.running[number] -= 1

        return Pick(pick.subchannel, done)

    @property
    def settled(self) -> bool:
        """Every pick has had its outcome, once."""
        with self.lock:
            return not any(self.running.values())


class _CountingHelper:
    def __init__(self, helper: Any, counting: Counting) -> None:
        self._helper = helper
        self._counting = counting

    def __getattr__(self, name: str) -> Any:
        return getattr(self._helper, name)

    def update_picker(self, state: Any, picker: Any) -> None:
        self._helper.update_picker(state, _CountingPicker(picker, self._counting))


class _CountingPicker:
    def __init__(self, picker: Any, counting: Counting) -> None:
        self._picker = picker
        self._counting = counting

    def pick(self, info: Any) -> Any:
        result = self._picker.pick(info)
        return self._counting.wrap(result) if isinstance(result, Pick) else result


@pytest.fixture
def counting() -> Iterator[Counting]:
    policy = Counting()
    grpclb.register_policy(policy)
    yield policy
    assert POLICIES.get("counting") is policy


def test_aio_calls_cancelled_at_any_point(
    connect_aio: Connect, fleet: list[Backend], counting: Counting
) -> None:
    resolver = ManualResolver([b.address for b in fleet])
    client = connect_aio("manual:///api", resolver=resolver, options=BY_COUNTING)
    channel, chance = client.channel, random.Random(51)
    ended: Counter[str] = Counter()

    async def unary() -> None:
        await channel.unary_unary(ECHO)(b"x", metadata=steer(delay_ms=2))

    async def with_timeout() -> None:
        async with asyncio.timeout(chance.uniform(0, 0.02)):
            await channel.unary_unary(ECHO)(b"x", metadata=steer(delay_ms=5))

    async def stream() -> None:
        async for _ in channel.unary_stream(STREAM)(b"x", metadata=steer(responses=3, gap_ms=2)):
            pass

    async def in_a_group() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(unary())

    async def one(number: int) -> None:
        kind = (unary, with_timeout, stream, in_a_group)[number % 4]
        task = asyncio.create_task(kind())
        await asyncio.sleep(chance.choice((0, 0, 0.001, 0.003, 0.01)))
        task.cancel()
        try:
            await task
            ended["ok"] += 1
        except asyncio.CancelledError:
            ended["cancelled"] += 1
        except TimeoutError:
            ended["timeout"] += 1

    async def storm() -> None:
        for start in range(0, 2000, 50):  # the first batches meet a channel that still connects
            await asyncio.gather(*(one(number) for number in range(start, start + 50)))

    connect_aio.loop.run(storm())
    assert ended.total() == 2000
    assert ended["cancelled"] > 300
    assert failures(client.calls(20, timeout=10)) == []
    eventually(lambda: snapshot(client)["inflight"] == 0, what="in-flight counters at 0")
    eventually(lambda: counting.settled, what=f"an outcome for each pick: {counting.outcomes}")
    assert counting.outcomes.total() == counting.picks
    eventually(lambda: [b.stats()["in_flight"] for b in fleet] == [0] * 4, what="servers idle")


def test_sync_futures_cancelled_at_any_point(
    connect_sync: Connect, fleet: list[Backend], counting: Counting
) -> None:
    client = connect_sync(target_of(fleet), options=BY_COUNTING)
    channel, chance = client.channel, random.Random(51)
    unary, stream = channel.unary_unary(ECHO), channel.unary_stream(STREAM)

    def some() -> None:
        for number in range(50):
            if number % 2:
                call = unary.future(b"x", metadata=steer(delay_ms=3))
            else:
                call = stream(b"x", metadata=steer(responses=3, gap_ms=2))
            threading.Event().wait(chance.choice((0, 0, 0.001, 0.005)))
            call.cancel()
            with contextlib.suppress(grpc.RpcError, grpc.FutureCancelledError):
                call.result() if number % 2 else list(call)

    in_threads(8, some)
    assert failures(client.calls(20, timeout=10)) == []
    eventually(lambda: snapshot(client)["inflight"] == 0, what="in-flight counters at 0")
    eventually(lambda: counting.settled, what=f"an outcome for each pick: {counting.outcomes}")
    assert counting.outcomes.total() == counting.picks


def test_every_attempt_has_one_outcome_however_it_ends(
    connect: Connect, fleet: list[Backend], counting: Counting
) -> None:
    client = connect(target_of(fleet), options=BY_COUNTING)
    wait_ready(client, 4)
    assert client.call(metadata=steer(code="NOT_FOUND")).code.name == "NOT_FOUND"
    assert client.call(metadata=steer(delay_ms=500), timeout=0.05).code.name == "DEADLINE_EXCEEDED"
    with pytest.raises(Exception):  # noqa: B017, PT011  whatever grpcio says to such a timeout
        client.call(timeout="soon")
    with contextlib.suppress(Exception):
        client.call(metadata=[("UPPER", "case")])
    running = client.start(metadata=steer(delay_ms=500))
    running.cancel()
    stream = client.stream(metadata=steer(responses=100, gap_ms=20))
    assert stream.read() == b"x"
    del stream, running  # nobody wants the rest
    gc.collect()  # grpc.aio's call of the metadata that it refused
    eventually(lambda: counting.settled, what=f"an outcome for each pick: {counting.outcomes}")
    assert counting.outcomes.total() == counting.picks
    assert {"OK", "NOT_FOUND", "DEADLINE_EXCEEDED", "CANCELLED"} <= counting.outcomes.keys()


def test_a_stream_that_nobody_holds_is_cancelled(connect: Connect, fleet: list[Backend]) -> None:
    client = connect(target_of(fleet[:1]))
    stream = client.stream(metadata=steer(responses=1000, gap_ms=20))
    assert stream.read() == b"x"
    assert fleet[0].stats()["in_flight"] == 1
    del stream
    eventually(lambda: fleet[0].stats()["in_flight"] == 0, what="the server hears of it")
    eventually(lambda: snapshot(client)["inflight"] == 0, what="in-flight counters at 0")


def test_a_unary_call_that_nobody_holds_is_made(connect_aio: Connect, fleet: list[Backend]) -> None:
    """Fire and forget, as grpc.aio has it: on a channel that connects as on one that is ready."""
    client = connect_aio(target_of(fleet[:1]))
    for made in (1, 2):
        client.on_channel(lambda channel: channel.unary_unary(ECHO)(b"x") and None)
        eventually(lambda: fleet[0].stats()["total"] == made, what="the RPC made")  # noqa: B023
    eventually(lambda: snapshot(client)["inflight"] == 0, what="in-flight counters at 0")


def in_threads(count: int, work: Any) -> None:
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert errors == []


@pytest.fixture
def hasty_switches() -> Iterator[None]:
    """Threads change places as often as CPython lets them."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty_switches")
def test_many_threads_while_the_world_changes(
    connect_sync: Connect, fleet: list[Backend], counting: Counting
) -> None:
    sets = [[b.address for b in fleet[i:j]] for i, j in ((0, 4), (0, 2), (1, 4), (2, 4))]
    resolver = ManualResolver(sets[0])
    options = [*BY_COUNTING, ("grpclb.update_coalescing_ms", 0)]
    client = connect_sync("manual:///api", resolver=resolver, options=options)
    stub, done, stopping = client.channel.unary_unary(ECHO), [0] * 32, threading.Event()
    numbers = iter(range(32))

    def call_on() -> None:
        mine = next(numbers)
        for _ in range(25):
            assert stub(b"x", timeout=20) == b"x"
            done[mine] += 1

    def change() -> None:
        turn = 0
        while not stopping.wait(0.01):
            turn += 1
            resolver.update(sets[turn % len(sets)])

    changer = threading.Thread(target=change)
    changer.start()
    try:
        in_threads(32, call_on)
    finally:
        stopping.set()
        changer.join()
    assert sum(done) == 32 * 25 == sum(b.stats()["total"] for b in fleet)
    eventually(lambda: counting.settled, what="an outcome for each pick")
    assert counting.outcomes["OK"] == 32 * 25


@pytest.mark.usefixtures("hasty_switches")
def test_channels_closed_and_reopened_under_threads(fleet: list[Backend]) -> None:
    """RPCs that meet a closing channel end CANCELLED or ValueError, and in no other way."""
    target = target_of(fleet)
    current = [grpclb.insecure_channel(target)]
    stopping = threading.Event()
    ended: Counter[str] = Counter()

    def call_on() -> None:
        while not stopping.is_set():
            try:
                current[0].unary_unary(ECHO)(b"x", timeout=10)
                ended["ok"] += 1
            except grpc.RpcError as error:
                ended[error.code().name] += 1
            except ValueError as error:
                ended["closed" if "closed" in str(error) else str(error)] += 1

    def reopen() -> None:
        for _ in range(25):
            old, current[0] = current[0], grpclb.insecure_channel(target)
            old.close()
            stopping.wait(0.02)
        stopping.set()

    opener = threading.Thread(target=reopen)
    opener.start()
    in_threads(8, call_on)
    opener.join()
    current[0].close()
    assert ended.keys() <= {"ok", "CANCELLED", "closed"}, ended
    assert ended["ok"] > 100
