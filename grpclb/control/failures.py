"""Reading C-core's failures: what never left the client, and why a connection failed."""

from __future__ import annotations

import json
import logging
from time import monotonic

from grpc import StatusCode

from grpclb.core.balancer import CallOutcome, Drop, Fail, Pick, PickResult, Queue
from grpclb.core.status import Status

_LOG = logging.getLogger("grpclb.policy")
_EVERY = 60.0  # seconds between two lines about a policy whose `on_done` raises
_last_complaint = float("-inf")

# Details that C-core gives an RPC for which there was no connection. Measured on grpcio 1.80 to
# 1.85; `tests/sync/test_grpcio_contract.py` watches them.
_NEVER_LEFT = (
    "failed to connect to all addresses",
    "connections to all backends failing",
)
_UNHEALTHY = "backend unhealthy"


def never_left(code: StatusCode | None, details: str | None) -> bool:
    """Whether an RPC that ended so was never sent: safe to repeat, whatever it does (gRFC A6)."""
    return code is StatusCode.UNAVAILABLE and (details or "").startswith(_NEVER_LEFT)


def connection_error(code: StatusCode | None, details: str | None, uri: str) -> str | None:
    """Why there is no connection to `uri`, in C-core's own words; None if unknown."""
    if code is not StatusCode.UNAVAILABLE or not details:
        return None
    reason = details.partition("last error: ")[2] or details
    return reason.removeprefix("UNKNOWN: ").removeprefix("UNAVAILABLE: ").removeprefix(f"{uri}: ")


def with_health_service(status: Status, args: str | None) -> Status:
    """C-core says of a failed health check no more than "backend unhealthy": whose was asked for?

    `args` is the service config that it was given (`ChannelSpec.subchannel_config`).
    """
    if args is None or not status.details.endswith(_UNHEALTHY):
        return status
    config = json.loads(args).get("healthCheckConfig")
    if config is None:
        return status
    service = config["serviceName"]
    of = f"service {service!r}" if service else "the server as a whole (service '')"
    return Status(status.code, f"{status.details}: its health check does not say SERVING of {of}")


def tell(pick: Pick, outcome: CallOutcome) -> None:
    """Tell the policy how an attempt ended. Its mistake is logged, and is no RPC's. Any thread."""
    global _last_complaint
    if pick.on_done is None:
        return
    try:
        pick.on_done(outcome)
    except Exception:
        now = monotonic()
        if now - _last_complaint >= _EVERY:
            _last_complaint = now
            _LOG.exception("%s: the policy's on_done raised", pick.subchannel.address)


def checked_answer(result: object) -> PickResult:
    """A picker's answer that is no Pick; a failure if it is no answer at all."""
    if isinstance(result, (Queue, Fail, Drop)):
        return result
    details = f"the load-balancing policy's picker returned a {type(result).__name__}"
    return Fail(Status(StatusCode.INTERNAL, details))


def picker_raised(error: Exception) -> Fail:
    """A picker's mistake ends the RPC, with an error that says whose mistake it is."""
    details = f"the load-balancing policy's picker raised {type(error).__name__}: {error}"
    return Fail(Status(StatusCode.INTERNAL, details))
