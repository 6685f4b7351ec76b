"""What the scenario asks of a cluster, real or made of network namespaces.

Times are `time.monotonic()` of the runner.
"""

import json
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import IO, Any, Protocol

SERVICE = "api"
HEADLESS = "api-headless"
NAMESPACE = "grpclb-skew"
PORT = 50051
DOMAIN = f"{NAMESPACE}.svc.cluster.local"
TITLES: Mapping[str, str] = {
    "a": "(a) grpcio → ClusterIP",
    "b": "(b) grpcio round_robin, DNS",
    "c": "(c) grpclb, headless DNS",
    "d": "(d) grpclb, kubernetes:///",
}
TARGETS: Mapping[str, str] = {
    "a": f"{SERVICE}.{DOMAIN}:{PORT}",
    "b": f"dns:///{HEADLESS}.{DOMAIN}:{PORT}",
    "c": f"dns:///{HEADLESS}.{DOMAIN}:{PORT}",
    "d": f"kubernetes:///{HEADLESS}.{NAMESPACE}:grpc",
}


class ClusterError(Exception):
    """The run cannot go on; the text says why and what to do."""


class PodState(Enum):
    """What becomes of a pod, as the runner is told."""

    READY = "ready"  # in the Services
    LEAVING = "leaving"  # out of them, and still serving the calls that come
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class PodChange:
    """`pod` is in `state` since `at`."""

    at: float
    pod: str
    state: PodState


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a client's output, and when it arrived."""

    at: float
    fields: Mapping[str, Any]


class Cluster(Protocol):
    """Nothing here blocks for long but `deploy`, `start_clients` and `stop_clients`."""

    def deploy(self, pods: int) -> None:
        """Return once so many pods are ready, in both Services."""

    def start_clients(self) -> None:
        """Start a client for each of `TARGETS`."""

    def stop_clients(self) -> None:
        """End them; their last lines are there when this returns."""

    def lines(self) -> Sequence[Line]:
        """What the clients said since the last time."""

    def changes(self) -> Sequence[PodChange]:
        """What became of pods since the last time. Called often: a cluster may work in it."""

    def scale(self, pods: int) -> None:
        """Ask for so many pods."""

    def roll(self) -> None:
        """Ask for a rolling update."""

    def delete_now(self, pod: str) -> None:
        """Delete a pod with no grace at all."""

    def trouble(self) -> str:
        """What the cluster says of itself, for the message when something did not come."""

    def facts(self) -> Mapping[str, str]:
        """What a report should say of this cluster."""


class LineReader:
    """Reads JSON lines of a stream on a thread into a queue; other text is kept as `noise`.

    `ended` once the client's last line has come.
    """

    def __init__(self, stream: IO[str], lines: "queue.SimpleQueue[Line]") -> None:
        self.noise: list[str] = []
        self.ended = False
        self._stream = stream
        self._lines = lines
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def join(self, timeout: float | None) -> None:
        """Wait until the stream has ended."""
        self._thread.join(timeout)

    def _read(self) -> None:
        for text in self._stream:
            try:
                fields = json.loads(text)
            except ValueError:
                self.noise.append(text.rstrip())
                continue
            self.ended = self.ended or "end" in fields
            self._lines.put(Line(time.monotonic(), fields))


def drain(lines: "queue.SimpleQueue[Line]") -> list[Line]:
    """All that is in the queue now."""
    taken = []
    while not lines.empty():
        taken.append(lines.get())
    return taken
