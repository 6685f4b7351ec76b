"""Channel options: what is refused and why, what a subchannel gets."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

import grpclb  # noqa: F401  (knobs are documented in one place, whoever reads them)
from grpclb.control.options import KNOBS, parse_options, subchannel_options

BIG = 2**31


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (5, TypeError, "options must be a list of (key, value) pairs, got int"),
        ({"grpc.x": 1}, ValueError, "options must be a list of (key, value) pairs, got dict"),
        ("grpc.x", ValueError, "options must be a list of (key, value) pairs, got str"),
        (["grpc.x"], ValueError, "channel option 0: expected a (key, value) pair, got 'grpc.x'"),
        ([("a", 1), 7], TypeError, "channel option 1: expected a (key, value) pair, got 7"),
        (
            [("a", 1, 2)],
            ValueError,
            "channel option 0: expected a (key, value) pair, got 3 items: ('a', 1, 2)",
        ),
        ([(5, 5)], TypeError, "channel option 0: the key must be str, got 5"),
        (
            [("grpc.x", None)],
            TypeError,
            "channel option 'grpc.x': expected int, str or bytes, got NoneType",
        ),
        (
            [("grpc.x", 1.5)],
            TypeError,
            "channel option 'grpc.x': expected int, str or bytes, got float",
        ),
        (
            [("grpc.x", Fraction(1))],
            TypeError,
            "channel option 'grpc.x': expected int, str or bytes, got Fraction",
        ),
        (
            [("grpc.x", [1])],
            TypeError,
            "channel option 'grpc.x': expected int, str or bytes, got list",
        ),
        (
            [("grpc.x", BIG)],
            OverflowError,
            "channel option 'grpc.x': 2147483648 does not fit into 32 bits",
        ),
        (
            [("grpc.client_idle_timeout_ms", "5")],
            TypeError,
            "channel option 'grpc.client_idle_timeout_ms': expected an int, got '5'",
        ),
        (
            [("grpc.client_idle_timeout_ms", -1)],
            ValueError,
            "channel option 'grpc.client_idle_timeout_ms': -1 is not in 0..2147483647",
        ),
        (
            [("grpc.default_authority", 5)],
            TypeError,
            "channel option 'grpc.default_authority': expected text, got 5",
        ),
        (
            [("grpc.lb_policy_name", "")],
            TypeError,
            "channel option 'grpc.lb_policy_name': expected text, got ''",
        ),
        (
            [("grpclb.subset_sise", 5)],
            ValueError,
            "unknown channel option 'grpclb.subset_sise'; did you mean 'grpclb.subset_size'?",
        ),
        (
            [("grpclb.subset_size", True)],
            TypeError,
            "channel option 'grpclb.subset_size': expected an int, got True",
        ),
        (
            [("grpclb.subset_size", -1)],
            ValueError,
            "channel option 'grpclb.subset_size': -1 is not in 0..50000",
        ),
    ],
)
def test_bad_options_are_refused_by_name(options: Any, error: type, message: str) -> None:
    with pytest.raises(error) as refused:
        parse_options(options)
    assert str(refused.value) == message
    assert type(refused.value) is error


def test_an_unknown_option_of_ours_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"unknown channel option 'grpclb\.zzz'; known: .*") as e:
        parse_options([("grpclb.zzz", 1)])
    assert all(knob in str(e.value) for knob in KNOBS)


@pytest.mark.parametrize("name", KNOBS)
def test_each_knob_takes_its_whole_range_and_no_more(name: str) -> None:
    low, high, default = KNOBS[name]
    assert low <= default <= high
    assert parse_options(None).knob(name) == default
    for good in (low, high):
        assert parse_options([(name, good)]).knob(name) == good
    for bad in (low - 1, high + 1):
        with pytest.raises((ValueError, OverflowError), match=name.replace(".", r"\.")):
            parse_options([(name, bad)])


def test_nothing_is_as_good_as_an_empty_list() -> None:
    several: tuple[Any, ...] = (None, (), [])
    for options in several:
        assert parse_options(options).passed == ()


def test_the_last_of_repeated_options_wins_as_in_core() -> None:
    options = parse_options([("grpclb.subset_size", 1), ("grpclb.subset_size", 2)])
    assert options.knob("grpclb.subset_size") == 2


def test_keys_and_texts_may_be_bytes() -> None:
    given: Any = [(b"grpc.primary_user_agent", b"mine"), (b"grpc.lb_policy_name", b"x")]
    options = parse_options(given)
    assert options.passed == (("grpc.primary_user_agent", b"mine"),)
    assert options.values["grpc.lb_policy_name"] == "x"


@pytest.mark.parametrize(
    ("milliseconds", "seconds"),
    [(None, 1800.0), (60_000, 60.0), (5, 1.0), (0, 1.0), (BIG - 1, float("inf"))],
)
def test_idle_timeout(milliseconds: int | None, seconds: float) -> None:
    given = [] if milliseconds is None else [("grpc.client_idle_timeout_ms", milliseconds)]
    assert parse_options(given).idle_timeout == seconds


def arguments(
    *options: tuple[str, Any], authority: str = "api.ns", config: str | None = None
) -> dict[str, Any]:
    """What C-core makes of a subchannel's arguments: the last of each key."""
    return dict(subchannel_options(parse_options(options), authority, config))


