"""The resolver of Kubernetes Services: from what is known of the slices to the channel's list."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from types import MappingProxyType
from typing import Any

from grpclb.core.resolver import ResolverState, Update
from grpclb.core.status import Status
from grpclb.resolvers.kubernetes.api import Api, Timeouts
from grpclb.resolvers.kubernetes.credentials import Access, Credentials
from grpclb.resolvers.kubernetes.http import Opener, open_streams
from grpclb.resolvers.kubernetes.merge import FAMILIES, Hold, Merged, Merger
from grpclb.resolvers.kubernetes.reflector import Reflector, View
from grpclb.resolvers.kubernetes.shared import Source, subscribed
from grpclb.resolvers.kubernetes.slices import Slice
from grpclb.resolvers.kubernetes.target import ServiceTarget, check_namespace

_LOG = logging.getLogger("grpclb.resolver.kubernetes")
_HOLD = 0.2  # seconds that a backend may need from one slice to another
_APART = 0.3  # between a list and a failure: a channel joins what comes within 0.1 s
_CHEAP = 0.002  # seconds of CPU for a list
_BUSY = 4  # after one that was not cheap, a pause of so many times what it took
_MOST_REMARKS = 256


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a resolver is made of. `opener` and `timeouts` are others in tests."""

    text: str
    service: ServiceTarget
    access: Access
    make_credentials: Callable[[Access], Credentials]
    guess_namespace: Callable[[], str]
    families: Sequence[str] = FAMILIES
    timeouts: Timeouts = field(default_factory=Timeouts)
    opener: Opener = open_streams


class KubernetesResolver:
    """Tells the channel who serves one Service. `run` may be called again, and on any loop."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._remarks: set[str] = set()  # logged once

    def __repr__(self) -> str:
        return f"<KubernetesResolver {self._plan.text}>"

    @property
    def authority(self) -> str:
        """``service.namespace.svc``, which the backends' certificates must be for.

        Reads the namespace from the pod or the kubeconfig where the target has none.
        """
        service = self._plan.service
        return service.authority(service.namespace or self._plan.guess_namespace())

    def resolve_now(self) -> None:
        """Nothing: a watch has no older news than its server."""

    async def run(self, update: Update) -> None:
        """Watch and report until cancelled."""
        plan, loop = self._plan, asyncio.get_running_loop()
        credentials = plan.make_credentials(plan.access)
        namespace = plan.service.namespace or await credentials.namespace()
        check_namespace(namespace)  # a file's or a kubeconfig's may be anything
        changed = asyncio.Event()

        def make(tell: Callable[[View], None]) -> Source:
            service = plan.service.service
            api = Api(credentials, namespace, service, plan.timeouts, plan.opener)
            return Reflector(api, Random(), tell)

        key = (plan.access, namespace, plan.service.service, plan.timeouts, plan.opener)
        picture = _Picture(plan, namespace, self._remark)
        async with subscribed(key, make, changed.set) as watch:
            while True:
                changed.clear()
                cpu = time.thread_time()
                wake = picture.report(watch.view, loop.time(), update)
                # 5,000 endpoints in 50 slices that change one by one must not fill the loop.
                if (cost := time.thread_time() - cpu) > _CHEAP:
                    await asyncio.sleep(_BUSY * cost)
                await _wait(changed, wake)

    def _remark(self, text: str) -> None:
        if text not in self._remarks and len(self._remarks) < _MOST_REMARKS:
            self._remarks.add(text)
            _LOG.warning("%s: %s", self._plan.text, text)


class _Picture:
    """Turns views into states, and tells those that are news."""

    def __init__(self, plan: Plan, namespace: str, remark: Callable[[str], None]) -> None:
        self._text = plan.text
        self._name = f"Service {plan.service.service!r} in namespace {namespace!r}"
        self._remark = remark
        self._merger = Merger(plan.service.port, plan.families)
        self._hold = Hold(_HOLD)
        self._told: ResolverState | None = None
        self._told_at = float("-inf")  # when the channel was given its last list
        self._seen: Mapping[str, Slice] | None = None  # slices that the channel knows all about
        self._good = False  # whether the channel has been given a list

    def report(self, view: View, now: float, update: Update) -> float | None:
        """Tell `update` what is new; the time at which to look again, None for never."""
        if view.slices is not None and (view.problem is None or view.slices is not self._seen):
            # A problem does not take back what was learnt just before it.
            state, wake = self._state(view, now)
            if wake is None:
                self._seen = view.slices
            self._tell(state, update, now)
            if wake is not None or view.problem is None:
                return wake
        if view.problem is None:
            return None
        if now < self._told_at + _APART:
            return self._told_at + _APART
        self._tell(_failed(f"{self._text}: {view.problem}"), update, now)
        return None

    def _tell(self, state: ResolverState, update: Update, now: float) -> None:
        if state == self._told:
            return
        self._told = state
        if not isinstance(state.endpoints, Status):
            self._good, self._told_at = True, now
        update(state)

    def _state(self, view: View, now: float) -> tuple[ResolverState, float | None]:
        assert view.slices is not None
        merged = self._merger.merge(view.slices.values())
        for remark in merged.remarks:
            self._remark(remark)
        endpoints, wake = self._hold.apply(merged, now)
        if endpoints:
            note = self._note(merged, len(endpoints))
            return ResolverState(endpoints, attributes=_skipped(merged), note=note), wake
        if merged.problem is not None:
            return _failed(f"{self._text}: {merged.problem}"), wake
        why = self._why_empty(view, merged)
        if view.exists is False and not self._good:
            # Most likely a wrong name; the channel is told of an error rather than of nobody.
            return _failed(f"{self._text}: {why}"), wake
        if self._told is None or isinstance(self._told.endpoints, Status):
            self._remark(why)
        note = f"{self._text}: {why}"
        return ResolverState((), attributes=_skipped(merged), note=note), wake

    def _note(self, merged: Merged, count: int) -> str:
        noun = "endpoint" if count == 1 else "endpoints"
        if merged.fallback:
            return f"{self._text} resolved {count} {noun}, which all terminate"
        return f"{self._text} resolved {count} {noun}"

    def _why_empty(self, view: View, merged: Merged) -> str:
        if merged.out or merged.draining:
            return f"{self._name} has no ready endpoint ({merged.out} are not ready)"
        if view.slices or (self._good and view.exists is not False):
            return f"{self._name} has no endpoints"
        if view.exists is False:
            return f"there is no {self._name}"
        if view.exists is None:
            return (
                f"{self._name} has no EndpointSlices; whether it exists cannot be told, as that "
                "needs the verb get on services"
            )
        return f"{self._name} has no EndpointSlices: does it have a selector that matches pods?"


def _skipped(merged: Merged) -> Mapping[str, Any]:
    """For the snapshot: what of the slices is left out, by slice."""
    found: dict[str, str] = {}
    for remark in merged.remarks:
        kind, _, rest = remark.partition(" ")
        name, _, reason = rest.partition(" ")
        if kind == "EndpointSlice":
            name = f"{kind} {name.rstrip(':')}"
            found[name] = f"{found[name]}; {reason}" if name in found else reason
    return MappingProxyType({"skipped": MappingProxyType(found)} if found else {})


def _failed(text: str) -> ResolverState:
    return ResolverState(Status.unavailable(text))


async def _wait(changed: asyncio.Event, until: float | None) -> Any:
    """Until `changed` is set, or the loop's time is `until`."""
    if until is None:
        return await changed.wait()
    try:
        async with asyncio.timeout_at(until):
            return await changed.wait()
    except TimeoutError:
        return None
