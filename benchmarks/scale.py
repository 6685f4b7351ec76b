"""C8: an update of 10,000 endpoints in which 100 are new, and a pick among so many.

Once as a channel does it by default, which connects to a stable subset (100) of so many; and once
with all of them in use, the engine alone, over transports that connect by themselves.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator

import grpclb
from benchmarks.report import heading, table
from benchmarks.rounds import Spread
from benchmarks.servers import UNARY, Servers
from grpclb import Address, Endpoint, ResolverState
from grpclb.control.channel_core import ChannelCore
from grpclb.control.channel_spec import build_spec
from grpclb.control.loop import CONTROL
from grpclb.control.picker_slot import PickerSlot
from grpclb.control.subchannel import Connection
from grpclb.core.balancer import Picker, PickInfo
from grpclb.core.connectivity import READY
from grpclb.testing import ManualResolver

_ENDPOINTS, _CHANGED = 10_000, 100
_UPDATES = 12
_PHASES, _PHASE, _PAUSE = 6, 2.0, 0.5  # RPCs with and without updates; seconds


def _worlds(port: int) -> Iterator[ResolverState]:
    """Lists in which each has replaced `_CHANGED` endpoints of the one before; values all new."""
    for shift in itertools.count():
        numbers = range(shift * _CHANGED, shift * _CHANGED + _ENDPOINTS)
        yield ResolverState(
            tuple(
                Endpoint.of(Address.parse(f"127.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}:{port}"))
                for n in (number + 65_536 for number in numbers)
            )
        )


def _control_cpu() -> float:
    thread = CONTROL.thread
    assert thread is not None
    assert thread.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[98] * 1e3


def _with_subset(port: int) -> list[tuple[str, str, str]]:
    worlds = _worlds(port)
    resolver = ManualResolver()
    resolver.update(next(worlds))
    latencies: dict[bool, list[float]] = {False: [], True: []}
    updating = ended = False

    def call_on() -> None:
        call = channel.unary_unary(UNARY)
        while not ended:
            began, during = time.perf_counter(), updating
            call(b"x")
            latencies[during].append(time.perf_counter() - began)

    with grpclb.insecure_channel("manual:///scale", resolver=resolver) as channel:
        channel.unary_unary(UNARY)(b"x")
        time.sleep(2.0)
        costs = []
        for world in itertools.islice(worlds, _UPDATES):
            before = _control_cpu()
            resolver.update(world)
            time.sleep(_PAUSE)
            costs.append((_control_cpu() - before) * 1e3)
        caller = threading.Thread(target=call_on)
        prepared = iter(list(itertools.islice(worlds, int(_PHASES * _PHASE / _PAUSE))))
        caller.start()
        for _ in range(_PHASES):
            time.sleep(_PHASE)
            updating = True
            for _ in range(int(_PHASE / _PAUSE)):
                resolver.update(next(prepared))
                time.sleep(_PAUSE)
            updating = False
        ended = True
        caller.join()
    calm, busy = _p99(latencies[False]), _p99(latencies[True])
    return [
        (
            "update, CPU of the control loop, default subset",
            "<= 50 ms",
            f"**{Spread.of(costs)}** ms",
        ),
        (
            f"p99 of RPCs beside an update every {_PAUSE} s",
            "+ <= 10 ms",
            f"**{busy - calm:+.1f} ms** ({calm:.1f} -> {busy:.1f} ms)",
        ),
    ]


class _Transport:
    """control.subchannel.Transport: connects in the next turn of the loop."""

    inflight = 0

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def connect(self) -> None:
        asyncio.get_running_loop().call_soon(self._connection.report, READY)

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


async def _engine_alone() -> tuple[list[float], Picker]:
    """CPU milliseconds of each update until the new picker is out, and the last picker."""
    worlds = _worlds(443)
    resolver = ManualResolver()
    resolver.update(next(worlds))
    options = (("grpclb.subset_size", 0), ("grpclb.update_coalescing_ms", 0))
    spec = build_spec("manual:///scale", options, None, resolver)
    slot = PickerSlot()
    core = ChannelCore(spec, slot, asyncio.get_running_loop(), _Transport)
    core.exit_idle()
    await asyncio.sleep(2.0)
    costs = []
    for world in itertools.islice(worlds, _UPDATES):
        before = time.thread_time()
        resolver.update(world)
        await asyncio.sleep(_PAUSE)
        costs.append((time.thread_time() - before) * 1e3)
    picker = slot.current.picker
    core.close()
    await asyncio.sleep(0)
    return costs, picker


async def _small_picker() -> Picker:
    resolver = ManualResolver([f"127.0.0.1:{port}" for port in range(1, 5)])
    slot = PickerSlot()
    spec = build_spec("manual:///scale", None, None, resolver)
    core = ChannelCore(spec, slot, asyncio.get_running_loop(), _Transport)
    core.exit_idle()
    await asyncio.sleep(0.3)
    picker = slot.current.picker
    core.close()
    await asyncio.sleep(0)
    return picker


def _pick_cost(picker: Picker) -> Callable[[], float]:
    info = PickInfo("/a/b")

    def nanoseconds() -> float:
        pick = picker.pick
        began = time.perf_counter()
        for _ in range(20_000):
            pick(info)
        return (time.perf_counter() - began) / 20_000 * 1e9

    return nanoseconds


def main() -> None:
    heading("10,000 endpoints, 100 of them new in each update (C8)")
    with Servers(1, wildcard=True) as servers:
        rows = _with_subset(servers.ports[0])
    costs, large = asyncio.run(_engine_alone())
    small, many = _pick_cost(asyncio.run(_small_picker())), _pick_cost(large)
    samples = [(small(), many()) for _ in range(50)]
    nanoseconds = [statistics.median(column) for column in zip(*samples, strict=True)]
    ratio = Spread.of([of_many / of_four for of_four, of_many in samples])
    rows += [
        ("update, CPU of the engine, all 10,000 in use", "<= 50 ms", f"**{Spread.of(costs)}** ms"),
        (
            "pick among 10,000 / among 4",
            "same",
            f"**{ratio}** ({nanoseconds[1]:.0f} / {nanoseconds[0]:.0f} ns)",
        ),
    ]
    table(("what", "goal", "result (quartiles)"), rows)


if __name__ == "__main__":
    main()
