"""Plain grpcio behind a ClusterIP and grpclb over a headless Service: the same calls side by side.

    python -m integration.demo [--output DIRECTORY]

Real servers in processes of their own, real RPCs, real counts; half a minute, no root, nothing
to install. Exits 1 if the run does not show what the README says of it, 2 if it cannot be run here.
"""

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc

from integration.demo.cluster import TTL, Cluster, NoLoopbackError, Pod
from integration.demo.measure import TITLES, broken_claims, summarize
from integration.demo.svg import draw_demo
from integration.demo.terminal import print_summary
from integration.report.recording import Event, Recording, Tick
from integration.report.terminal import Terminal

SIDES = tuple(TITLES)
PODS = 4  # to begin with; one joins, and all are replaced
CLIENTS = 3  # processes for each side, each with one channel; fewer than pods, as is common
WORKERS = 2  # in each client
RATE = 30  # calls a second of each worker
# Seconds between a pod's leaving the Services and its SIGTERM, as a `preStop` sleep gives. A server
# that stops at once may cancel a call that was just coming in, whatever the client.
PRE_STOP = 7.0
_ROOT = Path(__file__).resolve().parents[2]


class Client:
    """A client process; its ticks arrive in `ticks`."""

    def __init__(
        self, side: str, target: str, ticks: "queue.SimpleQueue[tuple[str, dict]]"
    ) -> None:
        self._side = side
        self._ticks = ticks
        arguments = [side, target, str(WORKERS), str(RATE)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "integration.demo.client", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            # grpcio's other DNS resolver cannot ask the server that a target names
            env=os.environ | {"GRPC_DNS_RESOLVER": "ares"},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)

    def wait_until_ready(self) -> None:
        """Block until it had its first answer."""
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError(f"a client of the {self._side} side had no first answer")
        self._reader.start()

    def go(self) -> None:
        """Let the workers work."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        """End the process, and wait for it and for its last line."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
        if self._reader.is_alive():
            self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._ticks.put((self._side, json.loads(line)))


class Demo:
    """The scenario: what is done to the cluster and when, and the recording of what came of it."""

    def __init__(self, cluster: Cluster, terminal: Terminal) -> None:
        self.recording = Recording()
        self.added = ""
        self._cluster = cluster
        self._terminal = terminal
        self._ticks: queue.SimpleQueue[tuple[str, dict]] = queue.SimpleQueue()
        self._began = 0.0
        self._draining: list[tuple[float, Pod]] = []  # when to stop which pod

    def run(self) -> None:
        """Start the clients, play the scenario, stop the clients."""
        cluster = self._cluster
        self._publish(*cluster.start_pods(PODS))
        clients = [
            Client(side, cluster.targets[side], self._ticks)
            for _ in range(CLIENTS)
            for side in SIDES
        ]
        try:
            for client in clients:
                client.wait_until_ready()
            self._began = time.monotonic()
            for client in clients:
                client.go()
            self._play()
        finally:
            for client in clients:
                client.stop()
        self._collect()

    def _play(self) -> None:
        cluster = self._cluster
        spare = cluster.start_pods(1)[0]
        self._watch(until=2.5)

        self._publish(spare)
        self.added = spare.name
        self._event("add", f"{spare.name} joins both Services")
        replacements = cluster.start_pods(PODS)
        self._watch(until=self._now() + 7.0)

        victim = cluster.busiest()
        cluster.kill(victim)
        self.recording.vanish(victim.name, self._now())
        self._event("kill", f"{victim.name} is killed (SIGKILL)")
        self._watch(until=self._now() + 1.0)
        cluster.withdraw(victim)  # as when the kubelet has noticed
        self._watch(until=self._now() + 1.5)

        for old, new in zip(list(cluster.published), replacements, strict=True):
            self._replace(old, new)
            self._watch(until=self._now() + 0.75)
        while self._draining:
            due, pod = self._draining.pop(0)
            self._watch(until=due)
            cluster.terminate(pod)
            self._event("stop", f"{pod.name} gets SIGTERM")
        self._watch(until=self._now() + 1.5)
        self._event("end", "done")

    def _replace(self, old: Pod, new: Pod) -> None:
        self._publish(new)
        self._cluster.withdraw(old)
        self.recording.vanish(old.name, self._now())
        self._draining.append((self._now() + PRE_STOP, old))
        self._event("replace", f"{new.name} replaces {old.name} in both Services (rolling restart)")

    def _publish(self, *pods: Pod) -> None:
        self._cluster.publish(*pods)
        for pod in pods:
            self.recording.appear(pod.name, self._now() if self._began else 0.0)

    def _event(self, kind: str, text: str) -> None:
        event = Event(self._now(), kind, text)
        self.recording.events.append(event)
        self._terminal.event(event)

    def _watch(self, until: float) -> None:
        while (now := self._now()) < until:
            self._collect()
            self._terminal.progress(self.recording, now)
            time.sleep(min(0.25, max(0.0, until - now)))

    def _collect(self) -> None:
        while not self._ticks.empty():
            side, tick = self._ticks.get()
            self.recording.ticks.append(
                Tick(side, tick["at"] - self._began, tick["calls"], tick["errors"])
            )

    def _now(self) -> float:
        return time.monotonic() - self._began


def main() -> int:
    """Run the demo; the exit code is as the module says."""
    parser = argparse.ArgumentParser(prog="python -m integration.demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=_ROOT / "demo-output", metavar="DIRECTORY")
    output: Path = parser.parse_args().output
    terminal = Terminal(TITLES)
    note = (
        f"Each way: {CLIENTS} client processes, {WORKERS} workers each, {RATE} calls/s a worker;"
        f" DNS TTL {TTL} s. grpcio {grpc.__version__}."
    )
    terminal.say(note)
    try:
        with Cluster() as cluster:
            demo = Demo(cluster, terminal)
            demo.run()
    except NoLoopbackError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        terminal.say("interrupted")
        return 130
    summaries = {side: summarize(demo.recording, side, demo.added) for side in SIDES}
    print_summary(terminal, list(summaries.values()))
    output.mkdir(parents=True, exist_ok=True)
    picture = output / "demo.svg"
    picture.write_text(draw_demo(demo.recording, list(summaries.values()), note), encoding="utf-8")
    terminal.say(f"\n  picture: {picture}")
    broken = broken_claims(summaries["plain"], summaries["grpclb"], CLIENTS * WORKERS)
    for claim in broken:
        terminal.say(f"  NOT SHOWN: {claim}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
