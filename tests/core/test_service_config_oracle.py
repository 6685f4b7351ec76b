"""grpc core as an oracle: it accepts and rejects the corpus as we do, but for what is listed.

A channel with a `grpc.service_config` that core rejects is lame: every RPC fails with
INVALID_ARGUMENT and `Failed to create channel`. With one that it accepts, the RPC gets as far as
the refused connection, or as the deadline.
"""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from tests.core.service_config_corpus import documents, text_of


def core_accepts(config: str) -> bool:
    options = [("grpc.service_config", config), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel("unix:/nonexistent/socket", options=options) as channel:
        call: Any = channel.unary_unary("/s.S/M")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=0.1)
        error: Any = caught.value
        lame = "Failed to create channel" in error.details()
        assert lame == (error.code() is grpc.StatusCode.INVALID_ARGUMENT)
        return not lame


@pytest.mark.parametrize("case", documents("valid"))
def test_core_accepts_the_valid(case: dict[str, Any]) -> None:
    assert core_accepts(text_of(case)) == ("core_rejects" not in case)


@pytest.mark.parametrize("case", documents("invalid"))
def test_core_rejects_the_invalid(case: dict[str, Any]) -> None:
    assert core_accepts(text_of(case)) == ("core_accepts" in case)
