"""What changed between two looks at a channel. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from grpclb.cli.render import endpoint_text

Snapshot = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Event:
    """One line of `watch`: `kind` and `data` are for programs, `text` for people."""

    kind: str
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)


def changes(before: Snapshot | None, after: Snapshot) -> Iterator[Event]:
    """The events between two `debug_snapshot()`s, addresses first; `before` is None at first."""
    old = {} if before is None else before
    yield from _resolution(old.get("resolver", {}), after["resolver"])
    yield from _states(old.get("subchannels", ()), after["subchannels"])
    if old.get("state") != after["state"]:
        text = f"channel {_arrow(old.get('state'), after['state'])}"
        yield Event("channel", text, {"from": old.get("state"), "to": after["state"]})


def _resolution(old: Snapshot, new: Snapshot) -> Iterator[Event]:
    before = {tuple(e["addresses"]): e for e in old.get("endpoints", ())}
    after = {tuple(e["addresses"]): e for e in new["endpoints"]}
    if old.get("updates", 0) != new["updates"] and not new["last_error"]:
        data = {"note": new["note"], "endpoints": len(after)}
        yield Event("resolved", new["note"] or f"resolved {len(after)} endpoint(s)", data)
    for key in after:
        endpoint = after[key]
        if key not in before:
            yield Event("added", f"+ {endpoint_text(endpoint)}", endpoint)
        elif before[key] != endpoint:
            yield Event("changed", f"~ {endpoint_text(endpoint)}", endpoint)
    for key in sorted(before.keys() - after.keys()):
        yield Event("removed", f"- {endpoint_text(before[key])}", before[key])
    error = new["last_error"]
    if error and error != old.get("last_error"):
        kept = "; the last good list stays in use" if after else ""
        yield Event("error", f"! {error}{kept}", {"error": error})
    config, was = new["service_config"], old.get("service_config", {})
    if config != was:
        data = {"service_config": config, "source": new["service_config_source"]}
        text = f"service config from the {data['source']}: {json.dumps(config)}"
        yield Event("config", text, data)


def _states(old: Any, new: Any) -> Iterator[Event]:
    before = {s["address"]: s for s in old}
    after = {s["address"]: s for s in new}
    for address, now in after.items():
        was = before.get(address, {})
        news = now["last_error"] is not None and now["last_error"] != was.get("last_error")
        if was.get("state") != now["state"] or news:
            error = now["last_error"]
            reason = f" ({error.removeprefix(f'{address}: ')})" if error else ""
            yield Event(
                "state",
                f"{address} {_arrow(was.get('state'), now['state'])}{reason}",
                {"address": address, "from": was.get("state"), "to": now["state"], "error": error},
            )
    for address in sorted(before.keys() - after.keys()):
        state = before[address]["state"]
        data = {"address": address, "from": state, "to": "SHUTDOWN", "error": None}
        yield Event("state", f"{address} {_arrow(state, 'SHUTDOWN')}", data)


def _arrow(old: str | None, new: str) -> str:
    return new if old is None or old == new else f"{old} -> {new}"
