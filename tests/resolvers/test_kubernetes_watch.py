"""The resolver against an API server that fails in every way (F28, F29, F33), on virtual time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from grpclb.resolvers.kubernetes.api import Timeouts
from tests.support.kubernetes_api import Fault, Request
from tests.support.kubernetes_objects import slice_object
from tests.support.kubernetes_scene import Scene, play

A, B, C, D = "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"


def seconds() -> float:
    return asyncio.get_running_loop().time()


# ---- F28: faults


def gone_by_status(scene: Scene) -> None:
    scene.api.gone_by_status = True
    scene.api.compact()
    scene.api.elsewhere()
    scene.api.compact()
    scene.api.break_watches("end")


def rotated(scene: Scene) -> None:
    """The server takes a new token only, which the kubelet has just written."""
    scene.api.tokens = {"new"}
    scene.token = "new"
    scene.api.break_watches("cut")


def rotated_late(scene: Scene) -> None:
    rotated(scene)
    scene.token = "token"
    asyncio.get_running_loop().call_later(0.5, setattr, scene, "token", "new")


def answers(*faults: Fault) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        scene.api.fail_next("any", *faults)
        scene.api.break_watches("cut")

    return act


FAULTS: dict[str, Callable[[Scene], None]] = {
    **{
        how: lambda scene, how=how: scene.api.break_watches(how)  # type: ignore[misc]
        for how in ("end", "cut", "half", "junk", "410", "500", "504")
    },
    "410 as HTTP status": gone_by_status,
    "500 as HTTP status": answers(Fault(500)),
    "html in place of the API": answers(Fault(200, body=b"<html>sign in</html>")),
    "cut before the answer": answers(Fault(cut=True), Fault(cut=True)),
    "429": answers(Fault(429, headers=(("Retry-After", "1"),))),
    "401, the token was rotated": rotated,
    "401, the token comes late": rotated_late,
    "403 for a moment": answers(Fault(403)),
    "every connection lost": lambda scene: scene.api.restart(),
}


@pytest.mark.parametrize("steady", [True, False], ids=["a good watch", "a new watch"])
@pytest.mark.parametrize("fault", FAULTS)
def test_after_each_fault_the_set_is_the_servers_within_2_s(fault: str, steady: bool) -> None:
    scene = Scene()

    async def script() -> None:
        scene.api.put(slice_object("api-1", "api", [A, B]))
        scene.api.put(slice_object("api-2", "api", [C]))
        await scene.until(lambda: scene.told and scene.now == {A, B, C}, 1)
        await asyncio.sleep(60 if steady else 0.5)
        before = len(scene.api.requests)
        FAULTS[fault](scene)
        # What happens while nobody watches.
        scene.api.put(slice_object("api-1", "api", [B, D]))
        scene.api.delete("api-2")
        # Half a second more than F28's 2 s where the server asks for a second of quiet.
        await scene.until(lambda: scene.now == {B, D}, 2.5)
        await asyncio.sleep(1)
        assert scene.now == {B, D}
        assert {A, B, C} in scene.lists
        assert len(scene.api.requests) - before <= 7

    play(scene, script)


@pytest.mark.parametrize(
    "fault",
    [Fault(500), Fault(503), Fault(403), Fault(cut=True), Fault(200, body=b"{}"), Fault(302)],
    ids=str,
)
def test_a_fault_that_stays_costs_few_requests_and_no_endpoint(fault: Fault) -> None:
    scene = Scene()

    async def script() -> None:
        scene.api.put(slice_object("api-1", "api", [A, B]))
        await scene.until(lambda: scene.told and scene.now == {A, B}, 1)
        await asyncio.sleep(30)
        before = len(scene.api.requests)
        scene.api.fail_next("any", *[fault] * 100)
        scene.api.break_watches("cut")
        await asyncio.sleep(600)
        assert 10 <= len(scene.api.requests) - before <= 30
        assert scene.lists == [{A, B}]
        scene.api.put(slice_object("api-1", "api", [B]))
        scene.api.mend()
        await scene.until(lambda: scene.now == {B}, 60)

    play(scene, script)


@pytest.mark.parametrize("how", ["410", "end", "cut", "junk", "half", "500"])
def test_a_watch_that_breaks_at_once_each_time_costs_few_requests(how: str) -> None:
    scene = Scene()

    async def script() -> None:
        scene.api.put(slice_object("api-1", "api", [A, B]))
        scene.api.break_at_once = how
        await asyncio.sleep(600)
        assert len(scene.api.requests) > 20
        assert len(scene.api.requests) <= 70  # of which a list may be every second one
        assert set(map(frozenset, scene.lists)) == {frozenset({A, B})}

    play(scene, script)


def test_a_server_that_is_away_for_ten_minutes_is_asked_30_times_at_most() -> None:
    scene = Scene()

    async def script() -> None:
        scene.api.put(slice_object("api-1", "api", [A, B]))
        await scene.until(lambda: scene.told and scene.now == {A, B}, 1)
        await asyncio.sleep(60)
        scene.api.up = False
        scene.api.restart()
        connects, cpu = scene.api.connects, time.thread_time()
        await asyncio.sleep(600)
        assert 15 <= scene.api.connects - connects <= 30
        assert time.thread_time() - cpu < 0.25  # 0.05 on a quiet machine
        assert len(scene.told) == 2
        assert "Connection refused" in scene.errors[0]
        scene.api.put(slice_object("api-1", "api", [C]))
        scene.api.up = True
        await scene.until(lambda: scene.now == {C}, 55)

    play(scene, script)


def test_retry_after_is_obeyed() -> None:
    scene = Scene()

    async def script() -> None:
        scene.api.fail_next("list", Fault(429, headers=(("Retry-After", "20"),)))
        scene.api.put(slice_object("api-1", "api", [A]))
        await scene.until(lambda: scene.told and scene.now == {A}, 21)
        first, second = (r.at for r in scene.api.requests if r.verb == "list")
        assert second - first >= 20

    play(scene, script)


def test_a_rotated_token_is_read_for_every_connection() -> None:
    scene = Scene()

    async def script() -> None:
        scene.api.put(slice_object("api-1", "api", [A]))
        await scene.until(lambda: scene.told and scene.now == {A}, 1)
        scene.token = "second"
        scene.api.tokens.add("second")
        await asyncio.sleep(400)  # longer than any watch
        used = [r.headers["authorization"] for r in scene.api.requests]
        assert used[0] == "Bearer token"
        assert used[-1] == "Bearer second"
        assert scene.credentials.rejections == 0

    play(scene, script)


def test_a_token_that_was_just_rotated_costs_no_wait() -> None:
    """The kubelet writes the new one between our reading the file and the server's answer."""
    scene = Scene()

    def rotate(request: Request) -> None:
        if scene.api.count("watch") == 2:
            scene.token = "new"

    async def script() -> None:
        scene.api.put(slice_object("api-1", "api", [A]))
        await scene.until(lambda: scene.told, 1)
        scene.api.tokens = {"new"}
        scene.api.on_request = rotate
        scene.api.break_watches("cut")
        await scene.until(lambda: scene.api.count("watch") == 3, 2)
        refused, accepted = scene.api.requests[-2:]
        assert accepted.at - refused.at < 0.01
        assert scene.credentials.rejections == 1
        await asyncio.sleep(1)
        assert scene.errors == []  # nobody need hear of it

    play(scene, script)


