"""Response streams whose last attempt fails say so, and never look like empty ones."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from tests.faults.harness import eventually
from tests.retries.servers import Scripted, Step
from tests.retries.stacks import LIMIT, AioStack, Stack
from tests.retries.test_lifetimes import SLOW, UNAVAILABLE, config, key

INTERNAL: Step = {"code": grpc.StatusCode.INTERNAL}
# The policy, what each attempt meets, and how the RPC ends.
FAILED: dict[str, tuple[dict[str, Any] | None, Step, grpc.StatusCode]] = {
    "a code that is not retried": (config("retry"), INTERNAL, grpc.StatusCode.INTERNAL),
    "no attempts left": (config("retry"), UNAVAILABLE, grpc.StatusCode.UNAVAILABLE),
    "too late for an attempt": (
        config("retry", perAttemptRecvTimeout="0.05s"),
        SLOW,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    ),
    "a fatal code": (config("hedge"), INTERNAL, grpc.StatusCode.INTERNAL),
    "no copies left": (config("hedge"), UNAVAILABLE, grpc.StatusCode.UNAVAILABLE),
    "too late": (config("hedge"), SLOW, grpc.StatusCode.DEADLINE_EXCEEDED),
}


def begin(stack: Stack, servers: Scripted, kind: str, case: str) -> Any:
    policy, step, _ = FAILED[case]
    metadata = servers.script(key(), *[step] * 4)
    channel = stack.open(servers.target, service_config=policy)
    requests = b"x" if kind == "unary_stream" else stack.requests([b"x"])
    # Not at once where an attempt has less time than a connection takes on a loaded machine.
    eventually(lambda: stack.begin(channel, "unary_unary", b"").end().code is grpc.StatusCode.OK)
    timeout = 0.3 if case == "too late" else LIMIT
    return stack.begin(channel, kind, requests, metadata=metadata, timeout=timeout)


@pytest.mark.parametrize("kind", ["unary_stream", "stream_stream"])
@pytest.mark.parametrize("case", FAILED)
def test_iteration_raises_the_error(case: str, kind: str, stack: Stack, servers: Scripted) -> None:
    end = begin(stack, servers, kind, case).end()
    assert (end.code, end.messages) == (FAILED[case][2], ())


@pytest.mark.parametrize("case", FAILED)
def test_who_reads_again_gets_it_again(case: str, stack: Stack, servers: Scripted) -> None:
    call = begin(stack, servers, "stream_stream", case).call
    for _ in range(2):
        with pytest.raises(grpc.RpcError) as caught:
            _ = stack.loop.run(call.read()) if isinstance(stack, AioStack) else next(call)
        error: Any = caught.value
        assert error.code() is FAILED[case][2]
