"""Bootstraps from arguments, files and the environment, and every reason to refuse one."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from grpclb.resolvers.xds.bootstrap import (
    Authority,
    Bootstrap,
    Node,
    Server,
    load_bootstrap,
)
from grpclb.resolvers.xds.credentials import Credentials
from grpclb.resolvers.xds.errors import BootstrapError
from grpclb.resolvers.xds.files import MAX_BYTES

INSECURE = [{"type": "insecure"}]
SERVER = {"server_uri": "xds.example:443", "channel_creds": INSECURE}
GOOD: dict[str, Any] = {"xds_servers": [SERVER]}
PLAIN = Bootstrap((Server("xds.example:443", Credentials("insecure")),))


def test_everything_in_it() -> None:
    tls = {"ca_certificate_file": "ca", "certificate_file": "c", "private_key_file": "k"}
    found = load_bootstrap(
        {
            "xds_servers": [
                {
                    "server_uri": "unix:///a",
                    "channel_creds": [
                        {"type": "alts"},
                        {"type": "tls", "config": tls},
                        *INSECURE,
                    ],
                    "server_features": ["xds_v3", "fail_on_data_errors", "unknown"],
                },
                {**SERVER, "server_features": ["resource_timer_is_transient_error"]},
            ],
            "node": {
                "id": "n",
                "cluster": "c",
                "locality": {"region": "r", "zone": "z", "sub_zone": "s"},
                "metadata": {"b": 1, "a": [None]},
                "unknown": 1,
            },
            "client_default_listener_resource_name_template": "xdstp://a/%s",
            "authorities": {
                "a/b": {"xds_servers": [SERVER]},
                "c": {"client_listener_resource_name_template": "xdstp://c/x/%s"},
            },
            "certificate_providers": {"ignored": {}},
        }
    )
    plain = Server("xds.example:443", Credentials("insecure"))
    assert found == Bootstrap(
        (
            Server("unix:///a", Credentials("tls", "ca", "c", "k"), fail_on_data_errors=True),
            Server("xds.example:443", Credentials("insecure"), timer_is_transient=True),
        ),
        Node("n", "c", "r", "z", "s", '{"a": [null], "b": 1}'),
        "xdstp://a/%s",
        (
            Authority("a/b", "xdstp://a%2Fb/envoy.config.listener.v3.Listener/%s", (plain,)),
            Authority("c", "xdstp://c/x/%s"),
        ),
    )
    assert found.authority("c") == found.authorities[1]
    assert found.authority("d") is None
    assert hash(found) == hash(load_bootstrap(found))


def test_the_node_s_metadata_is_not_printed() -> None:
    document = {**GOOD, "node": {"id": "n", "metadata": {"token": "canary"}}}
    found = load_bootstrap(document)
    assert "canary" in found.node.metadata
    assert "canary" not in f"{found} {found!r} {found.node}"
    assert found != load_bootstrap({**GOOD, "node": {"id": "n"}})


@pytest.mark.parametrize("spoil", ["'{}'", "json:{}", "[{}]"])
def test_a_spoilt_text_is_not_printed_as_if_it_were_a_path(spoil: str) -> None:
    text = json.dumps({**GOOD, "node": {"id": "n", "metadata": {"token": "canary"}}})
    with pytest.raises(BootstrapError, match="expected a JSON object or the path") as caught:
        load_bootstrap(spoil.format(text))
    assert "canary" not in str(caught.value)


def test_from_a_dict_a_text_a_path_and_itself(tmp_path: Path) -> None:
    path = tmp_path / "bootstrap.json"
    path.write_text(json.dumps(GOOD))
    for source in (GOOD, " " + json.dumps(GOOD), path, str(path), PLAIN):
        assert load_bootstrap(source, {}) == PLAIN


def test_the_file_of_the_environment_comes_before_its_text(tmp_path: Path) -> None:
    path = tmp_path / "bootstrap.json"
    path.write_text(json.dumps(GOOD))
    other = json.dumps({"xds_servers": [{**SERVER, "server_uri": "other"}]})
    both = {"GRPC_XDS_BOOTSTRAP": str(path), "GRPC_XDS_BOOTSTRAP_CONFIG": other}
    assert load_bootstrap(None, both) == PLAIN
    found = load_bootstrap(None, {"GRPC_XDS_BOOTSTRAP_CONFIG": other})
    assert found.servers[0].uri == "other"
    with pytest.raises(BootstrapError, match="no bootstrap: set GRPC_XDS_BOOTSTRAP to the path"):
        load_bootstrap(None, {"GRPC_XDS_BOOTSTRAP": ""})


def test_a_file_may_be_named_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "[1]").write_text(json.dumps(GOOD))
    assert load_bootstrap("[1]", {}) == PLAIN


def creds(*values: Any) -> dict[str, Any]:
    return {"xds_servers": [{"server_uri": "s", "channel_creds": list(values)}]}


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({}, "$: xds_servers: at least one is needed"),
        ({"xds_servers": []}, "$: xds_servers: at least one is needed"),
        ({"xds_servers": {}}, "$.xds_servers: expected an array, got dict"),
        ({"xds_servers": [1]}, "$.xds_servers[0]: expected an object, got int"),
        ({"xds_servers": [{}]}, "$.xds_servers[0]: server_uri: missing or empty"),
        (
            {"xds_servers": [{"server_uri": 1}]},
            "$.xds_servers[0].server_uri: expected a string, got int",
        ),
        ({"xds_servers": [{"server_uri": "s"}]}, "$.xds_servers[0]: channel_creds: missing or"),
        (
            creds({"type": "alts"}, {}),
            "channel_creds: none of alts, (no type) is supported; known are insecure, tls, goo",
        ),
        (creds({"type": 5}), "$.xds_servers[0].channel_creds[0].type: expected a string"),
        (creds({"type": "tls", "config": 5}), "channel_creds[0].config: expected an object"),
        (
            creds({"type": "tls", "config": {"certificate_file": "c"}}),
            "channel_creds[0].config: certificate_file and private_key_file: one needs",
        ),
        (
            {"xds_servers": [{**SERVER, "server_features": [1]}]},
            "server_features[0]: expected a string",
        ),
        ({**GOOD, "node": []}, "$.node: expected an object"),
        ({**GOOD, "node": {"id": 5}}, "$.node.id: expected a string"),
        ({**GOOD, "node": {"metadata": []}}, "$.node.metadata: expected an object"),
        ({**GOOD, "node": {"metadata": {"a": {1}}}}, "$.node: metadata: no JSON"),
        ({**GOOD, "node": {"metadata": nested(40)}}, "$.node: metadata: no JSON: nested deeper"),
        ({**GOOD, "node": {"metadata": {"a": 10**400}}}, "$.node: metadata: no JSON: a number"),
        ({**GOOD, "node": {"metadata": {"a": "\ud800"}}}, "$.node: metadata: no JSON: 'utf-8'"),
        ({**GOOD, "node": {"id": "\ud800"}}, "$.node.id: not Unicode"),
        ({**GOOD, "authorities": []}, "$.authorities: expected an object"),
        ({**GOOD, "authorities": {1: {}}}, "$.authorities: expected strings as names, got 1"),
        ('\ufeff{"a": 1}', "bootstrap: not JSON: Unexpected UTF-8 BOM"),
        (
            {**GOOD, "authorities": {"a": {"client_listener_resource_name_template": "%s"}}},
            "$.authorities.a: client_listener_resource_name_template: does not begin with",
        ),
        ('{"a": ', "bootstrap: not JSON: "),
        ('{"a":' * 100_000, "bootstrap: not usable JSON"),
        ('{"a": ' + "9" * 5_000 + "}", "bootstrap: not usable JSON"),
        ("{" + " " * MAX_BYTES, "bootstrap: larger than 1048576 bytes"),
        (5, "expected a dict, JSON or a path, got 5"),
        ("[1,2]", "expected a JSON object or the path of a file, got '[1,2]'"),
        (' "s"', "expected a JSON object or the path of a file, got ' \"s\"'"),
        ("null", "expected a JSON object or the path of a file, got 'null'"),
        ("[1,2", "bootstrap: [1,2: No such file or directory"),
    ],
)
def test_refused_with_path_and_reason(document: Any, reason: str) -> None:
    with pytest.raises(BootstrapError) as error:
        load_bootstrap(document, {})
    assert reason in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    empty, large, pipe = tmp_path / "empty", tmp_path / "large", tmp_path / "pipe"
    binary, secret = tmp_path / "binary", tmp_path / "secret"
    empty.touch()
    binary.write_bytes(b"\xff{}")
    secret.write_text("{}")
    secret.chmod(0)
    os.mkfifo(pipe)
    with large.open("wb") as file:
        file.truncate(100 * MAX_BYTES)
    rows: list[tuple[Any, str]] = [
        (tmp_path / "missing", "No such file or directory"),
        (tmp_path, "a directory"),
        (empty, "empty"),
        (pipe, "not a regular file"),
        (large, "larger than 1048576 bytes"),
        (binary, "not UTF-8 at byte 0"),
        ("a\0b", "embedded null"),
    ]
    if os.geteuid() != 0:  # root reads everything
        rows.append((secret, "Permission denied"))
    for path, reason in rows:
        started = time.monotonic()
        with pytest.raises(BootstrapError, match=reason) as error:
            load_bootstrap(None, {"GRPC_XDS_BOOTSTRAP": str(path)})
        assert time.monotonic() - started < 1
        assert str(error.value).startswith("xds: GRPC_XDS_BOOTSTRAP")
        assert str(path) in str(error.value)


def test_a_file_that_changes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bootstrap"
    path.write_text("{}")
    read = os.read

    def slow(descriptor: int, size: int) -> bytes:
        data = read(descriptor, size)
        if data:
            path.write_text("{ }")
        return data

    monkeypatch.setattr(os, "read", slow)
    with pytest.raises(BootstrapError, match="changed while it was read"):
        load_bootstrap(path, {})


async def test_credentials_are_loaded_from_their_files(tmp_path: Path) -> None:
    assert await Credentials("insecure").load("s") is None
    ca = trustme.CA()
    leaf = ca.issue_cert("client")
    ca.cert_pem.write_to_path(tmp_path / "ca")
    leaf.private_key_pem.write_to_path(tmp_path / "key")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    whole = Credentials("tls", *(str(tmp_path / name) for name in ("ca", "cert", "key")))
    for credentials in (Credentials("tls"), whole):
        assert isinstance(await credentials.load("s"), grpc.ChannelCredentials)
    with pytest.raises(BootstrapError, match=r"tls credentials: .*nowhere: No such file"):
        await Credentials("tls", str(tmp_path / "nowhere")).load("s")
