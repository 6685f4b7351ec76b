"""When the DNS resolver looks up: TTLs, hints, failures. On virtual time, without any DNS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import pytest

from grpclb.core.address import Endpoint
from grpclb.core.resolver import ResolverState
from grpclb.core.status import Status
from grpclb.resolvers.dns.look_up import Found, Missing
from grpclb.resolvers.dns.resolver import DnsResolver
from grpclb.resolvers.dns.settings import Settings
from tests.support.virtual_loop import run_virtual

NXDOMAIN = Missing("NXDOMAIN from 10.0.0.10:53", negative=True)
SERVFAIL = Missing("SERVFAIL from 10.0.0.10:53", negative=False)


def found(ttl: float) -> Found:
    return Found((Endpoint.of("10.0.0.1:80"),), ttl)


class Scene:
    """A resolver whose look-ups take `takes` seconds and end as `script(number)` says."""

    def __init__(
        self,
        script: Callable[[int], Found | Missing],
        *,
        options: Mapping[str, Any] | None = None,
        takes: float = 0.0,
        accept: Callable[[int], bool] = lambda number: True,
        seed: int = 0,
    ) -> None:
        self.starts: list[float] = []
        self.states: list[ResolverState] = []
        self._script = script
        self._takes = takes
        self._accept = accept
        settings = Settings.read(options or {})
        self.resolver = DnsResolver("dns:///api", self._look_up, settings, Random(seed))

    async def _look_up(self) -> Found | Missing:
        self.starts.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self._takes)
        return self._script(len(self.starts) - 1)

    def _update(self, state: ResolverState) -> bool:
        self.states.append(state)
        return self._accept(len(self.states) - 1)

    def play(self, until: float, hints: tuple[float, ...] = ()) -> Scene:
        """Run for `until` seconds, with a hint at each of `hints`."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            for at in hints:
                loop.call_at(at, self.resolver.resolve_now)
            task = asyncio.create_task(self.resolver.run(self._update))
            await asyncio.sleep(until)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == {asyncio.current_task()}

        run_virtual(main())
        return self

    @property
    def gaps(self) -> list[float]:
        return [b - a for a, b in zip(self.starts, self.starts[1:], strict=False)]


# ---- while all is well


@pytest.mark.parametrize(
    ("ttl", "options", "low", "high"),
    [
        (7, {}, 7, 8.4),
        (0, {}, 5, 6),
        (1, {}, 5, 6),
        (29, {}, 29, 30),
        (30, {}, 24, 30),
        (86_400, {}, 24, 30),
        (float("inf"), {}, 24, 30),
        (0, {"grpclb.dns_min_refresh_ms": 500}, 0.5, 0.6),
        (3, {"grpclb.dns_max_refresh_ms": 2_000}, 2, 2),
        (3, {"grpclb.dns_min_refresh_ms": 1_000, "grpclb.dns_max_refresh_ms": 2_000}, 1.6, 2),
        (0, {"grpclb.dns_min_refresh_ms": 60_000}, 60, 60),
        # gRPC's own option is a promise to the server, which a refresh keeps, too
        (0, {"grpc.dns_min_time_between_resolutions_ms": 40_000}, 40, 40),
        (10, {"grpc.dns_min_time_between_resolutions_ms": 0}, 10, 12),
    ],
)
def test_the_next_look_up_follows_the_ttl_within_the_bounds(
    ttl: float, options: Mapping[str, Any], low: float, high: float
) -> None:
    gaps = Scene(lambda number: found(ttl), options=options).play(until=100 * high).gaps
    assert len(gaps) >= 99
    assert low - 1e-6 <= min(gaps)
    assert max(gaps) <= high + 1e-6
    if high > low:
        assert max(gaps) - min(gaps) > (high - low) * 0.8, "no jitter"


def test_clients_that_start_together_drift_apart() -> None:
    second = [Scene(lambda number: found(5), seed=seed).play(7).starts[1] for seed in range(50)]
    assert max(second) - min(second) > 0.8


def test_an_hour_of_a_short_ttl_costs_a_bounded_number_of_look_ups() -> None:
    scene = Scene(lambda number: found(0)).play(until=3_600)
    assert 3_600 / 6 <= len(scene.starts) <= 3_600 / 5 + 1


