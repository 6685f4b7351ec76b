"""How to reach an etcd cluster: endpoints, TLS, a user, times. Checked when it is made."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpclb.core.target import split_host_port

ENVIRONMENT = "GRPCLB_ETCD_"
DEFAULT_PORT = 2379
_LARGEST_FILE = 1 << 20  # bytes; a CA bundle of the whole web has a quarter of it
_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"", "0", "false", "no", "off"})

Pem = str | os.PathLike[str] | bytes


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """Where etcd is and who asks. Raises ValueError or TypeError that names the wrong part.

    `endpoints` are ``host:port``, ``host`` (port 2379), or those with ``http://`` or ``https://``
    before them, as a list or joined by commas. `ca`, `cert` and `key` are paths of PEM files, or
    PEM as bytes; `ca` switches TLS on, and ``https`` needs it. Files are read for every new
    connection, so that renewed certificates are used. `server_name` is the name that etcd's
    certificate must carry where it is not the endpoint's host.

    A password over a connection without TLS can be read by anyone on the way, and is refused
    unless `allow_plaintext_auth`. Times are seconds: `timeout` is for one RPC at one member,
    `keepalive_time` and `keepalive_timeout` find a frozen one (etcd allows 5 s and more).
    """

    endpoints: tuple[str, ...]
    ca: Pem | None = field(default=None, repr=False)
    cert: Pem | None = field(default=None, repr=False)
    key: Pem | None = field(default=None, repr=False)
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    allow_plaintext_auth: bool = False
    server_name: str | None = None
    timeout: float = 5.0
    keepalive_time: float = 5.5
    keepalive_timeout: float = 2.0

    @classmethod
    def of(cls, endpoints: str | Iterable[str], **settings: Any) -> EtcdSettings:
        """Settings from endpoints in any of the forms above. Keywords are the other fields."""
        check_keywords(settings, _FIELDS)
        texts = endpoints.split(",") if isinstance(endpoints, str) else list(endpoints)
        if not texts:
            raise ValueError("etcd: no endpoints; name at least one, such as 'etcd-0:2379'")
        parsed = [_endpoint(text) for text in texts]
        schemes = {scheme for scheme, _ in parsed if scheme}
        if len(schemes) > 1:
            raise ValueError("etcd: endpoints mix http:// and https://; use one for all")
        result = cls(tuple(dict.fromkeys(address for _, address in parsed)), **settings)
        if schemes == {"https"} and result.ca is None:
            raise ValueError("etcd: https:// needs the CA that signed etcd's certificate (ca=...)")
        if schemes == {"http"} and result.ca is not None:
            raise ValueError("etcd: a CA (ca=...) means TLS, but the endpoints say http://")
        return result

    @classmethod
    def from_environment(
        cls, endpoints: str | None = None, environ: Mapping[str, str] | None = None
    ) -> EtcdSettings:
        """Settings from ``GRPCLB_ETCD_*``; `endpoints` win over those of the environment."""
        values = os.environ if environ is None else environ

        def get(name: str) -> str | None:
            return values.get(ENVIRONMENT + name) or None

        endpoints = endpoints or get("ENDPOINTS")
        if endpoints is None:
            raise ValueError(
                f"etcd: no endpoints; write etcd://host:{DEFAULT_PORT}/service, or set "
                f"{ENVIRONMENT}ENDPOINTS"
            )
        user, password = get("USER"), get("PASSWORD")
        if user is not None and password is None and ":" in user:  # as etcdctl's ETCDCTL_USER
            user, _, password = user.partition(":")
        return cls.of(
            endpoints,
            ca=get("CACERT"),
            cert=get("CERT"),
            key=get("KEY"),
            user=user,
            password=password,
            allow_plaintext_auth=_flag(get("ALLOW_PLAINTEXT_AUTH"), "ALLOW_PLAINTEXT_AUTH"),
            server_name=get("SERVER_NAME"),
        )

    def __post_init__(self) -> None:
        if (self.cert is None) is not (self.key is None):
            raise ValueError("etcd: a client certificate needs both cert= and key=")
        if self.cert is not None and self.ca is None:
            raise ValueError("etcd: a client certificate (cert=) needs TLS, so a CA (ca=)")
        if (self.user is None) is not (self.password is None):
            raise ValueError("etcd: user= and password= go together")
        if self.user is not None and not self.tls and not self.allow_plaintext_auth:
            raise ValueError(
                "etcd: a password without TLS can be read on the way; set ca=, or "
                "allow_plaintext_auth=True if you accept that"
            )
        if self.server_name is not None and not self.tls:
            raise ValueError("etcd: a server name is checked with TLS only; set ca=")
        for name in ("timeout", "keepalive_time", "keepalive_timeout"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"etcd: {name} must be seconds, got {value!r}")
            if not 0 < value < 86_400:
                raise ValueError(f"etcd: {name} must be above 0 s, got {value!r}")
        if self.keepalive_time < 5:
            raise ValueError(
                f"etcd: keepalive_time {self.keepalive_time!r}: etcd closes connections that ping "
                "more often than every 5 s"
            )
        self.pem()  # a file that cannot be read is an error now, not at the first connection

    @property
    def tls(self) -> bool:
        return self.ca is not None

    def pem(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """CA, key and certificate, read now. Raises ValueError that names the file."""
        return _read("ca", self.ca), _read("key", self.key), _read("cert", self.cert)


_FIELDS = tuple(EtcdSettings.__dataclass_fields__)


def check_keywords(given: Iterable[str], known: Collection[str]) -> None:
    """Raises TypeError for a keyword that is none, with the one that was most likely meant."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise TypeError(f"etcd: unexpected keyword {name!r}; {hint}")


