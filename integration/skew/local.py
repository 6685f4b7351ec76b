"""The cluster of network namespaces: Deployment, Services, DNS and API server around the `Node`."""

import itertools
import os
import platform
import queue
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from integration.skew.cluster import (
    DOMAIN,
    HEADLESS,
    PORT,
    SERVICE,
    TARGETS,
    ClusterError,
    Line,
    LineReader,
    PodChange,
    PodState,
    drain,
)
from integration.skew.control_plane import ControlPlane
from integration.skew.namespaces import DNS_IP, SERVICE_IP, Node, Pod, nftables_version
from integration.skew.workload import PRE_STOP, Phase, PodStatus, Wanted, next_step
from tests.support.dns_server import DnsServer

TTL = 5  # seconds, of the headless name; CoreDNS' own default
_START_LIMIT = 30.0


@dataclass(slots=True)
class _Running:
    pod: Pod
    generation: int
    started: float
    phase: Phase = Phase.STARTING
    stop_at: float = float("inf")

    @property
    def status(self) -> PodStatus:
        return PodStatus(self.pod.name, self.generation, self.phase)


class LocalCluster:
    """A `Cluster`; a context manager. All work is done in `changes()`, which is called often."""

    def __init__(self) -> None:
        self._node = Node()
        self._dns = DnsServer(DNS_IP, 53)
        self._control = ControlPlane()
        self._wanted = Wanted(0)
        self._numbers = itertools.count(1)
        self._running: dict[str, _Running] = {}
        self._changes: list[PodChange] = []
        self._clients: list[tuple[Pod, LineReader]] = []
        self._lines: queue.SimpleQueue[Line] = queue.SimpleQueue()

    def __enter__(self) -> "LocalCluster":
        self._node.prepare(self._control.account, DOMAIN)
        self._dns.start()
        self._control.start()
        self._publish()
        return self

    def __exit__(self, *_: object) -> None:
        """End everything; the namespaces go with their processes."""
        for pod in [*(r.pod for r in self._running.values()), *(pod for pod, _ in self._clients)]:
            pod.process.kill()
            pod.process.communicate()
        self._control.stop()
        self._dns.stop()

    def deploy(self, pods: int) -> None:
        self._wanted = Wanted(pods)
        while sum(r.phase is Phase.READY for r in self._running.values()) < pods:
            self._reconcile()
            time.sleep(0.05)

    def start_clients(self) -> None:
        for side, target in TARGETS.items():
            command = [sys.executable, "-m", "integration.skew.client", side, target]
            pod = self._node.start(f"client-{side}", command)
            assert pod.process.stdout is not None
            self._clients.append((pod, LineReader(pod.process.stdout, self._lines)))

    def stop_clients(self) -> None:
        for pod, _ in self._clients:
            pod.process.send_signal(signal.SIGTERM)
        for pod, reader in self._clients:
            reader.join(10)
            pod.process.kill()
            pod.process.wait()

    def lines(self) -> Sequence[Line]:
        return drain(self._lines)

    def changes(self) -> Sequence[PodChange]:
        self._reconcile()
        for pod, _ in self._clients:
            if pod.process.poll() not in (None, 0):
                raise ClusterError(f"{pod.name} ended with exit code {pod.process.returncode}")
        changes, self._changes = self._changes, []
        return changes

    def scale(self, pods: int) -> None:
        self._wanted = Wanted(pods, self._wanted.generation)

    def roll(self) -> None:
        self._wanted = self._wanted.rolled()

    def delete_now(self, pod: str) -> None:
        """SIGKILL and out of the Services, in that order, as with the real thing."""
        self._running[pod].pod.process.kill()
        self._bury(pod)

    def trouble(self) -> str:
        return "\n".join(f"{r.pod.name}: {r.phase.value}" for r in self._running.values())

    def facts(self) -> Mapping[str, str]:
        return {
            "cluster": "network namespaces of this machine",
            "pods": "a namespace and an address each, routed by the node",
            "ClusterIP": f"{nftables_version()}: DNAT to a random pod for each connection",
            "DNS and API server": "those of grpclb's own tests",
            "preStop": f"{PRE_STOP:.0f} s",
            "machine": f"{platform.system()} {platform.release()}, {os.cpu_count()} cores",
        }

    # ---- controller and kubelet in one

    def _reconcile(self) -> None:
        now = time.monotonic()
        for name, running in list(self._running.items()):
            if running.pod.process.poll() is not None:
                if running.phase is Phase.STARTING:
                    raise ClusterError(f"{name} did not start")
                self._bury(name)
            elif running.phase is Phase.STARTING:
                self._look_whether_ready(running, now)
            elif now >= running.stop_at:
                running.pod.process.send_signal(signal.SIGTERM)
                running.stop_at = float("inf")
        step = next_step(self._wanted, [r.status for r in self._running.values()])
        for _ in range(step.start):
            self._start()
        for name in step.retire:
            running = self._running[name]
            running.phase = Phase.LEAVING
            running.stop_at = now + PRE_STOP
            self._publish()
            self._note(name, PodState.LEAVING)

    def _start(self) -> None:
        name = f"{SERVICE}-{next(self._numbers)}"
        command = [sys.executable, "-m", "integration.skew.pod", "--port", str(PORT)]
        pod = self._node.start(name, command, POD_NAME=name)
        self._running[name] = _Running(pod, self._wanted.generation, time.monotonic())

    def _look_whether_ready(self, running: _Running, now: float) -> None:
        output = running.pod.process.stdout
        assert output is not None
        if select.select([output], [], [], 0)[0] and output.readline() == "ready\n":
            running.phase = Phase.READY
            self._note(running.pod.name, PodState.READY)
            self._publish()
        elif now > running.started + _START_LIMIT:
            raise ClusterError(f"{running.pod.name} was not ready in {_START_LIMIT:.0f} s")

    def _bury(self, name: str) -> None:
        running = self._running.pop(name)
        running.pod.process.wait()
        self._publish()
        self._note(name, PodState.GONE)
        for stream in (running.pod.process.stdin, running.pod.process.stdout):
            assert stream is not None
            stream.close()

    def _publish(self) -> None:
        """Tell all three: nftables, DNS, EndpointSlices."""
        ready = {r.pod.name: r.pod.host for r in self._running.values() if r.phase is Phase.READY}
        leaving = {
            r.pod.name: r.pod.host for r in self._running.values() if r.phase is Phase.LEAVING
        }
        self._node.translate(PORT, ready.values())
        self._dns.set(f"{SERVICE}.{DOMAIN}", "A", SERVICE_IP, ttl=TTL)
        self._dns.set(f"{HEADLESS}.{DOMAIN}", "A", *ready.values(), ttl=TTL)
        self._control.publish(ready, leaving)

    def _note(self, pod: str, state: PodState) -> None:
        self._changes.append(PodChange(time.monotonic(), pod, state))
