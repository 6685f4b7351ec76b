"""Interleaved rounds: contestants take turns within a round, and only rounds are compared.

On a shared machine the speed of everything drifts; a ratio of two runs a few milliseconds apart
does not. So every round runs each contestant once, the order alternating between rounds, and the
result is the median of the rounds' ratios with its quartiles. The first contestant is the
baseline; a second copy of it shows the noise floor.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Contestant:
    """`run(n)` does n units of work (RPCs, messages) and returns when they are done.

    If it returns a callable, that tidies up, and is not timed.
    """

    name: str
    run: Callable[[int], object]

    def timed(self, units: int) -> tuple[float, float]:
        """Seconds of the wall's clock, and of CPU in all threads of this process."""
        wall, cpu = time.perf_counter(), time.process_time()
        tidy_up = self.run(units)
        taken = time.perf_counter() - wall, time.process_time() - cpu
        if callable(tidy_up):
            tidy_up()
        return taken


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f}-{self.high:.3f})"


@dataclass(frozen=True, slots=True)
class Result:
    """One contestant: microseconds per unit, and its ratios to the baseline of the same round.

    `wall` is what a caller waits; `cpu` is what this process burns, all threads, and is the
    steadier of the two where other programs share the machine.
    """

    name: str
    wall_us: float
    cpu_us: float
    wall: Spread
    cpu: Spread


def race(contestants: Sequence[Contestant], *, rounds: int, units: int) -> dict[str, Result]:
    """Run `rounds` rounds of `units` each, after one round to warm up."""
    for contestant in contestants:
        contestant.timed(units)
    times: dict[str, list[tuple[float, float]]] = {c.name: [] for c in contestants}
    gc.collect()
    for number in range(rounds):
        for contestant in contestants if number % 2 else reversed(contestants):
            times[contestant.name].append(contestant.timed(units))
    base = times[contestants[0].name]
    return {name: _result(name, taken, base, units) for name, taken in times.items()}


def _result(
    name: str, taken: list[tuple[float, float]], base: list[tuple[float, float]], units: int
) -> Result:
    wall, cpu = ([t[i] for t in taken] for i in (0, 1))
    return Result(
        name,
        wall_us=statistics.median(wall) / units * 1e6,
        cpu_us=statistics.median(cpu) / units * 1e6,
        wall=Spread.of([mine / other[0] for mine, other in zip(wall, base, strict=True)]),
        cpu=Spread.of([mine / other[1] for mine, other in zip(cpu, base, strict=True)]),
    )
