"""The bucket of tokens behind retries and hedges (gRFC A6)."""

from __future__ import annotations

import threading
from contextlib import nullcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpclb.core.retry_config import RetryThrottling
from grpclb.core.service_config import parse_service_config
from grpclb.core.throttle import Throttle


def bucket(most: int, ratio: float, tokens: int | None = None) -> Throttle:
    throttle = Throttle(RetryThrottling(most, ratio), nullcontext())
    for _ in range(most - (most if tokens is None else tokens)):
        throttle.record_failure()
    return throttle


def test_it_starts_full() -> None:
    throttle = bucket(10, 0.1)
    assert throttle.tokens == 10
    assert throttle.allows


@pytest.mark.parametrize(("most", "failures"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (10, 5)])
def test_half_of_it_is_too_little(most: int, failures: int) -> None:
    throttle = bucket(most, 0.1)
    assert [throttle.record_failure() for _ in range(failures)] == [True] * (failures - 1) + [False]
    assert not throttle.allows


def test_a_thousandth_more_than_half_is_enough() -> None:
    throttle = bucket(10, 0.001, tokens=5)
    assert not throttle.allows
    throttle.record_success()
    assert throttle.allows


def test_ten_times_a_tenth_is_one() -> None:
    throttle = bucket(10, 0.1, tokens=4)
    for _ in range(10):
        throttle.record_success()
    assert throttle.tokens == 5
    assert not throttle.allows
    throttle.record_success()
    assert throttle.allows


def test_it_is_never_less_than_empty_or_more_than_full() -> None:
    throttle = bucket(3, 2.0)
    for _ in range(5):
        throttle.record_failure()
    assert throttle.tokens == 0
    throttle.record_success()
    assert throttle.tokens == 2
    throttle.record_success()
    assert throttle.tokens == 3
    throttle.record_success()
    assert throttle.tokens == 3


def test_a_ratio_of_any_size() -> None:
    throttle = bucket(1000, 1.7e308, tokens=0)
    throttle.record_success()
    assert throttle.tokens == 1000


@pytest.mark.parametrize(("ratio", "tokens"), [(0.5466, 0.546), (0.29, 0.29), (0.0019, 0.001)])
def test_three_decimals_of_a_config_count(ratio: float, tokens: float) -> None:
    raw = {"retryThrottling": {"maxTokens": 1, "tokenRatio": ratio}}
    config = parse_service_config(raw, find_policy=lambda _: None).retry_throttling
    assert config is not None
    throttle = Throttle(config, nullcontext())
    throttle.record_failure()
    throttle.record_success()
    assert throttle.tokens == tokens


def test_an_equal_config_changes_nothing() -> None:
    throttle = bucket(10, 0.1, tokens=4)
    throttle.reconfigure(RetryThrottling(10, 0.1))
    assert throttle.tokens == 4


@pytest.mark.parametrize(
    ("most", "tokens", "new_most", "new_tokens"),
    [(10, 4, 20, 8), (10, 4, 5, 2), (10, 10, 1000, 1000), (10, 0, 3, 0), (3, 1, 1, 0.333)],
)
def test_another_size_keeps_how_full_it_is(
    most: int, tokens: int, new_most: int, new_tokens: float
) -> None:
    throttle = bucket(most, 0.1, tokens)
    throttle.reconfigure(RetryThrottling(new_most, 0.5))
    assert throttle.tokens == new_tokens
    assert throttle.config == RetryThrottling(new_most, 0.5)


def test_another_ratio_counts_from_then_on() -> None:
    throttle = bucket(10, 0.1, tokens=2)
    throttle.reconfigure(RetryThrottling(10, 0.5))
    assert throttle.tokens == 2
    throttle.record_success()
    assert throttle.tokens == 2.5


def test_a_healthy_channel_takes_no_lock() -> None:
    class Forbidden:
        def __enter__(self) -> None:
            raise AssertionError("locked")

        def __exit__(self, *_: object) -> None: ...

    throttle = Throttle(RetryThrottling(10, 0.1), Forbidden())
    throttle.record_success()
    assert throttle.allows
    with pytest.raises(AssertionError, match="locked"):
        throttle.record_failure()


def test_threads_lose_no_token() -> None:
    class Yielding:
        """A lock that would show a change made outside of it: others run while it is waited for."""

        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.entered = 0

        def __enter__(self) -> None:
            self.lock.acquire()
            self.entered += 1

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    lock = Yielding()
    throttle = Throttle(RetryThrottling(1000, 0.001), lock)

    def work() -> None:
        for _ in range(100):
            throttle.record_failure()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lock.entered == 800
    assert throttle.tokens == 200


def test_it_says_how_full_it_is() -> None:
    assert repr(bucket(10, 0.1)) == "<Throttle 10 of 10 tokens>"
    assert repr(bucket(10, 0.1, tokens=5)) == "<Throttle 5 of 10 tokens (throttled)>"


@settings(deadline=None)  # the machine may be busy
@given(
    most=st.integers(1, 1000),
    ratio=st.integers(1, 5000).map(lambda thousandths: thousandths / 1000),
    events=st.lists(st.sampled_from(["ok", "failed", "resized"]), max_size=60),
    sizes=st.lists(st.integers(1, 1000), min_size=60, max_size=60),
)
def test_it_stays_within_bounds(
    most: int, ratio: float, events: list[str], sizes: list[int]
) -> None:
    throttle = bucket(most, ratio)
    for event, size in zip(events, sizes, strict=False):
        before = throttle.tokens
        match event:
            case "ok":
                throttle.record_success()
                assert throttle.tokens == pytest.approx(min(before + ratio, most))
            case "failed":
                allowed = throttle.record_failure()
                assert throttle.tokens == pytest.approx(max(before - 1, 0))
                assert allowed == throttle.allows == (throttle.tokens > most / 2)
            case "resized":
                throttle.reconfigure(RetryThrottling(size, ratio))
                assert throttle.tokens == pytest.approx(before / most * size, abs=0.001)
                most = size
        assert 0 <= throttle.tokens <= most
