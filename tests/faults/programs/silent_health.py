"""A server whose health service takes every Watch and never answers; prints its port."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc


def watch(request: bytes, context: Any) -> Iterator[bytes]:
    del request
    ended = threading.Event()
    context.add_callback(ended.set)
    ended.wait()
    yield from ()


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    handlers: dict[str, Any] = {"Watch": grpc.unary_stream_rpc_method_handler(watch)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    sys.stdin.read()  # until the test closes the pipe, or ends
    server.stop(0).wait()


if __name__ == "__main__":
    main()
