"""A layer-4 proxy as a Kubernetes ClusterIP is one: a random backend for each TCP connection.

In this process, on a thread of its own:

    with L4Proxy(["127.0.0.2:5000", "127.0.0.3:5000"]) as proxy:
        channel = grpc.insecure_channel(proxy.address)
        proxy.set_backends(["127.0.0.3:5000"])  # open connections stay where they are
        proxy.accepted()  # {"127.0.0.2:5000": 1}

`L4ProxyProcess` has the same methods and runs the proxy in a process of its own, which ends with
the one that started it.
"""

import asyncio
import contextlib
import functools
import json
import random
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.loop_thread import Connections, LoopThread


class L4Proxy:
    """Forwards bytes from 127.0.0.1:`port` to backends ("host:port"), chosen once a connection.

    A connection to a backend that refuses is closed, as is one accepted while there are no
    backends; when one side of a connection ends, so does the other. Any method, any thread.
    """

    def __init__(
        self, backends: Iterable[str] = (), *, port: int = 0, seed: int | None = None
    ) -> None:
        self.port = port
        self._backends = tuple(backends)
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._accepted: Counter[str] = Counter()
        self._open: Counter[str] = Counter()
        self._pumps: dict[asyncio.Task[None], str] = {}
        self._thread = LoopThread("test-l4-proxy")

    def start(self) -> None:
        """Listen and forward; the port stays the same over `stop()` and `start()`."""
        listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        self._thread.start(functools.partial(self._serve, listener))

    def stop(self) -> None:
        """Close the port and every connection."""
        self._thread.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """`127.0.0.1:port`, a target for plain grpcio."""
        return f"127.0.0.1:{self.port}"

    def set_backends(self, backends: Iterable[str]) -> None:
        """Choose among these for new connections; those that are open stay where they are."""
        with self._lock:
            self._backends = tuple(backends)

    def accepted(self) -> Mapping[str, int]:
        """Connections that each backend was chosen for so far."""
        with self._lock:
            return dict(self._accepted)

    def open(self) -> Mapping[str, int]:
        """Connections that are open now, for each backend that has any."""
        with self._lock:
            return dict(+self._open)

    def drop(self, backend: str | None = None) -> None:
        """Close the open connections to `backend`, or all."""

        def cancel() -> None:
            for pump, to in self._pumps.items():
                if backend in (None, to):
                    pump.cancel()

        self._thread.call(cancel)

    async def _serve(
        self, listener: socket.socket, ready: Callable[[], None], stopping: asyncio.Event
    ) -> None:
        with listener:
            connections = Connections(listener, self._forward)
            ready()
            await stopping.wait()
            await connections.close()

    async def _forward(self, client: socket.socket) -> None:
        with self._lock:
            if not self._backends:
                return
            backend = self._random.choice(self._backends)
            self._accepted[backend] += 1
            self._open[backend] += 1
        task = asyncio.current_task()
        assert task is not None
        self._pumps[task] = backend
        try:
            await _connect_and_pump(client, backend)
        finally:
            del self._pumps[task]
            with self._lock:
                self._open[backend] -= 1


async def _connect_and_pump(client: socket.socket, backend: str) -> None:
    loop = asyncio.get_running_loop()
    host, _, port = backend.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        for side in (client, server):
            side.setblocking(False)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(server, (host, int(port)))
        pumps = [
            loop.create_task(_pump(client, server)),
            loop.create_task(_pump(server, client)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(source: socket.socket, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        while data := await loop.sock_recv(source, 65_536):
            await loop.sock_sendall(sink, data)


class L4ProxyProcess:
    """`L4Proxy` in a process of its own, so that it takes no time from this one's threads.

    The two speak JSON lines: a command in, the counts out. Any method, any thread.
    """

    def __init__(self, backends: Iterable[str] = (), *, seed: int | None = None) -> None:
        self.port = 0
        self._first = list(backends)
        self._seed = seed
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],  # where `tests` can be imported from
        )
        self.port = self._ask(seed=self._seed, backends=self._first)["port"]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.communicate(timeout=10)  # it ends when its input does

    @property
    def address(self) -> str:
        """`127.0.0.1:port`, a target for plain grpcio."""
        return f"127.0.0.1:{self.port}"

    def set_backends(self, backends: Iterable[str]) -> None:
        """As `L4Proxy.set_backends`."""
        self._ask(backends=list(backends))

    def accepted(self) -> Mapping[str, int]:
        """As `L4Proxy.accepted`."""
        counts: Mapping[str, int] = self._ask()["accepted"]
        return counts

    def open(self) -> Mapping[str, int]:
        """As `L4Proxy.open`."""
        counts: Mapping[str, int] = self._ask()["open"]
        return counts

    def _ask(self, **command: object) -> dict:
        with self._lock:
            assert self._process is not None, "use it as a context manager"
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            answer: dict = json.loads(self._process.stdout.readline())
            return answer


def main() -> None:
    """Serve the commands of an `L4ProxyProcess` until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    first = json.loads(sys.stdin.readline())
    with L4Proxy(first["backends"], seed=first["seed"]) as proxy:
        command: dict = {}
        while True:
            if "backends" in command:
                proxy.set_backends(command["backends"])
            counts = {"port": proxy.port, "accepted": proxy.accepted(), "open": proxy.open()}
            sys.stdout.write(json.dumps(counts) + "\n")
            sys.stdout.flush()
            line = sys.stdin.readline()
            if not line:
                return
            command = json.loads(line)


if __name__ == "__main__":
    main()
