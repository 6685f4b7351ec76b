"""Service configs from DNS TXT records (gRFC A2).

DNS is not authenticated, so nobody asks for these records unless the user does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from grpclb.core.config_json import MAX_BYTES, load
from grpclb.core.config_node import Node, ServiceConfigError
from grpclb.core.status import Status

if TYPE_CHECKING:
    from random import Random

NAME_PREFIX = "_grpc_config."
_ATTRIBUTE = b"grpc_config="
_LANGUAGE = "python"
# A2 spells it clientHostname; grpc-go publishes and reads clientHostName.
_HOSTNAME_KEYS = ("clientHostname", "clientHostName")
_KEYS = ("clientLanguage", "percentage", *_HOSTNAME_KEYS, "serviceConfig")

Record = bytes | str | Sequence[bytes]


def draw_percentage(random: Random) -> int:
    """A channel's place among a hundred clients; drawn once, so that a canary stays one."""
    return random.randrange(100)


def choose(
    records: Sequence[Record], *, hostname: str, draw: int
) -> Mapping[str, Any] | Status | None:
    """The service config that the TXT records hold for this client.

    Each record is its text, or the strings that DNS cut it into. None: no config is meant for
    us (or there is none at all). A Status: what is there is unusable, all of it. The config is
    not yet parsed itself; `hostname` is the system's own name, `draw` from `draw_percentage`.
    """
    try:
        text = _attribute(records)
        return None if text is None else _choice(Node(load(text, "array")), hostname, draw)
    except ServiceConfigError as error:
        return Status.unavailable(f"TXT {_ATTRIBUTE.decode()}: {error.path}: {error.problem}")


def _attribute(records: Sequence[Record]) -> str | None:
    values = {
        value.removeprefix(_ATTRIBUTE)
        for value in map(_joined, records)
        if value.startswith(_ATTRIBUTE)
    }
    if len(values) > 1:
        # DNS keeps no order among records: to take the first would change with every answer.
        raise ServiceConfigError("$", f"{len(values)} different records; expected one")
    for value in values:
        if len(value) > MAX_BYTES:
            raise ServiceConfigError("$", f"larger than {MAX_BYTES} bytes")
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise ServiceConfigError("$", f"not UTF-8 at byte {error.start}") from None
    return None


def _joined(record: Record) -> bytes:
    if isinstance(record, str):
        return record.encode("utf-8", "surrogatepass")
    return record if isinstance(record, bytes) else b"".join(record)


def _choice(choices: Node, hostname: str, draw: int) -> Mapping[str, Any] | None:
    """The first that matches. All are validated: a mistake in one makes all of them unusable."""
    found: Mapping[str, Any] | None = None
    for choice in choices.items():
        for path in choice.unread(_KEYS):
            raise ServiceConfigError(path, f"unknown key; expected one of {', '.join(_KEYS)}")
        config = choice.need("serviceConfig").object()
        if _matches(choice, hostname, draw) and found is None:
            found = config
    return found


def _matches(choice: Node, hostname: str, draw: int) -> bool:
    languages = _texts(choice, "clientLanguage")
    hostnames = [_texts(choice, key) for key in _HOSTNAME_KEYS]
    if all(hostnames):
        raise choice.fail(f"both {' and '.join(_HOSTNAME_KEYS)}; expected one")
    percentage = choice.get("percentage")
    if percentage is not None and type(percentage.value) is not int:
        raise percentage.fail("expected an integer in 0..100")
    share = 100 if percentage is None else percentage.integer(0, 100)
    named = hostnames[0] or hostnames[1]
    return (
        (not languages or _LANGUAGE in map(str.lower, languages))
        and draw < share
        and (not named or hostname in named)
    )


def _texts(choice: Node, key: str) -> list[str]:
    field = choice.get(key)
    return [] if field is None else [item.text() for item in field.items()]
