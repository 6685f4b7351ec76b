"""A server that is registered while it serves: in what order things begin and end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

# grpc.aio's wait_for_termination without a timeout breaks its server when it is cancelled.
_FOR_EVER = 10 * 365 * 86_400.0


class AioServer(Protocol):
    """What is needed of a grpc.aio.Server."""

    async def start(self) -> None: ...
    async def stop(self, grace: float | None) -> None: ...
    async def wait_for_termination(self, timeout: float | None = None) -> bool: ...


async def serve_aio(
    registration: AbstractAsyncContextManager[Any],
    server: AioServer,
    *,
    drain: float,
    grace: float | None,
    signals: Sequence[int],
) -> None:
    """`Registration.serve`."""
    asked = asyncio.Event()
    with _until_the_first_of(signals, asked):
        try:
            await server.start()
            async with registration:
                await _first(asked.wait(), server.wait_for_termination(_FOR_EVER))
        except BaseException:
            await server.stop(0)
            raise
        await _stop(server, drain, grace)


async def _stop(server: AioServer, drain: float, grace: float | None) -> None:
    """Clients that have not heard of it yet still come; those that have do not."""
    still_serving = await server.wait_for_termination(drain)  # "whether the time ran out"
    if still_serving:
        await server.stop(grace)


async def _first(*waits: Any) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def _until_the_first_of(signals: Sequence[int], asked: asyncio.Event) -> Iterator[None]:
    """Have the first of these signals set `asked`; then they do again what they did before."""
    loop = asyncio.get_running_loop()
    before: dict[int, Any] = {}

    def restore() -> None:
        while before:
            number, handler = before.popitem()
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def received() -> None:
        restore()
        asked.set()

    for number in signals:
        handler = signal.getsignal(number)
        # Signals come to the main thread only, and to Unix' loops only.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, received)
            before[number] = handler
    try:
        yield
    finally:
        restore()
