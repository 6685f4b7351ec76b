"""What an aio channel, its multicallables and its running calls share."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Coroutine, Sequence
from time import monotonic
from typing import Any

import grpc
import grpc.aio

from grpclb.aio.subchannel import AioTransport
from grpclb.control.attempt_log import AttemptRecord, out_of_time
from grpclb.control.channel_core import ChannelCore, call_threadsafe
from grpclb.control.channel_spec import ChannelSpec
from grpclb.control.method import MethodTable
from grpclb.control.picker_slot import PickerSlot
from grpclb.control.retries import ReplayBudget, Retries
from grpclb.control.subchannel import Connection
from grpclb.core.balancer import QUEUE_PICKER
from grpclb.core.connectivity import IDLE, SHUTDOWN
from grpclb.core.status import Status

_CLOSE_PATIENCE = 1.5  # seconds that close() waits for tasks that it has cancelled


class _Works:
    """The running part, on the loop of the first RPC."""

    def __init__(
        self, spec: ChannelSpec, slot: PickerSlot, credentials: grpc.ChannelCredentials | None
    ) -> None:
        self.loop = asyncio.get_event_loop()
        self.tasks: set[asyncio.Task[Any]] = set()
        self._spec = spec
        self._credentials = credentials
        self.core = ChannelCore(spec, slot, self.loop, self._open)

    def _open(self, connection: Connection) -> AioTransport:
        options = self._spec.subchannel_options(connection.address, connection.args)
        return AioTransport(
            connection, self._credentials, options, self._spec.compression, self.spawn
        )

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task of ours: awaited by close, silent if the loop ends before it."""
        task = self.loop.create_task(coroutine)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        self.tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled():
            task.exception()  # a subchannel that was closed meanwhile; seen and of no interest

    async def finish(self) -> None:
        """Close the core and wait for what that set in motion."""
        resolver = self.core.resolution.task
        self.core.close()
        waiting = {*self.tasks} if resolver is None else {*self.tasks, resolver}
        if waiting:
            await asyncio.wait(waiting, timeout=_CLOSE_PATIENCE)

    def abandon(self) -> None:
        """The channel was dropped without close()."""
        if not self.loop.is_closed():
            call_threadsafe(self.loop, self.core.close)


class Engine:
    """Belongs to one asyncio loop. Nothing runs before the first RPC (or connect request)."""

    def __init__(self, spec: ChannelSpec, credentials: grpc.ChannelCredentials | None) -> None:
        self.spec = spec
        self.credentials = credentials
        self.slot = PickerSlot(spec.default_config)
        self.methods = MethodTable()
        self.retries = Retries(spec.options)
        self.replay_budget = ReplayBudget(spec.options.knob("grpclb.retry_buffer_size"))
        self.closed = False  # no new RPCs
        self.ended = False  # nor any running ones: the grace of close() is over
        self.calls: dict[int, weakref.ref[Any]] = {}
        self.held: set[Any] = set()  # calls that go on though the user holds them no more
        self._works: _Works | None = None
        self._finalizer: weakref.finalize[Any, Engine] | None = None

    def track(self, call: Any) -> None:
        """A call that close() is to wait for and to cancel, as long as somebody holds it."""
        self.calls[id(call)] = weakref.ref(call)
        call.add_done_callback(self._forget)

    def _forget(self, call: Any) -> None:
        self.calls.pop(id(call), None)

    def works(self) -> _Works:
        """The running part, started if need be. Raises UsageError on a closed channel."""
        works = self._works
        if works is None:
            if self.ended:
                raise grpc.aio.UsageError("Channel is closed.")
            works = self._works = _Works(self.spec, self.slot, self.credentials)
            self._finalizer = weakref.finalize(self, works.abandon)
            self._finalizer.atexit = False
        return works

    def works_if_open(self) -> _Works | None:
        """The running part, if there is one."""
        return self._works

    def wake(self) -> None:
        """A pick was queued, or the user asked to connect: leave IDLE."""
        works = self.works()
        if self.slot.current.state is IDLE:
            works.core.exit_idle()

    def explain(self, status: Status) -> str:
        works = self._works
        return status.details if works is None else works.core.explain(status)

    def in_vain(self, status: Status) -> Status:
        """The same end, of an attempt that waited for a backend all its time."""
        state = self.slot.current.state.name
        text = f"{status.details} waiting for a backend of {self.spec.target} ({state})"
        return Status(status.code, self.explain(Status(status.code, text)))

    def out_of_time(self, began: float, records: Sequence[AttemptRecord] = ()) -> Status:
        """The end of an RPC whose deadline passed while it waited for a backend."""
        core, now = self.core, monotonic()
        resolved = now if core is None else core.resolved_at
        state = self.slot.current.state.name
        text = out_of_time(self.spec.target, state, (began, resolved, now), records)
        status = Status(grpc.StatusCode.DEADLINE_EXCEEDED, text)
        return Status(status.code, self.explain(status))

    @property
    def core(self) -> ChannelCore | None:
        works = self._works
        return None if works is None else works.core

    async def close(self, grace: float | None) -> None:
        """No new RPCs; running ones get `grace` seconds, then end CANCELLED."""
        if self.closed:
            return
        if grace and grace < 0:
            raise ValueError(f"grace must be non-negative, got {grace}.")
        self.closed = True
        running = [call for ref in list(self.calls.values()) if (call := ref()) is not None]
        if grace and running:
            ends = [asyncio.ensure_future(_end(call)) for call in running]
            await asyncio.wait(ends, timeout=grace)
            for end in ends:
                end.cancel()
        self.ended = True
        for call in running:
            call.cancel()
        works, self._works = self._works, None
        if self._finalizer is not None:
            self._finalizer.detach()
        if works is not None:
            await works.finish()
        self.slot.publish(SHUTDOWN, QUEUE_PICKER, self.slot.current.config)


async def _end(call: Any) -> None:
    with contextlib.suppress(Exception):
        await call.code()
