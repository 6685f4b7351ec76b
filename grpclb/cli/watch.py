"""``grpclb watch TARGET``: changes as they happen, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import grpclb
from grpclb.cli.arguments import Request
from grpclb.cli.changes import Event, Snapshot, changes
from grpclb.cli.render import Paint

_PERIOD = 0.1  # seconds between two looks; a look costs a few microseconds per backend
_COLOURS = {"added": "green", "removed": "red", "error": "red", "resolved": "dim"}
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


async def watch(request: Request, say: Callable[[str], None], paint: Paint) -> None:
    """Print until the user has had enough, or until `request.seconds` are over."""
    stop = asyncio.Event()
    with _signals(stop):
        async with _channel(request) as channel:
            seen: Snapshot | None = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(request.seconds):
                    while not stop.is_set():
                        # As RPCs would, it connects again what has gone idle.
                        channel.get_state(try_to_connect=True)
                        snapshot = channel.debug_snapshot()
                        for event in changes(seen, snapshot):
                            say(_line(event, request.json, paint))
                        seen = snapshot
                        await _pause(stop)


def _channel(request: Request) -> grpclb.aio.Channel:
    config = request.service_config
    if request.tls is None:
        return grpclb.aio.insecure_channel(request.target, request.options, service_config=config)
    credentials = request.tls.channel_credentials()
    return grpclb.aio.secure_channel(
        request.target, credentials, request.options, service_config=config
    )


async def _pause(stop: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PERIOD):
            await stop.wait()


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the loop; where that cannot be arranged, KeyboardInterrupt does."""
    loop = asyncio.get_running_loop()
    arranged = []
    for number in _SIGNALS:
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, stop.set)
            arranged.append(number)
    try:
        yield
    finally:
        for number in arranged:
            loop.remove_signal_handler(number)


def _line(event: Event, as_json: bool, paint: Paint) -> str:
    now = datetime.now(UTC)
    if as_json:
        stamp = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return json.dumps({"time": stamp, "event": event.kind, **event.data})
    stamp = now.astimezone().strftime("%H:%M:%S.%f")[:-3]
    colour = _COLOURS.get(event.kind)
    text = event.text.replace("\n", "\\n")
    return f"{stamp}  {paint(text, colour) if colour else text}"
