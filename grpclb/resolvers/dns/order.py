"""The order of addresses: families as RFC 6724 ranks them, each in the order of the answer."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable

# RFC 6724 section 2.1; IPv4 has the precedence of its mapped form.
_IPV4 = 35
_PRECEDENCE = tuple(
    (ipaddress.IPv6Network(prefix), precedence)
    for prefix, precedence in (
        ("::1/128", 50),
        ("::ffff:0:0/96", _IPV4),
        ("2002::/16", 30),
        ("2001::/32", 5),
        ("fc00::/7", 3),
        ("fec0::/10", 1),
        ("::/0", 40),
    )
)


def by_family(ips: Iterable[str], routable: Callable[[str], bool] | None = None) -> tuple[str, ...]:
    """`ips` without repeats, the better family first; a family without a route comes last.

    Within a family the order stays: servers rotate it to spread the load. The first address
    stands for its family, as the kernel is asked once and not for each of thousands.
    """
    routable = has_route if routable is None else routable
    families: dict[bool, list[str]] = {}
    for ip in dict.fromkeys(ips):
        families.setdefault(":" in ip, []).append(ip)
    if len(families) < 2:
        return tuple(ip for family in families.values() for ip in family)
    ranked = sorted(
        families.values(),
        key=lambda family: (not routable(family[0]), -_precedence(family[0])),
    )
    return tuple(ip for family in ranked for ip in family)


def has_route(ip: str) -> bool:
    """Whether the kernel knows a way to `ip`; connecting a UDP socket sends nothing."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect((ip, 53))
    except OSError:
        return False
    return True


def _precedence(ip: str) -> int:
    address = ipaddress.ip_address(ip)
    if address.version == 4:
        return _IPV4
    return next(precedence for network, precedence in _PRECEDENCE if address in network)
