"""The scenario: what is done to the cluster and when, and the recording of what came of it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from integration.report.recording import Event, Recording
from integration.report.terminal import Terminal
from integration.skew.cluster import TARGETS, Cluster, ClusterError
from integration.skew.collect import Collector
from integration.skew.figures import dns_bound

BEFORE, AFTER = 3, 6  # pods
BALANCED = ("c", "d")


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds, and calls of each balanced side; the defaults are for a cluster of its own."""

    quiet: float = 6.0  # least length of a window in which the spread is measured
    calls: int = 200  # and the least calls of it for each pod: one more or less is below 1 %
    quiet_limit: float = 60.0  # most length of such a window
    ready: float = 180.0  # until pods are ready, or clients have their first answer
    roll: float = 400.0  # until a rolling update is through
    settle: float = 3.0  # after what was done, for the last effects of it
    look: float = 0.2  # between two looks


@dataclass(slots=True)
class Play:
    """One run; afterwards `collector` and `windows` say what came of it."""

    cluster: Cluster
    terminal: Terminal
    timing: Timing = field(default_factory=Timing)
    collector: Collector = field(default_factory=Collector)
    windows: dict[str, tuple[float, float]] = field(default_factory=dict)

    def run(self) -> None:
        """Deploy, start the clients, play, stop the clients."""
        say = self.terminal.say
        say(f"starting {BEFORE} pods")
        self.cluster.deploy(BEFORE)
        say("starting the clients")
        try:
            self.cluster.start_clients()
            self._until(
                lambda: len(self.collector.ready) == len(TARGETS),
                self.timing.ready,
                "first answers",
                self._unanswered,
            )
            self._pause(1.0)  # every subchannel is connected, and the clocks are known
            self.collector.begin(time.monotonic())
            self._play()
        finally:
            self.cluster.stop_clients()
        self._look()

    @property
    def recording(self) -> Recording:
        return self.collector.recording

    @property
    def workers(self) -> int:
        """Of each client."""
        return max(client.workers for client in self.collector.clients.values())

    def _play(self) -> None:
        timing = self.timing
        self._event("steady", f"{BEFORE} pods, nothing happens")
        self._measure("three")
        self._event("scale", f"scale to {AFTER} pods")
        self.cluster.scale(AFTER)
        self._until(lambda: len(self._serving()) == AFTER, timing.ready, f"{AFTER} ready pods")
        bound = dns_bound(self.collector.dns_ttl) + timing.settle
        self._pause(bound, lambda: all(map(self._has_shares, BALANCED)))
        self._measure("six")
        old = set(self.recording.pods)
        self._event("roll", "rolling update")
        self.cluster.roll()
        self._until(
            lambda: old <= self.collector.gone and len(self._serving()) == AFTER,
            timing.roll,
            "the end of the rolling update",
        )
        self._pause(timing.settle)
        begin = self._now()
        self._pause(timing.settle)
        self.windows["after"] = (begin, self._now())
        victim = self._busiest_of_a()
        self._event("delete", f"{victim} is deleted with grace 0")
        self.cluster.delete_now(victim)
        self._until(lambda: victim in self.collector.gone, timing.ready, f"the end of {victim}")
        self._pause(timing.settle)
        self._event("end", "done")

    def _measure(self, window: str) -> None:
        begin = self._now()
        least = self.timing.calls * len(self._serving())

        def enough() -> bool:
            counts = [self.recording.calls(side, begin).total() for side in BALANCED]
            return self._now() > begin + self.timing.quiet and min(counts) >= least

        self._pause(self.timing.quiet_limit, enough)
        self.windows[window] = (begin, self._now())

    def _has_shares(self, side: str) -> bool:
        new = [pod for pod, (since, _) in self.recording.in_service.items() if since > 0]
        now = self._now()
        return all(self.recording.seconds_to_share(side, pod, now) is not None for pod in new)

    def _busiest_of_a(self) -> str:
        begin, end = self.windows["after"]
        calls = self.recording.calls("a", begin, end)
        return max(self._serving(), key=lambda pod: calls[pod])

    def _unanswered(self) -> str:
        missing = sorted(set(TARGETS) - self.collector.ready)
        return "no answer for " + ", ".join(f"({side}) {TARGETS[side]}" for side in missing)

    def _event(self, kind: str, text: str) -> None:
        event = Event(self._now(), kind, text)
        self.recording.events.append(event)
        self.terminal.event(event)

    def _until(
        self,
        condition: Callable[[], bool],
        limit: float,
        what: str,
        why: Callable[[], str] = lambda: "",
    ) -> None:
        """Look on until the condition holds; ClusterError if it does not within the limit."""
        if not self._pause(limit, condition):
            said = f"{why()}\n{self.cluster.trouble()}".strip()
            raise ClusterError(f"waited {limit:.0f} s for {what}, in vain\n{said}")

    def _pause(self, seconds: float, condition: Callable[[], bool] = lambda: False) -> bool:
        """Look on for so long, or until the condition holds, which is the answer."""
        end = time.monotonic() + seconds
        while True:
            self._look()
            if condition():
                return True
            if (now := time.monotonic()) >= end:
                return False
            if self.collector.zero is not None:
                self.terminal.progress(self.recording, self._now())
            time.sleep(min(self.timing.look, end - now))

    def _look(self) -> None:
        self.collector.take_changes(self.cluster.changes())
        self.collector.take_lines(self.cluster.lines())

    def _serving(self) -> tuple[str, ...]:
        return self.recording.serving(self._now())

    def _now(self) -> float:
        assert self.collector.zero is not None
        return time.monotonic() - self.collector.zero


def facts(play: Play) -> Mapping[str, str]:
    """What a report says of how it came about."""
    collector = play.collector
    return {
        **play.cluster.facts(),
        **collector.versions,
        "TTL of the headless name": f"{collector.dns_ttl:.0f} s",
        "calls": f"one channel and {play.workers} workers for each client",
    }
