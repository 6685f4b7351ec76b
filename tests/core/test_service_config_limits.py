"""Message limits are C-core's work: the small config that it is given does on a real channel
what the large one means."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from grpclb.core.service_config import message_limits_json
from tests.core.service_config_corpus import parse

CONFIG: dict[str, Any] = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {"name": [{}], "maxRequestMessageBytes": 10, "timeout": "1s"},
        {"name": [{"service": "s.S"}], "maxResponseMessageBytes": 20},
        {"name": [{"service": "s.S", "method": "Free"}], "waitForReady": True},
        {
            "name": [{"service": "s.S", "method": "Both"}, {"service": "t.T"}],
            "maxRequestMessageBytes": "5",
            "maxResponseMessageBytes": 0,
        },
    ],
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Answers a request, which is a number in ASCII, with as many bytes."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(lambda request, _: b"x" * int(request))

    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"ipv4:127.0.0.1:{port}"
    server.stop(None).wait()


def test_it_says_the_limits_and_nothing_else() -> None:
    text = message_limits_json(parse(CONFIG))
    assert text is not None
    assert json.loads(text) == {
        "methodConfig": [
            {"name": [{}], "maxRequestMessageBytes": 10},
            {"name": [{"service": "s.S", "method": ""}], "maxResponseMessageBytes": 20},
            {"name": [{"service": "s.S", "method": "Free"}]},
            {
                "name": [{"service": "s.S", "method": "Both"}],
                "maxRequestMessageBytes": 5,
                "maxResponseMessageBytes": 0,
            },
            {
                "name": [{"service": "t.T", "method": ""}],
                "maxRequestMessageBytes": 5,
                "maxResponseMessageBytes": 0,
            },
        ]
    }


def test_without_limits_there_is_nothing_to_say() -> None:
    assert message_limits_json(parse({"methodConfig": [{"name": [{}], "timeout": "1s"}]})) is None


@pytest.mark.parametrize("method", ["/s.S/Free", "/s.S/Both", "/s.S/Other", "/t.T/X", "/u.U/X"])
@pytest.mark.parametrize("sent", [1, 6, 11])
@pytest.mark.parametrize("received", [0, 1, 21])
def test_core_enforces_what_the_lookup_says(
    server: str, method: str, sent: int, received: int
) -> None:
    config = parse(CONFIG)
    limits = message_limits_json(config)
    request = str(received).zfill(sent).encode()
    expected = config.method_config(method)
    too_large = (
        expected.max_request_bytes is not None and len(request) > expected.max_request_bytes
    ) or (expected.max_response_bytes is not None and received > expected.max_response_bytes)

    with grpc.insecure_channel(server, options=[("grpc.service_config", limits)]) as channel:
        call: Any = channel.unary_unary(method)
        if not too_large:
            assert len(call(request, timeout=10)) == received
            return
        with pytest.raises(grpc.RpcError) as caught:
            call(request, timeout=10)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_core_can_count_to_the_longest_timeout(server: str) -> None:
    """Ten thousand years are valid, but overflow C-core's clock: the call would fail at once."""
    config = parse({"methodConfig": [{"name": [{}], "timeout": "315576000000s"}]})
    timeout = config.method_config("/s.S/M").timeout
    with grpc.insecure_channel(server) as channel:
        call: Any = channel.unary_unary("/s.S/M")
        assert call(b"1", timeout=timeout) == b"x"
        with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):  # why there is a limit
            call(b"1", timeout=315576000000)
    assert timeout is not None
    assert timeout < threading.TIMEOUT_MAX
