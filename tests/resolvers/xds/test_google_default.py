"""``google_default`` credentials: from files, without Google, against a server of our own."""

from __future__ import annotations

import asyncio
import functools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import google.auth
import google.auth.jwt
import grpc
import pytest
import trustme
from google.auth.exceptions import DefaultCredentialsError

import grpclb
import grpclb.xds
from grpclb.resolvers.xds import credentials, google_default
from grpclb.resolvers.xds.bootstrap import load_bootstrap
from grpclb.resolvers.xds.client import shared_client
from grpclb.resolvers.xds.credentials import Credentials
from grpclb.resolvers.xds.errors import BootstrapError
from tests.resolvers.xds.ads_harness import CDS, KINDS, short
from tests.support.xds_resources import cluster
from tests.support.xds_server import XdsServer

GOOGLE = [{"type": "google_default"}]
CA = trustme.CA()
SIGNER = CA.issue_cert("signer", key_type=trustme.KeyType.RSA)


@pytest.fixture(autouse=True)
def nothing_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials that happen to be there, and no way to Google."""
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p")  # else google-auth asks for one
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    roots = CA.cert_pem.bytes()
    trusting = functools.partial(grpc.ssl_channel_credentials, roots)
    monkeypatch.setattr(grpc, "ssl_channel_credentials", trusting)


@pytest.fixture
def found_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Path]:
    """Make this, as JSON or as it is, the application default credentials."""
    path = tmp_path / "adc.json"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))

    def write(content: Any) -> Path:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def service_account(**fields: Any) -> dict[str, Any]:
    return {
        "type": "service_account",
        "project_id": "p",
        "private_key_id": "k",
        "private_key": SIGNER.private_key_pem.bytes().decode(),
        "client_email": "me@p.example",
        "token_uri": "http://127.0.0.1:1/token",
        **fields,
    }


class Tokens:
    """Google's token endpoint: ``t1``, ``t2``, ... of an hour, or an error."""

    def __init__(self) -> None:
        self.given = 0
        self.refuse = False
        tokens = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                answer: dict[str, Any] = {"error": "invalid_grant", "error_description": "no"}
                if not tokens.refuse:
                    tokens.given += 1
                    kind = "urn:ietf:params:oauth:token-type:access_token"
                    answer = {"access_token": f"t{tokens.given}", "issued_token_type": kind}
                    answer |= {"token_type": "Bearer", "expires_in": 3600}
                data = json.dumps(answer).encode()
                self.send_response(400 if tokens.refuse else 200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=functools.partial(self._server.serve_forever, 0.01), daemon=True
        )
        self._thread.start()

    def account(self, subject: Path) -> dict[str, Any]:
        """A workload that has a token of somebody else's in a file."""
        return {
            "type": "external_account",
            "audience": "//iam.googleapis.com/pools/mine",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": f"http://127.0.0.1:{self._server.server_port}/token",
            "credential_source": {"file": str(subject)},
            "universe_domain": "example.test",  # or google-auth asks Google for more
        }

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def tokens() -> Iterator[Tokens]:
    endpoint = Tokens()
    yield endpoint
    endpoint.stop()


@pytest.fixture
def server() -> Iterator[XdsServer]:
    leaf = CA.issue_cert("localhost")
    pair = (leaf.private_key_pem.bytes(), leaf.cert_chain_pems[0].bytes())
    with XdsServer(grpc.ssl_server_credentials([pair])) as server:
        server.set(CDS.type_url, {"c": cluster("c")})
        yield server


def entry(server: XdsServer) -> dict[str, Any]:
    return {"server_uri": f"localhost:{server.port}", "channel_creds": GOOGLE}


def client_of(*entries: dict[str, Any]) -> Any:
    return shared_client(load_bootstrap({"xds_servers": list(entries)}), KINDS)


async def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, f"not within 20 s: {what}"
        await asyncio.sleep(0.005)


# -- with a management server ---------------------------------------------------------------------


