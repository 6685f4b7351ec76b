"""Pages of a list and lines of a watch, from their JSON. Pure.

What cannot be understood is an answer of its own (`Malformed`), or `JunkError` where not even
JSON came: nothing else is raised for any bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from grpclb.resolvers.kubernetes.slices import Slice, SliceError, parse_slice

_MOST_TEXT = 300  # characters of a message from the server
_MOST_VERSION = 128
_MOST_TOKEN = 65_536


class JunkError(ValueError):
    """Bytes that are not what the API sends."""


@dataclass(frozen=True, slots=True)
class Put:
    """A slice is new or has changed."""

    slice: Slice
    version: str | None


@dataclass(frozen=True, slots=True)
class Delete:
    """A slice is gone."""

    name: str
    version: str | None


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Nothing has changed up to `version`."""

    version: str | None


@dataclass(frozen=True, slots=True)
class Failure:
    """The server ends the watch, with an HTTP status; 410 says that our version is too old."""

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """An event that changes nothing, as it makes no sense. `version` is known nevertheless."""

    reason: str
    version: str | None


Event = Put | Delete | Bookmark | Failure | Malformed


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list. `kept` names slices that are there but could not be understood."""

    slices: tuple[Slice, ...]
    kept: tuple[tuple[str, str], ...]  # name, reason
    version: str
    more: str | None  # what asks for the next page


def parse_event(line: bytes) -> Event:
    """One line of a watch. Raises JunkError."""
    raw = _object(line)
    kind, body = raw.get("type"), raw.get("object")
    if not isinstance(body, dict):
        raise JunkError(f"an event without an object: {line[:80]!r}")
    if kind == "ERROR":
        status, message = parse_status(body)
        return Failure(status or 500, message)
    version = _version(body)
    if kind == "BOOKMARK":
        return Bookmark(version)
    try:
        if kind in ("ADDED", "MODIFIED"):
            return Put(parse_slice(body), version)
        if kind == "DELETED":
            return Delete(parse_slice({**body, "endpoints": None, "ports": None}).name, version)
    except SliceError as error:
        return Malformed(str(error), version)
    return Malformed(f"an event of the unknown type {kind!r:.40}", version)


def parse_page(body: bytes) -> Page:
    """One answer to a list. Raises JunkError."""
    raw = _object(body)
    items, metadata = raw.get("items"), raw.get("metadata")
    if items is None:
        items = []
    if not isinstance(items, list) or not isinstance(metadata, dict):
        raise JunkError(f"not a list of the API: {body[:80]!r}")
    version, more = _version(raw), metadata.get("continue") or None
    if version is None:
        raise JunkError("a list without a resourceVersion")
    if more is not None and not _is_token(more):
        raise JunkError("a list whose continue token is no plain text")
    slices, kept = [], []
    for item in items:
        try:
            slices.append(parse_slice(item))
        except SliceError as error:
            kept.append((error.name or "", str(error)))
    return Page(tuple(slices), tuple(kept), version, more)


def parse_status(raw: object) -> tuple[int | None, str]:
    """Code and message of a ``Status`` object, both fit to be shown; never raises."""
    if not isinstance(raw, dict):
        return None, ""
    code, message = raw.get("code"), raw.get("message") or raw.get("reason") or ""
    valid = isinstance(code, int) and not isinstance(code, bool) and 100 <= code < 600
    return (code if valid else None), printable(message if isinstance(message, str) else "")


def printable(text: str) -> str:
    """`text` as it may stand in one line of a log."""
    cut = text[:_MOST_TEXT] + ("…" if len(text) > _MOST_TEXT else "")
    return "".join(c if c.isprintable() else " " for c in cut).strip()


def _object(data: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError):
        raise JunkError(f"not JSON: {data[:80]!r}") from None
    if not isinstance(raw, dict):
        raise JunkError(f"not a JSON object: {data[:80]!r}")
    return raw


def _is_token(more: object) -> bool:
    """Whether it can be part of the next request."""
    plain = isinstance(more, str) and more.isascii() and more.isprintable()
    return plain and len(str(more)) <= _MOST_TOKEN


def _version(raw: dict[str, Any]) -> str | None:
    """Opaque to us, and part of the next request: nothing but plain characters."""
    metadata = raw.get("metadata")
    version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    if not isinstance(version, str) or not 0 < len(version) <= _MOST_VERSION:
        return None
    return version if version.isascii() and version.isprintable() else None
