"""What aio call objects have in common: one RPC, whatever it takes to leave the client.

`_inner` is what stands for the RPC now: grpcio's own call object, or an `EndedCall`. It is None
while a backend is looked for, and replaced when an attempt turns out never to have left. With a
backend at hand no task is created: the object only delegates.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import weakref
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, NamedTuple, Protocol, TypeVar

import grpc
import grpc.aio

from grpclb.aio.engine import Engine
from grpclb.aio.errors import (
    LOCALLY_CANCELLED,
    EndedCall,
    checked_metadata,
)
from grpclb.aio.pick import Seen, Unselected, pick_now, transport_of, wait_for_pick
from grpclb.aio.subchannel import AioTransport
from grpclb.control.arguments import check_options
from grpclb.control.attempt_log import AttemptRecord
from grpclb.control.failures import never_left, tell
from grpclb.control.method import MethodHandle
from grpclb.control.selecting import select
from grpclb.core.address import Address
from grpclb.core.balancer import NO_ATTRIBUTES, CallOutcome, Pick, PickInfo
from grpclb.core.config_selector import Selection
from grpclb.core.service_config import ServiceConfig
from grpclb.core.status import Status

_LOG = logging.getLogger("grpclb.call")
NOT_STARTED = "the RPC could not be started: %r"
DROPPED = CallOutcome(grpc.StatusCode.CANCELLED)
_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
_NOBODY: frozenset[Address] = frozenset()
_T = TypeVar("_T")


class CallArguments(NamedTuple):
    """What the caller gave, with the method config applied."""

    request: Any
    timeout: float | None
    metadata: Any
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None
    selection: Selection | None

    def info(self, method: MethodHandle, tried: frozenset[Address] = _NOBODY) -> PickInfo:
        """What a picker may know of the RPC."""
        selection = self.selection
        if not self.metadata and not tried and selection is None:
            return method.info
        attributes = NO_ATTRIBUTES if selection is None else selection.attributes
        return PickInfo(method.path, tuple(self.metadata or ()), tried, attributes)


# CallArguments(*values), in a third of the time.
arguments_of: Callable[[tuple[Any, ...]], CallArguments]
arguments_of = functools.partial(tuple.__new__, CallArguments)


class Retried(Protocol):
    """Begin an RPC that has a policy (`aio.retry.start_retried`); it began at `began`."""

    def __call__(
        self,
        engine: Engine,
        method: MethodHandle,
        config: ServiceConfig,
        arguments: CallArguments,
        began: float,
    ) -> ClientCall: ...


class ClientCall(grpc.aio.Call):
    """What the four kinds of calls have in common.

    An RPC that begins before it is known which config counts has `retried`. Should the config have
    a policy for it, the call that this begins stands for the RPC.
    """

    retried: Retried | None = None
    _streams_requests = False
    # Most RPCs find a backend at once; what only the others need is not set for each.
    _arrival: asyncio.Future[None] | None = None
    _search: asyncio.Task[None] | None = None
    _callbacks: tuple[Callable[[Any], None], ...] = ()
    _inner: Any = None
    _pick: Pick | None = None
    _final = False

    def __init__(self, engine: Engine, method: MethodHandle, arguments: CallArguments) -> None:
        self._engine = engine
        self._method = method
        self._arguments = arguments
        timeout = arguments.timeout
        self._deadline = None if timeout is None else monotonic() + timeout
        self._info = arguments.info(method)
        engine.calls[id(self)] = weakref.ref(self)

    # -- finding a backend -------------------------------------------------------------------

    def start(self) -> None:
        """Send it at once if there is a backend."""
        slot = self._engine.slot
        slot.used = True
        published = slot.current
        result = pick_now(published, self._info)
        if type(result) is Pick:
            self._send(result)
        else:
            self._arguments = self._arguments._replace(
                metadata=checked_metadata(self._arguments.metadata)
            )
            check_options(self._arguments.credentials, self._arguments.compression)
            self._find((published, result))

    def _find(self, seen: Seen | None = None) -> None:
        self._search = self._engine.works().spawn(find_backend(weakref.ref(self), seen))

    def select(self, queued_at: float | None = None) -> bool:
        """Ask the config selector (gRFC A31). False: that was the end of the RPC."""
        slot = self._engine.slot
        chosen = select(slot, slot.current, self._info)
        if isinstance(chosen, Status):
            self.end_with(chosen)
            return False
        if chosen is not None:
            wait_for_ready = chosen.config.applied(None, self._arguments.wait_for_ready)[1]
            self._arguments = self._arguments._replace(
                selection=chosen, wait_for_ready=wait_for_ready
            )
            self._info = self._arguments.info(self._method)
            if queued_at is not None:
                self._take_timeout(queued_at)
        return True

    def configure(self, queued_at: float) -> bool:
        """Take what was not known when it began. False: nothing is left to be done here."""
        published = self._engine.slot.current
        unselected = published.selector is not None and self._arguments.selection is None
        if unselected and not self.select(queued_at):
            return False
        retried = self.retried
        if retried is None or not published.resolved:
            return True
        self.retried = None
        config = published.config
        method_config = self._method.config(config, self._arguments.selection)
        wait_for_ready = method_config.applied(None, self._arguments.wait_for_ready)[1]
        self._arguments = self._arguments._replace(wait_for_ready=wait_for_ready)
        self._take_timeout(queued_at)
        if self._engine.closed or not self._engine.retries.wanted(config, method_config):
            return True
        arguments = self._arguments
        if self._streams_requests:
            arguments = arguments._replace(request=None)  # they are written, by the user or by us
        self._inner = inner = retried(self._engine, self._method, config, arguments, queued_at)
        if self._arrival is not None:
            self._announce(self._arrival)
        inner.add_done_callback(functools.partial(_policy_over, weakref.ref(self)))
        return False

    def end_with(self, status: Status) -> None:
        """It fails without having been sent."""
        self._end_locally(EndedCall(Status(status.code, self._engine.explain(status))))

    def _take_timeout(self, queued_at: float) -> None:
        """The resolver's config may have come while the RPC waited for it (gRFC A21)."""
        selection = self._arguments.selection
        timeout = self._method.config(self._engine.slot.current.config, selection).timeout
        if timeout is not None:
            deadline = queued_at + timeout
            known_deadline = self._deadline
            self._deadline = deadline if known_deadline is None else min(known_deadline, deadline)
        if self._deadline is not None:
            left = self._deadline - monotonic()
            self._arguments = self._arguments._replace(timeout=left)

    def _send(self, pick: Pick) -> None:
        transport = transport_of(pick)
        arguments = self._arguments
        timeout = arguments.timeout
        if self._deadline is not None and self._arrival is not None:
            timeout = self._deadline - monotonic()
        request = None if self._streams_requests else arguments.request
        try:
            inner = transport.callable(self._method)(
                request,
                timeout=timeout,
                metadata=arguments.metadata,
                credentials=arguments.credentials,
                compression=arguments.compression,
            )
        except BaseException:  # a wrong argument that only grpcio finds
            tell(pick, DROPPED)
            raise
        transport.inflight += 1
        self._pick = pick
        self._inner = inner
        if self._arrival is not None:
            self._announce(self._arrival)
        inner.add_done_callback(functools.partial(_ended, weakref.ref(self), pick, transport))

    @staticmethod
    def _announce(arrival: asyncio.Future[None]) -> None:
        if not arrival.done():
            arrival.set_result(None)

    async def _arrived(self) -> Any:
        """What stands for the RPC, waiting for it."""
        while self._inner is None:
            if self._arrival is None or self._arrival.done():
                self._arrival = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._arrival)
        return self._inner

    # -- how it ends ---------------------------------------------------------------------------

    def _settle(self, inner: Any, code: grpc.StatusCode) -> None:
        """A finished attempt ends the RPC, or another one follows."""
        if self._inner is not inner or self._final:
            return
        if code is _UNAVAILABLE and not self._engine.ended:
            late = self._deadline is not None and monotonic() >= self._deadline
            if not late and never_left(code, known(inner.details())):
                self._inner = self._pick = None
                self._arrival = asyncio.get_running_loop().create_future()
                self._find()
                return
        self._finish()

    def _end_locally(self, ended: EndedCall) -> None:
        if self._inner is None:
            self._inner = ended
            if self._arrival is not None:
                self._announce(self._arrival)
            self._finish()

    def _finish(self) -> None:
        self._final = True
        self._engine.calls.pop(id(self), None)
        if self._arguments.selection is not None:
            self._arguments.selection.release()
        if self._callbacks:
            callbacks, self._callbacks = self._callbacks, ()
            for callback in callbacks:
                try:
                    callback(self)
                except Exception:
                    _LOG.exception("Exception in a done callback of an RPC")

    def _is_error(self, inner: Any, error: BaseException) -> bool:
        """Whether an attempt's error is the RPC's; names the backend in it."""
        if self._inner is not inner:
            return False
        if self._pick is not None and not getattr(error, "__notes__", None):
            error.add_note(f"grpclb: backend {transport_of(self._pick).connection.address}")
        return True

    async def _ask(self, question: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        """An answer of the attempt that counts."""
        while True:
            inner = self._inner if self._inner is not None else await self._arrived()
            try:
                answer = await question(inner)
            except grpc.aio.AioRpcError as error:
                if self._is_error(inner, error):
                    raise
                continue
            if self._inner is inner:
                return answer

    # -- grpc.aio.Call -----------------------------------------------------------------------------

    def done(self) -> bool:
        return self._final

    def cancelled(self) -> bool:
        return self._inner is not None and bool(self._inner.cancelled())

    def cancel(self) -> bool:
        if self._inner is None:
            if self._search is not None:
                self._search.cancel()
            status = Status(grpc.StatusCode.CANCELLED, LOCALLY_CANCELLED)
            self._end_locally(EndedCall(status, cancelled=True))
            return True
        return bool(self._inner.cancel())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self._final:
            callback(self)
            return
        self._callbacks = (*self._callbacks, callback)
        # As in grpcio, an RPC that has somebody to tell of its end gets there by itself.
        self._hold()

    def _hold(self) -> None:
        """Let it live until its end, whoever else holds it."""
        if self not in self._engine.held:
            self._engine.held.add(self)
            self._callbacks = (*self._callbacks, self._engine.held.discard)

    def time_remaining(self) -> float | None:
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - monotonic())

    async def initial_metadata(self) -> Any:
        return await self._ask(lambda inner: inner.initial_metadata())

    async def trailing_metadata(self) -> Any:
        return await self._ask(lambda inner: inner.trailing_metadata())

    async def code(self) -> grpc.StatusCode:
        code: grpc.StatusCode = await self._ask(lambda inner: inner.code())
        return code

    async def details(self) -> str:
        details: str = await self._ask(lambda inner: inner.details())
        return details

    async def debug_error_string(self) -> str:
        text: str = await self._ask(lambda inner: inner.debug_error_string())
        return text

    async def wait_for_connection(self) -> None:
        await self._ask(lambda inner: inner.wait_for_connection())

    @property
    def _grpclb_attempts(self) -> tuple[AttemptRecord, ...]:
        """For `attempts`."""
        inner = self._inner
        return inner._grpclb_attempts if isinstance(inner, ClientCall) else ()

    def __del__(self) -> None:
        if self._final:
            return
        engine = getattr(self, "_engine", None)
        if engine is not None:  # else its construction failed
            engine.calls.pop(id(self), None)
        if self._search is not None and self._inner is None:
            self._search.cancel()

    def __repr__(self) -> str:
        if self._inner is None:
            return f"<{type(self).__name__} {self._method.path} waiting for a backend>"
        return repr(self._inner)

    __str__ = __repr__


