"""What the machine says about names: resolv.conf and the hosts file, read again when changed."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

RESOLV_CONF = "/etc/resolv.conf"
HOSTS = "/etc/hosts"
PORT = 53
_LARGEST = 1 << 24  # bytes read of a file
_MOST_SERVERS = 3
_MOST_SEARCH = 32  # as Kubernetes allows

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Server:
    """A DNS server to ask; `host` is an IP address, an IPv6 one perhaps with a zone."""

    host: str
    port: int = PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """The parts of resolv.conf(5) that we obey. `timeout` is seconds for one try."""

    servers: tuple[Server, ...] = (Server("127.0.0.1"),)
    search: tuple[str, ...] = ()
    ndots: int = 1
    timeout: float = 5.0
    attempts: int = 2
    rotate: bool = False
    tcp: bool = False

    def candidates(self, host: str) -> tuple[str, ...]:
        """The absolute names (without the last dot) that `host` may mean, in order."""
        if host.endswith("."):
            return (host[:-1],)
        searched = tuple(f"{host}.{domain}" for domain in self.search)
        if host.count(".") >= self.ndots:
            return tuple(dict.fromkeys((host, *searched)))
        return tuple(dict.fromkeys((*searched, host)))


def parse_resolv_conf(text: str, port: int = PORT) -> ResolvConf:
    """Read resolv.conf(5); what is wrong or unknown in it is passed over, as libc does."""
    servers: list[Server] = []
    search: tuple[str, ...] = ()
    options: dict[str, str] = {}
    for line in text.splitlines():
        match line.partition("#")[0].partition(";")[0].split():
            case ["nameserver", host, *_] if _is_ip(host):
                servers.append(Server(host, port))
            case ["search" | "domain" as word, *domains]:
                kept = domains if word == "search" else domains[:1]
                names = (domain.strip(".").lower() for domain in kept)
                search = tuple(name for name in names if name)[:_MOST_SEARCH]
            case ["options", *words]:
                options.update(word.partition(":")[::2] for word in words)
    return ResolvConf(
        servers=tuple(dict.fromkeys(servers))[:_MOST_SERVERS] or (Server("127.0.0.1", port),),
        search=search,
        ndots=_number(options, "ndots", 1, 0, 15),
        timeout=_number(options, "timeout", 5, 1, 30),
        attempts=_number(options, "attempts", 2, 1, 5),
        rotate="rotate" in options,
        tcp="use-vc" in options,
    )


def find_in_hosts(text: str, name: str) -> tuple[str, ...]:
    """The addresses that a hosts file gives to `name` (in any case, last dot ignored)."""
    name = name.rstrip(".").lower()
    text = text.lower()
    if name not in text:  # spares the walk through a long block list
        return ()
    found: list[str] = []
    for line in text.splitlines():
        if name in line:
            address, *names = line.partition("#")[0].split() or ("",)
            if name in names and _is_ip(address):
                found.append(address)
    return tuple(dict.fromkeys(found))


class WatchedFile(Generic[T]):
    """A file's content as `parse` sees it; parsed again only after the file has changed.

    A file that cannot be read counts as empty. `get` costs one stat; it runs on the control loop.
    """

    def __init__(self, path: str, parse: Callable[[str], T]) -> None:
        self._path = path
        self._parse = parse
        self._signature: object = None
        self._value = parse("")

    def get(self) -> T:
        """The value for what the file holds now."""
        try:
            stat = os.stat(self._path)
            signature = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if signature != self._signature:
                with open(self._path, "rb") as file:
                    text = file.read(_LARGEST).decode("utf-8", "replace")
                self._value = self._parse(text)
                self._signature = signature
        except OSError:
            if self._signature is not None:
                self._value, self._signature = self._parse(""), None
        return self._value


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _number(options: dict[str, str], name: str, default: int, low: int, high: int) -> int:
    text = options.get(name, "")
    if not (text.isascii() and text.isdigit()):
        return default
    return min(max(int(text[:9]), low), high)
