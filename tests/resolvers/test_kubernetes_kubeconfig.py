"""Credentials from a kubeconfig, as the official package reads it: tokens, plugins, TLS."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest

import grpclb
import grpclb.kubernetes
from grpclb.control.channel_spec import build_spec
from grpclb.resolvers.kubernetes.credentials import Access, CredentialsError, Grant
from grpclb.resolvers.kubernetes.files import FileError
from grpclb.resolvers.kubernetes.kubeconfig import KubeconfigCredentials, namespace
from tests.support.kubernetes_objects import slice_object
from tests.support.kubernetes_tls import TlsServer
from tests.support.tls import Authority

pytest.importorskip("kubernetes", reason="pip install -e '.[test]'")
_AUTHORITY = Authority()


def write(
    path: Path, *, user: Any = None, cluster: Any = None, name: str = "c", **more: Any
) -> str:
    """A kubeconfig of one context, in JSON, which is YAML."""
    found = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, **more}}],
        "clusters": [{"name": name, "cluster": cluster or {"server": "https://h:6443"}}],
        "users": [{"name": name, "user": user or {"token": f"token-of-{name}"}}],
    }
    path.write_text(json.dumps(found))
    return str(path)


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("KUBECONFIG", raising=False)


def grant(**access: Any) -> Grant:
    return asyncio.run(KubeconfigCredentials(Access(**access)).grant())


def test_a_token(tmp_path: Path) -> None:
    found = grant(kubeconfig=write(tmp_path / "config"))
    assert (str(found.origin), found.token) == ("https://h:6443", "token-of-c")
    assert found.origin.tls is not None
    assert found.origin.tls.verify_mode is ssl.CERT_REQUIRED


def test_kubeconfig_names_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = write(tmp_path / "one", name="one", namespace="shop")
    two = write(tmp_path / "two", name="two", namespace="other")
    monkeypatch.setenv("KUBECONFIG", f"{one}:{two}:{tmp_path / 'missing'}")
    assert grant().token == "token-of-one"
    assert grant(context="two").token == "token-of-two"
    assert namespace(Access()) == "shop"
    assert namespace(Access(context="two")) == "other"
    assert build_spec("kubernetes:///api:7", None, None, None).authority == "api.shop.svc"
    with pytest.raises(CredentialsError, match="three"):
        grant(context="three")


def test_a_changed_file_and_a_401_are_looked_at_again(tmp_path: Path) -> None:
    path = tmp_path / "config"
    write(path)
    credentials = KubeconfigCredentials(Access(kubeconfig=str(path)))

    async def run() -> None:
        first = await credentials.grant()
        assert (await credentials.grant()).origin.tls is first.origin.tls
        write(path, user={"token": "second"})
        assert (await credentials.grant()).token == "second"
        credentials.reject()
        assert (await credentials.grant()).token == "second"

    asyncio.run(run())


def plugin(folder: Path, expires: str) -> dict[str, Any]:
    """A credential plugin that gives another token each time."""
    script = folder / "plugin.py"
    script.write_text(
        "import json, pathlib\n"
        f"count = pathlib.Path({str(folder / 'count')!r})\n"
        "number = len(count.read_text()) if count.exists() else 0\n"
        "count.write_text('x' * (number + 1))\n"
        "status = {'token': f'plugin-{number}', 'expirationTimestamp': "
        f"{expires!r}}}\n"
        "kind = {'kind': 'ExecCredential', 'apiVersion': 'client.authentication.k8s.io/v1'}\n"
        "print(json.dumps({**kind, 'status': status}))\n"
    )
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": sys.executable,
            "args": [str(script)],
            "interactiveMode": "Never",
        }
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("expires", "tokens"),
    [("2999-01-01T00:00:00Z", ["plugin-0"] * 3), ("2001-01-01T00:00:00Z", None)],
    ids=["lasting", "expired"],
)
def test_a_credential_plugin(expires: str, tokens: list[str] | None, tmp_path: Path) -> None:
    path = write(tmp_path / "config", user=plugin(tmp_path, expires))
    credentials = KubeconfigCredentials(Access(kubeconfig=path))

    async def run() -> list[str | None]:
        return [(await credentials.grant()).token for _ in range(3)]

    found = asyncio.run(run())
    assert found == tokens if tokens else len(set(found)) == 3


@pytest.mark.parametrize(
    ("cluster", "problem"),
    [
        ({"server": "https://h", "insecure-skip-tls-verify": True}, "insecure_skip_tls_verify=T"),
        ({"server": "https://h", "proxy-url": "http://p"}, "proxy-url is not supported"),
        ({"server": "https://h", "certificate-authority": "/missing"}, "missing"),
        (
            {"server": "https://h", "certificate-authority-data": base64.b64encode(b"x").decode()},
            "no certificate in PEM form",
        ),
    ],
)
def test_what_is_refused(cluster: dict[str, Any], problem: str, tmp_path: Path) -> None:
    path = write(tmp_path / "config", cluster=cluster)
    with pytest.raises((CredentialsError, FileError), match=problem):
        grant(kubeconfig=path)


@pytest.mark.parametrize("text", ["{", "[]", "a: secret-canary: b", "\x00", "users: 7"])
def test_a_kubeconfig_that_is_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises((CredentialsError, FileError)) as error:
        grant(kubeconfig=str(path))
    assert "config" in str(error.value)
    assert "canary" not in str(error.value)
    assert namespace(Access(kubeconfig=str(path))) == "default"


@pytest.mark.parametrize("token", ["canary\r\nX-Evil: 1", "canary\u00e9"])
def test_a_token_that_is_none(token: str, tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="no printable ASCII") as error:
        grant(kubeconfig=write(tmp_path / "config", user={"token": token}))
    assert "canary" not in repr(error.value)


def test_no_token_goes_over_plain_http(tmp_path: Path) -> None:
    found = grant(kubeconfig=write(tmp_path / "config", cluster={"server": "http://h:8001"}))
    assert (found.token, found.origin.tls) == (None, None)


async def test_a_list_by_a_kubeconfig(tmp_path: Path) -> None:
    with TlsServer() as server:
        server.do(lambda api: api.put(slice_object("api-1", "api", ["10.0.0.1"])))
        data = base64.b64encode(server.ca_pem.encode()).decode()
        cluster = {"server": server.url, "certificate-authority-data": data}
        client = _AUTHORITY.issue("client.example")
        for name, text in (("cert", client.cert), ("key", client.key)):
            (tmp_path / name).write_text(text)
        user = {
            "token": "token",
            "client-certificate": str(tmp_path / "cert"),
            "client-key": str(tmp_path / "key"),
        }
        path = write(tmp_path / "config", cluster=cluster, user=user, namespace="shop")
        resolver = grpclb.kubernetes.resolver("kubernetes:///api", kubeconfig=path)
        told: asyncio.Queue[grpclb.ResolverState] = asyncio.Queue()

        def update(state: grpclb.ResolverState) -> bool:
            told.put_nowait(state)
            return True

        task = asyncio.create_task(resolver.run(update))
        state = await asyncio.wait_for(told.get(), 10)
        assert [str(e) for e in state.endpoints] == ["10.0.0.1:50051"]  # type: ignore[union-attr]
        task.cancel()
        await asyncio.wait([task])
