"""What a person is told: refusals, missing Services, wrong credentials; and that no secret is."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trustme

import grpclb
import grpclb.kubernetes
from grpclb.control.channel_spec import build_spec
from grpclb.core.target import parse_target
from grpclb.resolvers.kubernetes import build as build_module
from grpclb.resolvers.kubernetes import credentials, kubeconfig
from grpclb.resolvers.kubernetes.credentials import Access, FileCredentials, Grant, tls_context
from grpclb.resolvers.kubernetes.files import FileError, read_file, read_text, trust
from grpclb.resolvers.kubernetes.http import Origin
from tests.support.kubernetes_api import Fault, endpoint_object, slice_object, status_object
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


# ---- files (FIGURES F44)


def bad_files(folder: Path) -> dict[str, Path]:
    files = {name: folder / name for name in ("missing", "empty", "folder", "fifo", "large", "nul")}
    files["empty"].write_text(" \n")
    files["folder"].mkdir()
    os.mkfifo(files["fifo"])
    with files["large"].open("wb") as file:
        file.truncate(100 << 20)
    files["nul"] = folder / "a\0b"
    return files


@pytest.mark.parametrize("kind", ["missing", "empty", "folder", "fifo", "large", "nul"])
def test_files_that_are_none(kind: str, tmp_path: Path) -> None:
    path = str(bad_files(tmp_path)[kind])
    began = time.monotonic()
    for use in (read_file, read_text, lambda p: trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), p)):
        with pytest.raises(FileError):
            use(path)
    access = Access("https://127.0.0.1:1", token_file=path)
    for client in (
        FileCredentials(access),
        kubeconfig.KubeconfigCredentials(Access(kubeconfig=path)),
    ):
        with pytest.raises((FileError, credentials.CredentialsError)):
            asyncio.run(client.grant())
    assert time.monotonic() - began < 3


@pytest.mark.skipif(os.geteuid() == 0, reason="platform: root may read everything")
def test_a_file_that_we_may_not_read(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("t")
    path.chmod(0)
    with pytest.raises(FileError, match="Permission denied"):
        read_text(str(path))


def test_a_file_that_changes_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    path.write_text("t")
    real, reads = os.read, []

    def read(descriptor: int, size: int) -> bytes:
        data = real(descriptor, size)
        reads.append(data)
        if len(reads) < most:
            path.write_text("tu"[len(reads) % 2])
        return data

    monkeypatch.setattr(os, "read", read)
    most = 1_000
    with pytest.raises(FileError, match="changes all the time"):
        read_text(str(path))
    reads.clear()
    most = 3  # it changes twice and comes to rest
    assert read_text(str(path)) in "tu"


def test_a_token_of_several_words_is_none(tmp_path: Path) -> None:
    for text in ("a b", "a\r\nX-Evil: b", "é", "a\x01"):
        (tmp_path / "token").write_text(text)
        with pytest.raises(FileError, match="one word") as error:
            read_text(str(tmp_path / "token"))
        assert text not in str(error.value)


def test_all_certificates_of_a_file_or_none(tmp_path: Path) -> None:
    one, two = (trustme.CA().cert_pem.bytes().decode() for _ in range(2))
    path = tmp_path / "ca.crt"

    def load(text: str) -> int:
        path.write_text(text)
        context = tls_context(str(path), None, None, verify=True)
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        return context.cert_store_stats()["x509"]

    assert load(f"# two\n{one}\n{two}") == 2
    for broken in ("no PEM", one + two[:200], one + two.replace("M", "\x00", 3), one[:-30]):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        path.write_text(broken)
        with pytest.raises(FileError, match=r"ca\.crt"):
            trust(context, str(path))
        assert context.cert_store_stats()["x509"] == 0


# ---- where credentials come from


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process runs in a pod of the namespace ``mine``."""
    (tmp_path / "token").write_text("pod-token\n")
    (tmp_path / "ca.crt").write_bytes(trustme.CA().cert_pem.bytes())
    (tmp_path / "namespace").write_text("mine")
    monkeypatch.setattr(credentials, "SERVICE_ACCOUNT", str(tmp_path))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    return tmp_path


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("KUBECONFIG", raising=False)


