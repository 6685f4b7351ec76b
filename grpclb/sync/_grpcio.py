"""Every use of a private grpcio name in the sync stack, feature-detected, and nothing else.

`tests/sync/test_grpcio_contract.py` holds grpcio to what is used here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from grpclb.core.connectivity import ConnectivityState

# grpc_connectivity_state of C-core, as `check_connectivity_state` returns it.
READY_NUMBER = 2
STATES: dict[int, ConnectivityState] = {state.value[0]: state for state in ConnectivityState}

StateReader = Callable[[bool], int]


def open_channel(
    uri: str,
    credentials: grpc.ChannelCredentials | None,
    options: Sequence[tuple[str, Any]],
    compression: grpc.Compression | None,
) -> grpc.Channel:
    """A plain grpcio channel, even where a tracing library has wrapped the factories.

    OpenTelemetry and Sentry replace `grpc.insecure_channel`; a subchannel made through the
    wrapper would report every RPC a second time.
    """
    channel: grpc.Channel
    if credentials is None:
        channel = inspect.unwrap(grpc.insecure_channel)(uri, options, compression)
    else:
        channel = inspect.unwrap(grpc.secure_channel)(uri, credentials, options, compression)
    return channel


def state_reader(channel: grpc.Channel) -> StateReader:
    """Reads a channel's state in under a microsecond; True asks it to connect.

    The public way, `subscribe`, costs a thread per channel that wakes five times a second; it is
    the fallback for a grpcio without the private call.
    """
    check = getattr(getattr(channel, "_channel", None), "check_connectivity_state", None)
    if check is not None:
        reader: StateReader = check
        return reader
    return _SubscribedState(channel)


def headers_of(call: Any) -> tuple[Any, ...] | None:
    """The response headers' metadata, () if it is empty; None: no headers so far.

    The public `initial_metadata()` waits for them, even on a call that has ended: the thread that
    is to bring them may be the one that asks. A grpcio without the private name: never any.
    """
    headers = getattr(getattr(call, "_state", None), "initial_metadata", None)
    return None if headers is None else tuple(headers)


class _SubscribedState:
    """The last state that `subscribe` delivered."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._number = ConnectivityState.IDLE.value[0]
        channel.subscribe(self._saw)

    def _saw(self, state: ConnectivityState) -> None:
        self._number = state.value[0]

    def __call__(self, try_to_connect: bool) -> int:
        if try_to_connect:
            self._channel.unsubscribe(self._saw)
            self._channel.subscribe(self._saw, try_to_connect=True)
        number: int = self._number
        return number
