"""Opens and closes channels, then compares threads, descriptors, tasks and memory with the start.

`come_and_go sync|aio TARGET ROUNDS`; prints the figures, exits 1 where something is left.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time

import psutil

import grpclb
from tests.faults.harness import ECHO

_WARM_UP = 20  # rounds before the first figures, so that lazy parts and caches are in place
_MOST_GROWN = 2 * 2**20  # bytes, however many rounds follow


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


def figures() -> tuple[int, int, int]:
    """Python threads, threads of the process, descriptors."""
    process = psutil.Process()
    return threading.active_count(), process.num_threads(), process.num_fds()


def settled() -> tuple[int, int, int]:
    """The figures once they stand still: C-core closes things in the background."""
    seen, since = figures(), time.monotonic()
    end = since + 5
    while time.monotonic() < min(since + 0.5, end):
        time.sleep(0.02)
        if (now := figures()) != seen:
            seen, since = now, time.monotonic()
    return seen


def judge(before: tuple[int, int, int], rss: int) -> int:
    after = settled()
    grown = psutil.Process().memory_info().rss - rss
    say(f"threads, OS threads, descriptors: {before} -> {after}; {grown / 2**20:.1f} MB grown")
    # OS threads belong to C-core's pool, which grows and shrinks as it likes, to a bound.
    same = (before[0], before[2]) == (after[0], after[2])
    return int(not same or after[1] > before[1] + 4 or grown > _MOST_GROWN)


def sync(target: str, rounds: int) -> None:
    for _ in range(rounds):
        with grpclb.insecure_channel(target) as channel:
            stub = channel.unary_unary(ECHO)
            for _ in range(20):
                stub(b"x")


async def aio(target: str, rounds: int) -> int:
    async def rounds_of(count: int) -> None:
        for _ in range(count):
            async with grpclb.aio.insecure_channel(target) as channel:
                stub = channel.unary_unary(ECHO)
                await asyncio.gather(*(stub(b"x") for _ in range(20)))

    await rounds_of(_WARM_UP)
    before = await asyncio.to_thread(settled)
    rss, tasks = psutil.Process().memory_info().rss, len(asyncio.all_tasks())
    await rounds_of(rounds)
    left = len(asyncio.all_tasks()) - tasks
    say(f"tasks left: {left}")
    return await asyncio.to_thread(judge, before, rss) or left


def main() -> int:
    stack, target, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if stack == "aio":
        return asyncio.run(aio(target, rounds))
    sync(target, _WARM_UP)
    before, rss = settled(), psutil.Process().memory_info().rss
    sync(target, rounds)
    return judge(before, rss)


if __name__ == "__main__":
    sys.exit(main())
