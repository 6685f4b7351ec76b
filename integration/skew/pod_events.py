"""From what `kubectl get pods` says to changes of pods. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from integration.skew.cluster import PodChange, PodState


class PodTracker:
    """Tells each change once, however often it is told: a watch that is cut begins anew."""

    def __init__(self) -> None:
        self._states: dict[str, tuple[float, PodState | None]] = {}

    def event(self, event: Mapping[str, Any], at: float) -> list[PodChange]:
        """One watch event that arrived at `at`."""
        pod = event["object"]
        name = pod["metadata"]["name"]
        if event["type"] == "DELETED":
            return self._become(name, PodState.GONE, at)
        if "deletionTimestamp" in pod["metadata"]:
            return self._become(name, PodState.LEAVING, at)
        return self._become(name, PodState.READY if is_ready(pod) else None, at)

    def listed(self, pods: Iterable[Mapping[str, Any]], asked_at: float) -> list[PodChange]:
        """A whole list, asked for at `asked_at`: for deletions that a cut watch did not tell."""
        there = {pod["metadata"]["name"] for pod in pods}
        return [
            change
            for name, (at, _) in list(self._states.items())
            if name not in there and at < asked_at
            for change in self._become(name, PodState.GONE, asked_at)
        ]

    def _become(self, name: str, state: PodState | None, at: float) -> list[PodChange]:
        _, known = self._states.setdefault(name, (at, None))
        order = [None, *PodState]
        if state is None or order.index(state) <= order.index(known):
            return []  # known already; or not ready again, which is no leaving
        self._states[name] = (at, state)
        return [PodChange(at, name, state)]


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether the Ready condition is True."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
