"""A unary RPC's first attempt, sent without the machinery of retries.

Most RPCs end with their first attempt, and well. A call of this kind becomes a full `RetriedCall`
(it is armed) when that attempt fails, or when something is asked of it that only the machine
knows.
"""

from __future__ import annotations

import functools
import weakref
from time import monotonic
from typing import Any

import grpc

from grpclb.aio.call import DROPPED, CallArguments, known
from grpclb.aio.call_kinds import UnaryUnaryCall
from grpclb.aio.pick import pick_now, transport_of
from grpclb.aio.retried_call import RetriedUnaryResponse, count_end, try_ended
from grpclb.aio.subchannel import AioTransport
from grpclb.aio.tries import Try
from grpclb.control.attempt_log import AttemptRecord
from grpclb.control.failures import tell
from grpclb.core.attempt import Send
from grpclb.core.balancer import CallOutcome, Pick
from grpclb.core.method_config import MethodConfig
from grpclb.core.service_config import ServiceConfig


class RetriedUnaryUnaryCall(RetriedUnaryResponse, UnaryUnaryCall):
    """A unary-unary call with a retry or hedging policy."""

    _first: AioTransport | None = None  # where the first attempt went, until the call is armed
    _first_seconds: float | None = None  # how long it took, if all went well
    _started = 0.0
    _config: ServiceConfig

    def begin(
        self, config: ServiceConfig, method_config: MethodConfig, arguments: CallArguments
    ) -> None:
        """Send the first attempt, if there is a backend; else be a retried call from the start."""
        self._config = config
        self._arguments = arguments
        engine = self._engine
        slot = engine.slot
        slot.used = True
        if (
            method_config.hedging is None
            and method_config.attempt_timeout is None
            and len(arguments.request) <= engine.spec.options.replay_limit
        ):
            published = slot.current
            result = pick_now(published, self._info)
            if type(result) is Pick:
                self._send_first(result)
                return
            self._seen = (published, result)
        self._use_machine()
        self.start()

    def _use_machine(self) -> None:
        method_config = self._method.config(self._config, self._arguments.selection)
        machine = self._engine.retries.machine(self._config, method_config, self._deadline)
        self.use(machine, self._arguments, hedged=method_config.hedging is not None)

    def _send_first(self, pick: Pick) -> None:
        transport = transport_of(pick)
        arguments = self._arguments
        self._started = monotonic()
        try:
            inner = transport.callable(self._method)(
                arguments.request,
                timeout=None if self._deadline is None else self._deadline - self._started,
                metadata=arguments.metadata,
                credentials=arguments.credentials,
                compression=arguments.compression,
            )
        except BaseException:  # a wrong argument that only grpcio finds
            tell(pick, DROPPED)
            raise
        transport.inflight += 1
        self._engine.held.add(self)
        self._first, self._pick, self._inner = transport, pick, inner
        inner.add_done_callback(functools.partial(_first_ended, weakref.ref(self), pick, transport))

    def _arm(self) -> Try | None:
        """Have the machine take over the first attempt. Any number of times."""
        transport, self._first = self._first, None
        if transport is None or self._first_seconds is not None:
            return None
        self._use_machine()
        (action,) = self._machine.start(self._started)
        assert isinstance(action, Send)
        one = Try(action.attempt)
        one.started, one.inner, one.transport = self._started, self._inner, transport
        self._tries[one.attempt.serial] = one
        return one

    def _succeeded(self) -> None:
        self._first_seconds = monotonic() - self._started
        if self._config.retry_throttling is not None:
            self._engine.retries.record_success(self._config)
        self._finish()

    # -- what only the machine knows -----------------------------------------------------------

    async def _final_error(self, inner: Any, error: BaseException) -> BaseException | None:
        self._arm()
        return await super()._final_error(inner, error)

    async def initial_metadata(self) -> Any:
        self._arm()
        return await super().initial_metadata()

    def cancel(self) -> bool:
        if self._final:
            return False
        self._arm()
        return super().cancel()

    @property
    def _grpclb_attempts(self) -> tuple[AttemptRecord, ...]:
        seconds = self._first_seconds
        if seconds is not None:
            backend = transport_of(self._pick).connection.address.target  # type: ignore[arg-type]
            return (AttemptRecord(backend, grpc.StatusCode.OK, seconds),)
        self._arm()
        return super()._grpclb_attempts


def _first_ended(
    reference: weakref.ref[RetriedUnaryUnaryCall], pick: Pick, transport: AioTransport, inner: Any
) -> None:
    """The first attempt is over; grpcio calls this once, on the loop."""
    call = reference()
    if call is None:
        count_end(pick, transport, inner)
        return
    one = None if call._first is transport else call._try_of(inner)
    if one is None and known(inner.code()) is grpc.StatusCode.OK:
        transport.inflight -= 1
        if pick.on_done is not None:
            tell(
                pick, CallOutcome(grpc.StatusCode.OK, tuple(known(inner.trailing_metadata()) or ()))
            )
        call._succeeded()
        return
    one = one or call._arm()
    assert one is not None
    try_ended(reference, one, pick, transport, inner)