async def find_backend(reference: Callable[[], ClientCall | None], seen: Seen | None) -> None:
    """Wait for a backend without keeping the call object alive, unless `reference` does."""
    call = reference()
    queued_at = monotonic()
    result: Pick | Status | Unselected
    while True:
        if call is None:
            return
        engine, info, deadline = call._engine, call._info, call._deadline
        wait_for_ready, cold = call._arguments.wait_for_ready, call.retried is not None
        del call
        try:
            result = await wait_for_pick(
                engine, info, deadline, wait_for_ready, queued_at, seen=seen, cold=cold
            )
        except grpc.aio.UsageError:
            result = Status(grpc.StatusCode.CANCELLED, "Channel closed!")
        seen = None
        call = reference()
        if call is None or call._inner is not None:
            return
        if not isinstance(result, Unselected):
            break
        try:
            if not call.configure(queued_at):
                return
        except Exception as error:  # a mistake in the arguments that is found only now
            result = Status(grpc.StatusCode.INTERNAL, NOT_STARTED % error)
            break
    if isinstance(result, Status):
        cancelled = result.code is grpc.StatusCode.CANCELLED
        call._end_locally(EndedCall(result, cancelled=cancelled))
        return
    try:
        call._take_timeout(queued_at)
        call._send(result)
    except Exception as error:  # a mistake in the arguments that grpcio finds only now
        call._end_locally(EndedCall(Status(grpc.StatusCode.INTERNAL, NOT_STARTED % error)))


def _policy_over(reference: weakref.ref[ClientCall], inner: Any) -> None:
    """The call to which the RPC was handed over is over."""
    call = reference()
    if call is not None and call._inner is inner and not call._final:
        call._finish()


def _ended(
    reference: weakref.ref[ClientCall], pick: Pick, transport: AioTransport, inner: Any
) -> None:
    """An attempt is over; grpcio calls this once, on the loop."""
    transport.inflight -= 1
    code = known(inner.code())
    if pick.on_done is not None:
        trailing = known(inner.trailing_metadata())
        tell(pick, CallOutcome(code, tuple(trailing or ())))
    if code is _UNAVAILABLE:
        transport.check()
    call = reference()
    if call is not None:
        call._settle(inner, code)


def known(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """What a coroutine of a finished grpcio call returns, without a turn of the loop."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: _T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("grpcio's status of a finished RPC was not at hand")
