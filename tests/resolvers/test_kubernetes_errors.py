"""What a person is told: refusals, missing Services, wrong ports; and that no secret is."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from grpclb.resolvers.kubernetes.credentials import Grant
from grpclb.resolvers.kubernetes.http import Origin
from tests.support.kubernetes_api import Fault
from tests.support.kubernetes_objects import endpoint_object, slice_object, status_object
from tests.support.kubernetes_scene import Scene, play

A, B = "10.0.0.1", "10.0.0.2"
NAME = "kubernetes:///api.shop"


def first_error(scene: Scene, within: float = 3.0) -> str:
    async def script() -> None:
        await scene.until(lambda: scene.told, within)

    play(scene, script)
    assert isinstance(scene.now, str)
    return scene.now


# ---- refusals


def test_403_names_the_rule_to_add() -> None:
    said = 'endpointslices is forbidden: User "system:serviceaccount:shop:default" cannot list'
    body = json.dumps(status_object(403, "Forbidden", said)).encode()
    scene = Scene()
    scene.api.fail_next("list", *[Fault(403, body=body)] * 9)
    assert first_error(scene, 0.1) == (
        f"{NAME}: the API server https://10.96.0.1:443 does not let us list endpointslices in "
        f"namespace 'shop' (403): {said}; needed is a Role with apiGroups: [discovery.k8s.io], "
        "resources: [endpointslices], verbs: [get, list, watch], bound to the service account"
    )


def test_403_of_the_watch_alone_keeps_the_list_and_lists_again() -> None:
    scene = Scene()
    scene.api.put(slice_object("api-1", "api", [A]))
    scene.api.fail_next("watch", *[Fault(403)] * 5)

    async def script() -> None:
        await scene.until(lambda: scene.errors, 1)
        assert scene.lists == [{A}]
        assert "does not let us watch endpointslices in namespace 'shop' (403)" in scene.errors[0]
        scene.api.put(slice_object("api-1", "api", [B]))
        await scene.until(lambda: {B} in scene.lists, 2)
        assert scene.api.count("list") >= 2
        # A channel joins the updates of 0.1 s, and would keep the failure only.
        assert scene.told_at[1] - scene.told_at[0] > 0.25

    play(scene, script)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault(401), "does not accept the token (/token) (401)"),
        (Fault(404), "does not know endpointslices of discovery.k8s.io/v1 (404)"),
        (Fault(302, headers=(("Location", "https://evil/"),)), "redirects (302), which is not f"),
        (Fault(307), "redirects (307)"),
        (Fault(500), "cannot list endpointslices (500): as told"),
        (Fault(200, body=b"<html>"), "cannot list endpointslices: not JSON: b'<html>'"),
        (Fault(200, body=b"{}"), "cannot list endpointslices: not a list of the API"),
        (Fault(cut=True), "closed the connection"),
    ],
    ids=lambda v: "" if isinstance(v, Fault) else v[:20],
)
def test_other_answers(fault: Fault, text: str) -> None:
    scene = Scene()
    scene.api.fail_next("any", *[fault] * 9)
    assert text in first_error(scene)


def test_a_redirect_is_not_followed() -> None:
    scene = Scene()
    location = ("Location", "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices")
    scene.api.fail_next("any", *[Fault(302, headers=(location,))] * 99)

    async def script() -> None:
        await asyncio.sleep(20)
        assert {r.verb for r in scene.api.requests} == {"list"}
        assert len(scene.api.requests) == scene.api.connects < 15

    play(scene, script)


def test_a_connection_that_is_refused() -> None:
    scene = Scene()
    scene.api.up = False
    assert first_error(scene) == (
        f"{NAME}: cannot list endpointslices: https://10.96.0.1:443: Connection refused"
    )


def test_credentials_that_never_come() -> None:
    scene = Scene()

    async def script() -> None:
        scene.credentials.stuck = True
        await scene.until(lambda: len(scene.errors) == 2, 70)
        assert scene.errors[1] == f"{NAME}: no credentials for the API server: none in 60 s"
        scene.credentials.stuck = False
        scene.api.put(slice_object("api-1", "api", [A]))
        await scene.until(lambda: scene.now == {A}, 65)  # one more waits already

    play(scene, script)


STALLED = (("Content-Length", "999"),)


@pytest.mark.parametrize(
    ("verb", "fault"),
    [
        ("list", Fault(200, STALLED, b'{"items": [')),
        ("list", Fault(503, STALLED, b"x")),
        ("list", Fault(200, (), b'{"metadata": {"resourceVersion": "1", "continue": "\\ud800"}}')),
        pytest.param(
            "get", Fault(200, STALLED, b"{"), marks=pytest.mark.expect_log("has no EndpointSlices")
        ),
    ],
    ids=["list", "refusal", "continue-token", "service"],
)
def test_an_answer_that_cannot_be_read_to_its_end_holds_up_nobody(verb: str, fault: Fault) -> None:
    scene = Scene()
    if verb == "list":
        scene.api.put(slice_object("api-1", "api", [A]))
    scene.api.fail_next(verb, fault)

    async def script() -> None:
        if verb == "get":
            await scene.until(lambda: scene.api.count("get"), 5)
            scene.api.put(slice_object("api-1", "api", [A]))
        await scene.until(lambda: {A} in scene.lists, 60)

    play(scene, script)


def test_a_list_of_endless_pages() -> None:
    scene = Scene()
    page = b'{"metadata": {"resourceVersion": "1", "continue": "again"}, "items": []}'
    scene.api.fail_next("list", *[Fault(200, (), page)] * 5_000)
    assert "cannot list endpointslices: more than 1000 pages" in first_error(scene)


# ---- Services that have nothing


def test_a_service_that_does_not_exist() -> None:
    scene = Scene()

    async def script() -> None:
        await scene.until(lambda: scene.told, 1)
        assert scene.now == f"{NAME}: there is no Service 'api' in namespace 'shop'"
        scene.api.put(slice_object("api-1", "api", [A]))
        assert await scene.until(lambda: scene.now == {A}, 1) < 0.1
        # Once there was one, its end is no mistake.
        scene.api.delete("api-1")
        await scene.until(lambda: scene.now == set(), 1)
        scene.api.break_watches("410")
        await asyncio.sleep(1)
        assert scene.api.count("get") == 2
        assert scene.lists[-1] == set()
        assert scene.told[-1].note == f"{NAME}: there is no Service 'api' in namespace 'shop'"

    play(scene, script)


@pytest.mark.parametrize(
    ("exists", "forbidden", "note"),
    [
        (True, False, "has no EndpointSlices: does it have a selector that matches pods?"),
        (True, True, "whether it exists cannot be told, as that needs the verb get on services"),
    ],
)
def test_a_service_without_slices(
    exists: bool, forbidden: bool, note: str, caplog: pytest.LogCaptureFixture, expect_log: Any
) -> None:
    expect_log("has no EndpointSlices")
    scene = Scene()
    scene.api.services_forbidden = forbidden
    if exists:
        scene.api.services.add(("shop", "api"))

    async def script() -> None:
        await scene.until(lambda: scene.told, 1)
        assert scene.now == set()
        assert note in scene.told[-1].note
        assert note in caplog.text

    play(scene, script)


@pytest.mark.expect_log("has no ready endpoint")
def test_endpoints_that_are_not_ready() -> None:
    scene = Scene()
    scene.api.put(slice_object("api-1", "api", [endpoint_object(A, ready=False)]))

    async def script() -> None:
        await scene.until(lambda: scene.told, 1)
        assert "has no ready endpoint (1 are not ready)" in scene.told[-1].note

    play(scene, script)


def test_a_port_name_that_is_not_there() -> None:
    scene = Scene("kubernetes:///api.shop:grcp")
    scene.api.put(slice_object("api-1", "api", [A]))
    assert first_error(scene) == (
        "kubernetes:///api.shop:grcp: no port is named 'grcp'; its TCP ports: grpc (50051); did "
        "you mean 'grpc'?"
    )


@pytest.mark.expect_log("addressType 'FQDN'", "an endpoint is left out")
def test_each_oddity_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    scene.api.put(slice_object("f", "api", ["a.example"], family="FQDN"))

    async def script() -> None:
        for _ in range(5):
            scene.api.put(slice_object("api-1", "api", [A, "0.0.0.0"]))
            await asyncio.sleep(1)

    play(scene, script)
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 2


# ---- secrets


def test_the_token_is_nowhere_to_be_seen(caplog: pytest.LogCaptureFixture) -> None:
    """A server that sends back what it was sent, in every way that is shown to people."""
    caplog.set_level(logging.DEBUG)
    token = "canary-token-0123456789"
    body = f'{{"message": "Bearer {token}", "code": 403}}'.encode()
    texts = []
    for fault in (
        Fault(403, body=body),
        Fault(500, body=body),
        Fault(401, body=body),
        Fault(302, headers=(("Location", f"https://evil/{token}"),)),
        Fault(200, body=token.encode()),
        Fault(200, body=b'{"items": 7, "x": "' + token.encode() + b'"}'),
    ):
        scene = Scene()
        scene.token = token
        scene.api.fail_next("any", *[fault] * 9)
        texts.append(first_error(scene))
        texts.append(repr(scene.told))
    texts.append(repr(Grant(Origin("a", 1), token, "file")))
    assert len(texts) == 13
    assert "***" in texts[0]
    assert token not in "".join(texts) + caplog.text
