"""Reading C-core's failures: what never left the client, and why a connection failed."""

from __future__ import annotations

from grpc import StatusCode

from grpclb.core.balancer import Fail
from grpclb.core.status import Status

# Details that C-core gives an RPC for which there was no connection. Measured on grpcio 1.80 to
# 1.85; `tests/sync/test_grpcio_contract.py` watches them.
_NEVER_LEFT = (
    "failed to connect to all addresses",
    "connections to all backends failing",
)


def never_left(code: StatusCode | None, details: str | None) -> bool:
    """Whether an RPC that ended so was never sent: safe to repeat, whatever it does (gRFC A6)."""
    return code is StatusCode.UNAVAILABLE and (details or "").startswith(_NEVER_LEFT)


def connection_error(code: StatusCode | None, details: str | None, uri: str) -> str | None:
    """Why there is no connection to `uri`, in C-core's own words; None if unknown."""
    if code is not StatusCode.UNAVAILABLE or not details:
        return None
    reason = details.partition("last error: ")[2] or details
    return reason.removeprefix("UNKNOWN: ").removeprefix("UNAVAILABLE: ").removeprefix(f"{uri}: ")


def picker_raised(error: Exception) -> Fail:
    """A picker's mistake ends the RPC, with an error that says whose mistake it is."""
    details = f"the load-balancing policy's picker raised {type(error).__name__}: {error}"
    return Fail(Status(StatusCode.INTERNAL, details))
