"""Runs the policies through the scenarios in tests/spec/policies/*.json.

A file names a policy and holds cases; a case has phases; a phase does things and says what must
be seen then. What may stand in a phase:

    do: a list of
        ["update", [endpoint, ...], options?]  endpoint: "ip:port" or {"addresses": [...], ...}
        ["resolver_error", "text"]             options: {"config", "policy", "anew"}
        ["READY" | "IDLE" | "CONNECTING" | "TRANSIENT_FAILURE", "ip:port", "error text"?]
        ["advance", seconds]   ["exit_idle"]   ["close"]   ["pick", count, ["tried address", ...]?]
    then, after one turn of the loop (only what is given is checked):
        state           the state that callers see
        published       all states published in this phase, in order
        picks           {"ip:port": count} of this phase's picks
        pick            "queue", a regular expression for the error, or "ip:port"
        accepted        what the last update returned
        live            the addresses of the subchannels held, sorted
        connecting      those of them that are not IDLE, sorted
        created         how many subchannels were created in this phase
        resolutions     how often resolution was asked for in this phase
        timers          how many timers wait

A subchannel is named by its address; of several, the one created last is meant, unless
"ip:port@2" says that it is the second.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grpclb.core.address import Address, Endpoint
from grpclb.core.balancer import (
    Fail,
    LoadBalancer,
    Pick,
    PickInfo,
    Policy,
    PolicyConfig,
    Queue,
)
from grpclb.core.connectivity import IDLE, ConnectivityState
from grpclb.core.resolver import ResolverState
from grpclb.core.status import Status
from grpclb.policies.graceful_switch import GracefulSwitch
from grpclb.policies.pick_first import PICK_FIRST
from grpclb.policies.round_robin import ROUND_ROBIN
from grpclb.testing import FakeHelper, FakeSubchannel

SPEC = Path(__file__).parent.parent / "spec" / "policies"
POLICIES: dict[str, Policy] = {p.name: p for p in (ROUND_ROBIN, PICK_FIRST)}
STATES = {state.name for state in ConnectivityState}


def load() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """All cases, as (name, policy, case)."""
    for path in sorted(SPEC.glob("*.json")):
        document = json.loads(path.read_text())
        for case in document["cases"]:
            yield f"{path.stem}: {case['name']}", document["policy"], case


class Scenario:
    """One case, run on a fake clock."""

    def __init__(self, policy: str, case: dict[str, Any]) -> None:
        self.case = case
        self.policy = policy
        self.config = case.get("config", {})
        self.helper = FakeHelper(seed=case.get("seed", 0))
        self.balancer: LoadBalancer
        if policy == "graceful_switch":
            self.balancer = GracefulSwitch(self.helper)
        else:
            self.balancer = POLICIES[policy].build(self.helper)
        self.picks: Counter[str] = Counter()
        self.accepted: bool | None = None

    def run(self) -> None:
        for number, phase in enumerate(self.case["phases"]):
            seen = self._run_phase(phase)
            for what, wanted in phase.items():
                if what != "do":
                    place = f"phase {number}: {what}"
                    assert _matches(what, seen[what], wanted), (place, seen[what], wanted)
        self.balancer.close()
        assert self.helper.live == [], "close() must release every subchannel"
        self.helper.clock.advance(0)
        assert self.helper.clock.pending == 0, "close() must cancel every timer"

    def _run_phase(self, phase: dict[str, Any]) -> dict[str, Any]:
        helper = self.helper
        states, created = len(helper.states), len(helper.subchannels)
        resolutions = helper.resolution_requests
        self.picks.clear()
        for event, *arguments in phase["do"]:
            self._do(event, *arguments)
        helper.clock.advance(0)
        live = helper.live
        return {
            "state": helper.state.name,
            "published": [s.name for s in helper.states[states:]],
            "picks": dict(self.picks),
            "pick": self._pick() if "pick" in phase else None,
            "accepted": self.accepted,
            "live": sorted(s.address.target for s in live),
            "connecting": sorted(
                s.address.target for s in live if s.state.connectivity is not IDLE
            ),
            "created": len(helper.subchannels) - created,
            "resolutions": helper.resolution_requests - resolutions,
            "timers": helper.clock.pending,
        }

    def _do(self, event: str, *arguments: Any) -> None:
        match event:
            case "update":
                self._update(*arguments)
            case "resolver_error":
                self._apply(ResolverState(Status.unavailable(arguments[0])), {})
            case "advance":
                self.helper.clock.advance(arguments[0])
            case "exit_idle":
                self.balancer.exit_idle()
            case "close":
                self.balancer.close()
            case "pick":
                self._count_picks(*arguments)
            case state if state in STATES:
                name, *error = arguments
                self._subchannel(name).set(ConnectivityState[state], *error)
            case _:
                raise AssertionError(f"unknown event {event!r}")

    def _update(self, endpoints: list[Any], options: dict[str, Any] | None = None) -> None:
        state = ResolverState(
            tuple(_endpoint(e) for e in endpoints),
            attributes=(options or {}).get("attributes", {}),
        )
        self._apply(state, options or {})

    def _apply(self, state: ResolverState, options: dict[str, Any]) -> None:
        self.config = options.get("config", self.config)
        balancer = self.balancer
        if isinstance(balancer, GracefulSwitch):
            policy = POLICIES[options["policy"]]
            config = PolicyConfig(policy, policy.parse_config(self.config))
            self.accepted = balancer.update(state, config, anew=options.get("anew", False))
        else:
            parsed = POLICIES[self.policy].parse_config(self.config)
            self.accepted = balancer.update(state, parsed)

    def _subchannel(self, name: str) -> FakeSubchannel:
        target, _, number = name.partition("@")
        if not number:
            return self.helper.subchannel(target)
        return [s for s in self.helper.subchannels if s.address.target == target][int(number) - 1]

    def _count_picks(self, count: int, tried: tuple[str, ...] = ()) -> None:
        info = PickInfo("/s/m", tried=frozenset(map(Address.parse, tried)))
        for _ in range(count):
            match self.helper.pick(info):
                case Pick(subchannel):
                    self.picks[subchannel.address.target] += 1
                case other:
                    self.picks[type(other).__name__.lower()] += 1

    def _pick(self) -> str:
        match self.helper.pick():
            case Pick(subchannel):
                return subchannel.address.target
            case Queue():
                return "queue"
            case Fail(status):
                return str(status)
            case other:
                return str(other)


def _endpoint(given: Any) -> Endpoint:
    if isinstance(given, str):
        return Endpoint.of(given)
    attributes = {key: value for key, value in given.items() if key != "addresses"}
    return Endpoint.of(*given["addresses"], **attributes)


def _matches(what: str, seen: Any, wanted: Any) -> bool:
    if what == "pick":
        return re.fullmatch(wanted, seen) is not None
    return bool(seen == wanted)
