"""What the doctor saw when a step did not go well: the input of the explanations."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Stage(Enum):
    """What was looked at: the steps that a call needs, in their order."""

    RESOLVE = "resolve"
    NAME = "name"  # what the name stands for
    CONFIG = "config"  # the service config that came with the addresses
    SKIPPED = "skipped"  # what the source holds beside the addresses, and nobody can use
    CONNECT = "connect"
    HEALTH = "health"
    CALL = "call"


class Wire(Enum):
    """What a bare look at a port found (`cli.wire.look`), whatever the client expected there."""

    NOTHING = "nothing"  # not looked at
    REFUSED = "refused"
    TIMEOUT = "timeout"  # TCP was not answered
    ERROR = "error"  # another error of the operating system
    TLS = "tls"
    TLS_CLOSED = "tls-closed"  # TLS, and closed when the client had shown what it had
    HTTP2 = "http2"  # without TLS
    HTTP1 = "http1"  # without TLS
    SILENT = "silent"
    CLOSED = "closed"  # accepted, and closed without a word
    OTHER = "other"  # some other protocol


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a server's certificate says; `names` are DNS names and IP addresses, times are text."""

    names: tuple[str, ...] = ()
    issuer: str = ""
    not_before: str = ""
    not_after: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """One step that went wrong, or oddly. Frozen; all that an explanation may look at.

    `code` and `details` are the RPC's or the resolver's; `tls` is what the client was told to
    speak, `wire` what the port speaks. Times are seconds, None where they do not apply.
    """

    stage: Stage
    code: str = "UNAVAILABLE"
    details: str = ""
    target: str = ""
    scheme: str = ""
    address: str = ""
    tls: bool = False
    wire: Wire = Wire.NOTHING
    alpn: bool = True  # the server agreed to HTTP/2 in the TLS handshake
    certificate: Certificate | None = None
    server_name: str = ""
    client_certificate: bool = False
    method: str = ""
    variable: str = ""  # of the environment, that holds a ClusterIP
    service: str = ""  # of a health check
    status: str = ""  # the answer of a health check
    empty_request: bool = True
    deadline: float | None = None
    seconds: float | None = None
    connect_seconds: float | None = None
