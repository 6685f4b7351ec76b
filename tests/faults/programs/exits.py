"""Ends without close() in many ways: `exits SHAPE TARGET CODE`.

Says "ending" as its last own act; what follows is what an open channel makes of the exit.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import grpclb
from grpclb.testing import ManualResolver
from tests.faults.harness import ECHO, STREAM
from tests.support.backend import steer

KEPT: list[Any] = []  # what must be alive when the interpreter goes
ENDLESS = steer(responses=1000, gap_ms=100)


def end(code: int) -> None:
    sys.stdout.write("ending\n")
    sys.stdout.flush()
    sys.exit(code)


def used(target: str) -> Any:
    channel = grpclb.insecure_channel(target)
    channel.unary_unary(ECHO)(b"x")
    KEPT.append(channel)
    return channel


def idle(target: str, code: int) -> None:
    used(target)
    end(code)


def never_used(target: str, code: int) -> None:
    KEPT.append(grpclb.insecure_channel(target))
    end(code)


def mid_stream(target: str, code: int) -> None:
    stream = used(target).unary_stream(STREAM)(b"x", metadata=ENDLESS)
    next(stream)
    KEPT.append(stream)
    end(code)


def pending_future(target: str, code: int) -> None:
    channel = grpclb.insecure_channel("manual:///api", resolver=ManualResolver())
    KEPT.extend([channel, channel.unary_unary(ECHO).future(b"x", wait_for_ready=True)])
    end(code)


def dns_black_hole(target: str, code: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hole:
        hole.bind(("127.0.0.1", 0))
        channel = grpclb.insecure_channel(f"dns://127.0.0.1:{hole.getsockname()[1]}/api.test:1")
        KEPT.extend([channel, channel.unary_unary(ECHO).future(b"x")])
        hole.settimeout(5)
        hole.recv(512)  # the question is out
        KEPT.append(hole)
        end(code)


def busy_resolver(target: str, code: int) -> None:
    """The control loop's thread is in user code that does not come back."""
    address = target.removeprefix("ipv4:").split(",")[0]
    blocked = threading.Event()

    class Busy(ManualResolver):
        async def run(self, update: Any) -> None:
            update(grpclb.ResolverState.of([address]))
            await asyncio.sleep(0.2)
            blocked.set()
            time.sleep(60)  # noqa: ASYNC251  the crime under test

    channel = grpclb.insecure_channel("manual:///api", resolver=Busy())
    channel.unary_unary(ECHO)(b"x")
    KEPT.append(channel)
    blocked.wait(5)
    end(code)


def user_threads(target: str, code: int) -> None:
    channel = used(target)

    def work() -> None:
        channel.unary_unary(ECHO)(b"x")

    def work_for_ever() -> None:
        while True:
            channel.unary_unary(ECHO)(b"x", metadata=steer(delay_ms=20))

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    threading.Thread(target=work_for_ever, daemon=True).start()
    time.sleep(0.1)
    end(code)


def exit_in_callback(target: str, code: int) -> None:
    channel = used(target)
    called = threading.Event()

    def callback(_: Any) -> None:
        called.set()
        sys.exit(3)  # ends a thread of grpcio's, not the program

    future = channel.unary_unary(ECHO).future(b"x", metadata=steer(delay_ms=50))
    future.add_done_callback(callback)
    called.wait(5)
    end(code)


def sigterm(target: str, code: int) -> None:
    used(target)
    signal.signal(signal.SIGTERM, lambda *_: end(code))
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)


def unhandled(target: str, code: int) -> None:
    """An exception ends the program: its traceback is the only noise."""
    used(target)
    sys.excepthook = lambda *_: None
    sys.stdout.write("ending\n")
    sys.stdout.flush()
    raise RuntimeError("the user's own")


def aio_loop_closed(target: str, code: int) -> None:
    async def main() -> None:
        channel = grpclb.aio.insecure_channel(target)
        await channel.unary_unary(ECHO)(b"x")
        KEPT.append(channel)

    asyncio.run(main())
    end(code)


def aio_mid_stream(target: str, code: int) -> None:
    async def main() -> None:
        channel = grpclb.aio.insecure_channel(target)
        stream = channel.unary_stream(STREAM)(b"x", metadata=ENDLESS)
        await stream.read()
        KEPT.extend([channel, stream])

    asyncio.run(main())
    end(code)


def aio_exit_inside(target: str, code: int) -> None:
    async def main() -> None:
        channel = grpclb.aio.insecure_channel(target)
        await channel.unary_unary(ECHO)(b"x")
        KEPT.append(channel)
        end(code)

    asyncio.run(main())


def aio_pending(target: str, code: int) -> None:
    async def main() -> None:
        channel = grpclb.aio.insecure_channel("manual:///api", resolver=ManualResolver())
        call = channel.unary_unary(ECHO)(b"x", wait_for_ready=True)
        await asyncio.sleep(0.05)
        KEPT.extend([channel, call])

    asyncio.run(main())
    end(code)


SHAPES: dict[str, Callable[[str, int], None]] = {
    shape.__name__: shape
    for shape in (
        idle,
        never_used,
        mid_stream,
        pending_future,
        dns_black_hole,
        busy_resolver,
        user_threads,
        exit_in_callback,
        sigterm,
        unhandled,
        aio_loop_closed,
        aio_mid_stream,
        aio_exit_inside,
        aio_pending,
    )
}


if __name__ == "__main__":
    SHAPES[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