# ---- hints


def test_a_hint_after_the_quiet_time_is_followed_at_once() -> None:
    assert Scene(lambda number: found(30)).play(until=14, hints=(7.5,)).starts == [0, 7.5]


def test_hints_in_the_quiet_time_become_one_look_up_at_its_end() -> None:
    hints = (0.1, 0.2, 3, 4.999)
    assert Scene(lambda number: found(30)).play(until=20, hints=hints).starts == [0, 5]


def test_a_hint_during_a_look_up_is_not_lost() -> None:
    scene = Scene(lambda number: found(30), takes=2)
    assert scene.play(until=20, hints=(1,)).starts == [0, 5]


def test_a_storm_of_hints_causes_one_look_up_per_quiet_time() -> None:
    hints = tuple(n / 10 for n in range(600))
    starts = Scene(lambda number: found(30)).play(until=59, hints=hints).starts
    assert starts == pytest.approx([5.0 * n for n in range(12)])


def test_the_quiet_time_is_grpc_s_option() -> None:
    options = {"grpc.dns_min_time_between_resolutions_ms": 20_000}
    scene = Scene(lambda number: found(30), options=options)
    assert scene.play(until=22, hints=(1, 2)).starts == [0, 20]


def test_a_hint_before_the_start_is_part_of_the_first_look_up() -> None:
    scene = Scene(lambda number: found(30))
    scene.resolver.resolve_now()
    assert scene.play(until=20).starts == [0]


# ---- failures


@pytest.mark.parametrize("failure", [NXDOMAIN, SERVFAIL])
def test_failures_back_off_and_hints_do_not_cut_that_short(failure: Missing) -> None:
    hints = tuple(n / 2 for n in range(400))
    gaps = Scene(lambda number: failure).play(until=200, hints=hints).gaps
    for step, gap in enumerate(gaps):
        nominal = min(1.6**step, 120.0)
        assert 0.8 * nominal <= gap <= 1.2 * nominal
    assert len(gaps) >= 8


def test_a_failure_after_good_answers_backs_off_from_the_start_and_a_success_ends_it() -> None:
    scene = Scene(lambda number: SERVFAIL if number in (1, 2, 5) else found(10)).play(until=70)
    first, second, third, _, fifth, sixth = scene.gaps[:6]
    assert 10 <= first <= 12
    assert 0.8 <= second <= 1.2
    assert 1.28 <= third <= 1.92
    assert 10 <= fifth <= 12
    assert 0.8 <= sixth <= 1.2


def test_a_rejected_list_is_looked_up_again_with_backoff() -> None:
    scene = Scene(lambda number: found(30), accept=lambda number: number > 2).play(until=25)
    nominal = [1, 1.6, 2.56]
    assert len(scene.starts) == 4
    for gap, expected in zip(scene.gaps, nominal, strict=True):
        assert 0.8 * expected <= gap <= 1.2 * expected


# ---- what is reported


def test_a_good_answer_is_reported_with_a_note() -> None:
    (state,) = Scene(lambda number: found(7)).play(until=1).states
    assert state.endpoints == (Endpoint.of("10.0.0.1:80"),)
    assert state.note == "dns:///api resolved 1 address (TTL 7 s)"


def test_an_answer_of_the_hosts_file_has_no_ttl() -> None:
    (state,) = Scene(lambda number: found(float("inf"))).play(until=1).states
    assert state.note == "dns:///api resolved 1 address (hosts file)"


@pytest.mark.parametrize(("failure", "negative"), [(NXDOMAIN, True), (SERVFAIL, False)])
def test_a_failure_is_reported_and_says_whether_the_name_is_gone(
    failure: Missing, negative: bool
) -> None:
    state = Scene(lambda number: failure).play(until=0.1).states[0]
    assert state.endpoints == Status.unavailable(f"dns:///api: {failure.details}")
    assert bool(state.attributes.get("dns.negative")) is negative


def test_a_config_from_txt_goes_with_the_addresses() -> None:
    answer = Found((Endpoint.of("10.0.0.1:80"),), 7, {"methodConfig": []})
    (state,) = Scene(lambda number: answer).play(until=1).states
    assert state.service_config == {"methodConfig": []}
