"""The keys of one service, and the endpoints that they name. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from grpclb.core.address import Address, Endpoint
from grpclb.resolvers.etcd.model import Event, KeyValue
from grpclb.resolvers.etcd.values import Found, parse_value

MOST_KEYS = 50_000
_MOST_SHOWN = 100  # skipped keys, in the snapshot
_REST, _TOO_MANY = b"...", f"more than {MOST_KEYS} keys; the rest is not read"
_LONGEST_KEY = 200  # characters, of a key that is shown


@dataclass(slots=True)
class _Entry:
    value: bytes
    mod_revision: int
    endpoint: Endpoint | None
    problem: str = ""


class Table:
    """What is known of one prefix. A value that cannot be read changes no endpoint.

    So a key whose good value was overwritten by a bad one keeps the good one until it is deleted:
    a mistake in etcd removes no backend that works.
    """

    def __init__(self) -> None:
        self._entries: dict[bytes, _Entry] = {}
        self._unreported: dict[bytes, str] = {}
        self._reported: set[tuple[bytes, str]] = set()
        self._overflowing = False

    def __len__(self) -> int:
        return len(self._entries)

    def replace(self, items: Iterable[KeyValue], *, complete: bool = True) -> None:
        """The list of all keys: what is not in it is gone, if it is `complete`."""
        before, self._entries = self._entries, {}
        self._overflowing = False
        if not complete:
            self._overflow()
        for item in items:
            self._put(item.key, item.value, item.mod_revision, before.get(item.key))

    def apply(self, events: Iterable[Event]) -> bool:
        """What happened since; False if nothing that is to be told."""
        changed = False
        for event in events:
            old = self._entries.get(event.key)
            if event.value is None:
                changed |= self._entries.pop(event.key, None) is not None
            else:
                changed |= self._put(event.key, event.value, event.mod_revision, old)
        return changed

    def _put(self, key: bytes, value: bytes, revision: int, old: _Entry | None) -> bool:
        if old is None and len(self._entries) >= MOST_KEYS:
            known = self._overflowing
            self._overflow()
            return not known
        if old is not None and old.value == value:  # a lease renewed, or seen before
            old.mod_revision = revision
            self._entries[key] = old
            return False
        parsed = parse_value(value)
        if isinstance(parsed, Found):
            entry = _Entry(value, revision, parsed.endpoint, parsed.remark)
        else:
            kept = None if old is None else old.endpoint
            entry = _Entry(value, revision, kept, parsed.reason)
        self._entries[key] = entry
        if entry.problem and (key, entry.problem) not in self._reported:
            self._unreported[key] = entry.problem
        return True

    def _overflow(self) -> None:
        self._overflowing = True
        if (_REST, _TOO_MANY) not in self._reported:
            self._unreported[_REST] = _TOO_MANY

    def endpoints(self) -> tuple[Endpoint, ...]:
        """In the order of their keys. An address under several keys counts once, the newest."""
        newest: dict[frozenset[Address], tuple[int, bytes, Endpoint]] = {}
        for key, entry in self._entries.items():
            endpoint = entry.endpoint
            if endpoint is None:
                continue
            known = newest.get(endpoint.key)
            if known is None or known[0] <= entry.mod_revision:
                newest[endpoint.key] = (entry.mod_revision, key, endpoint)
        return tuple(found[2] for found in sorted(newest.values(), key=lambda found: found[1]))

    @property
    def skipped(self) -> Mapping[str, str]:
        """Keys with something wrong, and what it is; at most 100 of them."""
        result: dict[str, str] = {}
        if self._overflowing:
            result[shown(_REST)] = _TOO_MANY
        for key, entry in self._entries.items():
            if entry.problem:
                result[shown(key)] = entry.problem
                if len(result) >= _MOST_SHOWN:
                    break
        return result

    def unreported(self) -> list[tuple[bytes, str]]:
        """Problems since the last call, each key's once; at most 100, for they go to a log."""
        fresh, self._unreported = list(self._unreported.items())[:_MOST_SHOWN], {}
        if len(self._reported) > MOST_KEYS:
            self._reported.clear()
        self._reported.update(fresh)
        return fresh


def shown(key: bytes) -> str:
    """A key for people and logs, on one line."""
    text = key[: 4 * _LONGEST_KEY].decode(errors="backslashreplace")
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= _LONGEST_KEY else text[:_LONGEST_KEY] + "..."
