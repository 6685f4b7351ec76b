"""``google_default`` from the outside: a program, its environment, and a management server's TLS.

Nothing in the program is replaced: ``GRPC_DEFAULT_SSL_ROOTS_FILE_PATH`` names the roots,
credentials are in a file or a metadata server of our own, and no way leads to Google.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import google.auth.jwt
import grpc
import pytest
import trustme

from tests.retries.servers import Scripted
from tests.support import xds_resources as make
from tests.support.xds_server import XdsServer
from tests.support.xds_world import World

CA = trustme.CA()
SIGNER = CA.issue_cert("signer", key_type=trustme.KeyType.RSA)
PROGRAM = """
import sys, grpc, grpclb
client, patient = sys.argv[1], sys.argv[2] == "patient"
factory = grpc.insecure_channel if client == "native" else grpclb.insecure_channel
with factory("xds:///svc") as channel:
    said = "no answer"  # yet: on a slow machine the first RPCs fail before anything was found
    while "no answer" in said:
        try:
            call = channel.unary_unary("/s/unary_unary")
            said = call(b"x", timeout=30, wait_for_ready=patient).decode()
        except grpc.RpcError as error:
            said = f"{error.code().name} {error.details()}"
    print(said)
"""


@pytest.fixture
def world() -> Iterator[World]:
    leaf = CA.issue_cert("localhost")
    pair = (leaf.private_key_pem.bytes(), leaf.cert_chain_pems[0].bytes())
    backends = Scripted(1)
    with XdsServer(grpc.ssl_server_credentials([pair])) as server:
        world = World(server, backends)
        world.cluster("one", "a")
        world.routes(make.route("one"))
        world.publish()
        yield world
    backends.stop()


class Metadata(BaseHTTPRequestHandler):
    """The metadata server of a machine of Google's."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/computeMetadata/v1/")
        token = json.dumps({"access_token": "mine", "expires_in": 3600, "token_type": "Bearer"})
        known = {"/": "", "project/project-id": "p"}
        known["instance/service-accounts/default/token"] = token
        known["instance/service-accounts/default/"] = json.dumps({"email": "me@p", "scopes": []})
        data = known.get(path, "").encode()
        self.send_response(200 if path in known else 404)
        self.send_header("metadata-flavor", "Google")
        self.send_header("content-type", "application/json" if data[:1] == b"{" else "text/plain")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def metadata_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def run(
    world: World, folder: Path, client: str = "grpclb", wait: str = "patient", **environment: str
) -> str:
    """What the program says that has these variables beside those that it must have."""
    CA.cert_pem.write_to_path(folder / "roots")
    entry = {
        "server_uri": f"localhost:{world.control.port}",
        "channel_creds": [{"type": "google_default"}],
    }
    environment |= {
        "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps({"xds_servers": [entry], "node": {"id": "n"}}),
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(folder / "roots"),
        "CLOUDSDK_CONFIG": str(folder / "gcloud"),
        "HTTPS_PROXY": "http://127.0.0.1:1",
        "NO_PROXY": "127.0.0.1,localhost",
    }
    others = ("GOOGLE_", "GCE_", "GRPC_")
    mine = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(others) and not name.lower().endswith("_proxy")
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, client, wait],
        env=mine | environment, capture_output=True, text=True, timeout=50, check=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.mark.parametrize("client", ["grpclb", "native"])
def test_a_service_account_s_file(client: str, world: World, tmp_path: Path) -> None:
    account = {
        "type": "service_account",
        "project_id": "p",
        "private_key_id": "k",
        "private_key": SIGNER.private_key_pem.bytes().decode(),
        "client_email": "me@p.example",
        "client_id": "1",
        "token_uri": "http://127.0.0.1:1/token",
    }
    path = tmp_path / "adc.json"
    path.write_text(json.dumps(account))
    assert run(world, tmp_path, client, GOOGLE_APPLICATION_CREDENTIALS=str(path)) == "x"
    (authorization,) = world.control.authorized
    assert authorization is not None
    token = authorization.removeprefix("Bearer ")
    claims = google.auth.jwt.decode(token, certs=SIGNER.cert_chain_pems[0].bytes())
    assert claims["iss"] == "me@p.example"
    assert claims["aud"].startswith(f"https://localhost:{world.control.port}/")


def test_a_machine_of_google_s(world: World, tmp_path: Path) -> None:
    with metadata_server() as address:
        assert run(world, tmp_path, GCE_METADATA_HOST=address, GCE_METADATA_IP=address) == "x"
    assert world.control.authorized == ["Bearer mine"]


def test_no_credentials_at_all(world: World, tmp_path: Path) -> None:
    said = run(world, tmp_path, wait="not", NO_GCE_CHECK="true")
    assert said.startswith("UNAVAILABLE ")
    assert "google_default credentials: Your default credentials were not found" in said
    assert "GOOGLE_APPLICATION_CREDENTIALS names a file" in said
    assert world.control.streams == 0
