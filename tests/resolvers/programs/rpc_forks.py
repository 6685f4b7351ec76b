"""Forks beside control-plane RPCs: `rpc_forks TARGET CHILDREN` on an echo backend.

A loop on a thread of its own keeps a stream and makes calls; the main thread forks. Prints
{"children": [exit codes], "slowest_fork": seconds, "interrupted": [...], "failures": [...]} as
JSON. A child's exit code is 0 after a call and a stream of its own.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import sys
import threading
import time

from grpclb.resolvers.rpc import ControlChannel, RpcFailed
from grpclb.resolvers.rpc_life import LIFE

UNARY, STREAM = "/test.Echo/UnaryUnary", "/test.Echo/StreamStream"


async def once(channel: ControlChannel) -> None:
    assert await channel.unary(UNARY, b"u", timeout=8) == b"u"
    async with channel.stream(STREAM) as stream:
        await stream.send(b"s")
        assert await anext(stream) == b"s"


class Parent:
    """Calls and a stream, begun again whenever they were interrupted."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.interrupted = 0
        self.failures: list[str] = []
        self.echoes = 0
        self.stopping = False

    async def keep(self) -> None:
        async with ControlChannel(self.target) as channel:
            await asyncio.gather(self.calls(channel), self.streams(channel))

    async def calls(self, channel: ControlChannel) -> None:
        while not self.stopping:
            try:
                assert await channel.unary(UNARY, b"u", timeout=8) == b"u"
            except RpcFailed as failure:
                self.note(failure)

    async def streams(self, channel: ControlChannel) -> None:
        while not self.stopping:
            try:
                async with channel.stream(STREAM) as stream:
                    while not self.stopping:
                        await stream.send(b"s")
                        assert await anext(stream) == b"s"
                        self.echoes += 1
                        await asyncio.sleep(0.005)
            except RpcFailed as failure:
                self.note(failure)

    def note(self, failure: RpcFailed) -> None:
        if failure.interrupted:
            self.interrupted += 1
        else:
            self.failures.append(str(failure))


async def child(target: str, inherited: object) -> None:
    async with ControlChannel(target) as channel:
        await once(channel)


def fork(target: str, parent: Parent) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 3
    try:
        faulthandler.dump_traceback_later(10, exit=True)
        assert LIFE.generation == 1
        asyncio.run(child(target, parent))
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait_for_echo(parent: Parent) -> bool:
    seen, end = parent.echoes, time.monotonic() + 10
    while parent.echoes <= seen + 1 and time.monotonic() < end:
        time.sleep(0.005)
    return parent.echoes > seen + 1


def threads_that_stay() -> list[str]:
    """The names of the threads there are once those of closed channels have ended."""
    end = time.monotonic() + 5
    while threading.active_count() > 1 and time.monotonic() < end:
        time.sleep(0.01)
    return [thread.name for thread in threading.enumerate()]


def main() -> None:
    target, children = sys.argv[1], int(sys.argv[2])
    parent = Parent(target)
    thread = threading.Thread(target=lambda: asyncio.run(parent.keep()))
    thread.start()
    pids, slowest, alive = [], 0.0, [wait_for_echo(parent)]
    for _ in range(children):
        started = time.monotonic()
        pids.append(fork(target, parent))
        slowest = max(slowest, time.monotonic() - started)
        alive.append(wait_for_echo(parent))
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    parent.stopping = True
    thread.join()
    result = {
        "children": codes,
        "slowest_fork": slowest,
        "streams_went_on": alive,
        "interrupted": parent.interrupted,
        "failures": parent.failures,
        "threads": threads_that_stay(),
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
