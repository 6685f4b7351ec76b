"""Ends with control-plane RPCs under way: `rpc_exits SHAPE TARGET`; exit code 7, no noise."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading

from grpclb.resolvers.rpc import ControlChannel, RpcFailed

UNARY, STREAM = "/test.Echo/UnaryUnary", "/test.Echo/StreamStream"


async def hold(target: str, ready: threading.Event) -> None:
    """A stream that waits for a message which never comes, begun again when it fails."""
    async with ControlChannel(target) as channel:
        while True:
            with contextlib.suppress(RpcFailed):
                async with channel.stream(STREAM) as stream:
                    await stream.send(b"s")
                    await anext(stream)
                    ready.set()
                    await anext(stream)


def on_a_daemon_thread(target: str) -> None:
    ready = threading.Event()
    threading.Thread(target=lambda: asyncio.run(hold(target, ready)), daemon=True).start()
    ready.wait(20)


def on_a_loop_that_just_stops(target: str) -> None:
    """The loop is neither drained nor closed, its tasks are not cancelled."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    task = loop.create_task(hold(target, ready))
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    while not ready.is_set():
        loop.run_until_complete(asyncio.sleep(0.01))
    KEPT.append((loop, task))


def on_a_closed_loop(target: str) -> None:
    on_a_loop_that_just_stops(target)
    KEPT[0][0].close()


def by_a_signal(target: str) -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))
    ready = threading.Event()

    async def main() -> None:
        task = asyncio.create_task(hold(target, ready))
        await asyncio.to_thread(ready.wait)
        signal.raise_signal(signal.SIGTERM)
        await task

    asyncio.run(main())


KEPT: list = []

if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
    sys.exit(7)
