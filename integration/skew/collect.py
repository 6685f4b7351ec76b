"""From the clients' lines and the pods' changes to a recording. Pure, but for what it is handed.

A client tells its own wall clock's time; the runner tells when the line arrived. The least
difference of the two over a client's lines is the way between the clocks, and as long as a line
takes at best: it can only be later than in truth, and so never flatters.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from integration.report.recording import Recording, Tick
from integration.skew.cluster import Line, PodChange, PodState


@dataclass(slots=True)
class ClientState:
    """What is known of one client."""

    offset: float  # add it to the client's times
    seen: int = -1  # number of the last line: a log that is read again repeats lines
    workers: int = 0  # 0: no answer yet
    ended: bool = False


@dataclass(slots=True)
class Collector:
    """Fills `recording`, whose time 0 is `begin()`."""

    recording: Recording = field(default_factory=Recording)
    clients: dict[str, ClientState] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    connections: dict[str, int] = field(default_factory=dict)
    dns_ttl: float = 0.0
    gone: set[str] = field(default_factory=set)
    zero: float | None = None

    def begin(self, at: float) -> None:
        """The measurement begins; earlier calls do not count, pods that are there came at 0."""
        self.zero = at
        for pod in self.recording.pods:
            self.recording.appear(pod, 0.0)

    def take_changes(self, changes: Iterable[PodChange]) -> None:
        """Note what became of pods."""
        for change in changes:
            at = 0.0 if self.zero is None else change.at - self.zero
            match change.state:
                case PodState.READY:
                    if change.pod not in self.recording.in_service:
                        self.recording.appear(change.pod, at)
                case PodState.LEAVING | PodState.GONE:
                    if change.state is PodState.GONE:
                        self.gone.add(change.pod)
                    if self.recording.in_service.get(change.pod, (0.0, 0.0))[1] is None:
                        self.recording.vanish(change.pod, at)

    def take_lines(self, lines: Iterable[Line]) -> None:
        """Note what clients saw."""
        for line in lines:
            fields = line.fields
            offset = line.at - fields["at"]
            client = self.clients.setdefault(fields["side"], ClientState(offset))
            if fields["n"] <= client.seen:
                continue
            client.seen = fields["n"]
            client.offset = min(client.offset, offset)
            client.workers = fields.get("workers", client.workers)
            client.ended = client.ended or "end" in fields
            self.dns_ttl = max(self.dns_ttl, fields.get("ttl", 0.0))
            self.connections.update(fields.get("connections", {}))
            if "grpcio" in fields:
                self.versions["grpcio in the clients"] = fields["grpcio"]
            if "calls" in fields and self.zero is not None:
                at = fields["at"] + client.offset - self.zero
                if at > 0:
                    tick = Tick(fields["side"], at, fields["calls"], fields["errors"])
                    self.recording.ticks.append(tick)

    @property
    def ready(self) -> frozenset[str]:
        """The sides whose client had an answer."""
        return frozenset(side for side, client in self.clients.items() if client.workers)