@pytest.mark.slow
async def test_a_service_account_signs_for_the_server_s_host(
    server: XdsServer, found_in: Callable[[Any], Path]
) -> None:
    found_in(service_account())
    news: list[Any] = []
    async with client_of(entry(server)) as client:
        client.watch(CDS, "c", news.append)
        await until(lambda: news, "the cluster")
    assert [short(item) for item in news] == ["use c"]
    (authorization,) = server.authorized
    assert authorization is not None
    kind, _, token = authorization.partition(" ")
    assert kind == "Bearer"
    certificate = SIGNER.cert_chain_pems[0].bytes()
    audience = f"https://localhost:{server.port}/"
    claims = google.auth.jwt.decode(token, certs=certificate, audience=audience)
    assert claims["sub"] == "me@p.example"
    assert claims["exp"] > time.time()


@pytest.mark.slow
async def test_each_stream_has_a_token_of_its_own_and_one_that_is_refused_is_a_failure(
    server: XdsServer, tokens: Tokens, tmp_path: Path, found_in: Callable[[Any], Path]
) -> None:
    subject = tmp_path / "subject"
    subject.write_text("somebody")
    found_in(tokens.account(subject))
    tokens.refuse = True
    news: list[Any] = []
    async with client_of(entry(server)) as client:
        client.watch(CDS, "c", news.append)
        await until(lambda: news, "the failure")
        assert "google_default credentials: no token: " in str(news[0])
        assert "invalid_grant" in str(news[0])
        assert server.streams == 0
        tokens.refuse = False
        await until(lambda: len(news) == 2, "the cluster")
        server.end_streams()
        await until(lambda: len(server.authorized) == 2, "the next stream")
    assert [short(item) for item in news] == ["fail UNAVAILABLE", "use c"]
    assert server.authorized == ["Bearer t1", "Bearer t2"]


@pytest.mark.slow
async def test_without_credentials_the_next_server_is_asked(
    server: XdsServer, found_in: Callable[[Any], Path]
) -> None:
    path = found_in("{")
    news: list[Any] = []
    with XdsServer() as next_one:
        next_one.set(CDS.type_url, {"c": cluster("c")})
        async with client_of(entry(server), next_one.entry()) as client:
            client.watch(CDS, "c", news.append)
            await until(lambda: news, "the second server's answer")
            assert client.snapshot()[""]["servers"][1]["in_use"]
            said = f"google_default credentials: File {path} is not"
            # On a slow machine its first attempt may have been given up.
            await until(lambda: said in client.snapshot()[""]["servers"][0]["failure"], said)
            found_in(service_account())
            await until(lambda: server.streams, "the first server, with what is there now")
            await until(lambda: client.snapshot()[""]["servers"][0]["in_use"], "its answer")
    assert short(news[0]) == "use c"
    assert next_one.authorized == [None]


@pytest.mark.slow
async def test_a_look_up_that_hangs_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go, looking = threading.Event(), threading.Event()

    def probe(**_: Any) -> None:
        looking.set()
        let_go.wait(60)
        raise DefaultCredentialsError("nobody answered")

    monkeypatch.setattr(google.auth, "default", probe)
    bootstrap = {"xds_servers": [{"server_uri": "localhost:1", "channel_creds": GOOGLE}]}
    resolver = grpclb.xds.resolver("xds:///svc", bootstrap=bootstrap)
    assert not looking.is_set(), "nothing is looked up when a bootstrap is read"
    try:
        async with grpclb.aio.insecure_channel("xds:///svc", resolver=resolver) as channel:
            channel.get_state(try_to_connect=True)
            await until(looking.is_set, "the look-up, on a thread")
            await asyncio.sleep(0)  # this loop is free
        # and the channel is closed while it goes on
        for patience in (None, 0.02):
            monkeypatch.setattr(credentials, "_PATIENCE", 0.01)
            expected = rf"credentials: nothing found within {patience or 0.01} s"
            with pytest.raises(BootstrapError, match=expected):
                await Credentials("google_default").load("localhost:1", patience)
        # nor does the next server wait for it
        with XdsServer() as next_one:
            next_one.set(CDS.type_url, {"c": cluster("c")})
            news: list[Any] = []
            first = {"server_uri": "localhost:1", "channel_creds": GOOGLE}
            async with client_of(first, next_one.entry()) as client:
                client.watch(CDS, "c", news.append)
                await until(lambda: news, "the second server's answer")
                assert short(news[0]) == "use c"
                assert "nothing found within" in client.snapshot()[""]["servers"][0]["failure"]
    finally:
        let_go.set()


