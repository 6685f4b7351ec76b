"""What the demo saw, and what follows from it. Pure: ticks and events in, figures out.

Times are seconds since the start of the measurement.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

TITLES = {
    "plain": "grpcio, ClusterIP",
    "robin": "grpcio round_robin, DNS",
    "grpclb": "grpclb, DNS",
}
SHARE_WINDOW = 1.0  # seconds over which a share is taken
SHARE_ENOUGH = 0.8  # of the fair share, to count as having it


@dataclass(frozen=True, slots=True)
class Tick:
    """What one client process saw in a quarter of a second that ended at `at`."""

    side: str
    at: float
    calls: Mapping[str, int]
    errors: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Event:
    """Something done to the cluster; kind is "add", "kill", "replace", "stop" or "end"."""

    at: float
    kind: str
    text: str


@dataclass(slots=True)
class Recording:
    """Grows while the demo runs; read it at any time from the same thread."""

    ticks: list[Tick] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    in_service: dict[str, tuple[float, float | None]] = field(default_factory=dict)

    def appear(self, pod: str, at: float) -> None:
        """`pod` is published from `at` on."""
        self.in_service[pod] = (at, None)

    def vanish(self, pod: str, at: float) -> None:
        """`pod` serves no more from `at` on."""
        self.in_service[pod] = (self.in_service[pod][0], at)

    @property
    def pods(self) -> tuple[str, ...]:
        """Every pod there was, in the order in which they came."""
        return tuple(self.in_service)

    def serving(self, at: float) -> tuple[str, ...]:
        """The pods in service at a time."""
        return tuple(
            pod
            for pod, (begin, end) in self.in_service.items()
            if begin <= at and (end is None or at < end)
        )

    def calls(self, side: str, begin: float = 0.0, end: float = float("inf")) -> Counter[str]:
        """Answered calls by pod in [begin, end)."""
        total: Counter[str] = Counter()
        for tick in self.ticks:
            if tick.side == side and begin <= tick.at < end:
                total.update(tick.calls)
        return total

    def errors(self, side: str, begin: float = 0.0, end: float = float("inf")) -> Counter[str]:
        """Failed calls by error in [begin, end)."""
        total: Counter[str] = Counter()
        for tick in self.ticks:
            if tick.side == side and begin <= tick.at < end:
                total.update(tick.errors)
        return total

    def fair(self, side: str) -> dict[str, float]:
        """The calls each pod would have had, if at all times those in service had shared evenly."""
        fair = dict.fromkeys(self.pods, 0.0)
        for tick in self.ticks:
            if tick.side == side and (pods := self.serving(tick.at)):
                for pod in pods:
                    fair[pod] += sum(tick.calls.values()) / len(pods)
        return fair

    def seconds_to_share(self, side: str, pod: str, end: float) -> float | None:
        """How long after `pod` came it had its share of a whole second's calls; None: not by `end`.

        "Its share" is `SHARE_ENOUGH` of an even share among the pods then in service.
        """
        begin = self.in_service[pod][0]
        for at in sorted({tick.at for tick in self.ticks if tick.side == side}):
            if begin < at < end:
                window = self.calls(side, at - SHARE_WINDOW + 1e-9, at + 1e-9)
                fair = window.total() / len(self.serving(at))
                if fair and window[pod] >= SHARE_ENOUGH * fair:
                    return at - begin
        return None


@dataclass(frozen=True, slots=True)
class Summary:
    """One side's figures."""

    side: str
    calls: Mapping[str, int]
    fair: Mapping[str, float]
    failed: int
    failed_by: Mapping[str, int]  # calls that failed after "add", "kill" and "replace"
    errors: Mapping[str, int]
    steady: Mapping[str, int]  # calls by pod while nothing happened
    to_share: float | None
    window: float  # seconds that the new pod had to get its share

    @property
    def steady_spread(self) -> float:
        """Calls to the busiest pod over calls to the quietest, while nothing happened."""
        quietest = min(self.steady.values())
        return max(self.steady.values()) / quietest if quietest else float("inf")


def summarize(recording: Recording, side: str, added: str) -> Summary:
    """The figures of a finished recording, in which `added` is the pod that came by itself."""
    first: dict[str, float] = {}
    for event in recording.events:
        first.setdefault(event.kind, event.at)
    phases = {
        "add": (first["add"], first["kill"]),
        "kill": (first["kill"], first["replace"]),
        "replace": (first["replace"], float("inf")),
    }
    failed_by = {kind: recording.errors(side, *phase).total() for kind, phase in phases.items()}
    steady = recording.calls(side, 0.5, first["add"])
    errors = recording.errors(side)
    calls = recording.calls(side)
    return Summary(
        side=side,
        calls={pod: calls[pod] for pod in recording.pods},
        fair=recording.fair(side),
        failed=errors.total(),
        failed_by=failed_by,
        errors=dict(errors.most_common()),
        steady={pod: steady[pod] for pod in recording.serving(0.0)},
        to_share=recording.seconds_to_share(side, added, first["kill"]),
        window=first["kill"] - recording.in_service[added][0],
    )


def broken_claims(plain: Summary, grpclb: Summary, in_flight: int) -> list[str]:
    """What we say of grpclb and this run did not show; `in_flight` calls can be on a killed pod."""
    claims = {
        f"grpclb is even in quiet times (busiest / quietest {grpclb.steady_spread:.2f} <= 1.2)": (
            grpclb.steady_spread <= 1.2
        ),
        f"grpclb gives a new pod its share within {grpclb.window:.0f} s": (
            grpclb.to_share is not None
        ),
        "plain grpcio behind a ClusterIP does not, while nothing breaks": plain.to_share is None,
        f"grpclb loses no more than the calls in flight on a killed pod ({in_flight})": (
            grpclb.failed_by["kill"] <= in_flight
        ),
        "grpclb loses no call to a rolling restart": grpclb.failed_by["replace"] == 0,
        "grpclb loses no call to a new pod": grpclb.failed_by["add"] == 0,
    }
    return [claim for claim, held in claims.items() if not held]
