"""What the clients of a comparison saw, and which pods there were. Pure: ticks and events in.

Times are seconds since the start of the measurement.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

TICK = 0.25  # seconds that one report of a client covers
SHARE_WINDOW = 1.0  # seconds over which a share is taken
SHARE_ENOUGH = 0.8  # of the fair share, to count as having it


@dataclass(frozen=True, slots=True)
class Tick:
    """What one client process saw in the `TICK` that ended at `at`."""

    side: str
    at: float
    calls: Mapping[str, int]
    errors: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Event:
    """Something done to the cluster; the kinds are the run's own."""

    at: float
    kind: str
    text: str


@dataclass(slots=True)
class Recording:
    """Grows during a run; read it at any time from the same thread."""

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

    def fair(self, side: str, begin: float = 0.0, end: float = float("inf")) -> dict[str, float]:
        """The calls each pod would have had, if at all times those in service had shared evenly."""
        fair = dict.fromkeys(self.pods, 0.0)
        for tick in self.ticks:
            if tick.side == side and begin <= tick.at < end and (pods := self.serving(tick.at)):
                for pod in pods:
                    fair[pod] += sum(tick.calls.values()) / len(pods)
        return fair

    def seconds_to_call(self, side: str, pod: str, end: float) -> float | None:
        """How long after `pod` came it answered the first call; None: not by `end`.

        Up to a `TICK` more than in truth: nothing is known of the moments within a tick.
        """
        begin = self.in_service[pod][0]
        answered = (t.at for t in self.ticks if t.side == side and t.at < end and pod in t.calls)
        first = min(answered, default=None)
        return None if first is None else max(0.0, first - begin)

    def seconds_to_share(self, side: str, pod: str, end: float) -> float | None:
        """How long after `pod` came it had its share of a whole second's calls; None: not by `end`.

        "Its share" is `SHARE_ENOUGH` of an even share among the pods then in service.
        """
        begin = self.in_service[pod][0]
        for at in sorted({tick.at for tick in self.ticks if tick.side == side}):
            if begin < at < end:
                window = self.calls(side, at - SHARE_WINDOW + 1e-9, at + 1e-9)
                fair = window.total() / max(1, len(self.serving(at)))
                if fair and window[pod] >= SHARE_ENOUGH * fair:
                    return at - begin
        return None
