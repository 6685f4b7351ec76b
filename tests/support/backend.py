"""A real gRPC backend in a process of its own, for tests, the demo and the benchmarks.

    with Backend.start(name="a") as a:
        channel = grpc.insecure_channel(a.address)
        call = channel.unary_unary("/test.Echo/UnaryUnary")
        call(b"hi", metadata=steer(trailing=[("k", "v")]))     # answers b"hi"
        call(b"", metadata=steer(report=True))                  # JSON: name, peer, metadata, ...
        a.stats()["calls"]                                      # {"/test.Echo/UnaryUnary": 2}

By hand: ``python -m tests.support.backend '{"name": "a", "port": 50051}'`` prints one JSON
line (name, pid, port) once it serves; SIGTERM stops it gracefully. Methods: ``/test.Echo/``
``UnaryUnary UnaryStream StreamUnary StreamStream`` (bytes, steered by the metadata of
`steer`), ``/test.Control/`` ``Stats Reset SetHealth`` (JSON), and ``grpc.health.v1.Health``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_ROOT = Path(__file__).resolve().parents[2]

DEFAULTS: Mapping[str, Any] = {
    "name": "backend",  # in every report and in the stats
    "host": "127.0.0.1",  # "[::1]" for IPv6
    "port": 0,  # 0: the kernel chooses
    "unix": None,  # a target such as "unix:/path", in place of host and port
    "tls": None,  # {"cert": PEM, "key": PEM, "client_ca": PEM or absent}
    "health": True,  # serve grpc.health.v1
    "workers": 32,  # threads, so calls that run at once
    "grace": 5.0,  # seconds that SIGTERM gives running calls
    "max_connection_age_ms": None,
    "max_connection_age_grace_ms": None,
    "options": (),  # further grpc server arguments, pairs
    "exit_with_parent": False,  # end when standard input ends; `Backend.start` sets it
}


def steer(request_id: str | None = None, **wishes: Any) -> tuple[tuple[str, str], ...]:
    """Metadata that tells an echo method what to do; the wishes are `backend_server.Steer`.

    A metadata value of a ``-bin`` key in `initial` or `trailing` is given in base64.
    `request_id` is counted in ``stats()["ids"]``.
    """
    metadata = (("x-steer", json.dumps(wishes)),)
    return metadata if request_id is None else (*metadata, ("x-request-id", request_id))


class Backend:
    """Handle on a backend process. Every method blocks shortly; not for use by two threads
    at once, `stats`, `reset` and `set_health` excepted.
    """

    def __init__(self, process: subprocess.Popen[bytes], options: Mapping[str, Any]) -> None:
        self._process = process
        self._options = options
        self._lock = threading.Lock()
        self._buffer = b""
        self.name: str = options["name"]
        self.pid = process.pid
        self.port: int = 0

    @classmethod
    def start(cls, *, ready_timeout: float = 30.0, **options: Any) -> Self:
        """Start a backend and wait until it serves. The keywords are those of `DEFAULTS`.

        Raises RuntimeError when it does not serve within `ready_timeout` seconds, for example
        because its port is taken.
        """
        backend = cls.launch(**options)
        backend.wait_ready(ready_timeout)
        return backend

    @classmethod
    def start_many(cls, names: Sequence[str], **options: Any) -> list[Self]:
        """Start one backend per name at the same time, all with the same options."""
        backends = [cls.launch(name=name, **options) for name in names]
        for backend in backends:
            backend.wait_ready()
        return backends

    @classmethod
    def launch(cls, **options: Any) -> Self:
        """As `start`, without the wait: call `wait_ready` before anything else."""
        unknown = options.keys() - DEFAULTS.keys()
        if unknown:
            raise TypeError(f"unknown backend options: {sorted(unknown)}")
        chosen = {**DEFAULTS, "exit_with_parent": True, **options}
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.backend", json.dumps(chosen)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            start_new_session=True,
        )
        return cls(process, chosen)

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait for the line that says that the backend serves."""
        try:
            self.port = self._read_line(timeout)["port"]
        except (RuntimeError, TimeoutError) as error:
            self.kill()
            raise RuntimeError(f"backend {self.name!r} did not start: {error}") from error

    @property
    def address(self) -> str:
        """``host:port``, or the unix target."""
        unix: str | None = self._options["unix"]
        return unix if unix is not None else f"{self._options['host']}:{self.port}"

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def restart(self) -> Self:
        """A new process with the same options on the same port; this one must have ended."""
        return type(self).start(**{**self._options, "port": self.port})

    def stats(self) -> dict[str, Any]:
        """Counts so far: name, calls (by method), total, ids, peers, in_flight, completed,
        cancelled. Control and health calls are not counted.
        """
        return self._ask({"op": "stats"})

    def reset(self) -> None:
        """Set the counts to nought."""
        self._ask({"op": "reset"})

    def set_health(self, status: str, service: str = "") -> None:
        """Set the health of `service` to ``SERVING``, ``NOT_SERVING`` or ``UNKNOWN``."""
        self._ask({"op": "set_health", "service": service, "status": status})

    def pause(self) -> None:
        """Freeze the process; its sockets stay open (SIGSTOP)."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Begin a graceful stop and do not wait for its end."""
        self._process.send_signal(signal.SIGTERM)

    def stop(self, grace: float | None = None) -> None:
        """Stop gracefully and wait. `grace` in seconds replaces the option of that name."""
        if not self.alive:
            self._reap()
            return
        allowed = self._options["grace"] if grace is None else grace
        if grace is not None:
            self._ask({"op": "grace", "seconds": grace})
        self.resume()
        self.terminate()
        try:
            self._process.wait(allowed + 10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reap()

    def kill(self) -> None:
        """End the process at once (SIGKILL) and reap it."""
        if self.alive:
            self._process.kill()
        self._reap()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def __repr__(self) -> str:
        state = "alive" if self.alive else f"ended {self._process.returncode}"
        return f"<Backend {self.name} {self.address} pid={self.pid} {state}>"

    def _reap(self) -> None:
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                # A broken pipe: a control line that the process did not live to read.
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._read_line(10.0)
        if "error" in answer:
            raise RuntimeError(f"backend {self.name!r}: {answer['error']}")
        return answer

    def _read_line(self, timeout: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        end = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise TimeoutError(f"no answer within {timeout} s")
            chunk = os.read(descriptor, 65536)
            if not chunk:
                raise RuntimeError(f"process ended with {self._process.wait()}")
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM, or until standard input ends if the options say so."""
    from tests.support.backend_server import Server

    options = {**DEFAULTS, **(json.loads(argv[0]) if argv else {})}
    logging.getLogger("grpc").addHandler(logging.NullHandler())  # a crash asked for is no news
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    server = Server(options)
    grace = [options["grace"]]

    def say(answer: Mapping[str, Any]) -> None:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()

    def serve_pipe() -> None:
        for line in sys.stdin:
            request = json.loads(line)
            if request["op"] == "grace":
                grace[0] = request["seconds"]
                say({})
            else:
                say(server.control(request))
        if options["exit_with_parent"]:
            os._exit(0)

    say({"name": options["name"], "pid": os.getpid(), "port": server.port})
    threading.Thread(target=serve_pipe, daemon=True, name="control-pipe").start()
    stopping.wait()
    server.stop(grace[0])
    sys.stdout.flush()
    os._exit(0)  # handlers that outlived the grace must not keep the process


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
