"""What the resolver makes of a server that is well (FIGURES F30, F31), on virtual time."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable

import pytest

from tests.support.kubernetes_api import Request
from tests.support.kubernetes_objects import endpoint_object, slice_object
from tests.support.kubernetes_scene import Scene, play

A, B, C, D = "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"


# ---- F31: versions and pages


def test_a_bookmark_is_where_the_next_watch_begins() -> None:
    scene = Scene()
    scene.api.bookmark_at_end = False

    async def script() -> None:
        scene.api.put(slice_object("api-1", "api", [A]))
        await scene.until(lambda: scene.api.watching == 1, 1)
        scene.api.elsewhere(49)
        assert scene.api.version == 150
        scene.api.bookmark()
        await asyncio.sleep(1)
        scene.api.compact()
        scene.api.break_watches("cut")
        await scene.until(lambda: scene.api.count("watch") == 2, 2)
        assert scene.api.requests[-1].query["resourceVersion"] == "150"
        assert scene.api.count("list") == 1

    play(scene, script)


def test_the_list_comes_in_pages() -> None:
    scene = Scene()

    for number in range(250):
        scene.api.put(slice_object(f"api-{number:03}", "api", [f"10.1.{number}.1"]))

    async def all_of_them() -> None:
        await scene.until(lambda: scene.told, 5)
        assert scene.now == {f"10.1.{number}.1" for number in range(250)}
        assert len(scene.lists) == 1
        lists = [r.query for r in scene.api.requests if r.verb == "list"]
        assert [q["limit"] for q in lists] == ["100", "100", "100"]
        assert ["continue" in q for q in lists] == [False, True, True]

    play(scene, all_of_them)


def test_pages_that_expire_are_read_anew_in_one() -> None:
    scene = Scene()
    for number in range(150):
        scene.api.put(slice_object(f"api-{number:03}", "api", [f"10.1.{number}.1"]))

    def change(request: Request) -> None:
        if "continue" in request.query:
            scene.api.compact()
            scene.api.put(slice_object("api-000", "api", [A]))

    scene.api.on_request = change

    async def script() -> None:
        await scene.until(lambda: scene.told, 2)
        assert scene.now == {A, *(f"10.1.{number}.1" for number in range(1, 150))}
        limits = [r.query.get("limit") for r in scene.api.requests if r.verb == "list"]
        assert limits == ["100", "100", None]

    play(scene, script)


def test_requests_are_what_the_api_wants() -> None:
    scene = Scene()

    async def script() -> None:
        scene.api.put(slice_object("api-1", "api", [A]))
        await scene.until(lambda: scene.api.watching, 1)
        listed, watched = scene.api.requests
        path = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"
        assert (listed.path, watched.path) == (path, path)
        assert listed.query["labelSelector"] == "kubernetes.io/service-name=api"
        assert watched.query["labelSelector"] == "kubernetes.io/service-name=api"
        assert watched.query["allowWatchBookmarks"] == "true"
        assert watched.query["resourceVersion"] == "101"
        assert listed.headers["host"] == "10.96.0.1:443"
        assert scene.api.connects == 1

    play(scene, script)


# ---- F30: slices


def test_one_of_three_slices_changes_and_250_endpoints_stay() -> None:
    scene = Scene()

    def fill(number: int, count: int, zone: str) -> None:
        names = [endpoint_object(f"10.{number}.0.{i}", zone=zone) for i in range(count)]
        scene.api.put(slice_object(f"api-{number}", "api", names))

    for number, count in enumerate((100, 100, 50)):
        fill(number, count, "a")

    async def script() -> None:
        await scene.until(lambda: scene.told, 1)
        fill(1, 100, "b")
        await scene.until(lambda: len(scene.told) == 2, 1)
        assert [len(found) for found in scene.lists] == [250, 250]
        zones = [e.attributes["zone"] for e in scene.told[-1].endpoints]  # type: ignore[union-attr]
        assert zones.count("b") == 100
        scene.api.delete("api-0")
        await scene.until(lambda: len(scene.lists[-1]) == 150, 1)

    play(scene, script)


@pytest.mark.parametrize("gap", [0.0, 0.05, 0.15])
@pytest.mark.parametrize("order", ["out first", "in first", "deleted"])
def test_an_endpoint_that_moves_between_slices_is_never_absent(order: str, gap: float) -> None:
    scene = Scene()

    def put(name: str, *ips: str) -> None:
        scene.api.put(slice_object(name, "api", ips))

    async def script() -> None:
        put("api-1", A, B)
        put("api-2", C)
        await scene.until(lambda: scene.told and scene.now == {A, B, C}, 1)
        await asyncio.sleep(1)
        steps: list[Callable[[], None]] = [lambda: put("api-1", A), lambda: put("api-2", B, C)]
        if order == "in first":
            steps.reverse()
        elif order == "deleted":
            steps = [lambda: scene.api.delete("api-1"), lambda: put("api-2", A, B, C)]
        for step in steps:
            step()
            await asyncio.sleep(gap)
        await asyncio.sleep(2)
        assert all(found == {A, B, C} for found in scene.lists)

    play(scene, script)


def test_an_endpoint_that_vanishes_is_gone_within_a_quarter_of_a_second() -> None:
    scene = Scene()

    async def script() -> None:
        scene.api.put(slice_object("api-1", "api", [A, B]))
        await scene.until(lambda: scene.told, 1)
        scene.api.put(slice_object("api-1", "api", [A]))
        assert 0.1 < await scene.until(lambda: scene.now == {A}, 1) < 0.25

    play(scene, script)


def test_an_endpoint_that_says_so_is_gone_at_once() -> None:
    scene = Scene()

    async def script() -> None:
        scene.api.put(slice_object("api-1", "api", [A, B]))
        await scene.until(lambda: scene.told, 1)
        leaving = endpoint_object(B, ready=False, serving=True, terminating=True)
        scene.api.put(slice_object("api-1", "api", [A, leaving]))
        assert await scene.until(lambda: scene.now == {A}, 1) < 0.01
        scene.api.put(slice_object("api-1", "api", [A]))
        await asyncio.sleep(1)
        assert scene.lists == [{A, B}, {A}]

    play(scene, script)


def test_to_zero_and_back() -> None:
    scene = Scene()

    async def script() -> None:
        scene.api.put(slice_object("api-1", "api", [A]))
        await scene.until(lambda: scene.told, 1)
        scene.api.put(slice_object("api-1", "api", []))
        await scene.until(lambda: scene.now == set(), 1)
        assert scene.told[-1].note == (
            "kubernetes:///api.shop: Service 'api' in namespace 'shop' has no endpoints"
        )
        scene.api.put(slice_object("api-1", "api", [B]))
        assert await scene.until(lambda: scene.now == {B}, 1) < 0.01

    play(scene, script)


# ---- what is told


def test_nothing_is_told_twice() -> None:
    scene = Scene()

    async def script() -> None:
        scene.api.put(slice_object("api-1", "api", [A]))
        await scene.until(lambda: scene.told, 1)
        for _ in range(5):
            scene.api.put(slice_object("api-1", "api", [A]))
            scene.api.bookmark()
            scene.api.break_watches("cut")
            await asyncio.sleep(10)
        assert len(scene.told) == 1

    play(scene, script)


def test_news_that_comes_just_before_an_outage_is_not_lost() -> None:
    scene = Scene()

    async def script() -> None:
        scene.api.put(slice_object("api-1", "api", [A]))
        await scene.until(lambda: scene.told, 1)
        scene.api.put(slice_object("api-1", "api", [B]))
        await asyncio.sleep(0.01)
        scene.api.up = False
        scene.api.restart()
        await scene.until(lambda: scene.errors, 2)
        assert scene.lists[-1] == {B}

    play(scene, script)


@pytest.mark.expect_log("addressType must be text")
def test_a_malformed_slice_takes_nothing_away(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()

    async def script() -> None:
        scene.api.put(slice_object("api-1", "api", [A]))
        scene.api.put(slice_object("api-2", "api", [B]))
        await scene.until(lambda: scene.told, 1)
        bad = slice_object("api-1", "api", [C])
        del bad["addressType"]
        scene.api.put(bad)
        await asyncio.sleep(1)
        assert scene.now == {A, B}
        scene.api.break_watches("410")  # and in a list
        await asyncio.sleep(1)
        assert scene.api.count("list") == 2
        assert scene.now == {A, B}
        assert len(caplog.records) == 1  # one line for one oddity

    play(scene, script)


@pytest.mark.expect_log("has no EndpointSlices")
def test_a_large_line_is_taken_in_pieces() -> None:
    scene = Scene()
    ips = [f"10.{i >> 8}.{i & 255}.7" for i in range(1500)]
    assert len(json.dumps(slice_object("api-1", "api", ips))) > 65_536

    async def script() -> None:
        await scene.until(lambda: scene.api.watching, 5)
        scene.api.put(slice_object("api-1", "api", ips))
        await scene.until(lambda: scene.told and scene.now == set(ips), 1)

    scene.api.services.add(("shop", "api"))
    play(scene, script)


# ---- one watch for many


def test_channels_to_one_service_share_a_watch() -> None:
    scene = Scene()

    async def script() -> None:
        scene.api.put(slice_object("api-1", "api", [A]))
        await scene.until(lambda: len(scene.told) == 50, 1)
        assert (scene.api.count("list"), scene.api.watching) == (1, 1)
        scene.api.put(slice_object("api-1", "api", [A, B]))
        await scene.until(lambda: len(scene.told) == 100, 1)

    play(scene, script, resolvers=50)


def test_a_channel_that_comes_and_goes_leaves_the_watch_to_the_others() -> None:
    scene = Scene()

    async def script() -> None:
        scene.api.put(slice_object("api-1", "api", [A]))
        await scene.until(lambda: scene.told, 1)
        for number in range(1, 4):
            task = asyncio.create_task(scene.resolver().run(scene.take))
            await scene.until(functools.partial(scene.told_more_than, number), 1)
            task.cancel()
            await asyncio.wait([task])
            assert (scene.api.watching, scene.api.count("list")) == (1, 1)

    play(scene, script)  # which looks that the last one ends the watch
