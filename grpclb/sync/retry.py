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
from grpclb.sync.arguments import CallArguments, arguments_of, serialized
from grpclb.sync.blocking import BlockingRetries, Failed, send_first
from grpclb.sync.engine import Engine
from grpclb.sync.errors import CLOSED
from grpclb.sync.pick import Seen
from grpclb.sync.replay import ReplayedRequests
from grpclb.sync.requests import Requests
from grpclb.sync.retried_call import RetriedCall, on_existing
from grpclb.sync.retried_streams import RetriedStream


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
    streams, timed = type(arguments.request) is Requests, method_config.attempt_timeout is not None
    # A request stream may be committed while an attempt runs: its own timeout ends with that.
    if method_config.hedging is not None or (timed and streams):
        call = beside(engine, method, config, arguments)
        response = call.result()
        return (response, call) if with_call else response
    engine.works()
    timeout, now = arguments.timeout, monotonic()
    deadline = None if timeout is None else now + timeout
    twin = method.with_bytes()
    first: Failed | Seen | None = None
    if not streams:
        arguments = _with_message(method, arguments)
        if not timed and len(arguments.request) <= engine.spec.options.replay_limit:
            done, ended = send_first(engine, twin, arguments, deadline, with_call)
            if done:
                if config.retry_throttling is not None:
                    engine.retries.record_success(config)
                return ended
            first = ended
    machine = engine.retries.machine(config, method_config, deadline)
    retries = BlockingRetries(
        engine, twin, machine, deadline, with_call, now if began is None else began
    )
    if streams:
        arguments = _with_requests(engine, method, arguments, retries.commit_to)
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
    machine = engine.retries.machine(config, method_config, call.deadline)
    if type(arguments.request) is Requests:
        commit = functools.partial(on_existing, weakref.ref(call), RetriedCall.commit_to)
        call.use(machine, _with_requests(engine, method, arguments, commit))
    else:
        call.use(machine, _with_message(method, arguments))
    call.start()
    return call


def _with_message(method: MethodHandle, arguments: CallArguments) -> CallArguments:
    """The arguments with a request that can be sent several times. Most of them are None."""
    request, timeout, metadata, credentials, wait_for_ready, compression, selection = arguments
    if metadata is not None:
        metadata = kept(metadata)
        check_metadata(metadata)
    if credentials is not None or compression:
        check_options(credentials, compression)
    options = credentials, wait_for_ready, compression
    return arguments_of((serialized(method, request), timeout, metadata, *options, selection))


def _with_requests(
    engine: Engine,
    method: MethodHandle,
    arguments: CallArguments,
    on_overflow: Callable[[int], None],
) -> CallArguments:
    """The arguments with requests that can be sent several times, byte-equal."""
    metadata = kept(arguments.metadata)
    check_metadata(metadata)
    check_options(arguments.credentials, arguments.compression)
    limit = engine.spec.options.replay_limit
    replayed = ReplayedRequests(
        arguments.request.source, method, limit, engine.replay_budget, on_overflow
    )
    return arguments._replace(request=replayed, metadata=metadata)
