"""What follows from what the demo saw. Pure: a recording in, figures out.

Times are seconds since the start of the measurement.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from integration.report.recording import Recording

TITLES = {
    "plain": "grpcio, ClusterIP",
    "robin": "grpcio round_robin, DNS",
    "grpclb": "grpclb, DNS",
}


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
