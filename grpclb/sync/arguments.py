"""What a caller gave an RPC, and what is made of it before it is sent."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc

from grpclb.control.arguments import check_message
from grpclb.control.method import MethodHandle
from grpclb.core.address import Address
from grpclb.core.balancer import NO_ATTRIBUTES, PickInfo
from grpclb.core.config_selector import Selection
from grpclb.core.status import Status
from grpclb.sync.errors import RpcFailure

_LOG = logging.getLogger("grpclb.call")
_NOBODY: frozenset[Address] = frozenset()


def info_of(
    method: MethodHandle,
    metadata: Any,
    selection: Selection | None,
    tried: frozenset[Address] = _NOBODY,
) -> PickInfo:
    """What a picker may know of an RPC."""
    if not metadata and not tried and selection is None:
        return method.info
    attributes = NO_ATTRIBUTES if selection is None else selection.attributes
    return PickInfo(method.path, metadata or (), tried, attributes)


class CallArguments(NamedTuple):
    """What the caller gave, with the method config applied. `request` may be `Requests`."""

    request: Any
    timeout: float | None
    metadata: Any
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None
    selection: Selection | None = None

    def info(self, method: MethodHandle, tried: frozenset[Address] = _NOBODY) -> PickInfo:
        """What a picker may know of the RPC."""
        return info_of(method, self.metadata, self.selection, tried)


# CallArguments(*values), in a third of the time.
arguments_of: Callable[[tuple[Any, ...]], CallArguments]
arguments_of = functools.partial(tuple.__new__, CallArguments)


def serialized(method: MethodHandle, request: Any) -> bytes:
    """The request as bytes; raises what grpcio raises where there are none."""
    if method.serializer is not None:
        try:
            request = method.serializer(request)
        except Exception:
            _LOG.exception("Exception serializing message!")
            request = None
    if request is None:
        raise RpcFailure(Status(grpc.StatusCode.INTERNAL, "Exception serializing request!"))
    check_message(request)
    message: bytes = request
    return message
