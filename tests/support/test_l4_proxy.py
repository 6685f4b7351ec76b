"""The layer-4 proxy balances connections, as a ClusterIP does, and nothing finer."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from tests.support.l4_proxy import L4Proxy, L4ProxyProcess

type_of_proxy = pytest.mark.parametrize("make", [L4Proxy, L4ProxyProcess])


class NamedServer:
    """Says its own address to everyone who connects, then echoes one message."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=[connection], daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        with connection:
            connection.sendall(self.address.encode())
            while data := connection.recv(100):
                connection.sendall(data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


@pytest.fixture
def servers() -> Iterator[list[NamedServer]]:
    servers = [NamedServer() for _ in range(3)]
    yield servers
    for server in servers:
        server.close()


def connect(proxy: L4Proxy | L4ProxyProcess) -> tuple[socket.socket, str]:
    connection = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    return connection, connection.recv(100).decode()


@type_of_proxy
def test_each_connection_gets_one_backend_and_stays_there(
    make: Callable[..., AbstractContextManager[L4Proxy | L4ProxyProcess]],
    servers: list[NamedServer],
) -> None:
    old, new = {s.address for s in servers[:2]}, servers[2].address
    with make(sorted(old), seed=1) as proxy:
        connections = [connect(proxy) for _ in range(12)]
        assert {backend for _, backend in connections} == old
        assert sum(proxy.open().values()) == 12
        proxy.set_backends([new])
        first, _ = connections[0]
        first.sendall(b"still here")
        assert first.recv(100) == b"still here"
        connections.append(connect(proxy))
        assert connections[-1][1] == new
        assert proxy.accepted()[new] == 1
        for connection, _ in connections:
            connection.close()


def test_without_a_live_backend_the_connection_ends_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = f"127.0.0.1:{closed.getsockname()[1]}"
    with L4Proxy() as proxy:
        for backends in ([], [dead]):
            proxy.set_backends(backends)
            connection, greeting = connect(proxy)
            assert greeting == ""
            connection.close()
        assert proxy.accepted() == {dead: 1}


def test_drop_closes_the_connections_to_one_backend(servers: list[NamedServer]) -> None:
    one, other, _ = servers
    with L4Proxy([one.address]) as proxy:
        dropped, _ = connect(proxy)
        proxy.set_backends([other.address])
        kept, _ = connect(proxy)
        proxy.drop(one.address)
        assert dropped.recv(100) == b""
        assert proxy.open() == {other.address: 1}
        dropped.close()
        kept.close()
