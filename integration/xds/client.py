"""A client in a process of its own that does RPCs as it is told: C-core's own xDS, or grpclb's.

    with Client("c-core", bootstrap) as client:
        client.call("xds:///api", 100, threads=4)      # a `Result`

The stacks are ``c-core`` (plain grpcio), ``sync`` (grpclb) and ``aio`` (grpclb.aio). The bootstrap
is in the environment of the process, where all of them find it.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

_ROOT = Path(__file__).resolve().parents[2]
STACKS = ("c-core", "sync", "aio")
METHOD = "/test.Echo/Plain"
# gRFC A88, as grpclb has it, is behind a switch in C-core.
_SWITCHES = {"GRPC_EXPERIMENTAL_XDS_DATA_ERROR_HANDLING": "true"}


@dataclass(frozen=True, slots=True)
class Result:
    """Many RPCs: `answers` by text, `codes` by name, one example of `details` for each code."""

    answers: Mapping[str, int] = field(default_factory=dict)
    codes: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        return sum(n for code, n in self.codes.items() if code != "OK")

    @property
    def total(self) -> int:
        return sum(self.codes.values())

    def share(self, name: str) -> float:
        """Of all RPCs, those that `name` answered."""
        return self.answers.get(name, 0) / self.total


class Client:
    """The handle on that process. One request at a time; threads take turns."""

    def __init__(self, stack: str, bootstrap: Mapping[str, Any]) -> None:
        self.stack = stack
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "integration.xds.client", stack],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT, start_new_session=True,
            env={**os.environ, **_SWITCHES, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(bootstrap)},
        )  # fmt: skip
        self.pid = self._process.pid

    def call(self, target: str, count: int = 1, **options: Any) -> Result:
        """Options: threads, method, metadata (a dict), timeout (seconds), wait_for_ready."""
        return Result(**self._ask({"op": "call", "target": target, "count": count, **options}))

    def calls(self, rows: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Several `call` at the same time."""
        return [Result(**found) for found in self._ask({"op": "calls", "rows": rows})]

    def begin(self, target: str, **options: Any) -> None:
        """RPCs one after the other, by one thread, until `end`."""
        self._ask({"op": "begin", "target": target, **options})

    def end(self) -> Result:
        return Result(**self._ask({"op": "end"}))

    def snapshot(self, target: str) -> Any:
        """grpclb's `debug_snapshot`."""
        return self._ask({"op": "snapshot", "target": target})

    def close(self, target: str) -> None:
        """Close the channel to a target, if there is one."""
        self._ask({"op": "close", "target": target})

    def _ask(self, request: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(f"{self.stack}: {answer['error']}")
        return answer

    def __repr__(self) -> str:
        return f"<Client {self.stack} pid={self.pid}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()


# -- the process -------------------------------------------------------------------------------

# method, metadata, timeout, wait_for_ready -> the answer; raises grpc.RpcError
_Call = Callable[[str, Sequence[tuple[str, str]], float, bool], bytes]


class _Sync:
    """Channels of plain grpcio or of grpclb."""

    def __init__(self, package: Any) -> None:
        self._package = package

    def open(self, target: str) -> tuple[Any, _Call]:
        channel = self._package.insecure_channel(target)

        def call(
            method: str, metadata: Sequence[tuple[str, str]], timeout: float, wait: bool
        ) -> bytes:
            rpc = channel.unary_unary(method)
            answer: bytes = rpc(b"", timeout=timeout, metadata=metadata, wait_for_ready=wait)
            return answer

        return channel, call

    def close(self, channel: Any) -> None:
        channel.close()


class _Aio:
    """Channels of grpclb.aio, on a loop in a thread."""

    def __init__(self) -> None:
        import grpclb

        self._package = grpclb.aio
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def open(self, target: str) -> tuple[Any, _Call]:
        async def make() -> Any:
            return self._package.insecure_channel(target)

        channel = self._run(make())

        def call(
            method: str, metadata: Sequence[tuple[str, str]], timeout: float, wait: bool
        ) -> bytes:
            async def one() -> bytes:
                rpc = channel.unary_unary(method)
                answer: bytes = await rpc(
                    b"", timeout=timeout, metadata=metadata, wait_for_ready=wait
                )
                return answer

            found: bytes = self._run(one())
            return found

        return channel, call

    def close(self, channel: Any) -> None:
        self._run(channel.close())


def _stack(name: str) -> _Sync | _Aio:
    if name == "aio":
        return _Aio()
    if name == "sync":
        import grpclb

        return _Sync(grpclb)
    return _Sync(grpc)


class _Tally:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: Counter[str] = Counter()
        self._codes: Counter[str] = Counter()
        self._details: dict[str, str] = {}

    def add(self, rpc: Callable[[], bytes]) -> None:
        try:
            answer = rpc().decode()
        except grpc.RpcError as error:
            code = error.code().name
            with self._lock:
                self._codes[code] += 1
                self._details.setdefault(code, error.details() or "")
            return
        with self._lock:
            self._codes["OK"] += 1
            self._answers[answer] += 1

    def result(self, seconds: float) -> dict[str, Any]:
        return {
            "answers": self._answers,
            "codes": self._codes,
            "details": self._details,
            "seconds": seconds,
        }


class _Worker:
    def __init__(self, stack: _Sync | _Aio) -> None:
        self._stack = stack
        self._channels: dict[str, tuple[Any, _Call]] = {}
        self._pool = ThreadPoolExecutor(128)
        self._ended = threading.Event()
        self._running: Any = None

    def do(self, request: dict[str, Any]) -> Any:
        match request.pop("op"):
            case "call":
                return self._call(**request)
            case "calls":
                for row in request["rows"]:
                    self._rpc(row["target"])  # its channel, by this thread
                jobs = [
                    self._pool.submit(self._call, **{"count": 1, **row}) for row in request["rows"]
                ]
                return [job.result() for job in jobs]
            case "begin":
                self._ended.clear()
                self._running = self._pool.submit(self._go_on, **request)
                return {}
            case "end":
                self._ended.set()
                return self._running.result()
            case "snapshot":
                return self._channels[request["target"]][0].debug_snapshot()
            case "close":
                found = self._channels.pop(request["target"], None)
                if found is not None:
                    self._stack.close(found[0])
                return {}
        return {"error": "what?"}

    def _rpc(
        self,
        target: str,
        method: str = METHOD,
        metadata: Mapping[str, str] | None = None,
        timeout: float = 10.0,
        wait_for_ready: bool = False,
    ) -> Callable[[], bytes]:
        if target not in self._channels:
            self._channels[target] = self._stack.open(target)
        call = self._channels[target][1]
        pairs = tuple((metadata or {}).items())
        return lambda: call(method, pairs, timeout, wait_for_ready)

    def _call(self, target: str, count: int, threads: int = 4, **options: Any) -> Any:
        rpc, tally, began = self._rpc(target, **options), _Tally(), time.monotonic()
        left = iter(range(count))
        lock = threading.Lock()

        def some() -> None:
            while True:
                with lock:
                    if next(left, None) is None:
                        return
                tally.add(rpc)

        jobs = [self._pool.submit(some) for _ in range(min(threads, count))]
        for job in jobs:
            job.result()
        return tally.result(time.monotonic() - began)

    def _go_on(self, target: str, **options: Any) -> Any:
        rpc, tally, began = self._rpc(target, **options), _Tally(), time.monotonic()
        while not self._ended.wait(0.002):
            tally.add(rpc)
        return tally.result(time.monotonic() - began)


def main(name: str) -> None:
    worker = _Worker(_stack(name))
    for line in sys.stdin:
        try:
            answer = worker.do(json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
