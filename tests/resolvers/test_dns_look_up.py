"""What a look-up makes of the answers: families, search domains, SRV, TXT. On virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from grpc import StatusCode

from grpclb.core.status import Status
from grpclb.resolvers.dns.client import Answer, Failure, Negative, Outcome
from grpclb.resolvers.dns.look_up import Found, Host, LookUp, Missing, Txt
from grpclb.resolvers.dns.order import by_family
from grpclb.resolvers.dns.system import ResolvConf
from grpclb.resolvers.dns.wire import Srv
from tests.support.virtual_loop import run_virtual

SERVER = "10.0.0.10:53"
NXDOMAIN = Negative(f"NXDOMAIN from {SERVER}")
NODATA = Negative(f"NODATA from {SERVER}")
SERVFAIL = Failure(f"SERVFAIL from {SERVER}")
PLAIN = ResolvConf()
POD = ResolvConf(search=("ns.svc.local", "svc.local"), ndots=5)


class Servers:
    """Answers each (name, type) from a table, after as many seconds as `slow` says."""

    def __init__(self, table: Mapping[tuple[str, str], Outcome]) -> None:
        self.table = dict(table)
        self.slow: dict[tuple[str, str], float] = {}
        self.asked: list[tuple[str, str]] = []
        self.most_at_once = self._at_once = 0

    async def ask(self, conf: ResolvConf, name: str, rdtype: str, deadline: float) -> Outcome:
        self.asked.append((name, rdtype))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        left = deadline - asyncio.get_running_loop().time()
        try:
            delay = self.slow.get((name, rdtype), 0.001)
            await asyncio.sleep(min(delay, left))
        finally:
            self._at_once -= 1
        if delay > left:
            return Failure(f"no answer from {SERVER}")
        return self.table.get((name, rdtype), NXDOMAIN)


def ips(*records: str, ttl: float = 30) -> Answer:
    return Answer(records, ttl)


def srv(*records: Srv, **glue: tuple[str, ...]) -> Answer:
    return Answer(records, 30, {f"{name}.api": ips for name, ips in glue.items()})


def looked_up(*hosts: LookUp, conf: ResolvConf = PLAIN) -> tuple[Found | Missing, float]:
    """The outcome of the last of several look-ups on one loop, and the seconds it took."""

    async def main() -> tuple[Found | Missing, float]:
        loop = asyncio.get_running_loop()
        for host in hosts:
            started = loop.time()
            outcome = await host.run(conf, timeout=5)
            assert asyncio.all_tasks() == {asyncio.current_task()}
        return outcome, loop.time() - started

    return run_virtual(main())


def targets(outcome: Found | Missing) -> list[str]:
    assert isinstance(outcome, Found), outcome
    return [str(endpoint) for endpoint in outcome.endpoints]


API = Host("api.test", 80)
A, AAAA = ("api.test", "A"), ("api.test", "AAAA")


# ---- families


def test_both_families_are_asked_side_by_side_and_joined() -> None:
    servers = Servers({A: ips("10.0.0.2", "10.0.0.1", ttl=40), AAAA: ips("fd00::1", ttl=20)})
    servers.slow = {A: 0.5, AAAA: 0.5}
    outcome, took = looked_up(LookUp(API, servers.ask))
    assert sorted(targets(outcome)) == ["10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80"]
    assert isinstance(outcome, Found)
    assert outcome.ttl == 20
    assert took == 0.5


@pytest.mark.parametrize("other", [NXDOMAIN, NODATA, SERVFAIL])
def test_one_family_is_enough(other: Outcome) -> None:
    for table in ({A: ips("10.0.0.1"), AAAA: other}, {A: other, AAAA: ips("fd00::1")}):
        outcome, _ = looked_up(LookUp(API, Servers(table).ask))
        assert len(targets(outcome)) == 1


@pytest.mark.parametrize(
    ("a", "aaaa", "details", "negative"),
    [
        (NXDOMAIN, NXDOMAIN, f"NXDOMAIN from {SERVER}", True),
        (NODATA, NODATA, f"NODATA from {SERVER}", True),
        (SERVFAIL, NODATA, f"SERVFAIL from {SERVER}", False),
        (NXDOMAIN, SERVFAIL, f"SERVFAIL from {SERVER}", False),
    ],
)
def test_without_any_address_a_failure_outweighs_a_denial(
    a: Outcome, aaaa: Outcome, details: str, negative: bool
) -> None:
    outcome, _ = looked_up(LookUp(API, Servers({A: a, AAAA: aaaa}).ask))
    assert outcome == Missing(f"{details} (asked A and AAAA of api.test)", negative)


def test_a_family_that_is_late_is_waited_for_one_second_only() -> None:
    servers = Servers({A: ips("10.0.0.1"), AAAA: ips("fd00::1")})
    servers.slow = {A: 0.2, AAAA: 60}
    outcome, took = looked_up(LookUp(API, servers.ask))
    assert targets(outcome) == ["10.0.0.1:80"]
    assert took == pytest.approx(1.2)


def test_a_denial_does_not_hurry_the_other_family() -> None:
    servers = Servers({A: ips("10.0.0.1"), AAAA: NODATA})
    servers.slow = {A: 4}
    outcome, took = looked_up(LookUp(API, servers.ask))
    assert targets(outcome) == ["10.0.0.1:80"]
    assert took == 4


@pytest.mark.parametrize("slow", [0.001, 60])
def test_a_family_that_fails_for_once_keeps_its_addresses(slow: float) -> None:
    servers = Servers({A: ips("10.0.0.1"), AAAA: ips("fd00::1")})
    look_up = LookUp(API, servers.ask)
    looked_up(look_up)
    servers.table = {A: ips("10.0.0.2"), AAAA: SERVFAIL}
    servers.slow = {AAAA: slow}
    for _ in range(2):
        assert sorted(targets(looked_up(look_up)[0])) == ["10.0.0.2:80", "[fd00::1]:80"]
    servers.table, servers.slow = {A: ips("10.0.0.2"), AAAA: NODATA}, {}
    assert targets(looked_up(look_up)[0]) == ["10.0.0.2:80"]


def test_when_both_fail_that_is_a_failure_whatever_is_remembered() -> None:
    servers = Servers({A: ips("10.0.0.1"), AAAA: ips("fd00::1")})
    look_up = LookUp(API, servers.ask)
    looked_up(look_up)
    servers.table = {A: SERVFAIL, AAAA: SERVFAIL}
    assert isinstance(looked_up(look_up)[0], Missing)
    servers.table = {A: SERVFAIL, AAAA: ips("fd00::2")}
    assert sorted(targets(looked_up(look_up)[0])) == ["10.0.0.1:80", "[fd00::2]:80"]


def test_silence_ends_with_the_time_for_a_look_up() -> None:
    servers = Servers({})
    servers.slow = {A: 60, AAAA: 60}
    outcome, took = looked_up(LookUp(API, servers.ask))
    assert outcome == Missing(
        f"no answer from {SERVER} (asked A and AAAA of api.test)", negative=False
    )
    assert took == 5


def test_what_nobody_can_dial_is_left_out() -> None:
    servers = Servers({A: ips("0.0.0.0", "10.0.0.1", "224.0.0.1")})
    assert targets(looked_up(LookUp(API, servers.ask))[0]) == ["10.0.0.1:80"]
    servers = Servers({A: ips("0.0.0.0")})
    outcome, _ = looked_up(LookUp(API, servers.ask))
    assert outcome == Missing(
        "no address that can be dialled among 0.0.0.0 (asked A and AAAA of api.test)", False
    )


@pytest.mark.parametrize(
    ("ips", "unroutable", "expected"),
    [
        (["10.0.0.1", "2001:db8::1"], (), ["2001:db8::1", "10.0.0.1"]),
        (["10.0.0.1", "2001:db8::1"], ("2001:db8::1",), ["10.0.0.1", "2001:db8::1"]),
        (["fd00::1", "10.0.0.1"], (), ["10.0.0.1", "fd00::1"]),
        (["fd00::1", "10.0.0.1"], ("10.0.0.1",), ["fd00::1", "10.0.0.1"]),
        (["127.0.0.1", "::1"], (), ["::1", "127.0.0.1"]),
        (["10.0.0.9", "10.0.0.1", "10.0.0.9"], ("10.0.0.9",), ["10.0.0.9", "10.0.0.1"]),
        ([], (), []),
    ],
)
def test_families_are_ordered_as_rfc_6724_says(
    ips: list[str], unroutable: tuple[str, ...], expected: list[str]
) -> None:
    assert list(by_family(ips, lambda ip: ip not in unroutable)) == expected


# ---- the hosts file and search domains


def test_the_hosts_file_comes_before_dns() -> None:
    servers = Servers({A: ips("10.0.0.1")})
    look_up = LookUp(API, servers.ask, hosts_file=lambda: ("10.0.0.7", "10.0.0.8"))
    outcome, _ = looked_up(look_up)
    assert targets(outcome) == ["10.0.0.7:80", "10.0.0.8:80"]
    assert servers.asked == []


@pytest.mark.parametrize("name", ["api", "api.ns"])
def test_a_short_name_is_searched_for(name: str) -> None:
    servers = Servers({("api.ns.svc.local", "A"): ips("10.0.0.1")})
    outcome, _ = looked_up(LookUp(Host(name, 80), servers.ask), conf=POD)
    assert targets(outcome) == ["10.0.0.1:80"]


def test_a_denial_names_all_that_was_asked() -> None:
    outcome, _ = looked_up(LookUp(Host("api", 80), Servers({}).ask), conf=POD)
    assert outcome == Missing(
        f"NXDOMAIN from {SERVER} (asked A and AAAA of api.ns.svc.local, api.svc.local, api)",
        negative=True,
    )


def test_a_failure_ends_the_search_rather_than_to_find_a_stranger() -> None:
    servers = Servers({("api.ns.svc.local", "A"): SERVFAIL, ("api", "A"): ips("198.51.100.1")})
    outcome, _ = looked_up(LookUp(Host("api", 80), servers.ask), conf=POD)
    assert outcome == Missing(
        f"SERVFAIL from {SERVER} (asked A and AAAA of api.ns.svc.local)", negative=False
    )


# ---- SRV

SERVICE = Host("_grpc._tcp.api", 443, srv=True)
SRV = ("_grpc._tcp.api", "SRV")


def test_ports_come_from_srv_and_addresses_from_the_glue() -> None:
    servers = Servers(
        {SRV: srv(Srv(1, 0, 81, "a.api"), Srv(1, 0, 82, "b.api"), a=("10.0.0.1",), b=("10.0.0.2",))}
    )
    outcome, _ = looked_up(LookUp(SERVICE, servers.ask))
    assert targets(outcome) == ["10.0.0.1:81", "10.0.0.2:82"]
    assert servers.asked == [SRV]


def test_targets_without_glue_are_looked_up_a_few_at_a_time() -> None:
    names = [f"t{n}.api" for n in range(100)]
    table: dict[tuple[str, str], Outcome] = {
        (name, "A"): ips(f"10.0.0.{n}", ttl=9) for n, name in enumerate(names, 1)
    }
    table[SRV] = srv(*(Srv(1, 0, 80, name) for name in names))
    servers = Servers(table)
    outcome, _ = looked_up(LookUp(SERVICE, servers.ask))
    assert len(targets(outcome)) == 100
    assert isinstance(outcome, Found)
    assert outcome.ttl == 9
    assert servers.most_at_once <= 32


def test_only_the_lowest_priority_that_has_addresses_counts() -> None:
    records = (Srv(3, 0, 83, "c.api"), Srv(1, 0, 81, "a.api"), Srv(2, 0, 82, "b.api"))
    table = {SRV: srv(*records), ("b.api", "A"): ips("10.0.0.2"), ("c.api", "A"): ips("10.0.0.3")}
    outcome, _ = looked_up(LookUp(SERVICE, Servers(table).ask))
    assert targets(outcome) == ["10.0.0.2:82"]


@pytest.mark.parametrize(
    ("weights", "expected"), [((3, 0), [3, 1]), ((0, 0), [None, None]), ((65_535, 1), [65_535, 1])]
)
def test_weights_become_attributes(weights: tuple[int, int], expected: list[int | None]) -> None:
    first, second = weights
    records = (Srv(1, first, 80, "a.api"), Srv(1, second, 80, "b.api"))
    table = {SRV: srv(*records, a=("10.0.0.1",), b=("10.0.0.2",))}
    outcome, _ = looked_up(LookUp(SERVICE, Servers(table).ask))
    assert isinstance(outcome, Found)
    assert [endpoint.attributes.get("weight") for endpoint in outcome.endpoints] == expected


def test_a_target_that_is_gone_is_left_out_and_one_that_fails_keeps_its_addresses() -> None:
    records = (Srv(1, 0, 80, "a.api"), Srv(1, 0, 80, "b.api"), Srv(1, 0, 80, "c.api"))
    table: dict[tuple[str, str], Outcome] = {SRV: srv(*records)}
    table |= {(f"{name}.api", "A"): ips(f"10.0.0.{n}") for n, name in enumerate("abc", 1)}
    servers = Servers(table)
    look_up = LookUp(SERVICE, servers.ask)
    assert len(targets(looked_up(look_up)[0])) == 3
    servers.table |= {("b.api", "A"): SERVFAIL, ("c.api", "A"): NXDOMAIN}
    for _ in range(2):
        assert targets(looked_up(look_up)[0]) == ["10.0.0.1:80", "10.0.0.2:80"]


@pytest.mark.parametrize(
    ("answer", "details", "negative"),
    [
        (NXDOMAIN, f"NXDOMAIN from {SERVER}", True),
        (SERVFAIL, f"SERVFAIL from {SERVER}", False),
        (srv(Srv(0, 0, 0, "")), "SRV says that the service is not offered", True),
        (srv(Srv(0, 0, 80, "gone.api")), f"NXDOMAIN from {SERVER}", True),
    ],
)
def test_an_srv_name_without_addresses(answer: Outcome, details: str, negative: bool) -> None:
    outcome, _ = looked_up(LookUp(SERVICE, Servers({SRV: answer}).ask))
    assert outcome == Missing(f"{details} (asked SRV of _grpc._tcp.api)", negative)


@pytest.mark.slow
def test_sixty_thousand_addresses_are_cut_to_just_above_the_limit() -> None:
    many = tuple(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(1, 2_000))
    records = [Srv(1, 0, 1000 + n, "a.api") for n in range(30)]
    table = {SRV: srv(*records, a=many)}

    async def main() -> Found | Missing:  # on a real loop: this much is done on a thread
        return await LookUp(SERVICE, Servers(table).ask).run(PLAIN, timeout=5)

    assert len(targets(asyncio.run(main()))) == 50_001


# ---- TXT

TXT = Txt("host-1", draw=50)
CONFIG = ("_grpc_config.api.test", "TXT")


def config_of(outcome: Found | Missing) -> Any:
    assert isinstance(outcome, Found)
    return outcome.service_config


def test_txt_is_not_asked_for_unless_wanted() -> None:
    servers = Servers({A: ips("10.0.0.1")})
    looked_up(LookUp(API, servers.ask))
    assert {rdtype for _, rdtype in servers.asked} == {"A", "AAAA"}


@pytest.mark.parametrize(
    ("answer", "config"),
    [
        (NXDOMAIN, None),
        (NODATA, None),
        (Answer(((b'grpc_config=[{"serv', b'iceConfig":{"a":1}}]'),), 30), {"a": 1}),
        (Answer(((b'grpc_config=[{"percentage":50,"serviceConfig":{}}]',),), 30), None),
        (Answer(((b'grpc_config=[{"percentage":51,"serviceConfig":{}}]',),), 30), {}),
        (Answer(((b'grpc_config=[{"clientHostname":["host-1"],"serviceConfig":{}}]',),), 30), {}),
        (Answer(((b"v=spf1",),), 30), None),
    ],
)
def test_a_config_is_chosen_from_txt(answer: Outcome, config: Any) -> None:
    servers = Servers({A: ips("10.0.0.1"), CONFIG: answer})
    outcome, _ = looked_up(LookUp(API, servers.ask, txt=TXT))
    assert targets(outcome) == ["10.0.0.1:80"]
    assert config_of(outcome) == config


@pytest.mark.parametrize(
    "answer", [SERVFAIL, Answer(((b"grpc_config={",),), 30), Answer(((b"grpc_config=\xff",),), 30)]
)
def test_a_config_that_cannot_be_had_is_a_status_beside_the_addresses(answer: Outcome) -> None:
    servers = Servers({A: ips("10.0.0.1"), CONFIG: answer})
    outcome, _ = looked_up(LookUp(API, servers.ask, txt=TXT))
    assert targets(outcome) == ["10.0.0.1:80"]
    config = config_of(outcome)
    assert isinstance(config, Status)
    assert config.code is StatusCode.UNAVAILABLE
    assert "TXT" in config.details


def test_the_config_is_that_of_the_name_that_answered() -> None:
    servers = Servers({("api.svc.local", "A"): ips("10.0.0.1")})
    looked_up(LookUp(Host("api", 80), servers.ask, txt=TXT), conf=POD)
    assert [name for name, rdtype in servers.asked if rdtype == "TXT"] == [
        "_grpc_config.api.svc.local"
    ]


def test_the_config_of_an_srv_name_is_that_of_its_domain() -> None:
    servers = Servers({SRV: srv(Srv(1, 0, 80, "a.api"), a=("10.0.0.1",))})
    looked_up(LookUp(SERVICE, servers.ask, txt=TXT))
    assert servers.asked[-1] == ("_grpc_config.api", "TXT")
