"""Target strings: what a user writes to name a service (gRPC's naming document)."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

# C-core's own schemes with a path that needs no slash: `dns:host`, `unix:relative/path`.
_SLASHLESS = frozenset({"dns", "ipv4", "ipv6", "unix", "unix-abstract"})
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):")
_LABEL = re.compile(r"[a-zA-Z0-9_](?:[a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?")
_FORMS = "host:port, dns:///host:port, ipv4:10.0.0.1:80, unix:/path"
# RFC 3986's authority characters beside letters, digits and "-._~", as C-core leaves them.
_AUTHORITY_SAFE = "!$&'()*+,;=:[]@"


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed target ``scheme:[//authority/]endpoint``.

    `scheme` is in lower case. `endpoint` is the path, percent-decoded, without its leading slash
    (``dns:///api`` gives ``api``); only ``unix:`` keeps the slash, which is part of a file's name.
    A query or fragment is in `text` alone, which is what the user wrote.
    """

    scheme: str
    authority: str
    endpoint: str
    text: str

    def __str__(self) -> str:
        return self.text


def parse_target(text: str, known_schemes: Iterable[str]) -> Target:
    """What `text` names. Text without a scheme means ``dns``, as in gRPC.

    Raises TypeError for anything but text, and ValueError that says what is wrong, where, and
    what to write instead. Unlike gRPC an unknown scheme is an error: grpcio would silently ask
    DNS for a host of that name.
    """
    if not isinstance(text, str):
        raise TypeError(f"target must be str such as 'host:port', got {type(text).__name__}")
    known = sorted(known_schemes)
    _check_characters(text)
    scheme, rest = _split_scheme(text, known)
    authority, path = _split_authority(rest)
    if scheme in _SLASHLESS:
        for mark in "?#":
            if mark in path:
                raise _error(text, f"{mark!r} in the endpoint; write it as {quote(mark)}")
    path = re.split(r"[?#]", path, maxsplit=1)[0]
    endpoint = _decoded(text, path if scheme == "unix" else path.removeprefix("/"))
    target = Target(scheme, _decoded(text, authority), endpoint, text)
    if scheme in _SLASHLESS - {"dns"} and authority:
        instead = f"unix:///{authority}{path}" if scheme == "unix" else f"{scheme}:{authority}"
        raise _error(text, f"{scheme}: takes no authority; write {instead}")
    if scheme == "dns" and authority and not endpoint.strip("/"):
        raise _error(text, f"two slashes make it the DNS server; write dns:///{authority[:200]}")
    if scheme in _SLASHLESS and not endpoint.strip("/"):
        raise _error(text, f"nothing after {scheme!r}; write for example {_FORMS}")
    if scheme == "dns":
        split_host_port(endpoint, f"target {text!r}")
    return target


def default_authority(target: Target) -> str:
    """The ``:authority`` that C-core would send for `target`: its endpoint, percent-encoded.

    C-core resolves no SRV names; for those it is the domain, since the records are not
    authenticated and may not choose the name that a certificate is checked for (RFC 6125).
    """
    name = target.endpoint.removeprefix("/")
    if target.scheme == "dns":
        name = srv_domain(name) or name
    return quote(name, safe=_AUTHORITY_SAFE)


def srv_domain(name: str) -> str | None:
    """``api.ns`` for ``_grpc._tcp.api.ns``; None for a name that is not one of SRV records."""
    labels = name.split(".", 2)
    if len(labels) == 3 and labels[0].startswith("_") and labels[1].lower() == "_tcp":
        return labels[2]
    return None


def own_host(ip: str) -> str:
    """`ip`, or the loopback address for "any address", as which the kernel takes it.

    For what the user wrote ("0.0.0.0:50051" is common); a resolver's data may not say that.
    """
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return ip
    if not address.is_unspecified:
        return ip
    return "127.0.0.1" if address.version == 4 else "::1"


