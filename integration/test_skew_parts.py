"""The parts of the comparison that need no cluster: who sees what follows from what, as tables."""

import dataclasses
import json
import shutil
import sys
from typing import Any

import pytest

from integration.report.recording import Event, Recording, Tick
from integration.skew import report
from integration.skew.cluster import TITLES, ClusterError, Line, PodChange, PodState
from integration.skew.collect import Collector
from integration.skew.figures import (
    Side,
    claims,
    dns_bound,
    summarize,
    unevenness,
)
from integration.skew.namespaces import unshare_command
from integration.skew.pod_events import PodTracker
from integration.skew.workload import Phase, PodStatus, Wanted, next_step

S, R, L = Phase.STARTING, Phase.READY, Phase.LEAVING


def pods(**phases: Phase) -> list[PodStatus]:
    """Pods by name; those that begin with `o` are of generation 0, others of 1."""
    return [PodStatus(name, int(name[0] != "o"), phase) for name, phase in phases.items()]


@pytest.mark.parametrize(
    ("replicas", "have", "start", "retire"),
    [
        (3, {}, 3, ()),
        (3, {"a": S, "b": R, "c": L}, 1, ()),
        (3, {"a": R, "b": R, "c": R}, 0, ()),
        (1, {"a": R, "b": R, "c": S}, 0, ("b", "c")),
        # a rolling update of four: two more at first, an old one goes for each that is ready
        (4, {"o1": R, "o2": R, "o3": R, "o4": R}, 2, ()),
        (4, {"o1": R, "o2": R, "o3": R, "o4": R, "a": S, "b": S}, 0, ()),
        (4, {"o1": R, "o2": R, "o3": R, "o4": R, "a": R, "b": S}, 0, ("o1",)),
        (4, {"o1": L, "o2": R, "o3": R, "o4": R, "a": R, "b": S}, 1, ()),
        (4, {"o1": L, "o2": L, "o3": L, "o4": L, "a": R, "b": R, "c": R, "d": R}, 0, ()),
        # an old one that is not ready yet never will be needed
        (1, {"o1": S, "a": R}, 0, ("o1",)),
    ],
)
def test_a_deployment_goes_on_step_by_step(
    replicas: int, have: dict[str, Phase], start: int, retire: tuple[str, ...]
) -> None:
    step = next_step(Wanted(replicas, generation=1), pods(**have))
    assert (step.start, step.retire) == (start, retire)


def pod_json(name: str, ready: bool, leaving: bool = False) -> dict:
    metadata = {"name": name} | ({"deletionTimestamp": "2030"} if leaving else {})
    condition = {"type": "Ready", "status": str(ready)}
    return {"kind": "Pod", "metadata": metadata, "status": {"conditions": [condition]}}


def test_a_pod_s_changes_are_told_once_and_never_backwards() -> None:
    tracker = PodTracker()
    told = [
        tracker.event({"type": kind, "object": pod_json("p", ready, leaving)}, at)
        for at, (kind, ready, leaving) in enumerate(
            [
                ("ADDED", False, False),
                ("MODIFIED", True, False),
                ("ADDED", True, False),  # the watch was cut, and began anew
                ("MODIFIED", False, False),
                ("MODIFIED", True, True),
                ("DELETED", False, True),
                ("DELETED", False, True),
            ]
        )
    ]
    changes = [PodChange(1, "p", PodState.READY), PodChange(4, "p", PodState.LEAVING)]
    assert told == [[], changes[:1], [], [], changes[1:], [PodChange(5, "p", PodState.GONE)], []]


def test_a_list_tells_of_pods_that_went_unseen_but_not_of_those_that_came_since() -> None:
    tracker = PodTracker()
    for at, name in ((1.0, "old"), (2.0, "kept"), (4.0, "new")):
        tracker.event({"type": "ADDED", "object": pod_json(name, ready=True)}, at)
    assert tracker.listed([pod_json("kept", ready=True)], 3.0) == [
        PodChange(3.0, "old", PodState.GONE)
    ]


def test_a_client_s_clock_is_set_by_its_fastest_line_and_repeats_are_known() -> None:
    collector = Collector()
    collector.begin(100.0)

    def tick(number: int, at: float, arrival: float) -> Line:
        fields = {"side": "a", "n": number, "at": at, "calls": {"p": 1}, "errors": {}}
        return Line(arrival, fields)

    # the client's clock is 5,000 s ahead; a line takes 0.1 s at best
    ready = Line(101.0, {"side": "a", "n": 0, "at": 5100.6, "ready": True, "workers": 4})
    lines = [ready, tick(1, 5101.0, 101.1), tick(2, 5102.0, 102.9), tick(2, 5102.0, 103.5)]
    collector.take_lines(lines)
    assert [tick.at for tick in collector.recording.ticks] == pytest.approx([1.1, 2.1])
    assert collector.ready == {"a"}


@pytest.mark.parametrize(
    ("ttl", "bound"), [(0, 0 + 6 + 1.5), (5, 5 + 6 + 1.5), (10, 10 + 12 + 1.5), (30, 30 + 30 + 1.5)]
)
def test_dns_tells_within_a_ttl_and_the_refresh_bound(ttl: float, bound: float) -> None:
    assert dns_bound(ttl) == pytest.approx(bound)


