"""What a client of etcd says: keys, events, failures. Needs neither protobuf nor grpcio's stack."""

from __future__ import annotations

from dataclasses import dataclass

from grpc import StatusCode


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as etcd has it. `lease` is 0 for a key that lives until it is deleted."""

    key: bytes
    value: bytes
    mod_revision: int
    create_revision: int = 0
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Listing:
    """All keys of a prefix at one revision. `complete` is False when `limit` cut it short.

    `serializable`: it is what one member knew, which may be old.
    """

    revision: int
    items: tuple[KeyValue, ...]
    complete: bool = True
    serializable: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to a key. `value` is None when it was deleted, or its lease has ended."""

    key: bytes
    value: bytes | None
    mod_revision: int


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """Events in their order. None at all means that `revision` was reached without any."""

    revision: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class LeaseGrant:
    """A lease and the seconds that etcd gave it, which may be more than were asked for."""

    id: int
    ttl: int


class EtcdFailed(Exception):
    """etcd could not be asked, or refused. `code` and `details` are the last member's words.

    `interrupted`: etcd is not to blame (this process forked); try again at once. Never holds a
    password or a token.
    """

    def __init__(
        self, code: StatusCode, details: str, where: str, *, interrupted: bool = False
    ) -> None:
        super().__init__(f"etcd {where}: {code.name}: {details}")
        self.code = code
        self.details = details
        self.where = where
        self.interrupted = interrupted


class EtcdRefused(EtcdFailed):
    """The user, or its token, is not let in: asking another member does not help."""


class EtcdCompacted(EtcdFailed):
    """The revision to watch from is gone: list, and watch from there."""
