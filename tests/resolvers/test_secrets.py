"""Passwords and tokens are nowhere to be seen, though servers send back all that they are sent."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import grpclb
import grpclb.etcd
import grpclb.kubernetes
from tests.support.fake_etcd import FakeEtcd
from tests.support.kubernetes_api import Fault, KubernetesApi
from tests.support.kubernetes_objects import slice_object, status_object
from tests.support.kubernetes_tls import TlsServer

pytestmark = [pytest.mark.slow, pytest.mark.expect_log(".*")]

PASSWORD, TOKEN = "canary/pass+word", "canary-token.1"
ECHO = f"permission denied: ('{PASSWORD}', \"{TOKEN}\") Bearer {TOKEN}"
USER: dict[str, Any] = {"user": "app", "password": PASSWORD, "allow_plaintext_auth": True}


class Seen:
    """All that a person could be shown."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self.texts: list[str] = []

    def add(self, *shown: object) -> None:
        self.texts += [text for item in shown for text in (str(item), repr(item))]

    def channel(self, channel: grpclb.Channel) -> dict[str, Any]:
        snapshot = channel.debug_snapshot()
        self.add(channel, json.dumps(snapshot))
        return snapshot

    def rpc(self, channel: grpclb.Channel) -> str:
        """The details of a failed RPC."""
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/a.B/C")(b"", timeout=10)
        details = str(caught.value.details())
        self.add(caught.value, details, *getattr(caught.value, "__notes__", ()))
        return details

    def has_error(self, channel: grpclb.Channel, part: str) -> None:
        """Wait until the snapshot's last error says `part`."""
        end = time.monotonic() + 20
        while part not in str(self.channel(channel)["resolver"]["last_error"]):
            assert time.monotonic() < end, self.texts[-1]
            time.sleep(0.01)

    def check(self) -> None:
        """Every error was echoed, and no secret is in anything."""
        logging.getLogger("grpclb.test").debug("the log is looked at")
        records = [record for record in self._caplog.records if record.name.startswith("grpclb")]
        assert {record.levelno for record in records} >= {logging.DEBUG, logging.WARNING}
        for record in records:
            self.texts += [record.getMessage(), repr(record.args), record.exc_text or ""]
        everything = "\n".join(self.texts)
        assert "***" in everything
        assert "canary" not in everything


@pytest.fixture
def seen(caplog: pytest.LogCaptureFixture) -> Seen:
    caplog.set_level(logging.DEBUG, "grpclb")
    return Seen(caplog)


@pytest.fixture
def etcd() -> Iterator[FakeEtcd]:
    with FakeEtcd() as server:
        server.denied, server.wrong_password = ECHO, ECHO.replace(TOKEN, "")
        server.new_token = lambda: TOKEN
        yield server


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_channel_to_services_in_etcd(seen: Seen, etcd: FakeEtcd) -> None:
    etcd.users = {"app": "another"}
    etcd.put("svc/a", "127.0.0.1:1")
    etcd.put("svc/bad", "localhost")
    resolver = grpclb.etcd.resolver("etcd:///svc", endpoints=etcd.endpoint, **USER)
    seen.add(resolver)
    with grpclb.insecure_channel("etcd:///svc", resolver=resolver) as channel:
        assert "user 'app': permission denied: ('***', " in seen.rpc(channel)
        etcd.users = {"app": PASSWORD}
        until(lambda: etcd.watching == 1)
        until(lambda: seen.channel(channel)["resolver"]["skipped"])
        # Refused is the watch, with what it was sent, and then every list.
        etcd.users = {"app": "another"}
        etcd.expire_tokens()
        etcd.end_watches(grpc.StatusCode.UNAVAILABLE, ECHO)
        seen.has_error(channel, "user 'app': permission denied: ('***', ")
    seen.check()


def test_a_registration_in_etcd(seen: Seen, etcd: FakeEtcd) -> None:
    etcd.users = {"app": "another"}

    def make() -> grpclb.etcd.SyncRegistration:
        target, address = f"etcd://{etcd.endpoint}/svc", "10.0.0.7:1"
        made = grpclb.etcd.SyncRegistration(target, address, {"weight": 2}, **USER)
        seen.add(made)
        return made

    with pytest.raises(grpclb.etcd.RegistrationError) as caught, make():
        raise AssertionError("nobody let it in")
    seen.add(caught.value, caught.value.__cause__)
    etcd.users = {"app": PASSWORD}
    with make() as registration:
        etcd.users = {"app": "another"}
        etcd.expire_tokens()
        registration.update({"weight": 3})
        until(lambda: registration.error)
        seen.add(registration.error, registration)
        etcd.users = {"app": PASSWORD}
    seen.check()


def test_a_channel_to_a_kubernetes_service(seen: Seen, tmp_path: Path) -> None:
    target = "kubernetes:///api.shop:grpc"
    echo = status_object(500, "X", ECHO.replace(PASSWORD, ""))
    fault = Fault(500, body=json.dumps(echo).encode())
    with TlsServer([TOKEN]) as server:
        server.do(lambda api: api.put(slice_object("api-1", "api", ["127.0.0.1"])))
        server.do(lambda api: api.fail_next("any", *[fault] * 50))
        resolver = grpclb.kubernetes.resolver(target, **server.write_files(tmp_path, TOKEN))
        seen.add(resolver)
        with grpclb.insecure_channel(target, resolver=resolver) as channel:
            assert "***" in seen.rpc(channel)
            server.do(KubernetesApi.mend)
            until(lambda: server.do(lambda api: api.watching == 1))
            server.do(lambda api: api.fail_next("any", *[fault] * 50))
            server.do(lambda api: api.say_error(echo))
            seen.has_error(channel, "***")
    seen.check()
