"""A service config that comes with the first resolution counts for the RPCs that waited for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

import grpclb
from grpclb.testing import ManualResolver
from tests.support.backend import Backend, steer

_CONFIG = {"methodConfig": [{"name": [{}], "timeout": "0.2s"}]}
_PATH = "/test.Echo/UnaryUnary"


def _resolver(backend: Backend) -> ManualResolver:
    resolver = ManualResolver()
    endpoints = grpclb.ResolverState.of([backend.address]).endpoints
    resolver.update(grpclb.ResolverState(endpoints, service_config=_CONFIG))
    return resolver


def _call(channel: Any) -> Any:
    return channel.unary_unary(_PATH)(b"", metadata=steer(delay_ms=30_000))


def _future(channel: Any) -> Any:
    return channel.unary_unary(_PATH).future(b"", metadata=steer(delay_ms=30_000)).result()


def _stream(channel: Any) -> Any:
    return list(
        channel.unary_stream("/test.Echo/UnaryStream")(b"", metadata=steer(delay_ms=30_000))
    )


@pytest.mark.parametrize("send", [_call, _future, _stream])
def test_sync(send: Callable[[Any], Any]) -> None:
    with Backend.start(grace=0.1) as backend:
        channel = grpclb.insecure_channel("manual:///x", resolver=_resolver(backend))
        with channel, pytest.raises(grpc.RpcError) as caught:
            send(channel)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_aio() -> None:
    async def main(backend: Backend) -> grpc.StatusCode:
        channel = grpclb.aio.insecure_channel("manual:///x", resolver=_resolver(backend))
        async with channel:
            call = channel.unary_unary(_PATH)(b"", metadata=steer(delay_ms=30_000))
            return await call.code()

    with Backend.start(grace=0.1) as backend:
        assert asyncio.run(main(backend)) is grpc.StatusCode.DEADLINE_EXCEEDED