# ---- F29: silence


def test_a_silent_watch_ends_30_s_after_its_time_and_not_before() -> None:
    scene = Scene(timeouts=Timeouts(watch=(240, 240)))

    async def script() -> None:
        scene.api.put(slice_object("api-1", "api", [A]))
        scene.api.fail_next("watch", Fault(silent=True))
        await scene.until(lambda: scene.api.count("watch") == 1, 1)
        began = seconds()
        await scene.until(lambda: scene.api.count("watch") == 2, 300)
        # Headers must come sooner than events.
        assert 29 <= seconds() - began <= 31

    play(scene, script)


def test_a_watch_that_goes_silent_after_it_began() -> None:
    scene = Scene(timeouts=Timeouts(watch=(2, 2), grace=1.0))

    async def script() -> None:
        scene.api.put(slice_object("api-1", "api", [A]))
        await scene.until(lambda: scene.api.watching == 1, 1)
        scene.api.stuck = True
        began = seconds()
        await scene.until(lambda: scene.api.count("watch") == 2, 10)
        assert 3.0 <= seconds() - began <= 3.5
        scene.api.stuck = False

    play(scene, script)


def test_a_watch_lasts_as_long_as_it_was_asked_to_and_goes_on_at_once() -> None:
    scene = Scene()

    async def script() -> None:
        scene.api.put(slice_object("api-1", "api", [A]))
        await asyncio.sleep(3600)
        watches = [r for r in scene.api.requests if r.verb == "watch"]
        asked = [int(r.query["timeoutSeconds"]) for r in watches]
        assert all(240 <= s <= 360 for s in asked)
        assert len(set(asked)) > 3  # clients that started together drift apart
        for request, following, wanted in zip(watches, watches[1:], asked, strict=False):
            assert wanted <= following.at - request.at <= wanted + 0.1
        assert scene.api.count("list") == 1
        assert scene.lists == [{A}]

    play(scene, script)


def test_a_server_that_never_answers_is_reported_within_seconds() -> None:
    scene = Scene()

    async def script() -> None:
        scene.api.fail_next("any", Fault(silent=True))
        await scene.until(lambda: scene.told, 4.5)
        assert scene.now == "kubernetes:///api.shop: no answer from the API server in 4 s"
        scene.api.put(slice_object("api-1", "api", [A]))
        await scene.until(lambda: scene.now == {A}, 40)

    play(scene, script)