def test_a_subchannel_s_own_arguments() -> None:
    assert arguments() == {
        "grpc.initial_reconnect_backoff_ms": 1_000,
        "grpc.min_reconnect_backoff_ms": 5_000,
        "grpc.max_reconnect_backoff_ms": 30_000,
        "grpc.enable_http_proxy": 0,
        "grpc.default_authority": "api.ns",
        "grpc.use_local_subchannel_pool": 1,
        "grpc.service_config_disable_resolution": 1,
        "grpc.client_idle_timeout_ms": BIG - 1,
    }


def test_what_is_ours_does_not_reach_a_subchannel() -> None:
    ours = {
        "grpc.service_config": '{"methodConfig": []}',
        "grpc.service_config_disable_resolution": 0,
        "grpc.lb_policy_name": "round_robin",
        "grpc.inhibit_health_checking": 1,
        "grpc.dns_min_time_between_resolutions_ms": 5,
        "grpc.happy_eyeballs_connection_attempt_delay_ms": 100,
        "grpc.default_authority": "mine",
        "grpc.client_idle_timeout_ms": 5000,
        "grpclb.subset_size": 5,
    }
    assert arguments(*ours.items()) == arguments()


@pytest.mark.parametrize(
    "option",
    [
        ("grpc.max_receive_message_length", -1),
        ("grpc.primary_user_agent", "mine/1"),
        ("grpc.ssl_target_name_override", "other"),
        ("grpc.initial_reconnect_backoff_ms", 10),
        ("grpc.max_reconnect_backoff_ms", 20),
        ("grpc.enable_http_proxy", 1),
        ("grpc.enable_retries", 0),
    ],
)
def test_everything_else_does(option: tuple[str, Any]) -> None:
    assert arguments(option)[option[0]] == option[1]


def test_what_makes_it_a_subchannel_cannot_be_changed() -> None:
    given = arguments(("grpc.use_local_subchannel_pool", 0))
    assert given["grpc.use_local_subchannel_pool"] == 1


@pytest.mark.parametrize(
    ("options", "timeout"),
    [
        ([], None),
        ([("grpc.keepalive_timeout_ms", 700)], None),
        ([("grpc.keepalive_time_ms", 9)], 20_000),
        ([("grpc.keepalive_time_ms", 9), ("grpc.keepalive_timeout_ms", 700)], 700),
        ([("grpc.keepalive_time_ms", 9), ("grpc.http2.ping_timeout_ms", 5)], 5),
    ],
)
def test_keepalive_sets_the_ping_timeout_without_which_it_does_nothing(
    options: list[tuple[str, Any]], timeout: int | None
) -> None:
    assert arguments(*options).get("grpc.http2.ping_timeout_ms") == timeout


def test_the_subchannel_s_service_config_is_passed_on() -> None:
    assert arguments(config="{}")["grpc.service_config"] == "{}"
    assert "grpc.service_config" not in arguments()


def test_connect_backoff_for_the_snapshot() -> None:
    options = parse_options([("grpc.max_reconnect_backoff_ms", 7)])
    assert options.connect_backoff == {
        "initial_ms": 1_000,
        "max_ms": 7,
        "connect_timeout_ms": 5_000,
    }
