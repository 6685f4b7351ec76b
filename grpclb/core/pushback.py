"""Server pushback (gRFC A6): how long a server wants a client to wait before it tries again."""

from __future__ import annotations

import re
from collections.abc import Iterable

PUSHBACK = "grpc-retry-pushback-ms"  # trailing metadata
STOP = -1.0  # the server wants no retry

_MILLISECONDS = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_INT32 = 2**31 - 1


def parse_pushback(trailing_metadata: Iterable[tuple[str, str | bytes]]) -> float | None:
    """`grpc-retry-pushback-ms` in seconds; None without one, `STOP` for no retry. Never raises.

    A negative value, one that is not a 32-bit decimal number as gRFC A6 writes it, and a second
    one all mean no retry. (grpcio hands on the last of two; only a caller of ours can see both.)
    """
    values = [value for key, value in trailing_metadata if key == PUSHBACK]
    if not values:
        return None
    value = values[0] if len(values) == 1 else ""
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    if not _MILLISECONDS.fullmatch(text) or int(text) > _INT32:
        return STOP
    return int(text) / 1000
