"""The Python code in docs/kubernetes.md works as it stands, with real addresses put in."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from grpclb.cli import main
from tests.support.dns_server import DnsServer

PAGE = (Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text()
CODE = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
DNS_TARGET, WATCH_TARGET = "dns:///api.shop:50051", "kubernetes:///api.shop:grpc"
CALL = "/shop.Api/Get"

pytestmark = pytest.mark.slow


def _echo(server: grpc.Server) -> None:
    handler: grpc.RpcMethodHandler = grpc.unary_unary_rpc_method_handler(
        lambda request, context: request
    )
    generic = grpc.method_handlers_generic_handler("shop.Api", {"Get": handler})
    server.add_generic_rpc_handlers((generic,))


@pytest.fixture
def target(tmp_path: Path) -> Iterator[str]:
    """The page's own server at work, stopped as SIGTERM does it; what to put in for `api.shop`."""
    (code,) = [block for block in CODE if "def serve" in block]
    names: dict[str, Any] = {}
    exec(code, names)
    # A Unix socket, whose name is known before the server has begun.
    serving = threading.Event()

    def add_services(server: grpc.Server) -> None:
        _echo(server)
        serving.set()

    address = f"unix:{tmp_path}/api.sock"
    thread = threading.Thread(target=names["serve"], args=(address, add_services))
    thread.start()
    assert serving.wait(10)
    yield address
    names["stopping"].set()
    thread.join(10)
    assert not thread.is_alive()


def _block(marker: str) -> str:
    (block,) = [block for block in CODE if marker in block and "def serve" not in block]
    return block


def test_the_asyncio_client(target: str) -> None:
    names: dict[str, Any] = {}
    exec(_block("async def main").replace(DNS_TARGET, target), names)
    assert asyncio.run(names["main"]()) == b""


@pytest.mark.parametrize("written", [DNS_TARGET, WATCH_TARGET])
def test_the_sync_clients(written: str, target: str) -> None:
    names: dict[str, Any] = {}
    (block,) = [b for b in CODE if f'= grpclb.insecure_channel("{written}")' in b]
    exec(block.replace(written, target), names)
    with names["channel"] as channel:
        assert channel.unary_unary(CALL)(b"x", wait_for_ready=True, timeout=10) == b"x"


def test_every_python_block_was_run() -> None:
    assert len(CODE) == 4


def test_the_dns_target_asks_for_the_name_that_the_manifest_gives() -> None:
    """Service and namespace of the YAML are those of the client code."""
    assert re.search(r"name: api\n  namespace: shop\nspec:\n  clusterIP: None", PAGE)
    assert "containerPort: 50051" in PAGE
    with DnsServer() as dns:
        dns.set("api.shop", "A", "127.0.0.1")
        assert main(["resolve", DNS_TARGET.replace("///", f"//{dns.authority}/")]) == 0
