"""When to look again: the user's bounds, and the time that a TTL asks for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from random import Random

MIN_REFRESH = "grpclb.dns_min_refresh_ms"
MAX_REFRESH = "grpclb.dns_max_refresh_ms"
TIMEOUT = "grpclb.dns_timeout_ms"
QUIET = "grpc.dns_min_time_between_resolutions_ms"
NO_TXT = "grpc.service_config_disable_resolution"

_MIN_REFRESH_S, _MAX_REFRESH_S, _TIMEOUT_S = 5.0, 30.0, 5.0
_SPREAD = 0.2  # of the refresh time, so that clients that started together drift apart


@dataclass(frozen=True, slots=True)
class Settings:
    """How one channel looks up names; all times are seconds.

    `quiet` is the least time between the starts of two look-ups while all is well, whatever
    caused the second; `timeout` is for one look-up as a whole, however many queries it takes.
    """

    min_refresh: float = _MIN_REFRESH_S
    max_refresh: float = _MAX_REFRESH_S
    quiet: float = _MIN_REFRESH_S
    timeout: float = _TIMEOUT_S
    txt: bool = False

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> Settings:
        """From channel options. Raises ValueError that names the option and what it must be."""
        low = _seconds(options, MIN_REFRESH)
        high = _seconds(options, MAX_REFRESH)
        if low is not None and high is not None and low > high:
            raise ValueError(
                f"channel option {MIN_REFRESH!r}: {options[MIN_REFRESH]} is above "
                f"{MAX_REFRESH!r} ({options[MAX_REFRESH]})"
            )
        # One bound alone moves the other's default out of its way.
        low = low if low is not None else min(_MIN_REFRESH_S, high or _MIN_REFRESH_S)
        high = high if high is not None else max(_MAX_REFRESH_S, low)
        quiet = _seconds(options, QUIET, least=0)
        return cls(
            min_refresh=low,
            max_refresh=high,
            quiet=low if quiet is None else quiet,
            timeout=_seconds(options, TIMEOUT) or _TIMEOUT_S,
            txt=_asks_for_txt(options),
        )

    def refresh_delay(self, ttl: float, random: Random) -> float:
        """Seconds from a good answer to the next look-up, while nobody asks for one.

        The TTL and up to 20 % more, since a cache would give the same answer before; never
        outside of [min_refresh, max_refresh]. A TTL above the maximum gets up to 20 % less.
        """
        low = max(self.min_refresh, self.quiet)
        high = max(self.max_refresh, low)
        if ttl >= high:
            return random.uniform(max(low, high * (1 - _SPREAD)), high)
        low = max(low, ttl)
        return random.uniform(low, min(low * (1 + _SPREAD), high))


def _seconds(options: Mapping[str, Any], name: str, least: int = 1) -> float | None:
    value = options.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
        raise ValueError(
            f"channel option {name!r}: expected milliseconds in {least}..{2**31 - 1}, got {value!r}"
        )
    return value / 1000


def _asks_for_txt(options: Mapping[str, Any]) -> bool:
    """Off unless asked for: DNS is not authenticated, and gRPC's own default is off, too."""
    value = options.get(NO_TXT, 1)
    if not isinstance(value, int) or value not in (0, 1):
        raise ValueError(f"channel option {NO_TXT!r}: expected 0 or 1, got {value!r}")
    return not value