def split_host_port(text: str, where: str) -> tuple[str, int | None]:
    """``host``, ``host:port``, ``[ipv6]:port``, ``ipv6`` as host (no brackets) and port.

    `where` begins the message of the ValueError for what is neither a host name nor an IP
    address, or for a port outside of 1..65535. Host names keep their case and last dot.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{where}: expected '[ipv6]:port', got {text!r}")
        _check_ip(host, 6, where)
        return host, _port(rest[1:], where) if rest else None
    if text.count(":") > 1:
        _check_ip(text, 6, where)
        return text, None
    host, colon, port = text.partition(":")
    _check_host(host, where)
    return host, _port(port, where) if colon else None


def _check_characters(text: str) -> None:
    if not text.strip():
        raise ValueError(f"target {text!r} is empty; write for example {_FORMS}")
    for index, character in enumerate(text):
        if character.isspace() or not character.isprintable():
            raise _error(text, f"{character!r} at character {index}; remove it, or write it as %XX")


def _split_scheme(text: str, known: list[str]) -> tuple[str, str]:
    """The scheme, and the rest; ``("dns", text)`` where there is no scheme."""
    match = _SCHEME.match(text)
    if match is None or text.startswith("["):
        return "dns", text
    scheme, rest = match[1].lower(), text[match.end() :]
    port_like = rest.isascii() and rest.isdigit()
    if scheme in known and not port_like:
        return scheme, rest
    if scheme == "dns" and port_like:
        raise _error(
            text,
            f"ambiguous; write dns:///dns:{rest} for port {rest} of a host named 'dns'",
        )
    if scheme in known and scheme in _SLASHLESS:
        return scheme, rest
    if rest.startswith("/"):
        raise ValueError(_unknown_scheme(text, scheme, rest, known))
    return "dns", text


def _unknown_scheme(text: str, scheme: str, rest: str, known: list[str]) -> str:
    if scheme in ("http", "https", "grpc", "grpcs", "tcp"):
        host = re.split(r"[/?#]", rest.lstrip("/"), maxsplit=1)[0] or "host:port"
        hint = f"gRPC targets are not URLs; write host:port, here {host}"
        if scheme.endswith("s"):
            hint += " with secure_channel for TLS"
    else:
        near = difflib.get_close_matches(scheme, known, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else "register_resolver adds one"
    names = ", ".join(known)
    return f"target {text!r}: unknown scheme {scheme!r}; known: {names}; {hint}"


def _split_authority(rest: str) -> tuple[str, str]:
    if not rest.startswith("//"):
        return "", rest
    end = re.search(r"[/?#]", rest[2:])
    cut = len(rest) if end is None else end.start() + 2
    return rest[2:cut], rest[cut:]


def _decoded(text: str, part: str) -> str:
    if "%" not in part:
        return part
    try:
        decoded = unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        raise _error(text, "the percent-encoded bytes are not UTF-8") from None
    if "\0" in decoded:
        raise _error(text, "%00 (NUL) names nothing; remove it")
    return decoded


def _check_host(host: str, where: str) -> None:
    if not host:
        raise ValueError(f"{where}: the host is missing; write host:port")
    labels = host.removesuffix(".").split(".")
    if labels[-1].isascii() and labels[-1].isdigit() and len(labels) > 1:
        # No top-level domain is a number: whoever writes this means an address.
        _check_ip(host, 4, where)
        return
    if not host.isascii():
        raise ValueError(f"{where}: {host!r} is not ASCII; write its IDNA form ('xn--...')")
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise ValueError(
                f"{where}: {label!r} cannot be part of a host name; expected 1 to 63 letters, "
                "digits, '-' or '_'"
            )
    if len(host) > 254:
        raise ValueError(f"{where}: the host name has {len(host)} characters; DNS ends at 253")


def _check_ip(host: str, version: int, where: str) -> None:
    try:
        right = ipaddress.ip_address(host).version == version
    except ValueError:
        right = False
    if not right:
        expected = "[fd00::7]:443" if version == 6 else "10.0.0.7:443"
        raise ValueError(
            f"{where}: {host!r} is not an IPv{version} address; expected for example {expected}"
        )


def _port(text: str, where: str) -> int:
    # Five digits hold every port; int() of millions of them would take seconds.
    if text.isascii() and text.isdigit() and len(text) <= 6 and 0 < int(text) < 65536:
        return int(text)
    raise ValueError(f"{where}: port {text[:20]!r} is not a number in 1..65535")


def _error(text: str, problem: str) -> ValueError:
    return ValueError(f"target {text[:200]!r}: {problem}")