def test_in_a_pod(pod: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = FileCredentials(Access())
    grant = asyncio.run(found.grant())
    assert (str(grant.origin), grant.token) == ("https://10.96.0.1:6443", "pod-token")
    assert asyncio.run(found.namespace()) == "mine"
    tls = grant.origin.tls
    (pod / "token").write_text("rotated")
    grant = asyncio.run(found.grant())
    assert grant.token == "rotated"
    assert grant.origin.tls is tls
    (pod / "ca.crt").write_bytes(trustme.CA().cert_pem.bytes())
    assert asyncio.run(found.grant()).origin.tls is not tls
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    assert str(asyncio.run(found.grant()).origin) == "https://[fd00::1]:6443"


@pytest.mark.parametrize(
    ("target", "authority"),
    [
        ("kubernetes:///api", "api.mine.svc"),
        ("kubernetes:///api:grpc", "api.mine.svc"),
        ("kubernetes:///api.shop:50051", "api.shop.svc"),
        ("kubernetes://shop/api", "api.shop.svc"),
    ],
)
def test_the_name_that_backends_must_prove(pod: Path, target: str, authority: str) -> None:
    assert build_spec(target, None, None, None).authority == authority
    resolver = grpclb.kubernetes.resolver(target, api_server="https://a", namespace="mine")
    assert build_spec(target, None, None, resolver).authority == authority
    for name in ("grpc.default_authority", "grpc.ssl_target_name_override"):
        assert build_spec(target, [(name, "other")], None, None).authority == "other"


def test_outside_without_the_package(outside: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    monkeypatch.setattr(kubeconfig, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'grpclb-client\[kubernetes\]'"):
        grpclb.insecure_channel("kubernetes:///api")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"api_server": "10.0.0.1:443"}, "expected https://host:port"),
        ({"api_server": "https://u:secret@h"}, "got a URL with more"),
        ({"api_server": "ftp://h"}, "expected https://host:port"),
        ({"api_server": "https://h:99999"}, "Port out of range"),
        ({"api_server": "http://h", "token_file": "/t"}, "no token and no certificate is sent"),
        ({"api_server": "https://h", "context": "c"}, "exclude each other"),
        ({"api_server": "https://h", "client_cert_file": "/c"}, "belong together"),
        ({"api_server": "https://h", "namespace": "a/b"}, "namespace 'a/b'"),
        ({"api_server": "https://h", "families": ("ipv5",)}, "families must be some of"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        grpclb.kubernetes.resolver("kubernetes:///api", **arguments)
    assert problem in str(error.value)
    assert "secret" not in str(error.value)


def test_a_wrong_target_is_told_at_once(pod: Path) -> None:
    with pytest.raises(ValueError, match="port name 'GRPC'"):
        grpclb.insecure_channel("kubernetes:///api:GRPC")
    with pytest.raises(ValueError, match="expected kubernetes:///service"):
        grpclb.kubernetes.resolver("api:50051")
    with pytest.raises(ValueError, match="unknown scheme 'dns'; known: kubernetes"):
        grpclb.kubernetes.resolver("dns:///api")


def test_a_factory_takes_the_arguments_for_all_targets() -> None:
    make = grpclb.kubernetes.factory(api_server="https://h:1", namespace="mine")
    target = parse_target("kubernetes:///api", ["kubernetes"])
    made = make(target, grpclb.ResolverContext(random=None))  # type: ignore[arg-type]
    assert repr(made) == "<KubernetesResolver kubernetes:///api>"
    assert made.authority == "api.mine.svc"  # type: ignore[attr-defined]
    assert build_module.make_credentials(Access("https://h:1")) is not None
