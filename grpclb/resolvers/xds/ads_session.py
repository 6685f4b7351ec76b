"""An AdsMachine at work: its streams over gRPC, its timer, its watchers, on one loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, assert_never

from grpc import StatusCode

from grpclb.core.status import Status
from grpclb.resolvers.rpc import BidiStream, ControlChannel, RpcFailed
from grpclb.resolvers.xds.ads import AdsMachine, Watcher
from grpclb.resolvers.xds.ads_actions import Close, Notify, Open, Send
from grpclb.resolvers.xds.bootstrap import Node, Server
from grpclb.resolvers.xds.errors import BootstrapError
from grpclb.resolvers.xds.kinds import Kinds, ResourceKind
from grpclb.resolvers.xds.wire import METHOD, decode_response, encode_request

if TYPE_CHECKING:
    from random import Random

LARGEST_MESSAGE = 32 * 1024 * 1024
_OPTIONS = (
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    # What gRPC's own clients do: a server that has vanished is noticed in minutes, and until
    # then nothing is lost but news.
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
)
# RPCs wait 5 s for a resolver. Servers that have others behind them share less than that for their
# first attempts to connect; later ones, when somebody else is asked already, get a full one each.
_ALL_FIRST_MS = 4_000
_LEAST_FIRST_MS = 1_000
_ENDED = Status(StatusCode.UNAVAILABLE, "the server ended the stream")
_NO_RESPONSE = Status(StatusCode.INTERNAL, "a message is no DiscoveryResponse")


class AdsSession:
    """Made and used on one loop. Nothing connects before the first watch."""

    def __init__(
        self,
        servers: tuple[Server, ...],
        node: Node,
        kinds: Kinds,
        random: Random,
        user_agent: tuple[str, str],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._servers = servers
        self._node = node
        self._user_agent = user_agent
        self._machine = AdsMachine(servers, kinds, random)
        self._channels: set[ControlChannel] = set()
        self._streams: dict[int, BidiStream] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._pending: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pumping = False
        self._closed = False

    # -- for watchers ----------------------------------------------------------------------------

    def watch(self, kind: ResourceKind, name: str, watcher: Watcher) -> None:
        """`watcher` is an object of its own per watch; it is never called from within this."""
        self._machine.watch(kind, name, watcher)
        self._soon()

    def unwatch(self, kind: ResourceKind, name: str, watcher: Watcher) -> None:
        if not self._closed:
            self._machine.unwatch(kind, name, watcher)
            self._soon()

    def snapshot(self) -> dict[str, Any]:
        """Servers and resources, JSON-ready."""
        return {
            "servers": self._machine.dump_servers(),
            "resources": self._machine.dump(),
        }

    def abandon(self) -> None:
        """Cancel the streams of a loop that was closed. Any thread; nothing is waited for."""
        self._closed = True
        for channel in tuple(self._channels):
            channel.abandon()

    async def close(self) -> None:
        """End all streams; no watcher is called any more."""
        self._closed = True
        for handle in (self._pending, self._timer):
            if handle is not None:
                handle.cancel()
        tasks = [*self._tasks.values(), *self._ending]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- actions ---------------------------------------------------------------------------------

    def _soon(self) -> None:
        """Carry out actions at the end of this turn of the loop, many watches' at once."""
        if self._pending is None and not self._pumping and not self._closed:
            self._pending = self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        if self._pumping or self._closed:
            return
        self._pumping = True
        try:
            while actions := self._machine.take():
                for action in actions:
                    self._act(action)
        finally:
            self._pumping = False
        self._set_timer()

    def _act(self, action: Open | Close | Send | Notify) -> None:
        match action:
            case Open(server, serial):
                self._start(server, self._run(server, serial))
            case Close(server):
                self._streams.pop(server, None)
                task = self._tasks.pop(server)
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)
                task.cancel()
            case Send(server, _, request):
                data = encode_request(request, self._node, self._user_agent)
                try:
                    self._streams[server].send_nowait(data)
                except RpcFailed:
                    return  # who reads the stream learns of it too, and says so
            case Notify(watcher, news):
                try:
                    watcher(news)
                except Exception as error:
                    context = {"message": "xds: a watcher failed", "exception": error}
                    self._loop.call_exception_handler(context)
            case _ as never:
                assert_never(never)

    def _start(self, server: int, run: Coroutine[Any, Any, None]) -> None:
        task = self._tasks[server] = self._loop.create_task(run, name=f"grpclb-ads-{server}")
        # A user's loop may end before the channel is closed: no noise about it.
        task._log_destroy_pending = False  # type: ignore[attr-defined]

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        when = self._machine.next_wake
        if when is not None and not self._closed:
            self._timer = self._loop.call_at(when, self._wake)

    def _wake(self) -> None:
        self._machine.wake(self._loop.time())
        self._pump()

    # -- streams ---------------------------------------------------------------------------------

    async def _run(self, server: int, serial: int) -> None:
        """One stream, from its opening to its end, on a connection of its own.

        A new connection each time means credentials as their files are now.
        """
        status, our_fault, interrupted = _ENDED, False, False
        try:
            our_fault = await self._talk(server, serial)
            if our_fault:
                status = _NO_RESPONSE
        except RpcFailed as error:
            status, interrupted = Status(error.code, error.details), error.interrupted
            # Most likely a message above our limit: the next stream would bring it again.
            our_fault = error.code is StatusCode.RESOURCE_EXHAUSTED
        except BootstrapError as error:
            status = Status.unavailable(str(error))
        except Exception as error:  # a mistake of ours: others may work, and this one be mended
            status, our_fault = Status(StatusCode.INTERNAL, repr(error)), True
            context = {"message": "xds: a stream failed", "exception": error}
            self._loop.call_exception_handler(context)
        self._streams.pop(server, None)
        now = self._loop.time()
        if interrupted:
            self._machine.interrupted(server, serial, now)
        else:
            self._machine.closed(server, serial, status, now, our_fault=our_fault)
        self._pump()

    async def _talk(self, server: int, serial: int) -> bool:
        """Carry responses to the machine; True: one could not be read."""
        config = self._servers[server]
        options: tuple[tuple[str, int], ...] = _OPTIONS
        patience: float | None = None
        if self._machine.hasty(server):
            patience_ms = max(_ALL_FIRST_MS // len(self._servers), _LEAST_FIRST_MS)
            options += (("grpc.min_reconnect_backoff_ms", patience_ms),)
            patience = patience_ms / 1000
        credentials = await config.credentials.load(config.uri, patience)

        def sent() -> None:
            self._machine.sent(server, serial, self._loop.time())
            self._set_timer()

        channel = ControlChannel(config.uri, credentials, options)
        self._channels.add(channel)
        try:
            async with (
                channel,
                # One message at a time: the next one is read when this one's news were told.
                channel.stream(METHOD, read_ahead=1, on_sent=sent) as stream,
            ):
                self._streams[server] = stream
                self._machine.opened(server, serial, self._loop.time())
                self._pump()
                async for data in stream:
                    response = decode_response(data)
                    if response is None:
                        return True
                    self._machine.response(server, serial, response, self._loop.time())
                    self._pump()
        finally:
            self._channels.discard(channel)
        return False
