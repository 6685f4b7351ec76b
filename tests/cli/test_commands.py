"""What the three commands print, and their exit codes."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

import grpclb
import grpclb.xds
from grpclb.cli import main
from grpclb.cli.arguments import parse
from grpclb.cli.credentials import read_tls
from grpclb.control.registries import RESOLVERS
from grpclb.resolvers.kubernetes.build import build
from grpclb.resolvers.kubernetes.credentials import Access
from grpclb.testing import ManualResolver
from tests.cli import servers
from tests.cli.conftest import NAME, Shell, write_pair
from tests.support import xds_resources as xds
from tests.support.dns_server import DnsServer
from tests.support.kubernetes_objects import endpoint_object, slice_object
from tests.support.kubernetes_tls import TlsServer
from tests.support.tls import Authority
from tests.support.xds_server import XdsServer
from tests.support.xds_world import CDS, EDS, LDS, RDS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("patient", "secure", "ca"),
    pytest.mark.expect_log(".*"),  # channels tell of what they are shown here
]
ECHO = ("--method", "/test.Patient/Echo")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[TlsServer]:
    """The API server of all targets with the scheme kubernetes:"""
    monkeypatch.setattr(RESOLVERS, "_table", RESOLVERS._table)
    with TlsServer() as server:
        files: dict[str, Any] = {**server.write_files(tmp_path)}
        access = Access(**files)
        grpclb.register_resolver("kubernetes", lambda target, context: build(target, access))
        yield server


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> ManualResolver:
    """The resolver of every target with the scheme told:"""
    monkeypatch.setattr(RESOLVERS, "_table", RESOLVERS._table)
    resolver = ManualResolver()
    grpclb.register_resolver("told", lambda target, context: resolver)
    return resolver


# -- resolve -------------------------------------------------------------------------------------


def test_resolve_prints_the_addresses_and_where_they_came_from(
    shell: Shell, dns: DnsServer
) -> None:
    dns.set(NAME, "A", "127.0.0.1", "127.0.0.2", ttl=7)
    found = shell("resolve", f"dns://{dns.authority}/{NAME}:50051")
    first, second, resolved, asked = found.out.splitlines()
    assert [first, second] == ["127.0.0.1:50051", "127.0.0.2:50051"]
    assert re.fullmatch(r"resolved  2 addresses \(TTL 7 s\) in [0-9.e+]+ ms", resolved)
    assert asked == f"asked     DNS server {dns.authority} (from the target)"
    assert (found.code, found.err) == (0, "")


def test_resolve_says_why_it_failed(shell: Shell, dns: DnsServer) -> None:
    found = shell("resolve", f"dns://{dns.authority}/{NAME}:50051")
    assert found.code == 1
    assert f"NXDOMAIN from {dns.authority}" in found.out
    assert "[dns-no-such-name]" in found.out


def test_resolve_as_json(shell: Shell, told: ManualResolver) -> None:
    told.update([grpclb.Endpoint.of("10.0.0.7:1", "[fd00::7]:1", zone="a", weight=3)])
    found = shell("resolve", "told:///x", "--json").json
    assert found.keys() == {
        "schema", "target", "ok", "seconds", "asked", "note", "error", "endpoints",
        "service_config", "service_config_source", "service_config_error", "skipped", "findings",
    }  # fmt: skip
    assert found["endpoints"] == [
        {"addresses": ["10.0.0.7:1", "[fd00::7]:1"], "attributes": {"zone": "a", "weight": 3}}
    ]
    assert "10.0.0.7:1+[fd00::7]:1 weight=3 zone=a" in shell("resolve", "told:///x").out


def test_resolve_as_json_when_it_failed(shell: Shell, told: ManualResolver) -> None:
    told.fail(details="gone fishing")
    found = shell("resolve", "told:///x", "--json")
    assert (found.code, found.json["ok"]) == (1, False)
    assert found.json["error"] == "UNAVAILABLE: gone fishing"
    assert found.json["findings"] == ["resolution-failed"]


def test_a_service_config_from_the_resolver_is_shown(shell: Shell, dns: DnsServer) -> None:
    config = {"methodConfig": [{"name": [{}], "timeout": "3s"}]}
    dns.set(NAME, "A", "127.0.0.1")
    text = f"grpc_config={json.dumps([{'serviceConfig': config}])}"
    dns.set(f"_grpc_config.{NAME}", "TXT", text)
    target = f"dns://{dns.authority}/{NAME}:50051"
    assert shell("resolve", target, "--txt", "--json").json["service_config"] == config
    assert shell("resolve", target, "--json").json["service_config_source"] == "default"
    assert f"config    {json.dumps(config)}" in shell("resolve", target, "--txt").out


# -- doctor --------------------------------------------------------------------------------------


def test_a_healthy_target(shell: Shell, patient: str) -> None:
    found = shell("doctor", patient, "--health", "well", *ECHO, "--data-hex", "0102 03")
    assert found.code == 0
    target, resolved, config, channel, _, head, row, _, end = found.out.splitlines()
    assert target == f"target    {patient}"
    assert resolved.startswith("resolved  1 address in ")
    assert config == "config    {} (the default)"
    assert channel == "channel   READY, round_robin, 1 of 1 backends ready"
    assert head.split() == ["backend", "connect", "health", "call"]
    pattern = rf"{patient} +[0-9.e+]+ ms +SERVING +OK [0-9.e+]+ ms, 3 bytes"
    assert re.fullmatch(pattern, row)
    assert end == "No problem found."


def test_a_misspelt_field_of_a_service_config_is_named(shell: Shell, patient: str) -> None:
    found = shell("doctor", patient, "--service-config", '{"loadBalancingConfg": []}')
    assert found.code == 0
    assert "; nothing reads $.loadBalancingConfg (the default)" in found.out


def test_a_target_of_many_backends_names_each_problem_once(shell: Shell, patient: str) -> None:
    with servers.closed_port() as one, servers.closed_port() as other:
        found = shell("doctor", f"ipv4:{one},{patient},{other}", "--json").json
    assert [backend["connected"] for backend in found["backends"]] == [False, True, False]
    (finding,) = found["findings"]
    assert (finding["id"], finding["where"]) == ("connection-refused", [one, other])
    assert (found["channel"]["ready"], found["channel"]["backends"]) == (1, 3)


def test_a_list_of_addresses_is_no_name_for_a_handshake(
    shell: Shell, patient: str, secure: str
) -> None:
    found = shell("doctor", f"ipv4:{secure},{patient}", "--json").json
    (finding,) = found["findings"]
    assert (finding["id"], finding["where"]) == ("tls-expected", [secure])
    assert NAME in finding["meaning"]


def test_the_json_of_a_report(shell: Shell, secure: str, ca: str) -> None:
    found = shell("doctor", secure, "--ca", ca, "--server-name", "a.b", *ECHO, "--json").json
    assert found.keys() == {
        "schema", "grpclb", "target", "ok", "resolution", "channel", "backends", "findings",
    }  # fmt: skip
    (backend,), (finding,) = found["backends"], found["findings"]
    assert backend.keys() == {
        "address", "connected", "connect_seconds", "error", "certificate", "health", "call",
    }  # fmt: skip
    assert backend["certificate"]["names"] == [NAME]
    assert finding.keys() == {"id", "level", "where", "saw", "meaning", "advice"}
    assert f"not for a.b. It is for: {NAME}." in finding["meaning"]


def test_a_kubernetes_target(
    shell: Shell, cluster: TlsServer, authority: Authority, ca: str
) -> None:
    """Pods from EndpointSlices, a certificate for the name that the Service has."""
    with servers.grpc_server(authority.issue("api.shop.svc")) as address:
        host, _, port = address.rpartition(":")
        pod = endpoint_object(host, zone="a", pod="api-0")
        ports = [("grpc", int(port))]
        cluster.do(lambda api: api.put(slice_object("api-1", "api", [pod], ports=ports)))
        found = shell("doctor", "kubernetes:///api.shop:grpc", "--ca", ca, "--health", "--json")
    assert found.code == 0, found.out
    (endpoint,) = found.json["resolution"]["endpoints"]
    assert (endpoint["addresses"], endpoint["attributes"]["zone"]) == ([address], "a")
    assert found.json["channel"]["state"] == "READY"
    assert found.json["backends"][0]["health"]["status"] == "SERVING"


def test_what_a_resolver_skipped_is_named(shell: Shell, patient: str, cluster: TlsServer) -> None:
    """Neither `doctor` nor `resolve` says that all is well; it is no problem, all the same."""
    host, _, port = patient.rpartition(":")
    pods = [endpoint_object(host, pod="api-0"), {"addresses": [], "conditions": {"ready": True}}]
    ports = [("grpc", int(port))]
    cluster.do(lambda api: api.put(slice_object("api-1", "api", pods, ports=ports)))
    target = "kubernetes:///api.shop:grpc"
    reason = "an endpoint is left out: addresses must be a filled array, got []"
    found = shell("doctor", target, "--json")
    assert found.code == 0
    assert found.json["resolution"]["skipped"] == {"EndpointSlice api-1": reason}
    (finding,) = found.json["findings"]
    assert (finding["id"], finding["level"]) == ("entries-skipped", "warning")
    assert finding["saw"] == f"EndpointSlice api-1: {reason}"
    assert shell("doctor", target).out.endswith("\nNo problem found, 1 warning.\n")
    resolved = shell("resolve", target)
    assert resolved.code == 0
    assert resolved.out.startswith(f"{patient} ")
    assert "warning [entries-skipped]" in resolved.out
    assert "EndpointSlice api-1" in resolved.out


def test_refused_xds_resources_are_named_as_skipped(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RESOLVERS, "_table", RESOLVERS._table)
    with XdsServer() as control:
        place = xds.endpoint("10.0.0.7", 1)
        control.set(EDS, {"good": xds.endpoints("good", xds.locality(place))})
        control.set(CDS, {"good": xds.cluster("good"), "bad": xds.cluster("bad", type="STATIC")})
        routes = [xds.route("bad", prefix="/x"), xds.route("good")]
        control.set(RDS, {"routes": xds.route_config("routes", routes)})
        control.set(LDS, {"svc": xds.listener("svc")})
        grpclb.register_resolver("xds", grpclb.xds.factory(control.bootstrap()))
        found = shell("resolve", "xds:///svc", "--json")
    assert (found.code, found.json["findings"]) == (0, ["entries-skipped"])
    assert [*found.json["skipped"]] == ["CDS bad"]
    assert "CDS resource 'bad' is invalid" in found.json["skipped"]["CDS bad"]


def test_what_is_skipped_is_bounded_for_people(shell: Shell, told: ManualResolver) -> None:
    reasons = {f"svc/{n}": "no address" for n in range(20)}
    told.update(grpclb.ResolverState((), attributes={"skipped": reasons}, note="nobody"))
    found = shell("resolve", "told:///x", "--json").json
    assert found["skipped"] == reasons
    assert found["findings"] == ["no-endpoints", "entries-skipped"]
    said = shell("resolve", "told:///x").out
    assert "svc/7: no address; and 12 more" in " ".join(said.split())


def test_a_method_that_streams(shell: Shell, patient: str) -> None:
    words = ("doctor", patient, "--method", "test.Patient/Stream", "--data-hex", "aa", "--json")
    (backend,) = shell(*words).json["backends"]
    assert backend["call"]["code"] == "OK"
    assert backend["call"]["method"] == "/test.Patient/Stream"
    assert (backend["call"]["response_bytes"], backend["call"]["streaming"]) == (1, True)


def test_the_service_config_is_obeyed(shell: Shell, patient: str, tmp_path: Path) -> None:
    """Its health check is made, its timeout and its limits hold."""
    name = [{"service": "test.Patient"}]
    config = {
        "healthCheckConfig": {"serviceName": "ill"},
        "methodConfig": [{"name": name, "timeout": "0.2s", "maxRequestMessageBytes": 5}],
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    slow = ("--method", "/test.Patient/Slow")
    found = shell("doctor", patient, "--service-config", str(path), *slow, "--json").json
    assert [f["id"] for f in found["findings"]] == ["health-not-serving", "deadline-exceeded"]
    assert found["channel"]["state"] != "READY"
    big = ("--data-hex", "00" * 6, "--service-config", json.dumps(config), "--json")
    ids = [f["id"] for f in shell("doctor", patient, *ECHO, *big).json["findings"]]
    assert ids == ["health-not-serving", "request-over-own-limit"]


def test_mutual_tls_and_no_secret_is_printed(
    shell: Shell, authority: Authority, ca: str, tmp_path: Path
) -> None:
    cert, key = write_pair(tmp_path, authority.issue("client"))
    words = ("--ca", ca, "--server-name", NAME, "--cert", cert, "--key", key)
    with servers.grpc_server(authority.issue(NAME), authority.pem) as address:
        for more in ([], ["--json"], ["--health", "ill"]):
            found = shell("doctor", address, *words, *more)
            assert found.code == (1 if "ill" in more else 0)
            assert Path(key).read_text().split("\n")[1] not in found.out + found.err
            assert key not in found.out


def test_a_password_in_a_target_is_not_printed(shell: Shell, told: ManualResolver) -> None:
    told.fail(details="no answer from told://user:hunter2@host/x")
    for words in (["resolve"], ["doctor"], ["doctor", "--json"], ["watch", "--seconds", "0.2"]):
        command, *more = words
        found = shell(command, "told://user:hunter2@host/x", *more)
        assert "hunter2" not in found.out + found.err
        assert "user:***@host" in found.out
    assert "hunter2" not in shell("resolve", "nosuch://user:hunter2@host/x").err


def test_a_strangers_words_move_no_cursor(shell: Shell, told: ManualResolver) -> None:
    told.fail(details="gone\033[2J\033]0;title\007\r\x9b2J\nsecond line")
    for words in (["resolve"], ["doctor"], ["watch", "--seconds", "0.2"]):
        found = shell(words[0], "told:///x", *words[1:]).out
        assert "gone\\x1b[2J\\x1b]0;title\\x07" in found
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", found)


def test_a_terminal_that_knows_ascii_only(
    told: ManualResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.update([grpclb.Endpoint.of("10.0.0.7:1", zone="zürich")])
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert main(["resolve", "told:///x"]) == 0
    assert b"zone=z\\xfcrich\n" in raw.getvalue()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_colours_are_for_terminals(
    patient: str,
    environment: dict[str, str],
    coloured: bool,
    monkeypatch: pytest.MonkeyPatch,
    shell: Shell,
) -> None:
    assert "\033" not in shell("resolve", patient).out
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["resolve", patient]) == 0
    assert ("\033[" in terminal.getvalue()) is coloured


class _Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize(
    ("words", "code"), [(["doctor", "{}"], 1), (["resolve", "{}"], 0), (["watch", "{}"], 0)]
)
def test_a_broken_pipe_is_quiet(
    words: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "stdout", _Broken())
    with servers.closed_port() as address:
        assert main([word.format(address) for word in words]) == code
    assert "BrokenPipe" not in capsys.readouterr().err


class _Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("command", ["doctor", "resolve", "watch"])
def test_output_that_cannot_be_written_is_told_in_one_line(
    command: str, patient: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "stdout", _Full())
    assert main([command, patient]) == 1
    err = capsys.readouterr().err
    assert "grpclb: the output cannot be written: No space left on device\n" in err
    assert "No space left" not in err.replace("written: No space left", "")


def test_no_output_at_all_is_fine(patient: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["resolve", patient]) == 0


# -- watch ---------------------------------------------------------------------------------------


class _Lines(io.StringIO):
    """Standard output that a thread can wait on."""

    def __init__(self) -> None:
        super().__init__()
        self.news = threading.Condition()

    def write(self, text: str) -> int:
        with self.news:
            self.news.notify_all()
            return super().write(text)

    def wait_for(self, pattern: str) -> None:
        with self.news:
            if not self.news.wait_for(lambda: re.search(pattern, self.getvalue()), 20):
                raise AssertionError(f"no {pattern} in {self.getvalue()}")


@contextlib.contextmanager
def _meanwhile(script: Callable[[], None]) -> Iterator[list[BaseException]]:
    """Run `script` on a thread, and press Ctrl-C at its end."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            script()
        except BaseException as error:
            errors.append(error)
        main_thread = threading.main_thread().ident
        assert main_thread is not None
        signal.pthread_kill(main_thread, signal.SIGINT)

    thread = threading.Thread(target=run)
    thread.start()
    yield errors
    thread.join(30)


