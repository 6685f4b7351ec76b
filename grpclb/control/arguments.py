"""Checking an RPC's arguments before it waits for a backend.

grpcio refuses bad arguments when the call is made. An RPC that has to wait is handed to grpcio
later, from another place, where its mistakes would surprise nobody but the person on call: so
they are looked for first, and raised as grpcio raises them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from grpc import CallCredentials, Compression

INVALID_METADATA = "Invalid metadata"  # the details that grpcio gives an RPC of such metadata
_COMPRESSIONS = frozenset(Compression)
_KEY = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[ -~]*")


def check_metadata(metadata: Any) -> None:
    """Raise TypeError or ValueError for metadata that grpcio would refuse."""
    for key, value in _pairs(metadata):
        name = key.decode() if isinstance(key, bytes) else key
        if not isinstance(name, str):
            raise TypeError(f"Expected str, not {type(key)}")
        if name.endswith("-bin"):
            if not isinstance(value, bytes):
                text = f'Binary metadata key="{name}" expected bytes, got {type(value)}'
                raise TypeError(text)
        elif not isinstance(value, (str, bytes, type(None))):  # grpcio drops None
            raise TypeError(f"Expected str, not {type(value)}")


def legal_metadata(metadata: Any) -> bool:
    """True if HTTP/2 can carry metadata of the right types. What gRPC Core would refuse."""
    for key, value in _pairs(metadata):
        name = key.decode() if isinstance(key, bytes) else key
        if _KEY.fullmatch(name) is None:
            return False
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        if not (name.endswith("-bin") or text is None or _VALUE.fullmatch(text)):
            return False
    return True


def _pairs(metadata: Any) -> Any:
    """What can be looked at without using it up."""
    return () if metadata is None or isinstance(metadata, Iterator) else metadata


def check_options(credentials: Any, compression: Any) -> None:
    """Raise AttributeError or KeyError for what is neither credentials nor a compression."""
    if credentials is not None and not isinstance(credentials, CallCredentials):
        raise AttributeError(
            f"{type(credentials).__name__!r} object has no attribute '_credentials'"
        )
    if compression and compression not in _COMPRESSIONS:
        raise KeyError(compression)


def kept(metadata: Any) -> Any:
    """The metadata in a form that can be sent more than once."""
    return tuple(metadata) if isinstance(metadata, Iterator) else metadata


def check_message(message: Any) -> None:
    """Raise TypeError for a request that no serializer made bytes of."""
    if not isinstance(message, bytes):
        kind = type(message).__name__
        raise TypeError(f"Argument 'message' has incorrect type (expected bytes, got {kind})")
