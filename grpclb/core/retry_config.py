"""Retry, hedging and throttling policies of a service config (gRFC A6): values and validation.

What they do to a call is decided elsewhere; here they are only read.
"""

from __future__ import annotations

from dataclasses import dataclass

from grpc import StatusCode

from grpclb.core.config_node import Node, shown

# gRFC A6: the cap that protects a client from what a service config may ask of it.
DEFAULT_MAX_ATTEMPTS = 5

_MAX_FLOAT = 3.4028234663852886e38  # protobuf's `float`, the type of backoffMultiplier
_CODES = {code.name: code for code in StatusCode}
_NUMBERS: dict[float, StatusCode] = {code.value[0]: code for code in StatusCode}

RETRY_FIELDS = (
    "maxAttempts",
    "initialBackoff",
    "maxBackoff",
    "backoffMultiplier",
    "retryableStatusCodes",
    "perAttemptRecvTimeout",
)
HEDGING_FIELDS = ("maxAttempts", "hedgingDelay", "nonFatalStatusCodes")
THROTTLING_FIELDS = ("maxTokens", "tokenRatio")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a method is tried again. Times in seconds, before jitter.

    `max_attempts` counts the first one and is already capped. `retryable_codes` may be empty of
    effect but never holds OK: a success is not tried again, whatever the config says.
    `per_attempt_recv_timeout` is an extension that some peers publish.
    """

    max_attempts: int
    initial_backoff: float
    max_backoff: float
    backoff_multiplier: float
    retryable_codes: frozenset[StatusCode]
    per_attempt_recv_timeout: float | None = None


@dataclass(frozen=True, slots=True)
class HedgingPolicy:
    """How copies of a call are sent. `hedging_delay` in seconds; 0 sends all at once."""

    max_attempts: int
    hedging_delay: float = 0.0
    non_fatal_codes: frozenset[StatusCode] = frozenset()


@dataclass(frozen=True, slots=True)
class RetryThrottling:
    """A channel's token bucket. `token_ratio` holds three decimals; the rest was cut off."""

    max_tokens: int
    token_ratio: float


def parse_retry_policy(node: Node, cap: int) -> RetryPolicy:
    """`retryPolicy`; raises ServiceConfigError."""
    attempts = node.need("maxAttempts").integer(2)
    initial = node.need("initialBackoff").seconds_above_zero()
    longest = node.need("maxBackoff").seconds_above_zero()
    multiplier = node.need("backoffMultiplier").positive(_MAX_FLOAT)
    codes = node.need("retryableStatusCodes")
    if not codes.items():
        raise codes.fail("expected at least one status code, got none")
    return RetryPolicy(
        min(attempts, cap),
        initial,
        longest,
        multiplier,
        _status_codes(codes),
        node.optional("perAttemptRecvTimeout", Node.seconds_above_zero),
    )


def parse_hedging_policy(node: Node, cap: int) -> HedgingPolicy:
    """`hedgingPolicy`; raises ServiceConfigError."""
    attempts = node.need("maxAttempts").integer(2)
    return HedgingPolicy(
        min(attempts, cap),
        node.optional("hedgingDelay", Node.seconds) or 0.0,
        node.optional("nonFatalStatusCodes", _status_codes) or frozenset(),
    )


def parse_retry_throttling(node: Node) -> RetryThrottling:
    """`retryThrottling`; raises ServiceConfigError."""
    tokens = node.need("maxTokens").integer(1, 1000)
    field = node.need("tokenRatio")
    ratio = _three_decimals(field.positive())
    if ratio <= 0:
        problem = f"expected a number >= 0.001 (three decimals count), got {shown(field.value)}"
        raise field.fail(problem)
    return RetryThrottling(tokens, ratio)


def _three_decimals(value: float) -> float:
    """Cut as text, since 0.29 * 1000 is 290 only on paper."""
    whole, _, fraction = repr(value).partition(".")
    if "e" in fraction or not fraction:  # below 0.0001, or so large that it is whole
        return value if value >= 1 else 0.0
    return float(f"{whole}.{fraction[:3]}")


def _status_codes(node: Node) -> frozenset[StatusCode]:
    """Names in any case, or numbers (gRFC A6)."""
    return frozenset(map(_status_code, node.items())) - {StatusCode.OK}


def _status_code(node: Node) -> StatusCode:
    value = node.value
    found: StatusCode | None = None
    if isinstance(value, str):
        found = _CODES.get(value.upper())
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found = _NUMBERS.get(value)
    if found is None:
        hint = " (gRPC spells it CANCELLED)" if str(value).upper() == "CANCELED" else ""
        raise node.fail(f"expected a status code's name or number, got {shown(value)}{hint}")
    return found