# -- without one ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "adc.json was not found"),
        ("", "adc.json is not a valid json file"),
        ("[]", "AttributeError: 'list' object has no attribute 'get'"),
        ({"type": "?"}, "adc.json does not have a valid type. Type is ?"),
        (service_account(private_key="x"), "adc.json: Unable to load PEM file"),
        ({"type": "service_account"}, "adc.json: "),
    ],
    ids=["missing", "empty", "no object", "type", "key", "fields"],
)
def test_what_is_wrong_with_a_file_is_said_with_the_way_out(
    content: Any, said: str, found_in: Callable[[Any], Path]
) -> None:
    if content is not None:
        found_in(content)
    with pytest.raises(BootstrapError) as error:
        google_default.find("localhost:1")
    assert str(error.value).startswith("xds: google_default credentials: ")
    assert said in str(error.value)
    assert "gcloud auth application-default login" in str(error.value)


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("dns:///trafficdirector.googleapis.com:443", "trafficdirector.googleapis.com"),
        ("dns://8.8.8.8/a.example:444", "a.example:444"),
        ("a.example", "a.example"),
    ],
)
def test_the_host_that_a_token_is_for(uri: str, host: str) -> None:
    assert google_default._host(uri) == host


def test_requests_have_less_patience_than_google_s() -> None:
    seen: list[Any] = []

    class Transport:
        session = None

        def __call__(self, *given: Any, **more: Any) -> None:
            seen.append((*given, more))

    request = google_default._Request(Transport())
    request("http://a", "POST", body=b"x", verify=False)
    request("http://b", timeout=3)
    assert seen == [
        ("http://a", "POST", b"x", None, 20.0, {"verify": False}),
        ("http://b", "GET", None, None, 3, {}),
    ]


@pytest.mark.parametrize("module", ["google.auth", "requests"])
def test_a_missing_package_is_named_when_the_channel_is_made(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bootstrap = {"xds_servers": [{"server_uri": "localhost:1", "channel_creds": GOOGLE}]}
    authority = {"authorities": {"a": bootstrap}}
    plain = {"server_uri": "localhost:1", "channel_creds": [{"type": "insecure"}]}
    monkeypatch.setitem(sys.modules, module, None)
    for document in (bootstrap, {"xds_servers": [plain], **authority}):
        monkeypatch.setenv("GRPC_XDS_BOOTSTRAP_CONFIG", json.dumps(document))
        with pytest.raises(ImportError, match=r"pip install 'grpclb-client\[xds-google\]'"):
            grpclb.insecure_channel("xds:///svc")
    monkeypatch.setenv("GRPC_XDS_BOOTSTRAP_CONFIG", json.dumps({"xds_servers": [plain]}))
    grpclb.insecure_channel("xds:///svc").close()


def test_a_broken_package_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.auth.transport.grpc", None)
    with pytest.raises(BootstrapError, match=r"grpclb-client\[xds-google\]' \(import of google"):
        google_default.find("localhost:1")


def test_the_first_kind_that_is_known_is_taken() -> None:
    def chosen(*kinds: str) -> Any:
        creds = [{"type": kind, "config": {"x": 1}} for kind in kinds]
        return load_bootstrap({"xds_servers": [{"server_uri": "s", "channel_creds": creds}]})

    one, two = chosen("?", "google_default", "insecure"), chosen("google_default")
    assert one.servers[0].credentials == Credentials("google_default")
    assert {one: 1}[two] == 1, "equal bootstraps share a client"
    assert chosen("insecure", "google_default").servers[0].credentials == Credentials("insecure")
