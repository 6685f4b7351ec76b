"""The control plane of ``controlplane/``, built with Go on go-control-plane and run as a process.

with ControlPlane(binary) as plane:
    plane.set("node-id", "1", resources)     # in protobuf's JSON, each with "@type"
    plane.wait_for(lambda seen: seen["version"] == "1")
"""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_SOURCE = Path(__file__).with_name("controlplane")
MISSING = (
    "platform: no Go here: with one of 1.24 or newer on PATH (Debian's is `apt-get install "
    "golang-go`) and its modules within reach, a control plane on go-control-plane is tested, too"
)


class CannotBuild(Exception):
    """There is no control plane to test; the text says why."""


def build(folder: Path) -> Path:
    """The program, made in `folder`. Raises CannotBuild."""
    go = shutil.which("go")
    if go is None:
        raise CannotBuild(MISSING)
    program = folder / "controlplane"
    command = [go, "build", "-buildvcs=false", "-o", str(program), "."]
    done = subprocess.run(
        command, cwd=_SOURCE, capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        raise CannotBuild(f"{MISSING}; go build: {done.stderr[-2000:]}")
    return program


class ControlPlane:
    """The handle on that process."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._news = threading.Condition()
        self.requests: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.address = f"127.0.0.1:{self._answer()['port']}"

    def bootstrap(self, node: str) -> dict[str, Any]:
        server = {"server_uri": self.address, "channel_creds": [{"type": "insecure"}]}
        return {"xds_servers": [server], "node": {"id": node}}

    def set(self, node: str, version: str, resources: Sequence[Mapping[str, Any]]) -> None:
        """All that a node may know from now on."""
        line = json.dumps({"node": node, "version": version, "resources": resources})
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        self._answer()

    def wait_for(self, good: Callable[[dict[str, Any]], Any], timeout: float = 20.0) -> Any:
        """The first request that is `good`: node, agent, type, names, version, nonce, error."""
        end = time.monotonic() + timeout
        with self._news:
            while True:
                found = next(filter(good, self.requests), None)
                if found is not None:
                    return found
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"not seen; last: {self.requests[-6:]}")
                self._news.wait(left)

    def _answer(self) -> dict[str, Any]:
        answer = self._answers.get(timeout=20)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            if "request" not in event:
                self._answers.put(event)
                continue
            with self._news:
                self.requests.append(event["request"])
                self._news.notify_all()
        self._answers.put({"error": "the control plane has ended"})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
