"""Connectivity states, under gRPC's own names."""

from __future__ import annotations

from grpc import ChannelConnectivity as ConnectivityState

IDLE = ConnectivityState.IDLE
CONNECTING = ConnectivityState.CONNECTING
READY = ConnectivityState.READY
TRANSIENT_FAILURE = ConnectivityState.TRANSIENT_FAILURE
SHUTDOWN = ConnectivityState.SHUTDOWN

__all__ = ["CONNECTING", "IDLE", "READY", "SHUTDOWN", "TRANSIENT_FAILURE", "ConnectivityState"]