def unread_environment(environ: Mapping[str, str] | None = None) -> str:
    """The variables that are set and have no say as there are keywords: a note, or nothing.

    Their names only: the values may be secret.
    """
    values = os.environ if environ is None else environ
    found = sorted(name for name, value in values.items() if name.startswith(ENVIRONMENT) and value)
    if not found:
        return ""
    return f"the program says how to reach etcd, so {', '.join(found)} has no say"


def _endpoint(text: object) -> tuple[str, str]:
    """The scheme (or nothing) and ``host:port`` of one endpoint."""
    if not isinstance(text, str):
        raise TypeError(f"etcd: an endpoint must be text, got {type(text).__name__}")
    if "@" in text:  # may be a password: never shown
        raise ValueError("etcd endpoint: no user belongs in it; use user= and password=")
    scheme, mark, rest = text.strip().rpartition("://")
    rest = rest.removesuffix("/")
    if mark and scheme.lower() not in ("http", "https"):
        raise ValueError(f"etcd endpoint {text!r}: write host:port, or http(s)://host:port")
    host, port = split_host_port(rest, f"etcd endpoint {text!r}")
    host = f"[{host}]" if ":" in host else host
    return scheme.lower(), f"{host}:{port or DEFAULT_PORT}"


def _flag(text: str | None, name: str) -> bool:
    value = (text or "").strip().lower()
    if value not in _YES | _NO:
        raise ValueError(f"{ENVIRONMENT}{name}: expected 1 or 0, got {text!r}")
    return value in _YES


def _read(what: str, given: Pem | None) -> bytes | None:
    if given is None:
        return None
    content = given if isinstance(given, bytes) else _read_file(what, Path(given))
    if b"-----BEGIN " not in content:
        raise ValueError(f"etcd: {what}: no PEM in it ('-----BEGIN ...')")
    return content


def _read_file(what: str, path: Path) -> bytes:
    try:
        # Opening a FIFO would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError(f"etcd: {what}: {path} is not a regular file")
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(_LARGEST_FILE + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ValueError(f"etcd: {what}: cannot read {path}: {error.strerror}") from None
    if len(content) > _LARGEST_FILE:
        raise ValueError(f"etcd: {what}: {path} is larger than {_LARGEST_FILE} bytes")
    return content
