"""The DNS resolver against a real server: transports, faults, resolv.conf, large answers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from grpclb.core.resolver import ResolverContext, ResolverState
from grpclb.core.status import Status
from grpclb.core.target import parse_target
from grpclb.resolvers.dns import factory, wire
from grpclb.resolvers.dns.build import build
from tests.support.dns_server import DnsServer, Fault

NAME = "api.test"
FAST = {
    "grpclb.dns_min_refresh_ms": 50,
    "grpclb.dns_max_refresh_ms": 50,
    "grpclb.dns_timeout_ms": 300,
}


@pytest.fixture(scope="module")
def running() -> Iterator[DnsServer]:
    with DnsServer() as server:
        yield server


@pytest.fixture
def server(running: DnsServer) -> DnsServer:
    running.clear_faults()
    running.remove(NAME)
    running.forget_queries()
    running.set(NAME, "A", "127.0.0.1", "127.0.0.2", ttl=7)
    return running


@asynccontextmanager
async def states_of(
    target: str, options: dict[str, Any] | None = None, **machine: Any
) -> AsyncIterator[Any]:
    """Run the resolver of `target`; gives a function that waits for its next state."""
    context = ResolverContext(Random(1), options or {})
    resolver = build(parse_target(target, ["dns"]), context, **machine)
    states: asyncio.Queue[ResolverState] = asyncio.Queue()

    def update(state: ResolverState) -> bool:
        states.put_nowait(state)
        return True

    async def following() -> ResolverState:
        return await asyncio.wait_for(states.get(), 10)

    task = asyncio.create_task(resolver.run(update))
    try:
        yield following
    finally:
        task.cancel()
        await asyncio.wait([task])
        if task.done() and not task.cancelled():
            assert task.exception() is None


async def first(target: str, options: dict[str, Any] | None = None, **machine: Any) -> Any:
    async with states_of(target, options, **machine) as following:
        return await following()


def shown(state: ResolverState) -> list[str] | str:
    if isinstance(state.endpoints, Status):
        return state.endpoints.details
    return [str(endpoint) for endpoint in state.endpoints]


async def soon(following: Any, expected: list[str] | str) -> ResolverState:
    """The first state that shows `expected`; a busy machine may miss the short time-out before."""
    for _ in range(4):
        state: ResolverState = await following()
        if shown(state) == expected:
            break
    assert shown(state) == expected
    return state


# ---- good answers


async def test_a_name_is_looked_up_and_followed_as_it_changes(server: DnsServer) -> None:
    server.set(NAME, "AAAA", "::1", ttl=7)
    async with states_of(f"dns://{server.authority}/{NAME}:80", FAST) as following:
        state = await following()
        assert sorted(shown(state)) == ["127.0.0.1:80", "127.0.0.2:80", "[::1]:80"]
        assert state.note.endswith("/api.test:80 resolved 3 addresses (TTL 7 s)")
        server.set(NAME, "A", "127.0.0.3")
        server.set(NAME, "AAAA")
        while shown(state) != ["127.0.0.3:80"]:
            state = await following()
    assert {query.rdtype for query in server.queries()} == {"A", "AAAA"}


async def test_the_port_is_443_unless_given(server: DnsServer) -> None:
    state = await first(f"dns://{server.authority}/{NAME}")
    assert shown(state) == ["127.0.0.1:443", "127.0.0.2:443"]


async def test_a_cname_is_followed(server: DnsServer) -> None:
    server.set("alias.test", "CNAME", "api.test.", ttl=60)
    state = await first(f"dns://{server.authority}/alias.test:80")
    assert shown(state) == ["127.0.0.1:80", "127.0.0.2:80"]
    assert "TTL 7 s" in state.note


async def test_a_truncated_answer_is_fetched_over_tcp(server: DnsServer) -> None:
    many = [f"10.0.{n // 250}.{n % 250 + 1}" for n in range(300)]
    server.set("many.test", "A", *many)
    state = await first(f"dns://{server.authority}/many.test:80")
    assert shown(state) == [f"{ip}:80" for ip in many]
    assert [query.transport for query in server.queries("many.test", "A")] == ["udp", "tcp"]


async def test_srv_records_give_ports_and_weights(server: DnsServer) -> None:
    server.set("_grpc._tcp.api.test", "SRV", "1 3 5001 api.test.", "2 1 5002 other.test.")
    state = await first(f"dns://{server.authority}/_grpc._tcp.api.test")
    assert shown(state) == ["127.0.0.1:5001", "127.0.0.2:5001"]
    assert [endpoint.attributes["weight"] for endpoint in state.endpoints] == [3, 3]


@pytest.mark.parametrize(("off", "asked"), [(None, 0), (1, 0), (0, 1), (False, 1)])
async def test_txt_is_asked_for_by_option_only(server: DnsServer, off: Any, asked: int) -> None:
    server.set("_grpc_config.api.test", "TXT", 'grpc_config=[{"serviceConfig":{"x":1}}]')
    options = {} if off is None else {"grpc.service_config_disable_resolution": off}
    state = await first(f"dns://{server.authority}/{NAME}", options)
    assert len(server.queries("_grpc_config.api.test")) == asked
    assert state.service_config == ({"x": 1} if asked else None)


# ---- no answer: FIGURES F34

FAULTS = [
    (Fault.SERVFAIL, "SERVFAIL from SERVER", False),
    (Fault.REFUSED, "REFUSED from SERVER", False),
    (Fault.FORMERR, "FORMERR from SERVER", False),
    (Fault.NXDOMAIN, "NXDOMAIN from SERVER", True),
    (Fault.NODATA, "NODATA from SERVER", True),
    (Fault.DROP, "no answer from SERVER", False),
    (Fault.GARBAGE, "no answer from SERVER", False),
    (Fault.WRONG_ID, "no answer from SERVER", False),
    (Fault.WRONG_PORT, "no answer from SERVER", False),
    (Fault.CNAME_LOOP, "endless chain of CNAMEs from SERVER", False),
    (
        Fault.TRUNCATE_NO_TCP,
        "SERVER: truncated answer, and then over TCP: Connection reset by peer",
        False,
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "details", "negative"), FAULTS, ids=lambda value: getattr(value, "name", None)
)
async def test_a_fault_is_named_with_its_server_before_and_after_a_good_answer(
    server: DnsServer, fault: Fault, details: str, negative: bool
) -> None:
    target = f"dns://{server.authority}/{NAME}:80"
    expected = (
        f"{target}: {details.replace('SERVER', server.authority)} (asked A and AAAA of {NAME})"
    )
    async with states_of(target, FAST) as following:
        await soon(following, ["127.0.0.1:80", "127.0.0.2:80"])
        server.fault(NAME, fault)
        state = await soon(following, expected)
        assert bool(state.attributes.get("dns.negative")) is negative
    started = time.monotonic()
    async with states_of(target, FAST) as following:
        await soon(following, expected)
    if "no answer" in details:
        assert time.monotonic() - started >= 0.29, "gave up before resolve_timeout"


@pytest.mark.slow
async def test_a_fault_that_ends_is_recovered_from(server: DnsServer) -> None:
    server.fault(NAME, Fault.SERVFAIL, rdtype="A", times=1)
    async with states_of(f"dns://{server.authority}/{NAME}:80") as following:
        assert "SERVFAIL" in shown(await following())
        assert shown(await following()) == ["127.0.0.1:80", "127.0.0.2:80"]
    assert len(server.queries(NAME, "A")) == 2


async def test_a_server_that_cannot_read_edns_is_asked_without(server: DnsServer) -> None:
    server.fault(NAME, Fault.FORMERR, rdtype="A", times=1)
    state = await first(f"dns://{server.authority}/{NAME}:80")
    assert shown(state) == ["127.0.0.1:80", "127.0.0.2:80"]


@pytest.mark.slow
async def test_one_lost_datagram_costs_a_try_not_the_look_up(server: DnsServer) -> None:
    server.fault(NAME, Fault.DROP, rdtype="A", times=1)
    state = await first(f"dns://{server.authority}/{NAME}:80", {"grpclb.dns_timeout_ms": 1_200})
    assert shown(state) == ["127.0.0.1:80", "127.0.0.2:80"]


async def test_a_closed_port_is_a_quick_failure() -> None:
    with DnsServer() as gone:
        target = f"dns://{gone.authority}/{NAME}:80"
    state = await first(target)
    assert shown(state) == (
        f"{target}: {gone.authority}: Connection refused (asked A and AAAA of {NAME})"
    )


async def test_a_cancelled_look_up_leaves_nothing_behind(server: DnsServer) -> None:
    server.fault(NAME, Fault.DROP)
    before = asyncio.all_tasks()
    async with states_of(f"dns://{server.authority}/{NAME}:80"):
        await asyncio.to_thread(server.wait_for_queries, 2, NAME)
    assert asyncio.all_tasks() == before  # sockets: an unclosed one fails the test run


# ---- the machine's files


async def test_search_domains_and_ndots_work_as_in_a_pod(server: DnsServer, tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("search ns.svc.local svc.local\nnameserver 127.0.0.1\noptions ndots:5\n")
    server.set("web.ns.svc.local", "A", "127.0.0.1")
    for name in ("web", "web.ns", "web.ns.svc.local", "web.ns.svc.local."):
        state = await first(f"dns:///{name}:80", resolv_conf=str(conf), port=server.port)
        assert shown(state) == ["127.0.0.1:80"], name
    state = await first("dns:///nobody:80", resolv_conf=str(conf), port=server.port)
    assert str(shown(state)).endswith(
        "(asked A and AAAA of nobody.ns.svc.local, nobody.svc.local, nobody)"
    )


async def test_a_changed_resolv_conf_counts_from_the_next_look_up_on(
    server: DnsServer, tmp_path: Path
) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("search old.local\nnameserver 127.0.0.1\n")
    server.set("moved.old.local", "A", "127.0.0.1")
    server.set("moved.new.local", "A", "127.0.0.2")
    machine: dict[str, Any] = {"resolv_conf": str(conf), "port": server.port}
    async with states_of("dns:///moved:80", FAST, **machine) as following:
        assert shown(await following()) == ["127.0.0.1:80"]
        conf.write_text("search new.local\nnameserver 127.0.0.1\n")
        state = await following()
        while shown(state) != ["127.0.0.2:80"]:
            state = await following()


@pytest.mark.skipif(sys.platform != "linux", reason="needs 127.0.0.2 to be up")
@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault.DROP, Fault.SERVFAIL])
async def test_the_second_server_answers_when_the_first_does_not(
    server: DnsServer, tmp_path: Path, fault: Fault
) -> None:
    server.fault(NAME, fault)
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 127.0.0.1\nnameserver 127.0.0.2\n")
    with DnsServer("127.0.0.2", server.port) as second:
        second.set(NAME, "A", "127.0.0.9")
        machine: dict[str, Any] = {"resolv_conf": str(conf), "port": server.port}
        state = await first(f"dns:///{NAME}:80", {"grpclb.dns_timeout_ms": 2_000}, **machine)
    assert shown(state) == ["127.0.0.9:80"]


async def test_the_hosts_file_answers_before_dns_unless_a_server_is_named(
    server: DnsServer, tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.7 {NAME}\n")
    machine: dict[str, Any] = {
        "hosts": str(hosts),
        "resolv_conf": str(tmp_path / "none"),
        "port": server.port,
    }
    assert shown(await first(f"dns:///{NAME}:80", **machine)) == ["127.0.0.7:80"]
    assert server.queries() == ()
    state = await first(f"dns://{server.authority}/{NAME}:80", **machine)
    assert shown(state) == ["127.0.0.1:80", "127.0.0.2:80"]


@pytest.mark.parametrize(
    ("target", "endpoints"),
    [
        ("127.0.0.1:80", ["127.0.0.1:80"]),
        ("[::1]:80", ["[::1]:80"]),
        ("0.0.0.0:80", ["127.0.0.1:80"]),
        ("localhost:80", ["127.0.0.1:80+[::1]:80"]),
        ("dns:///api.LOCALHOST.", ["127.0.0.1:443+[::1]:443"]),
    ],
)
async def test_addresses_and_localhost_need_no_look_up(target: str, endpoints: list[str]) -> None:
    resolver = factory(parse_target(target, ["dns"]), ResolverContext(Random()))
    states: list[ResolverState] = []

    def update(state: ResolverState) -> bool:
        states.append(state)
        return True

    await asyncio.wait_for(resolver.run(update), 1)
    assert [shown(state) for state in states] == [endpoints]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("dns://ns.example/api", "DNS server 'ns.example' must be an IP address"),
        ("dns://10.0.0.1:0/api", "DNS server: port '0' is not a number in 1..65535"),
        ("dns:///_grpc._tcp.api:80", "SRV records name the port themselves; leave out :80"),
        ("224.0.0.1:80", "multicast"),
    ],
)
def test_a_target_that_dns_cannot_take_is_refused(target: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        factory(parse_target(target, ["dns"]), ResolverContext(Random()))


def test_a_wrong_option_is_refused_at_once() -> None:
    context = ResolverContext(Random(), {"grpclb.dns_min_refresh_ms": -5})
    with pytest.raises(ValueError, match=r"'grpclb\.dns_min_refresh_ms': expected milliseconds"):
        factory(parse_target("dns:///api", ["dns"]), context)


# ---- large answers


@pytest.mark.slow
async def test_a_large_answer_is_parsed_off_the_loop(
    server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.set("big.test", "A", *(f"10.{n >> 8}.{n & 255}.1" for n in range(3_800)))
    parsed: list[tuple[threading.Thread, float]] = []

    def decode(data: bytes, rdtype: str) -> wire.Reply:
        started = time.thread_time()
        reply = wire.decode(data, rdtype)
        parsed.append((threading.current_thread(), time.thread_time() - started))
        return reply

    monkeypatch.setattr("grpclb.resolvers.dns.client.decode", decode)
    state = await first(f"dns://{server.authority}/big.test:80", {"grpclb.dns_timeout_ms": 20_000})
    assert len(state.endpoints) == 3_800
    on_loop = [took for thread, took in parsed if thread is threading.main_thread()]
    elsewhere = [took for thread, took in parsed if thread is not threading.main_thread()]
    assert len(elsewhere) == 1
    # What stays on the loop: the answer for AAAA and the truncated one.
    assert sum(on_loop) < elsewhere[0] / 10


# ---- start-up


@pytest.mark.slow
def test_dnspython_is_loaded_only_for_a_target_that_needs_it() -> None:
    code = "import sys, grpclb.resolvers.dns; sys.exit('dns.message' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
