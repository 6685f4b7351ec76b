"""What a sync channel, its multicallables and its running calls share."""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import grpc

from grpclb.control.attempt_log import AttemptRecord, out_of_time
from grpclb.control.channel_core import ChannelCore, call_threadsafe
from grpclb.control.channel_spec import ChannelSpec
from grpclb.control.loop import CONTROL, Lease, run_on
from grpclb.control.method import MethodTable
from grpclb.control.picker_slot import PickerSlot
from grpclb.control.retries import ReplayBudget, Retries
from grpclb.control.subchannel import Connection
from grpclb.core.balancer import QUEUE_PICKER
from grpclb.core.connectivity import IDLE, SHUTDOWN
from grpclb.core.status import Status
from grpclb.sync.subchannel import Sweeper, SyncTransport

_LOG = logging.getLogger("grpclb.channel")
_CLOSE_PATIENCE = 1.5  # seconds that close() waits for a control loop that is kept busy


class _Works:
    """The running part: a lease on the loop, and the core that lives there."""

    def __init__(
        self, spec: ChannelSpec, slot: PickerSlot, credentials: grpc.ChannelCredentials | None
    ) -> None:
        self.lease: Lease = CONTROL.acquire()
        self.transports: weakref.WeakSet[SyncTransport] = weakref.WeakSet()
        self._spec = spec
        self._credentials = credentials
        self._closing = False
        self.core = ChannelCore(spec, slot, self.lease.loop, self._open)
        self.sweeper = Sweeper(self.core.clock, self.call_threadsafe)

    def _open(self, connection: Connection) -> SyncTransport:
        options = self._spec.subchannel_options(connection.address, connection.args)
        transport = SyncTransport(
            connection, self._credentials, options, self._spec.compression, self.sweeper
        )
        self.transports.add(transport)
        return transport

    def call_threadsafe(self, function: Callable[[], object]) -> None:
        call_threadsafe(self.lease.loop, function)

    def close(self, *, wait: bool) -> None:
        """Close the core on its loop; if the loop is stuck, at least the connections."""
        if self._closing:
            # In a garbage cycle the finalizer runs before an owner's __del__ that calls close():
            # the loop may have taken its leave by then, and would never answer.
            return
        self._closing = True
        if not wait:
            self.call_threadsafe(self.core.close)
            self.lease.release(wait=False)
            return
        try:
            if threading.current_thread() is CONTROL.thread:
                self.core.close()
            else:
                run_on(self.lease.loop, self.core.close, _CLOSE_PATIENCE)
        except TimeoutError:
            _LOG.error("%s: closed while the control loop was blocked", self._spec.target)
            for transport in list(self.transports):
                with contextlib.suppress(Exception):
                    transport.close()
            self.lease.release(wait=False)
        except RuntimeError:  # the loop ended with the interpreter
            pass
        self.lease.release()


class Engine:
    """Any thread. Nothing runs before the first RPC (or connect request)."""

    def __init__(self, spec: ChannelSpec, credentials: grpc.ChannelCredentials | None) -> None:
        self.spec = spec
        self.credentials = credentials
        self.slot = PickerSlot(spec.default_config)
        self.methods = MethodTable()
        self.retries = Retries(spec.options)
        self.replay_budget = ReplayBudget(spec.options.knob("grpclb.retry_buffer_size"))
        self.closing = threading.Event()  # ends the waits between attempts
        self.closed = False
        self.held: set[Any] = set()  # calls that go on though the user holds them no more
        self.retried: dict[int, weakref.ref[Any]] = {}  # calls that may wait between attempts
        self._lock = threading.Lock()
        self._works: _Works | None = None
        self._finalizer: weakref.finalize[Any, Engine] | None = None
        CONTROL.watch_forks(self)

    def works(self) -> _Works:
        """The running part, started if need be. Raises ValueError on a closed channel."""
        works = self._works
        if works is not None:
            return works
        with self._lock:
            if self.closed:
                raise ValueError("Cannot invoke RPC on closed channel!")
            if self._works is None:
                self._works = _Works(self.spec, self.slot, self.credentials)
                # A channel that was dropped without close() gives everything back all the same.
                self._finalizer = weakref.finalize(self, self._works.close, wait=False)
                self._finalizer.atexit = False
            return self._works

    def wake(self) -> None:
        """A pick was queued, or the user asked to connect: leave IDLE."""
        works = self.works()
        if self.slot.current.state is IDLE:
            works.call_threadsafe(works.core.exit_idle)

    def suspect(self, transport: SyncTransport) -> None:
        """An RPC saw trouble: have the state looked at, now."""
        works = self._works
        if works is not None:
            works.call_threadsafe(transport.check)

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

    def close(self) -> None:
        """Harmless when repeated; from any thread, the control loop's too."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            self.closing.set()
            works, self._works = self._works, None
        if self._finalizer is not None:
            self._finalizer.detach()
        if works is not None:
            works.close(wait=True)
        self.slot.publish(SHUTDOWN, QUEUE_PICKER, self.slot.current.config)
        for reference in list(self.retried.values()):
            call = reference()
            if call is not None:
                call.channel_closed()

    def forget_after_fork(self) -> None:
        """In a forked child: the parent's connections and loop are not ours; begin anew."""
        self._lock = threading.Lock()
        self.methods.reset_lock()
        self.retries.reset_lock()
        self.replay_budget = ReplayBudget(self.spec.options.knob("grpclb.retry_buffer_size"))
        self.closing = threading.Event()
        if self.closed:
            self.closing.set()
        works, self._works = self._works, None
        if self._finalizer is not None:
            self._finalizer.detach()
        if works is not None:
            _PARENTS.append(works)
        _PARENTS.append(self.held)
        self.held = set()
        self.retried = {}
        self.slot.reset()


# What a child inherited and must neither use nor close.
_PARENTS: list[object] = []