def record() -> tuple[Recording, dict[str, tuple[float, float]]]:
    """Three pods and 12 calls a second each side; three more at 10 s; all replaced at 20 s."""
    recording = Recording()
    for at, names in ((0.0, "abc"), (10.0, "def"), (20.0, "ghijkl")):
        for name in names:
            recording.appear(f"api-{name}", at)
    for name in "abcdef":
        recording.vanish(f"api-{name}", 20.0)
    lag = {"c": 3.0, "d": 0.5}
    for quarter in range(1, 121):
        at = quarter / 4
        for side in TITLES:
            seen = [
                p
                for p, (b, e) in recording.in_service.items()
                if b + lag.get(side, 0) * (b > 0) < at <= (e or 99) + lag.get(side, 0)
            ]
            if side == "a":
                seen = seen[:1]
            if side == "b" and at <= 20:
                seen = seen[:3]
            recording.ticks.append(Tick(side, at, {p: 36 // len(seen) for p in seen}, {}))
    recording.ticks.append(Tick("b", 21.1, {}, {"UNAVAILABLE: gone": 9}))
    recording.ticks.append(Tick("d", 26.1, {}, {"UNAVAILABLE: reset": 2}))
    kinds = ((0.0, "steady"), (10.0, "scale"), (20.0, "roll"), (26.0, "delete"), (30.0, "end"))
    recording.events += [Event(at, kind, kind) for at, kind in kinds]
    return recording, {"three": (1.0, 10.0), "six": (14.0, 20.0), "after": (24.0, 26.0)}


def sides() -> dict[str, Side]:
    recording, windows = record()
    return {side: summarize(recording, side, windows) for side in TITLES}


def test_the_figures_follow_from_the_recording() -> None:
    found = sides()
    a, b, c, d = found.values()
    assert list(a.three.values()) == [36 * 36, 0, 0]
    assert unevenness(c.six) == 0.0
    assert list(b.six.values())[3:] == [0, 0, 0]
    assert a.slowest(a.to_call) is None
    assert (c.slowest(c.to_call), d.slowest(d.to_call)) == (3.25, 0.75)
    assert c.slowest(c.to_share) == pytest.approx(4.0)
    assert dict(b.failed) == {"steady": 0, "scale": 0, "roll": 9, "delete": 0}
    assert d.failed["delete"] == 2
    assert (d.after_roll, d.pods_after_roll) == (6, 6)


EVERY = {"api-a": 9, "api-b": 11, "api-c": 10}


def broken(
    changed: dict[str, Side], workers: int = 4, connections: dict[str, int] = EVERY
) -> list[str]:
    found = claims(changed, 5.0, workers, connections)
    return [claim.text[:3] for claim in found if not claim.held]


def test_a_run_as_claimed_breaks_no_claim_and_each_claim_can_break() -> None:
    good = sides()
    assert broken(good) == []

    def but(side: str, **changes: Any) -> dict[str, Side]:
        return good | {side: dataclasses.replace(good[side], **changes)}

    uneven = {"p": 100, "q": 103}
    assert broken(but("a", six=good["d"].six)) == ["(a)"]
    assert broken(but("b", to_call={"p": None, "q": 3.0})) == ["(b)"]
    for side, late in (("c", 12.6), ("d", 2.1)):
        letter = [f"({side})"]
        assert broken(but(side, three=uneven)) == letter
        assert broken(but(side, six={"p": 0})) == letter
        assert broken(but(side, to_call={"p": late})) == letter
        assert broken(but(side, to_call={"p": 0.1, "q": None})) == letter
        assert broken(but(side, failed={**good[side].failed, "scale": 1})) == letter
        assert broken(but(side, failed={**good[side].failed, "roll": 1})) == letter
        assert broken(but(side, after_roll=5)) == letter
        assert broken(but(side, failed={**good[side].failed, "delete": 5})) == letter
    assert broken(good, workers=1) == ["(d)"]
    assert broken(good, connections={"api-a": 30}) == ["a C"]


def test_the_report_tells_what_was_not_seen_and_the_errors() -> None:
    found = sides()
    bad = claims(found | {"c": dataclasses.replace(found["c"], after_roll=5)}, 5.0, 4, EVERY)
    recording, _ = record()
    facts = {"cluster": "a cluster", "calls": "some"}
    text = report.markdown(list(found.values()), bad, facts)
    assert "- ✗ **NOT SEEN** (c) uses every pod after the rolling update: 5 of 6" in text
    assert "- (b) grpcio round_robin, DNS: 9 x `UNAVAILABLE: gone`" in text
    document = json.loads(report.as_json(recording, list(found.values()), bad, facts))
    assert [claim["held"] for claim in document["claims"]].count(False) == 1
    picture = report.picture(recording, list(found.values()), facts)
    assert picture == report.picture(recording, list(found.values()), facts)
    assert picture.count('class="card"') == 4


@pytest.mark.parametrize(
    ("system", "tools", "says"),
    [
        ("darwin", True, "^platform: .*Linux"),
        ("linux", False, r"^not installed: .*nft.*\(apt-get install iproute2 mount nftables"),
    ],
)
def test_what_namespaces_need_is_said(
    monkeypatch: pytest.MonkeyPatch, system: str, tools: bool, says: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    if not tools:
        monkeypatch.setattr(shutil, "which", lambda tool, path: None)
    with pytest.raises(ClusterError, match=says):
        unshare_command()
