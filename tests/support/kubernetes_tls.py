"""`KubernetesApi` behind TLS, on a thread of its own, or in a process of its own.

with TlsServer(tokens={"t"}) as server:
    server.do(lambda api: api.put(slice_object("api-1", "api", ["10.0.0.1"])))
    server.url, server.ca_pem
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import trustme

from tests.support.kubernetes_api import KubernetesApi
from tests.support.loop_thread import Connections, LoopThread

T = TypeVar("T")


class TlsServer:
    """`KubernetesApi` on a port of `host`, behind TLS, on a thread of its own."""

    def __init__(
        self, tokens: Iterable[str] = ("token",), *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._authority = trustme.CA()
        self._api = KubernetesApi(tokens)
        self._thread = LoopThread("kubernetes-api")
        self._loop: asyncio.AbstractEventLoop | None = None
        self.ca_pem: str = self._authority.cert_pem.bytes().decode()
        self.host = host
        self.port = port

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start(self._main)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.stop()

    def do(self, action: Callable[[KubernetesApi], T]) -> T:
        """Run `action` where the server lives, and return what it returns."""
        assert self._loop is not None

        async def run() -> T:
            return action(self._api)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    async def _main(self, ready: Callable[[], None], stopping: asyncio.Event) -> None:
        self._loop = asyncio.get_running_loop()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(self.host).configure_cert(context)
        with socket.create_server((self.host, self.port)) as listener:
            listener.setblocking(False)
            self.port = listener.getsockname()[1]

            async def serve(connection: socket.socket) -> None:
                await self._connection(connection, context)

            connections = Connections(listener, serve)
            ready()
            await stopping.wait()
            await connections.close()

    async def _connection(self, connection: Any, context: ssl.SSLContext) -> None:
        if not self._api.up:
            return
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        # A descriptor of its own: `Connections` closes the one that it knows.
        own = connection.dup()
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, own, ssl=context, ssl_handshake_timeout=5
            )
        except (OSError, asyncio.CancelledError):
            own.close()
            raise
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            await self._api.handle(reader, writer)
        finally:
            transport.abort()
            await asyncio.sleep(0)

    def write_files(self, folder: Path, token: str = "token") -> dict[str, Any]:
        """`token_file`, `ca_file` and `api_server` for a client of this server."""
        (folder / "token").write_text(token)
        (folder / "ca.crt").write_text(self.ca_pem)
        return {
            "api_server": self.url,
            "token_file": str(folder / "token"),
            "ca_file": str(folder / "ca.crt"),
        }


def main() -> None:
    """A server in a process of its own: one JSON line says where, each line of input is a slice.

    A line is an EndpointSlice to put, answered by an empty line. The end of input ends it.
    """
    with TlsServer() as server:
        print(json.dumps({"url": server.url, "ca": server.ca_pem}), flush=True)  # noqa: T201
        for line in sys.stdin:
            raw = json.loads(line)
            server.do(lambda api, raw=raw: api.put(raw))  # type: ignore[misc]
            print(flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
