"""How etcd is reached: what is accepted, what is refused with a reason, and what is never shown."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest

import grpclb
import grpclb.etcd
from grpclb.control.channel_spec import build_spec
from grpclb.core.resolver import ResolverContext
from grpclb.core.target import parse_target
from grpclb.etcd import EtcdSettings, Registration
from grpclb.resolvers.etcd import factory
from tests.support.tls import Authority

PEM = b"-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"
SECRET = "canary-password"
_USER: dict[str, Any] = {"user": "app", "password": SECRET}


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        ("etcd-0:2379", ["etcd-0:2379"]),
        ("etcd-0, etcd-1:1234,etcd-0:2379", ["etcd-0:2379", "etcd-1:1234"]),
        (["10.0.0.1", "[fd00::1]:9"], ["10.0.0.1:2379", "[fd00::1]:9"]),
        (["[fd00::1]"], ["[fd00::1]:2379"]),
        ("http://etcd-0:2379/", ["etcd-0:2379"]),
    ],
)  # fmt: skip
def test_endpoints(endpoints: Any, expected: list[str]) -> None:
    settings = EtcdSettings.of(endpoints)
    assert list(settings.endpoints) == expected
    assert not settings.tls


def test_https_is_tls() -> None:
    settings = EtcdSettings.of("https://etcd-0:2379,https://etcd-1", ca=PEM)
    assert settings.endpoints == ("etcd-0:2379", "etcd-1:2379")
    assert settings.tls
    assert settings.pem() == (PEM, None, None)


@pytest.mark.parametrize(
    ("endpoints", "more", "problem"),
    [
        ([], {}, "no endpoints"),
        ("", {}, "the host is missing"),
        ("a:1,,b:2", {}, "the host is missing"),
        ([7], {}, "an endpoint must be text"),
        ("a b:1", {}, "cannot be part of a host name"),
        ("a:0", {}, "port '0' is not a number in 1..65535"),
        ("ftp://a:1", {}, "write host:port, or http"),
        ("a:1/v3", {}, "port '1/v3'"),
        (f"http://app:{SECRET}@a:1", {}, "no user belongs in it"),
        ("http://a,https://b", {"ca": PEM}, "mix http:// and https://"),
        ("https://a", {}, "needs the CA"),
        ("http://a", {"ca": PEM}, "means TLS, but"),
        ("a", {"cert": PEM, "ca": PEM}, "needs both cert= and key="),
        ("a", {"cert": PEM, "key": PEM}, "needs TLS, so a CA"),
        ("a", {"user": "app"}, "go together"),
        ("a", {"password": SECRET}, "go together"),
        ("a", _USER, "allow_plaintext_auth=True"),
        ("a", {"server_name": "etcd"}, "checked with TLS only"),
        ("a", {"ca": b"nothing"}, "ca: no PEM in it"),
        ("a", {"timeout": 0}, "timeout must be above 0 s"),
        ("a", {"timeout": "5"}, "timeout must be seconds"),
        ("a", {"timeout": float("nan")}, "timeout must be above 0 s"),
        ("a", {"keepalive_time": 1}, "more often than every 5 s"),
    ],
)
def test_what_makes_no_sense_is_refused(endpoints: Any, more: dict[str, Any], problem: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        EtcdSettings.of(endpoints, **more)
    assert problem in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_password_goes_over_tls_or_where_one_accepts_that() -> None:
    assert EtcdSettings.of("a", ca=PEM, **_USER).tls
    assert not EtcdSettings.of("a", allow_plaintext_auth=True, **_USER).tls


def test_files_that_cannot_be_read_are_named_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    (tmp_path / "big").write_bytes(PEM * 40_000)
    (tmp_path / "good").write_bytes(PEM)
    for name, problem in (
        ("missing", "cannot read"),
        ("fifo", "not a regular file"),
        (".", "not a regular file"),
        ("empty", "no PEM in it"),
        ("big", "larger than"),
    ):
        started = time.monotonic()
        with pytest.raises(ValueError, match=f"etcd: ca: .*{problem}"):
            EtcdSettings.of("a", ca=tmp_path / name)
        assert time.monotonic() - started < 5  # not for ever
    assert EtcdSettings.of("a", ca=str(tmp_path / "good")).pem()[0] == PEM


def test_the_environment() -> None:
    def read(**values: str) -> EtcdSettings:
        names = {f"GRPCLB_ETCD_{name}": value for name, value in values.items()}
        return EtcdSettings.from_environment(environ=names)

    with pytest.raises(ValueError, match="set GRPCLB_ETCD_ENDPOINTS"):
        read()
    with pytest.raises(ValueError, match="set GRPCLB_ETCD_ENDPOINTS"):
        read(ENDPOINTS="")
    assert read(ENDPOINTS="a,b").endpoints == ("a:2379", "b:2379")
    with pytest.raises(ValueError, match="allow_plaintext_auth"):
        read(ENDPOINTS="a", USER="app", PASSWORD="pw")
    seen = read(ENDPOINTS="a", USER="app:p:w", ALLOW_PLAINTEXT_AUTH="true")
    assert (seen.user, seen.password) == ("app", "p:w")
    seen = read(ENDPOINTS="a", USER="app", PASSWORD="pw", ALLOW_PLAINTEXT_AUTH="1")
    assert (seen.user, seen.password) == ("app", "pw")
    with pytest.raises(ValueError, match="GRPCLB_ETCD_ALLOW_PLAINTEXT_AUTH: expected 1 or 0"):
        read(ENDPOINTS="a", ALLOW_PLAINTEXT_AUTH="maybe")
    with pytest.raises(ValueError, match="etcd: ca: cannot read /nowhere"):
        read(ENDPOINTS="https://a", CACERT="/nowhere")
    both = EtcdSettings.from_environment("c:1", {"GRPCLB_ETCD_ENDPOINTS": "a"})
    assert both.endpoints == ("c:1",)


def test_secrets_are_not_shown() -> None:
    settings = EtcdSettings.of("a", ca=PEM, cert=PEM, key=PEM + b"canary", **_USER)
    assert "canary" not in repr(settings)
    assert "PEM" not in repr(settings)
    assert "BEGIN" not in repr(settings)


# ---- targets and channels


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GRPCLB_ETCD_")]:
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("no_environment")
@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("etcd:///svc", "no endpoints; write etcd://host:2379/service, or set GRPCLB"),
        ("etcd://h:2379", "the service is missing"),
        ("etcd://h:2379/", "the service is missing"),
        ("etcd://h:2379//", "the service is missing"),
        ("etcd://h:x/svc", "port 'x'"),
        (f"etcd://app:{SECRET}@h:1/svc", "no user belongs in it"),
    ],
)
def test_wrong_targets_are_refused_when_the_channel_is_made(target: str, problem: str) -> None:
    with pytest.raises(ValueError, match="etcd") as caught:
        grpclb.insecure_channel(target)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("target", "prefix"),
    [
        ("etcd://h/svc", b"svc/"),
        ("etcd://h/svc/", b"svc/"),
        ("etcd://h:1,h2:2/a/b%20c", b"a/b c/"),
        ("etcd://h//microservices/shop", b"/microservices/shop/"),
    ],
)
def test_the_keys_of_a_service_are_below_it(target: str, prefix: bytes) -> None:
    resolver = factory(parse_target(target, ["etcd"]), ResolverContext(Random()))
    assert resolver._prefix == prefix  # type: ignore[attr-defined]


def test_the_environment_names_etcd_for_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPCLB_ETCD_ENDPOINTS", "etcd-0")
    grpclb.insecure_channel("etcd:///svc").close()
    monkeypatch.setenv("GRPCLB_ETCD_ENDPOINTS", "https://etcd-0")
    with pytest.raises(ValueError, match="needs the CA"):
        grpclb.insecure_channel("etcd:///svc")


def test_a_secure_channel_needs_the_backends_name() -> None:
    target, credentials = "etcd://h/svc", Authority().credentials()
    for make in (grpclb.secure_channel, grpclb.aio.secure_channel):
        with pytest.raises(ValueError, match=r"must know the name .*server_name="):
            make(target, credentials)
    for name in ("grpc.default_authority", "grpc.ssl_target_name_override"):
        spec = build_spec(target, [(name, "svc.example")], None, None, secure=True)
        assert spec.authority == "svc.example"
        grpclb.secure_channel(target, credentials, [(name, "svc.example")]).close()
    resolver = grpclb.etcd.resolver(target, server_name="svc.example")
    assert build_spec(target, None, None, resolver, secure=True).authority == "svc.example"
    grpclb.secure_channel(target, credentials, resolver=resolver).close()
    grpclb.insecure_channel(target).close()
    assert isinstance(credentials, grpc.ChannelCredentials)


def test_settings_from_the_program() -> None:
    target = "etcd:///svc"
    found = grpclb.etcd.resolver(target, endpoints="h", **_USER, allow_plaintext_auth=True)
    assert SECRET not in repr(found)
    grpclb.etcd.resolver("etcd://h/svc", timeout=1.0)
    with pytest.raises(ValueError, match="allow_plaintext_auth=True"):
        grpclb.etcd.resolver("etcd://h/svc", **_USER)
    with pytest.raises(ValueError, match="or give endpoints="):
        grpclb.etcd.resolver(target)
    with pytest.raises(ValueError, match="write etcd:///svc"):
        grpclb.etcd.resolver("etcd://h/svc", endpoints="h2")
    with pytest.raises(ValueError, match="expected etcd:///service"):
        grpclb.etcd.resolver("api:443")
    with pytest.raises(ValueError, match="has its own endpoints"):
        grpclb.etcd.factory(client=object(), endpoints="h")
    with pytest.raises(TypeError, match="unexpected keyword 'endpoint'; did you mean 'endpoints'"):
        grpclb.etcd.resolver(target, endpoint="h")
    with pytest.raises(TypeError, match="'pasword'; did you mean 'password'"):
        grpclb.etcd.factory(pasword=SECRET)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'xyz'; known: endpoints, ca, cert"):
        grpclb.etcd.resolver(target, xyz=1)
    with pytest.raises(TypeError, match="'keepalive'; did you mean 'keepalive_time'"):
        EtcdSettings.of("h", keepalive=3)
    make = grpclb.etcd.factory(endpoints="h")
    assert make(parse_target(target, ["etcd"]), ResolverContext(Random())) is not None


def test_keywords_switch_the_environment_off_and_that_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "grpclb.etcd")
    monkeypatch.setenv("GRPCLB_ETCD_ENDPOINTS", "env-host")
    monkeypatch.setenv("GRPCLB_ETCD_PASSWORD", SECRET)
    names = "GRPCLB_ETCD_ENDPOINTS, GRPCLB_ETCD_PASSWORD"
    note = f"the program says how to reach etcd, so {names} has no say"
    for make in (
        lambda target: grpclb.etcd.resolver(target, timeout=1.0),
        lambda target: Registration(target, "10.0.0.7:1", timeout=1.0),
    ):
        with pytest.raises(ValueError, match=re.escape(f"give endpoints= ({note})")):
            make("etcd:///svc")
        caplog.clear()
        make("etcd://h/svc")
        assert [record.getMessage() for record in caplog.records] == [f"etcd://h/svc: {note}"]
        assert caplog.records[0].levelname == "INFO"
    assert SECRET not in caplog.text


def test_importing_is_cheap_and_the_missing_extra_is_named() -> None:
    code = """
import sys
import grpclb, grpclb.etcd
from grpclb.control import registries
assert "google.protobuf" not in sys.modules, "imported too early"
sys.modules["google.protobuf"] = None
try:
    grpclb.insecure_channel("etcd://h:2379/svc")
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "pip install 'grpclb-client[etcd]'" in done.stdout, done.stderr
