"""Channel options of the DNS resolver that a person got wrong."""

from __future__ import annotations

import re
from typing import Any

import pytest

from grpclb.resolvers.dns.settings import Settings

MIN, MAX = "grpclb.dns_min_refresh_ms", "grpclb.dns_max_refresh_ms"
QUIET = "grpc.dns_min_time_between_resolutions_ms"
NO_TXT = "grpc.service_config_disable_resolution"


def test_the_defaults() -> None:
    assert Settings.read({"grpc.other": 1}) == Settings(5, 30, 5, 5, txt=False)


@pytest.mark.parametrize("name", [MIN, MAX, "grpclb.dns_timeout_ms"])
@pytest.mark.parametrize("value", [0, -1, 2**31, "5", 1.5, True, float("nan")])
def test_a_time_must_be_a_positive_integer(name: str, value: Any) -> None:
    message = f"channel option {name!r}: expected milliseconds in 1..2147483647, got {value!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        Settings.read({name: value})


@pytest.mark.parametrize("value", [-1, "5", None.__class__, True])
def test_the_quiet_time_may_be_zero_but_not_less(value: Any) -> None:
    assert Settings.read({QUIET: 0}).quiet == 0
    with pytest.raises(ValueError, match=re.escape(f"{QUIET!r}: expected milliseconds in 0..")):
        Settings.read({QUIET: value})


def test_the_bounds_must_not_cross() -> None:
    message = f"channel option {MIN!r}: 9000 is above {MAX!r} (8000)"
    with pytest.raises(ValueError, match=re.escape(message)):
        Settings.read({MIN: 9_000, MAX: 8_000})


@pytest.mark.parametrize(
    ("options", "low", "high", "quiet"),
    [
        ({MIN: 60_000}, 60, 60, 60),
        ({MAX: 2_000}, 2, 2, 2),
        ({MIN: 100, MAX: 100}, 0.1, 0.1, 0.1),
        ({MIN: 100, QUIET: 1_000}, 0.1, 30, 1),
    ],
)
def test_one_bound_moves_the_default_of_the_others(
    options: dict[str, int], low: float, high: float, quiet: float
) -> None:
    settings = Settings.read(options)
    assert (settings.min_refresh, settings.max_refresh, settings.quiet) == (low, high, quiet)


@pytest.mark.parametrize(("value", "txt"), [(0, True), (False, True), (1, False), (True, False)])
def test_txt_records_are_read_only_when_asked_for(value: Any, txt: bool) -> None:
    assert Settings.read({NO_TXT: value}).txt is txt


@pytest.mark.parametrize("value", [2, -1, "0", None.__class__])
def test_the_switch_of_txt_records_is_0_or_1(value: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{NO_TXT!r}: expected 0 or 1, got {value!r}")):
        Settings.read({NO_TXT: value})
