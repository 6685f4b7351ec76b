"""resolv.conf and the hosts file, as they are found on machines and in pods."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpclb.resolvers.dns.system import (
    ResolvConf,
    Server,
    WatchedFile,
    find_in_hosts,
    parse_resolv_conf,
)

POD = """
# made by the kubelet
search shop.svc.cluster.local svc.cluster.local cluster.local
nameserver 10.96.0.10
options ndots:5
"""


def test_the_file_of_a_pod() -> None:
    conf = parse_resolv_conf(POD)
    assert conf.servers == (Server("10.96.0.10", 53),)
    assert conf.ndots == 5
    assert conf.candidates("api") == (
        "api.shop.svc.cluster.local",
        "api.svc.cluster.local",
        "api.cluster.local",
        "api",
    )
    assert conf.candidates("api.pay")[1] == "api.pay.svc.cluster.local"
    assert conf.candidates("api.pay.svc.cluster.local.") == ("api.pay.svc.cluster.local",)
    assert conf.candidates("a.b.c.d.e.f")[0] == "a.b.c.d.e.f"


def test_a_name_with_enough_dots_is_asked_for_as_it_is_first() -> None:
    conf = parse_resolv_conf("search example.com")
    assert conf.candidates("api.ns") == ("api.ns", "api.ns.example.com")
    assert conf.candidates("api") == ("api.example.com", "api")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ResolvConf()),
        ("nameserver\noptions\nsearch\nnonsense here\n\0\n", ResolvConf()),
        ("nameserver dns.example.com", ResolvConf()),
        ("nameserver 10.0.0.1 # ours", ResolvConf((Server("10.0.0.1"),))),
        ("nameserver fe80::1%eth0", ResolvConf((Server("fe80::1%eth0"),))),
        ("\tnameserver\t10.0.0.1\r\n", ResolvConf((Server("10.0.0.1"),))),
        (
            "".join(f"nameserver 10.0.0.{n}\n" for n in (1, 1, 2, 3, 4)),
            ResolvConf(tuple(Server(f"10.0.0.{n}") for n in (1, 2, 3))),
        ),
        ("domain a.com b.com", ResolvConf(search=("a.com",))),
        ("search a.com\ndomain B.com.", ResolvConf(search=("b.com",))),
        ("search . a.com", ResolvConf(search=("a.com",))),
        (
            "options timeout:2 attempts:3 rotate use-vc edns0 trust-ad",
            ResolvConf(timeout=2, attempts=3, rotate=True, tcp=True),
        ),
        ("options ndots:99 timeout:99 attempts:99", ResolvConf(ndots=15, timeout=30, attempts=5)),
        ("options timeout:0 attempts:0 ndots:0", ResolvConf(timeout=1, attempts=1, ndots=0)),
        ("options ndots:-1 timeout:x attempts:", ResolvConf()),
    ],
)
def test_what_is_wrong_or_unknown_is_passed_over(text: str, expected: ResolvConf) -> None:
    assert parse_resolv_conf(text) == expected


@given(st.text())
def test_any_resolv_conf_gives_a_server_and_a_name(text: str) -> None:
    conf = parse_resolv_conf(text)
    assert conf.servers
    assert "api" in conf.candidates("api")


HOSTS = """
127.0.0.1 localhost
10.0.0.7  api.test API2.test # not: other.test
fd00::7   api.test
10.0.0.8  api.test.example
junk      api.test
10.0.0.7  api.test
10.0.0.9
"""


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("api.test", ("10.0.0.7", "fd00::7")),
        ("API.Test.", ("10.0.0.7", "fd00::7")),
        ("api2.test", ("10.0.0.7",)),
        ("other.test", ()),
        ("test", ()),
        ("10.0.0.9", ()),
    ],
)
def test_the_hosts_file(name: str, addresses: tuple[str, ...]) -> None:
    assert find_in_hosts(HOSTS, name) == addresses


def test_a_file_is_parsed_again_only_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    parsed: list[str] = []

    def parse(text: str) -> str:
        parsed.append(text)
        return text

    watched = WatchedFile(str(path), parse)
    assert [watched.get(), watched.get()] == ["", ""]
    path.write_bytes(b"one\xff")
    assert [watched.get(), watched.get()] == ["one�", "one�"]
    # replaced by another file, as Kubernetes and editors do, with size and time unchanged
    other = tmp_path / "other"
    other.write_bytes(b"two\xff")
    stat = path.stat()
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)
    assert watched.get() == "two�"
    path.unlink()
    assert watched.get() == ""
    assert parsed == ["", "one�", "two�", ""]