def test_watch_tells_of_every_change_until_ctrl_c(
    told: ManualResolver, patient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = _Lines()
    monkeypatch.setattr(sys, "stdout", out)
    with servers.closed_port() as dead:

        def script() -> None:
            out.wait_for("channel CONNECTING")
            told.update([grpclb.Endpoint.of(patient, zone="a")])
            out.wait_for(rf"\+ {patient} zone=a\n")
            out.wait_for(f"{patient} .*READY")
            told.update([grpclb.Endpoint.of(patient, zone="b"), grpclb.Endpoint.of(dead)])
            out.wait_for(rf"~ {patient} zone=b\n")
            out.wait_for(rf"{dead} .*TRANSIENT_FAILURE \(.*[Cc]onnection refused\)")
            told.fail(details="the registry is away")
            out.wait_for("! UNAVAILABLE: the registry is away; the last good list stays in use")
            told.update([patient])
            out.wait_for(rf"- {dead}\n")

        with _meanwhile(script) as errors:
            assert main(["watch", "told:///x"]) == 0
    assert not errors, out.getvalue()
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{3}  \S", line) for line in out.getvalue().splitlines())


def test_watch_as_json_in_a_process_of_its_own(patient: str) -> None:
    """The real thing: lines as they happen, Ctrl-C, exit 0, nothing on standard error."""
    command = [sys.executable, "-m", "grpclb", "watch", patient, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(json.loads(line))
            if seen[-1]["event"] == "channel" and seen[-1]["to"] == "READY":
                process.send_signal(signal.SIGINT)
                break
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, b"")
    assert {event["event"] for event in seen} >= {"resolved", "added", "state", "channel"}
    assert all(event["time"].endswith("Z") for event in seen)


# -- usage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "usage"),
        (["docter", "x"], "invalid choice"),
        (["doctor"], "TARGET"),
        (["doctor", "--health", "shop.Api"], "--health took 'shop.Api' as its SERVICE"),
        (["doctor", "nosuch:///x"], "unknown scheme 'nosuch'; known: "),
        (["doctor", "host:99999"], "port '99999'"),
        (["doctor", "host:1", "--option", "grpclb.dns_timeout=1"], "did you mean"),
        (["doctor", "host:1", "--option", "novalue"], "expected key=value"),
        (["doctor", "host:1", "--timeout", "0"], "--timeout: expected seconds"),
        (["doctor", "host:1", "--timeout", "nan"], "--timeout: expected seconds"),
        (["doctor", "host:1", "--ca", "/none/ca.pem"], "/none/ca.pem: No such file"),
        (["doctor", "host:1", "--ca", __file__], "not a PEM certificate"),
        (["doctor", "host:1", "--cert", __file__], "--cert and --key belong together"),
        (["doctor", "host:1", "--cert", __file__, "--key", __file__], "--cert"),
        (["doctor", "host:1", "--tls", "--insecure"], "--insecure means plaintext"),
        (["doctor", "host:1", "--method", "Echo"], "expected /pkg.Service/Method"),
        (["doctor", "host:1", "--data-hex", "00"], "belong to --method"),
        (["doctor", "host:1", *ECHO, "--data-hex", "0x"], "hexadecimal"),
        (["doctor", "host:1", *ECHO, "--data-file", "/none"], "/none: No such file"),
        (["doctor", "host:1", *ECHO, "--data-file", "x", "--data-hex", "00"], "give one of"),
        (["doctor", "host:1", *ECHO, "--deadline", "inf"], "--deadline: expected seconds"),
        (["watch", "host:1", "--seconds", "nan"], "--seconds: expected seconds above 0"),
        (["watch", "host:1", "--seconds", "-1"], "--seconds: expected seconds above 0"),
        (["watch", "host:1", "--service-config", "{"], "service config: $: not JSON"),
        (["watch", "host:1", "--service-config", "/none"], "/none: No such file"),
        (["resolve", "host:1", "--service-config", '{"methodConfig": 3}'], "$.methodConfig"),
    ],
)
def test_wrong_usage(words: list[str], message: str, shell: Shell) -> None:
    found = shell(*words)
    assert (found.code, found.out) == (2, "")
    assert message in found.err
    assert "Traceback" not in found.err


