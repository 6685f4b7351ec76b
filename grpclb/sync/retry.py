"""RPCs with a retry or hedging policy: the entry points.

A blocking RPC that is retried, not hedged, is a loop in the caller's thread. Everything else is a
`RetriedCall`: it obeys the machine under its lock, wherever news arrive.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any

from grpclb.control.arguments import check_metadata, check_options, kept
from grpclb.control.method import (
    STREAM_STREAM,
    UNARY_STREAM,
    MethodHandle,
)
from grpclb.core.service_config import ServiceConfig
from grpclb.sync.arguments import CallArguments, serialized
from grpclb.sync.blocking import BlockingRetries, Failed, send_first
from grpclb.sync.engine import Engine
from grpclb.sync.errors import (
    CLOSED,
)
from grpclb.sync.pick import Seen
from grpclb.sync.replay import ReplayedRequests
from grpclb.sync.requests import Requests
from grpclb.sync.retried_call import RetriedCall, on_existing
from grpclb.sync.retried_streams import RetriedStream
from grpclb.sync.tries import is_too_large


def blocking(
    engine: Engine,
    method: MethodHandle,
    config: ServiceConfig,
    arguments: CallArguments,
    with_call: bool,
    began: float | None,
) -> Any:
    """A unary-response RPC for a caller who waits for it, since `began` if not just now."""
    if engine.closed:
        raise ValueError(CLOSED)
    method_config = method.config(config, arguments.selection)
    retry = method_config.retry
    # A request stream may be committed while an attempt runs: its own timeout ends with that.
    timed = retry is not None and retry.per_attempt_recv_timeout is not None
    if method_config.hedging is not None or (timed and type(arguments.request) is Requests):
        call = beside(engine, method, config, arguments)
        response = call.result()
        return (response, call) if with_call else response
    engine.works()
    timeout, now = arguments.timeout, monotonic()
    deadline = None if timeout is None else now + timeout
    twin = method.with_bytes()
    first: Failed | Seen | None = None
    if type(arguments.request) is not Requests:
        arguments = _replayable(engine, method, arguments, _no_stream)
        if method_config.attempt_timeout is None and not is_too_large(engine, arguments.request):
            done, ended = send_first(engine, twin, arguments, deadline, with_call)
            if done:
                engine.retries.record_success(config)
                return ended
            first = ended
    machine = engine.retries.machine(config, method_config, deadline)
    retries = BlockingRetries(
        engine, twin, machine, deadline, with_call, now if began is None else began
    )
    if type(arguments.request) is Requests:
        arguments = _replayable(engine, method, arguments, retries.commit_to)
    retries.arguments = arguments
    return retries.run(first)


def beside(
    engine: Engine,
    method: MethodHandle,
    config: ServiceConfig,
    arguments: CallArguments,
    began: float | None = None,
) -> RetriedCall:
    """An RPC that goes on beside its caller, since `began` if not just now."""
    method_config = method.config(config, arguments.selection)
    call_type = RetriedStream if method.kind in (UNARY_STREAM, STREAM_STREAM) else RetriedCall
    call = call_type(engine, method.with_bytes(), arguments, method_config.hedging is not None)
    call.began = began
    commit = functools.partial(on_existing, weakref.ref(call), RetriedCall.commit_to)
    call.use(
        engine.retries.machine(config, method_config, call.deadline),
        _replayable(engine, method, arguments, commit),
    )
    call.start()
    return call


def _replayable(
    engine: Engine,
    method: MethodHandle,
    arguments: CallArguments,
    on_overflow: Callable[[int], None],
) -> CallArguments:
    """The arguments with requests that can be sent several times, byte-equal."""
    arguments = arguments._replace(metadata=kept(arguments.metadata))
    check_metadata(arguments.metadata)
    check_options(arguments.credentials, arguments.compression)
    request = arguments.request
    if type(request) is Requests:
        limit = engine.spec.options.replay_limit
        replayed = ReplayedRequests(
            request.source, method, limit, engine.replay_budget, on_overflow
        )
        return arguments._replace(request=replayed)
    return arguments._replace(request=serialized(method, request))


def _no_stream(serial: int) -> None:
    """A request that is one message overflows nothing while it is sent."""
