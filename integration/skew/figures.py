"""What follows from a recording: the figures of each side, and what was claimed of them. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from integration.report.recording import Recording
from integration.skew.cluster import TITLES

PHASES = ("steady", "scale", "roll", "delete")  # each begins with its event, and ends at the next
EVEN = 0.01  # how far from an even share a pod's calls may be
WATCH_BOUND = 2.0  # seconds from Ready to the first call over `kubernetes:///`
# grpclb's defaults for looking up DNS again: the TTL and up to 20 %, within 5 s and 30 s.
REFRESH_LEAST, REFRESH_MOST, REFRESH_SPREAD = 5.0, 30.0, 1.2
SLACK = 1.5  # seconds for a look-up, a connection, and what a tick does not tell


@dataclass(frozen=True, slots=True)
class Side:
    """One side's figures. Pods are those of the first phase and the new ones of the second."""

    side: str
    three: Mapping[str, int]  # calls by pod, with the first pods
    six: Mapping[str, int]  # calls by pod, after the scaling
    before_roll: Mapping[str, int]  # calls by pod from the start to the rolling update
    fair_before_roll: Mapping[str, float]
    to_call: Mapping[str, float | None]  # seconds from Ready to a new pod's first call
    to_share: Mapping[str, float | None]  # and to its share of the calls
    after_roll: int  # of the pods in service after the rolling update, how many had calls
    pods_after_roll: int
    answered: int
    failed: Mapping[str, int]  # by phase
    errors: Mapping[str, int]

    @property
    def title(self) -> str:
        return TITLES[self.side]

    def slowest(self, seconds: Mapping[str, float | None]) -> float | None:
        """The last new pod's seconds; None if one was never seen."""
        known = [value for value in seconds.values() if value is not None]
        return max(known, default=0.0) if len(known) == len(seconds) else None


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that the run should have shown."""

    text: str
    held: bool
    seen: str


def summarize(recording: Recording, side: str, windows: Mapping[str, tuple[float, float]]) -> Side:
    """The figures of a finished run; `windows` are the quiet times "three", "six" and "after"."""
    at = {event.kind: event.at for event in recording.events}
    phases = dict(
        zip(
            PHASES,
            zip(
                [0.0, *(at[p] for p in PHASES[1:])],
                [*(at[p] for p in PHASES[1:]), float("inf")],
                strict=True,
            ),
            strict=True,
        )
    )
    first = recording.serving(0.0)
    new = [p for p in recording.serving(windows["six"][0]) if p not in first]
    late = recording.serving(windows["after"][0])
    three, six, after = (recording.calls(side, *windows[w]) for w in ("three", "six", "after"))
    earlier = recording.calls(side, 0.0, at["roll"])
    fair = recording.fair(side, 0.0, at["roll"])
    return Side(
        side=side,
        three={pod: three[pod] for pod in first},
        six={pod: six[pod] for pod in (*first, *new)},
        before_roll={pod: earlier[pod] for pod in (*first, *new)},
        fair_before_roll={pod: fair[pod] for pod in (*first, *new)},
        to_call={pod: recording.seconds_to_call(side, pod, at["roll"]) for pod in new},
        to_share={pod: recording.seconds_to_share(side, pod, at["roll"]) for pod in new},
        after_roll=sum(1 for pod in late if after[pod]),
        pods_after_roll=len(late),
        answered=recording.calls(side).total(),
        failed={p: recording.errors(side, *phase).total() for p, phase in phases.items()},
        errors=dict(recording.errors(side).most_common()),
    )


def unevenness(calls: Mapping[str, int]) -> float:
    """How far the pod farthest from an even share is from it, as a part of that share."""
    fair = sum(calls.values()) / max(1, len(calls))
    return max(abs(count - fair) for count in calls.values()) / fair if fair else float("inf")


def busiest(calls: Mapping[str, int]) -> float:
    """The busiest pod's part of all calls."""
    return max(calls.values()) / max(1, sum(calls.values()))


def dns_bound(ttl: float) -> float:
    """How long after a pod's coming a client of the headless name may take to see it, at most.

    A cache on the way may give an answer for a TTL more, and grpclb asks again after another, or
    after its own bounds.
    """
    refresh = min(max(ttl, REFRESH_LEAST) * REFRESH_SPREAD, REFRESH_MOST)
    return ttl + refresh + SLACK


def claims(
    sides: Mapping[str, Side], ttl: float, workers: int, connections: Mapping[str, int]
) -> list[Claim]:
    """What grpclb's documentation says of these four, beside what was seen.

    `connections` are those that (a) made at first, one call on each, by pod.
    """
    a, b = sides["a"], sides["b"]
    new = len(b.to_call)
    found = [
        Claim(
            "a ClusterIP balances connections: some of them reach every pod",
            set(a.three) <= set(connections),
            f"of {sum(connections.values())}: "
            + ", ".join(f"{count} on {pod}" for pod, count in sorted(connections.items())),
        ),
        Claim(
            "(a) one connection has all its calls on one pod",
            busiest(a.three) == 1 and busiest(a.six) == 1,
            f"busiest pod: {busiest(a.three):.1%} of 3, {busiest(a.six):.1%} of 6",
        ),
        Claim(
            "(b) never sees the new pods, while nothing breaks",
            all(seconds is None for seconds in b.to_call.values()),
            f"{sum(1 for s in b.to_call.values() if s is not None)} of {new} seen",
        ),
    ]
    for side, bound in (sides["c"], dns_bound(ttl)), (sides["d"], WATCH_BOUND):
        letter = f"({side.side})"
        uneven = max(unevenness(side.three), unevenness(side.six))
        slowest = side.slowest(side.to_call)
        disturbed = {phase: side.failed[phase] for phase in ("steady", "scale", "roll")}
        found += [
            Claim(
                f"{letter} is even within {EVEN:.0%}, on 3 pods and on 6",
                uneven <= EVEN,
                f"{unevenness(side.three):.2%} and {unevenness(side.six):.2%}",
            ),
            Claim(
                f"{letter} calls a new pod within {bound:.1f} s of its being Ready",
                slowest is not None and slowest <= bound,
                "never" if slowest is None else f"{slowest:.1f} s at most",
            ),
            Claim(
                f"{letter} loses no call to the scaling and the rolling update",
                not any(disturbed.values()),
                ", ".join(f"{phase} {count}" for phase, count in disturbed.items()),
            ),
            Claim(
                f"{letter} uses every pod after the rolling update",
                side.after_roll == side.pods_after_roll,
                f"{side.after_roll} of {side.pods_after_roll}",
            ),
            Claim(
                f"{letter} loses no more than its calls in flight on a pod that dies ({workers})",
                side.failed["delete"] <= workers,
                f"{side.failed['delete']}",
            ),
        ]
    return found


def as_json(side: Side) -> dict[str, object]:
    """For report.json."""
    return asdict(side) | {"title": side.title}
