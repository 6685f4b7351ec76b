"""What the tests of the command line share."""

from __future__ import annotations

import datetime
import gc
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from grpclb.cli import main
from tests.cli.servers import grpc_server
from tests.support.dns_server import DnsServer
from tests.support.tls import Authority, Pair

NAME = "api.test"


@dataclass(frozen=True, slots=True)
class Result:
    """One run of the command line."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.out)
        return parsed


class Shell:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> Result:
        self._capsys.readouterr()
        code = main(words)
        gc.collect()  # grpc.aio's engine begins anew with each command, as in a process of its own
        out, err = self._capsys.readouterr()
        return Result(code, out, err)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@pytest.fixture(scope="session")
def patient() -> Iterator[str]:
    """A plaintext server with every symptom."""
    with grpc_server() as address:
        yield address


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="session")
def ca(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    path.write_text(authority.pem)
    return str(path)


@pytest.fixture(scope="session")
def secure(authority: Authority) -> Iterator[str]:
    """A TLS server that proves to be NAME."""
    with grpc_server(authority.issue(NAME)) as address:
        yield address


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    with DnsServer() as server:
        yield server


def write_pair(folder: Path, pair: Pair) -> tuple[str, str]:
    """The certificate and the key as files."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_text(pair.cert)
    key.write_text(pair.key)
    return str(cert), str(key)


def out_of_time(*, days: int) -> tuple[str, Pair]:
    """A CA (PEM) and a certificate of it that begins in `days`, or ended so long ago."""
    ca, now = trustme.CA(), datetime.datetime.now(datetime.UTC)
    moment = now + datetime.timedelta(days=days)
    leaf = (
        ca.issue_cert(NAME, not_before=moment)
        if days > 0
        else ca.issue_cert(NAME, not_after=moment)
    )
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems).decode()
    return ca.cert_pem.bytes().decode(), Pair(chain, leaf.private_key_pem.bytes().decode())