def test_help_is_no_error(shell: Shell) -> None:
    found = shell("doctor", "--help")
    assert found.code == 0
    assert "--health [SERVICE]" in found.out
    assert "usage: grpclb doctor TARGET [options]" in found.out
    assert "Exit codes: 0 all is well" in found.out
    assert "docs/" not in found.out  # an installed package has none


def test_every_example_of_the_help_can_be_parsed(shell: Shell) -> None:
    for words in (["--help"], ["doctor", "--help"]):
        lines = re.findall(r"^ +python -m grpclb (.*)$", shell(*words).out, re.MULTILINE)
        assert len(lines) >= 3
        for line in lines:
            assert parse(line.split()).command == line.split()[0]


@pytest.mark.parametrize("words", [["--json"], ["--timeout", "9"], [*ECHO, "--json"]])
def test_health_does_not_swallow_the_target(words: list[str]) -> None:
    target = "dns:///api.shop:50051"
    for order in (["--health", target, *words], [*words, "--health", target]):
        request = parse(["doctor", *order])
        assert (request.target, request.health) == (target, "")
    service = ["--health", "shop.Api"]
    at_the_end = [*words, target, *service]
    for order in ([*service, *words, target], [target, *words, *service], at_the_end):
        request = parse(["doctor", *order])
        assert (request.target, request.health) == (target, "shop.Api")


def test_a_ca_from_a_pipe_is_read_once() -> None:
    """A shell's ``<(...)``."""
    pem = trustme.CA().cert_pem.bytes()
    reading, writing = os.pipe()
    os.write(writing, pem)
    os.close(writing)
    try:
        tls = read_tls(False, f"/dev/fd/{reading}", None, None)
    finally:
        os.close(reading)
    assert tls is not None
    assert tls.ca == pem
