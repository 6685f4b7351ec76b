"""The cluster as kubectl knows it: any Kubernetes, by the name of its context."""

import contextlib
import json
import os
import platform
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from integration.skew import kind, tools
from integration.skew.cluster import (
    NAMESPACE,
    SERVICE,
    TARGETS,
    ClusterError,
    Line,
    LineReader,
    PodChange,
    drain,
)
from integration.skew.pod_events import PodTracker

_MANIFESTS = Path(__file__).resolve().parents[2] / "kind-cluster" / "manifests"
_SERVERS = ("namespace", "pods", "services", "rbac")
_LIST_EVERY = 5.0  # seconds between two lists, which tell what a cut watch did not
_DEPLOYMENT = f"deployment/{SERVICE}"


class KubeCluster:
    """A `Cluster`; a context manager, which ends its kubectl processes and leaves the pods."""

    def __init__(self, context: str, image: str, retry: float = 1.0) -> None:
        self._context = context
        self._image = image
        self._retry = retry  # seconds before kubectl is started again
        self._lines: queue.SimpleQueue[Line] = queue.SimpleQueue()
        self._changes: queue.SimpleQueue[PodChange] = queue.SimpleQueue()
        self._tracker = PodTracker()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._processes: set[subprocess.Popen[str]] = set()
        self._threads: list[threading.Thread] = []
        self._failure: str | None = None
        self._logs_ended: set[str] = set()

    def __enter__(self) -> "KubeCluster":
        return self

    def __exit__(self, *_: object) -> None:
        """End what follows the cluster."""
        self._stopping.set()
        with self._lock:
            for process in self._processes:
                process.kill()
        for thread in self._threads:
            thread.join(10)

    def deploy(self, pods: int) -> None:
        self._clear()
        for name in _SERVERS:
            self._apply(name)
        self.scale(pods)
        try:
            self._kubectl("rollout", "status", _DEPLOYMENT, "--timeout=180s", timeout=200)
        except ClusterError as error:
            raise ClusterError(f"{error}\n{self.trouble()}") from None
        self._follow(self._watch_pods)
        self._follow(self._list_pods)

    def start_clients(self) -> None:
        self._apply("clients")
        for side in TARGETS:
            self._follow(self._read_logs, side)

    def stop_clients(self) -> None:
        with contextlib.suppress(ClusterError):  # the run's own error is the one to show
            self._kubectl("delete", "job", "-l", "app=client", "--wait=false")
        end = time.monotonic() + 15
        while len(self._logs_ended) < len(TARGETS) and time.monotonic() < end:
            time.sleep(0.1)

    def lines(self) -> Sequence[Line]:
        if self._failure is not None:
            raise ClusterError(f"{self._failure}\n{self.trouble()}")
        return drain(self._lines)

    def changes(self) -> Sequence[PodChange]:
        taken = []
        while not self._changes.empty():
            taken.append(self._changes.get())
        return taken

    def scale(self, pods: int) -> None:
        self._kubectl("scale", _DEPLOYMENT, f"--replicas={pods}")

    def roll(self) -> None:
        self._kubectl("rollout", "restart", _DEPLOYMENT)

    def delete_now(self, pod: str) -> None:
        self._kubectl("delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")

    def trouble(self) -> str:
        """The pods and the latest warnings, for a message."""
        parts = []
        for what in (["pods"], ["events", "--field-selector=type=Warning"]):
            with contextlib.suppress(ClusterError):
                lines = self._kubectl("get", *what).rstrip().splitlines()
                parts += [*lines[:1], *lines[1:][-12:]]
        return "\n".join(parts)

    def facts(self) -> Mapping[str, str]:
        version = json.loads(self._kubectl("version", "-o", "json"))
        nodes = json.loads(self._kubectl("get", "nodes", "-o", "json"))["items"]
        return {
            "cluster": f"Kubernetes {version['serverVersion']['gitVersion']}, {self._context}",
            "nodes": f"{len(nodes)}",
            "image": self._image,
            "runner": f"{platform.system()} {platform.release()}, {os.cpu_count()} cores",
        }

    # ---- kubectl

    def _command(self, *arguments: str) -> list[str]:
        return ["kubectl", "--context", self._context, "--namespace", NAMESPACE, *arguments]

    def _kubectl(self, *arguments: str, text: str | None = None, timeout: float = 60.0) -> str:
        return tools.output(*self._command(*arguments), text=text, timeout=timeout)

    def _apply(self, name: str) -> None:
        manifest = (_MANIFESTS / f"{name}.yaml").read_text(encoding="utf-8")
        text = manifest.replace(f"image: {kind.IMAGE}\n", f"image: {self._image}\n")
        self._kubectl("apply", "-f", "-", text=text)

    def _clear(self) -> None:
        """Away with what an earlier run left, without waiting for its grace."""
        there = self._kubectl("get", "namespace", NAMESPACE, "--ignore-not-found", "-o", "name")
        if there:
            self._kubectl("delete", "deployment,job", "--all", "--wait=false")
            self._kubectl("delete", "pod", "--all", "--grace-period=0", "--force", timeout=120)

    # ---- threads that follow the cluster

    def _follow(self, target: Callable[..., None], *arguments: str) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    @contextlib.contextmanager
    def _running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        with self._lock:
            process = subprocess.Popen(
                self._command(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            self._processes.add(process)
            if self._stopping.is_set():
                process.kill()
        try:
            yield process
        finally:
            process.kill()
            process.communicate()
            with self._lock:
                self._processes.discard(process)

    def _watch_pods(self) -> None:
        arguments = ["get", "pods", "-l", f"app={SERVICE}", "--watch", "--output-watch-events"]
        while not self._stopping.is_set():
            with self._running(*arguments, "-o", "json") as process:
                assert process.stdout is not None
                for line in process.stdout:  # kubectl prints an event a line
                    with contextlib.suppress(ValueError), self._lock:  # a line that was cut
                        self._tell(self._tracker.event(json.loads(line), time.monotonic()))
            self._stopping.wait(self._retry)

    def _list_pods(self) -> None:
        while not self._stopping.wait(_LIST_EVERY):
            asked_at = time.monotonic()
            try:
                answer = self._kubectl("get", "pods", "-l", f"app={SERVICE}", "-o", "json")
            except ClusterError:
                continue  # the API server is away for a moment; the next one tells as much
            with self._lock:
                self._tell(self._tracker.listed(json.loads(answer)["items"], asked_at))

    def _tell(self, changes: Sequence[PodChange]) -> None:
        for change in changes:
            self._changes.put(change)

    def _read_logs(self, side: str) -> None:
        """Follow a client's log until its last line; what is read again is known by its number."""
        job = f"job/client-{side}"
        while not self._stopping.is_set():
            with self._running("logs", "--follow", job) as process:
                assert process.stdout is not None
                reader = LineReader(process.stdout, self._lines)
                reader.join(None)
            if not reader.ended and self._has_failed(job):
                self._failure = f"client ({side}) failed:\n" + "\n".join(reader.noise[-8:])
            if reader.ended or self._failure is not None:
                break
            self._stopping.wait(self._retry)
        self._logs_ended.add(side)

    def _has_failed(self, job: str) -> bool:
        try:
            failed = self._kubectl("get", job, "-o", "jsonpath={.status.failed}")
        except ClusterError:
            return False  # gone, or not to be asked now
        return failed.strip() not in ("", "0")
