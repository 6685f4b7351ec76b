"""What `watch` makes of two snapshots."""

from __future__ import annotations

from typing import Any

from grpclb.cli.changes import changes


def snapshot(
    endpoints: dict[str, dict[str, Any]],
    states: dict[str, tuple[str, str | None]] | None = None,
    *,
    state: str = "READY",
    note: str = "",
    updates: int = 0,
    error: str | None = None,
    config: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "state": state,
        "resolver": {
            "endpoints": [{"addresses": [a], "attributes": b} for a, b in endpoints.items()],
            "note": note,
            "updates": updates,
            "last_error": error,
            "service_config": config or {},
            "service_config_source": "resolver" if config else "default",
        },
        "subchannels": [
            {"address": a, "state": s, "last_error": e} for a, (s, e) in (states or {}).items()
        ],
    }


def texts(before: Any, after: Any) -> list[str]:
    return [event.text for event in changes(before, after)]


EMPTY = snapshot({})


def test_nothing_changed() -> None:
    full = snapshot({"a": {}}, {"a": ("READY", None)}, updates=1, error="e", config={"x": 1})
    assert texts(full, full) == []


def test_the_first_look_tells_all() -> None:
    assert texts(
        None, snapshot({"a": {"zone": "x"}}, {"a": ("READY", None)}, note="found", updates=1)
    ) == [
        "found",
        "+ a zone=x",
        "a READY",
        "channel READY",
    ]


def test_endpoints_come_change_and_go() -> None:
    before = snapshot({"a": {"weight": 1}, "b": {}})
    after = snapshot({"a": {"weight": 2}, "c": {}})
    assert texts(before, after) == ["~ a weight=2", "+ c", "- b"]


def test_states_and_their_reasons() -> None:
    before = snapshot({}, {"a": ("READY", None), "b": ("TRANSIENT_FAILURE", "refused")})
    after = snapshot(
        {}, {"a": ("TRANSIENT_FAILURE", "a: reset"), "b": ("TRANSIENT_FAILURE", "timeout")}
    )
    assert texts(before, after) == [
        "a READY -> TRANSIENT_FAILURE (reset)",
        "b TRANSIENT_FAILURE (timeout)",
    ]
    assert texts(before, snapshot({})) == [
        "a READY -> SHUTDOWN",
        "b TRANSIENT_FAILURE -> SHUTDOWN",
    ]


def test_errors_are_told_once_and_say_what_is_kept() -> None:
    failed = snapshot({}, state="TRANSIENT_FAILURE", error="gone")
    assert texts(EMPTY, failed) == ["! gone", "channel READY -> TRANSIENT_FAILURE"]
    kept = snapshot({"a": {}}, error="gone")
    assert texts(snapshot({"a": {}}), kept) == ["! gone; the last good list stays in use"]
    assert texts(kept, kept) == []


def test_each_look_up_is_told_and_a_failed_one_as_an_error() -> None:
    assert texts(EMPTY, snapshot({}, updates=2, note="TTL 7 s")) == ["TTL 7 s"]
    assert texts(EMPTY, snapshot({"a": {}}, updates=2)) == ["resolved 1 endpoint(s)", "+ a"]
    assert texts(EMPTY, snapshot({}, updates=2, error="gone")) == ["! gone"]


def test_a_new_service_config() -> None:
    assert texts(EMPTY, snapshot({}, config={"x": 1})) == [
        'service config from the resolver: {"x": 1}'
    ]
