"""The demo's figures follow from its counts."""

import dataclasses

import pytest

from integration.demo.measure import Summary, broken_claims, summarize
from integration.demo.svg import draw_demo
from integration.demo.terminal import table
from integration.report.recording import Event, Recording, Tick
from integration.report.terminal import bar


def record(share_from: float | None) -> Recording:
    """Two pods with 10 calls a tick each; pod-c joins at 2 s, has its share from `share_from` on.

    A call fails at 6.1 s, after the kill at 6 s; the end is at 8 s.
    """
    recording = Recording()
    for pod in ("pod-a", "pod-b"):
        recording.appear(pod, 0.0)
    recording.appear("pod-c", 2.0)
    for quarter in range(1, 33):
        at = quarter / 4
        calls = {"pod-a": 10, "pod-b": 10}
        if share_from is not None and at > share_from:
            calls["pod-c"] = 10
        recording.ticks.append(Tick("grpclb", at, calls, {}))
    recording.ticks.append(Tick("grpclb", 6.1, {}, {"UNAVAILABLE: gone": 1}))
    for at, kind in ((2.0, "add"), (6.0, "kill"), (7.0, "replace"), (8.0, "end")):
        recording.events.append(Event(at, kind, kind))
    return recording


def test_the_share_is_there_after_a_whole_second_of_it() -> None:
    summary = summarize(record(share_from=3.0), "grpclb", "pod-c")
    assert summary.to_share == 1.75
    assert summarize(record(share_from=5.5), "grpclb", "pod-c").to_share is None
    assert summarize(record(share_from=None), "grpclb", "pod-c").to_share is None


def test_failures_count_for_the_event_before_them() -> None:
    summary = summarize(record(share_from=3.0), "grpclb", "pod-c")
    assert (summary.failed, dict(summary.failed_by)) == (
        1,
        {"add": 0, "kill": 1, "replace": 0},
    )


def test_an_even_share_counts_only_the_time_in_service() -> None:
    summary = summarize(record(share_from=2.0), "grpclb", "pod-c")
    assert sum(summary.fair.values()) == pytest.approx(sum(summary.calls.values()))
    assert summary.fair["pod-c"] == pytest.approx(summary.calls["pod-c"], rel=0.05)
    assert summary.steady == {"pod-a": 60, "pod-b": 60}
    assert summary.steady_spread == 1.0


def good_and_bad() -> tuple[Summary, Summary]:
    good = summarize(record(share_from=3.0), "grpclb", "pod-c")
    return good, dataclasses.replace(summarize(record(None), "grpclb", "pod-c"), side="plain")


def test_a_run_as_claimed_breaks_no_claim_and_each_claim_can_break() -> None:
    good, plain = good_and_bad()
    assert broken_claims(plain, good, 1) == []
    assert len(broken_claims(plain, good, 0)) == 1
    assert len(broken_claims(good, good, 1)) == 1
    assert len(broken_claims(plain, dataclasses.replace(good, to_share=None), 1)) == 1
    uneven = dataclasses.replace(good, steady={"pod-a": 60, "pod-b": 0})
    assert len(broken_claims(plain, uneven, 1)) == 1
    for kind in ("replace", "add"):
        lossy = dataclasses.replace(good, failed_by={**good.failed_by, kind: 1})
        assert len(broken_claims(plain, lossy, 1)) == 1


def test_the_table_and_the_picture_tell_the_figures() -> None:
    good, plain = good_and_bad()
    rows = "\n".join(table([plain, good]))
    assert "never (in 4 s)" in rows
    assert "1.8 s" in rows
    picture = draw_demo(record(3.0), [plain, good], "a note")
    assert picture == draw_demo(record(3.0), [plain, good], "a note")
    assert picture.count('class="card"') == 2
    assert "a note" in picture


def test_a_bar_has_its_length_and_its_mark() -> None:
    assert bar(5, 10, 8) == "████    "
    assert bar(0, 0, 4) == "    "
    assert bar(10, 10, 4, mark=5) == "██│█"
