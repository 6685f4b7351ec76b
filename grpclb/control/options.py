"""Channel options: what is ours, what a subchannel gets, and what is refused with a reason.

The options are grpcio's own ``(key, value)`` pairs. Keys that begin with ``grpclb.`` are ours
(`KNOBS` is their whole list); a few of gRPC's are executed by us, since C-core sees one address at
a time; everything else goes to every subchannel as it is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Number
from typing import Any

Option = tuple[str, Any]

# name -> (lowest, highest, default). Milliseconds, counts or bytes, as the name says.
KNOBS: Mapping[str, tuple[int, int, int]] = {
    # Read by the dns resolver, which knows their defaults; here so that a typing error is seen.
    "grpclb.dns_min_refresh_ms": (1, 86_400_000, 5_000),
    "grpclb.dns_max_refresh_ms": (1, 86_400_000, 30_000),
    "grpclb.dns_timeout_ms": (1, 600_000, 5_000),
    # How long a name that DNS says is gone (NXDOMAIN, NODATA) keeps its last good addresses.
    "grpclb.dns_negative_ttl_ms": (0, 2**31 - 1, 300_000),
    # Connections of a removed address: kept this long in case that it comes back at once.
    "grpclb.subchannel_linger_ms": (0, 3_600_000, 5_000),
    # Running RPCs of a removed address: 0 lets them finish, however long they take.
    "grpclb.drain_timeout_ms": (0, 2**31 - 1, 0),
    # Updates that come faster than this are joined; the first is never held back.
    "grpclb.update_coalescing_ms": (0, 60_000, 100),
    # Endpoints of this channel above twice this number: a stable random subset of this size.
    "grpclb.subset_size": (0, 50_000, 100),
    # RPCs of this channel that wait for a backend at one time, beyond which they fail at once.
    "grpclb.max_pending_calls": (1, 2**31 - 1, 10_000),
    # The first resolution: how long fail-fast RPCs wait for it.
    "grpclb.resolve_timeout_ms": (1, 2**31 - 1, 5_000),
    # Retry attempts that a service config may ask for (gRFC A6 caps at 5).
    "grpclb.max_retry_attempts": (2, 1_000, 5),
    # Requests kept for replay by all RPCs of the channel together, in bytes.
    "grpclb.retry_buffer_size": (0, 2**31 - 1, 16_777_216),
}

_IDLE_TIMEOUT = "grpc.client_idle_timeout_ms"
# Executed by grpclb. Each would act a second time, or on the wrong thing, inside a subchannel.
_OURS = frozenset(
    {
        "grpc.service_config",
        "grpc.service_config_disable_resolution",
        "grpc.lb_policy_name",
        "grpc.inhibit_health_checking",
        "grpc.dns_min_time_between_resolutions_ms",
        "grpc.happy_eyeballs_connection_attempt_delay_ms",
        "grpc.default_authority",
        _IDLE_TIMEOUT,
    }
)

# FIGURES section 7: the 20 s and 120 s of doc/connection-backoff.md leave a pod that came back
# unused for minutes. A user's own value for the same option wins.
_SUBCHANNEL_DEFAULTS: Mapping[str, int] = {
    "grpc.initial_reconnect_backoff_ms": 1_000,
    "grpc.min_reconnect_backoff_ms": 5_000,
    "grpc.max_reconnect_backoff_ms": 30_000,
    # A resolver hands over pod addresses: an HTTP proxy is not the way to them (grpc#40366).
    "grpc.enable_http_proxy": 0,
}

# What no user option changes: a subchannel is one address with a connection of its own.
_SUBCHANNEL_FIXED: tuple[Option, ...] = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.service_config_disable_resolution", 1),
    # We close idle subchannels ourselves; C-core's longest value keeps it out of our way.
    (_IDLE_TIMEOUT, 2**31 - 1),
)


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """The options of one channel, checked."""

    values: Mapping[str, Any]
    passed: tuple[Option, ...] = field(default=())

    def knob(self, name: str) -> int:
        """One of `KNOBS`, or its default."""
        value: int = self.values.get(name, KNOBS[name][2])
        return value

    @property
    def idle_timeout(self) -> float:
        """Seconds without an RPC after which the channel goes idle (30 min, as in gRPC)."""
        value = self.values.get(_IDLE_TIMEOUT, 1_800_000)
        return float("inf") if value >= 2**31 - 1 else max(value, 1_000) / 1000

    @property
    def connect_backoff(self) -> dict[str, int]:
        """What C-core does between connection attempts, in milliseconds (connection-backoff.md)."""
        names = {
            "initial_ms": "grpc.initial_reconnect_backoff_ms",
            "max_ms": "grpc.max_reconnect_backoff_ms",
            "connect_timeout_ms": "grpc.min_reconnect_backoff_ms",
        }
        return {
            short: self.values.get(name, _SUBCHANNEL_DEFAULTS[name])
            for short, name in names.items()
        }

    @property
    def retries(self) -> bool:
        """Whether retry and hedging policies are executed (`grpc.enable_retries`, on)."""
        return bool(self.values.get("grpc.enable_retries", 1))

    @property
    def replay_limit(self) -> int:
        """Bytes of requests kept for replay per RPC; one that needs more is not retried."""
        limit: int = self.values.get("grpc.per_rpc_retry_buffer_size", 262_144)
        return limit

    @property
    def authority(self) -> str | None:
        """The authority that the user set, or None."""
        return self.values.get("grpc.default_authority")

    @property
    def health_checks_inhibited(self) -> bool:
        return bool(self.values.get("grpc.inhibit_health_checking"))


def parse_options(options: Sequence[Option] | None) -> ChannelOptions:
    """Check all options. Raises what grpcio would (TypeError, ValueError, OverflowError), with
    a message that names the bad one.
    """
    values: dict[str, Any] = {}
    passed: list[Option] = []
    expected = "options must be a list of (key, value) pairs, got "
    if not isinstance(options or (), Iterable):
        raise TypeError(expected + type(options).__name__)
    if isinstance(options, (str, bytes, Mapping)):
        raise ValueError(expected + type(options).__name__)
    for index, pair in enumerate(options or ()):
        key, value = _checked_pair(index, pair)
        if key.startswith("grpclb."):
            _check_knob(key, value)
        elif key not in _OURS:
            passed.append((key, value))
        if key == _IDLE_TIMEOUT:
            _check_int(key, value, 0, 2**31 - 1)
        values[key] = value
    for name in ("grpc.default_authority", "grpc.lb_policy_name"):
        values = _as_text(values, name)
    return ChannelOptions(values, tuple(passed))


def subchannel_options(
    options: ChannelOptions, authority: str, service_config: str | None
) -> tuple[Option, ...]:
    """The arguments of the C-core channel behind one subchannel.

    `service_config` is the small one that has C-core do health checks and message limits on the
    data connection; no retry policy and no timeout is ever in it.
    """
    given = options.values
    defaults = _SUBCHANNEL_DEFAULTS.items()
    result: list[Option] = [(key, value) for key, value in defaults if key not in given]
    result.extend(options.passed)
    # Measured: keepalive_timeout_ms alone does not detect a frozen peer; the HTTP/2 ping timeout
    # (60 s by default) does.
    if "grpc.keepalive_time_ms" in given and "grpc.http2.ping_timeout_ms" not in given:
        result.append(
            ("grpc.http2.ping_timeout_ms", given.get("grpc.keepalive_timeout_ms", 20_000))
        )
    result.append(("grpc.default_authority", authority))
    result.extend(_SUBCHANNEL_FIXED)
    if service_config is not None:
        result.append(("grpc.service_config", service_config))
    return tuple(result)


def _checked_pair(index: int, pair: object) -> Option:
    where = f"channel option {index}"
    if not isinstance(pair, Sequence):
        raise TypeError(f"{where}: expected a (key, value) pair, got {pair!r}")
    if isinstance(pair, (str, bytes)):
        raise ValueError(f"{where}: expected a (key, value) pair, got {pair!r}")
    if len(pair) != 2:
        raise ValueError(f"{where}: expected a (key, value) pair, got {len(pair)} items: {pair!r}")
    key, value = pair
    if isinstance(key, bytes):
        key = key.decode()
    if not isinstance(key, str):
        raise TypeError(f"{where}: the key must be str, got {key!r}")
    _check_value(key, value)
    return key, value


def _check_value(key: str, value: object) -> None:
    if isinstance(value, int):
        if not -(2**31) <= value < 2**31:
            raise OverflowError(f"channel option {key!r}: {value} does not fit into 32 bits")
    # grpcio takes whatever else has __int__ for the address of a C object, a float too.
    elif not isinstance(value, (str, bytes)) and (
        isinstance(value, (float, Number)) or not hasattr(value, "__int__")
    ):
        kind = type(value).__name__
        raise TypeError(f"channel option {key!r}: expected int, str or bytes, got {kind}")


def _check_knob(key: str, value: object) -> None:
    if key not in KNOBS:
        near = difflib.get_close_matches(key, KNOBS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(KNOBS)}"
        raise ValueError(f"unknown channel option {key!r}; {hint}")
    low, high, _ = KNOBS[key]
    _check_int(key, value, low, high)


def _check_int(key: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"channel option {key!r}: expected an int, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"channel option {key!r}: {value} is not in {low}..{high}")


def _as_text(values: dict[str, Any], name: str) -> dict[str, Any]:
    value = values.get(name)
    if value is None:
        return values
    if isinstance(value, bytes):
        value = value.decode()
    if not isinstance(value, str) or not value:
        raise TypeError(f"channel option {name!r}: expected text, got {value!r}")
    return {**values, name: value}
