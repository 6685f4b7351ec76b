"""What a health check said."""

from __future__ import annotations

from grpclb.cli.rules import Level, Rule, both, code
from grpclb.cli.seen import Stage

_HEALTH = (Stage.HEALTH,)

CHECKING: tuple[Rule, ...] = (
    Rule(
        "health-not-serving",
        _HEALTH,
        lambda seen: seen.status == "NOT_SERVING",
        "The backend says that {health_service} is NOT_SERVING.",
        (
            "With healthCheckConfig in the service config it gets no RPCs until it says SERVING.",
            "It may be starting, stopping, or waiting for something that it needs: see its logs.",
        ),
    ),
    Rule(
        "health-service-unknown",
        _HEALTH,
        lambda seen: seen.code == "NOT_FOUND" or seen.status in ("UNKNOWN", "SERVICE_UNKNOWN"),
        "The backend has a health service, but no status for {health_service}.",
        (
            (
                "The name must be one that the server has set, and is case-sensitive; an empty one "
                "asks for the server as a whole."
            ),
            "With this name in healthCheckConfig the backend would get no RPCs.",
        ),
    ),
    Rule(
        "health-unimplemented",
        _HEALTH,
        both(code("UNIMPLEMENTED"), lambda seen: "status:" not in seen.details),
        "The backend does not serve grpc.health.v1.Health; gRPC clients count it as healthy.",
        ("Add it: for Python the package grpcio-health-checking.",),
        Level.WARNING,
    ),
)
