"""What a Deployment's controller does with pods, as one pure step.

The real ones are many machines; what a client can notice of them is the order of things, kept here:
a pod is published when it is ready; one that has to go leaves all Services first, goes on serving
for its preStop time, then gets SIGTERM; a rolling update starts new pods before it takes old ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

PRE_STOP = 8.0  # seconds between leaving the Services and SIGTERM; more than a DNS client needs


class Phase(Enum):
    """Where a pod is in its life."""

    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True)
class PodStatus:
    """One pod, as the controller sees it."""

    name: str
    generation: int
    phase: Phase


@dataclass(frozen=True, slots=True)
class Wanted:
    """The Deployment: so many pods of the newest generation, `maxUnavailable` 0."""

    replicas: int
    generation: int = 0
    surge: float = 0.5  # of the replicas, rounded up; `maxSurge` of the manifest

    def rolled(self) -> "Wanted":
        """The same with a new pod template."""
        return replace(self, generation=self.generation + 1)


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now."""

    start: int
    retire: tuple[str, ...]


def next_step(wanted: Wanted, pods: Sequence[PodStatus]) -> Step:
    """From what there is to what is wanted. Pods that leave do not count any more."""
    alive = [pod for pod in pods if pod.phase is not Phase.LEAVING]
    new = [pod for pod in alive if pod.generation == wanted.generation]
    old = [pod for pod in alive if pod.generation != wanted.generation]
    most = wanted.replicas + (math.ceil(wanted.surge * wanted.replicas) if old else 0)
    start = max(0, min(wanted.replicas - len(new), most - len(alive)))
    ready = sum(1 for pod in alive if pod.phase is Phase.READY)
    spare = max(0, ready - wanted.replicas)
    ready_old = [pod for pod in old if pod.phase is Phase.READY]
    retire = [*ready_old[:spare], *(pod for pod in old if pod.phase is Phase.STARTING)]
    if not old and len(new) > wanted.replicas:
        retire += new[wanted.replicas - len(new) :]
    return Step(start, tuple(pod.name for pod in retire))
