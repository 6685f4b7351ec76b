"""The demo's small cluster: pods, and the two kinds of Service in front of them.

Every pod has a loopback address of its own and all listen on the same port, as pods do: a DNS
answer holds addresses only. The ClusterIP is a layer-4 proxy, the headless Service a DNS server.
"""

import contextlib
import errno
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.dns_server import DnsServer
from tests.support.l4_proxy import L4ProxyProcess

NAME = "api.demo.svc.cluster.local"
TTL = 2  # seconds
_HOSTS = [f"127.0.0.{last}" for last in range(11, 20)]
_ROOT = Path(__file__).resolve().parents[2]


class NoLoopbackError(Exception):
    """This system has no address 127.0.0.x other than 127.0.0.1; the text says what to do."""


@dataclass(slots=True)
class Pod:
    """A backend process and its address."""

    name: str
    host: str
    process: subprocess.Popen[str] = field(repr=False)


class Cluster:
    """Starts and stops pods; only those that are published are known to the two Services."""

    def __init__(self) -> None:
        self.port = find_port()
        self.published: list[Pod] = []
        self._pods: list[Pod] = []
        self._stack = contextlib.ExitStack()
        self._proxy = L4ProxyProcess()
        self._dns = DnsServer()

    def __enter__(self) -> Self:
        self._stack.callback(self._stop_pods)
        self._stack.enter_context(self._proxy)
        self._stack.enter_context(self._dns)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def targets(self) -> dict[str, str]:
        """What a client of each side dials."""
        headless = f"dns://{self._dns.authority}/{NAME}:{self.port}"
        return {
            "plain": self._proxy.address,
            "robin": headless,
            "grpclb": headless,
        }

    def start_pods(self, count: int) -> list[Pod]:
        """Start pods and wait until they serve; nobody knows them yet."""
        pods = [self._launch() for _ in range(count)]
        for pod in pods:
            assert pod.process.stdout is not None
            if pod.process.stdout.readline() != "ready\n":
                raise RuntimeError(f"{pod.name} did not start on {pod.host}:{self.port}")
        return pods

    def publish(self, *pods: Pod) -> None:
        """Put pods into both Services."""
        self.published.extend(pods)
        self._announce()

    def withdraw(self, pod: Pod) -> None:
        """Take a pod out of both Services."""
        self.published.remove(pod)
        self._announce()

    def kill(self, pod: Pod) -> None:
        """SIGKILL, as the kernel does to a pod that used too much memory."""
        pod.process.kill()

    def terminate(self, pod: Pod) -> None:
        """SIGTERM, as a rolling restart does; the pod ends its calls first."""
        pod.process.send_signal(signal.SIGTERM)

    def busiest(self) -> Pod:
        """The published pod that carries most of the ClusterIP's connections."""
        connections = self._proxy.open()
        return max(self.published, key=lambda pod: connections.get(self._address(pod), 0))

    def _launch(self) -> Pod:
        index = len(self._pods)
        name, host = f"pod-{'abcdefghi'[index]}", _HOSTS[index]
        process = subprocess.Popen(
            [sys.executable, "-m", "integration.demo.backend", name, f"{host}:{self.port}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
        )
        pod = Pod(name, host, process)
        self._pods.append(pod)
        return pod

    def _announce(self) -> None:
        self._dns.set(NAME, "A", *(pod.host for pod in self.published), ttl=TTL)
        self._proxy.set_backends(self._address(pod) for pod in self.published)

    def _address(self, pod: Pod) -> str:
        return f"{pod.host}:{self.port}"

    def _stop_pods(self) -> None:
        for pod in self._pods:
            pod.process.kill()
            pod.process.communicate()


def find_port() -> int:
    """A port that is free on every pod's address; NoLoopbackError if there is no such address."""
    for _ in range(50):
        port = 0
        with contextlib.ExitStack() as sockets:
            try:
                for host in _HOSTS:
                    probe = sockets.enter_context(socket.socket())
                    probe.bind((host, port))
                    port = probe.getsockname()[1]
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise NoLoopbackError(_how_to_add_loopback()) from None
                continue
        return port
    raise RuntimeError("found no port that is free on all of " + ", ".join(_HOSTS))


def _how_to_add_loopback() -> str:
    commands = "\n".join(f"  sudo ifconfig lo0 alias {host} up" for host in _HOSTS)
    return (
        "The demo gives every backend a loopback address of its own, and this system has only\n"
        "127.0.0.1 (macOS does so). Add the others, until the next restart, with\n" + commands
    )
