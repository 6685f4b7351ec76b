"""Where credentials come from, and what stands in their place (FIGURES F44)."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
import threading
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
from grpclb.resolvers.kubernetes.credentials import Access, FileCredentials, tls_context
from grpclb.resolvers.kubernetes.files import FileError, read_file, read_text, trust
from grpclb.resolvers.kubernetes.http import open_streams

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


def test_no_key_pair_of_fifos_is_waited_for(tmp_path: Path) -> None:
    fifo, pair = tmp_path / "fifo", tmp_path / "pair.pem"
    os.mkfifo(fifo)
    trustme.CA().issue_cert("client").private_key_and_cert_chain_pem.write_to_path(pair)
    # If somebody does wait for it, this ends that.
    rescue = threading.Timer(2.0, lambda: os.close(os.open(fifo, os.O_RDWR)))
    rescue.start()
    for cert, key in ((fifo, pair), (pair, fifo)):
        access = Access("https://127.0.0.1:1", client_cert_file=str(cert), client_key_file=str(key))
        with pytest.raises(FileError, match="fifo: not a regular file"):
            asyncio.run(FileCredentials(access).grant())
    rescue.cancel()
    rescue.join()


def test_names_are_looked_up_where_no_exit_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[threading.Thread] = []

    def look_up(*args: object, **more: object) -> Any:
        seen.append(threading.current_thread())
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(socket.gaierror):
        asyncio.run(open_streams("api.example", 443, None, None))
    assert seen
    assert all(thread.daemon for thread in seen)


def test_a_name_with_several_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        found = [(0, 0, 0, "", (ip, port)) for ip in ("127.0.0.2", "127.0.0.1")]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: found)
        async with server:
            reader, writer = await open_streams("api.example", port, None, None)
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

    asyncio.run(main())


@pytest.mark.parametrize("name", ["a/../b", "..", "A", "a?b"])
def test_a_namespace_file_that_is_a_path(pod: Path, name: str) -> None:
    (pod / "namespace").write_text(name)
    resolver = grpclb.kubernetes.resolver("kubernetes:///api")
    with pytest.raises(ValueError, match=r"namespace .*expected 1 to 63"):
        asyncio.run(asyncio.wait_for(resolver.run(lambda state: True), 5))


@pytest.mark.parametrize("url", ["ftp://u:canary@h", "https://u:canary@h:x", "u:canary@h"])
def test_a_password_in_a_url_is_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match="api server") as error:
        Access(url)
    assert "canary" not in str(error.value)
