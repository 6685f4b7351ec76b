"""The channel option for happy eyeballs reaches the policy, seen from outside."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

import grpclb
from grpclb.testing import ManualResolver
from tests.support.backend import Backend

pytestmark = pytest.mark.slow


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def seconds_to_first_answer(backend: str, silent: str, delay_ms: int) -> float:
    """With one endpoint of two addresses, of which the first is `silent`."""
    resolver = ManualResolver([grpclb.Endpoint.of(silent, backend)])
    options = [("grpc.happy_eyeballs_connection_attempt_delay_ms", delay_ms)]
    started = time.monotonic()
    with grpclb.insecure_channel("api", options, resolver=resolver) as channel:
        call = channel.unary_unary("/test.Echo/UnaryUnary")
        assert call(b"hi", timeout=20, wait_for_ready=True) == b"hi"
    return time.monotonic() - started


def test_the_delay_before_the_next_address(silent: str) -> None:
    with Backend.start() as backend:
        assert seconds_to_first_answer(backend.address, silent, 1200) >= 1.2
        # Not each time on a loaded machine; with the delay ignored, never.
        assert any(seconds_to_first_answer(backend.address, silent, 100) < 1.1 for _ in range(5))
