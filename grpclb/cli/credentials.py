"""TLS as the command line asks for it: for gRPC's channels, and for a bare look at a port."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

import grpc


@dataclass(frozen=True, slots=True)
class Tls:
    """What to trust, and what to show. Neither a key nor a path to one is ever printed."""

    ca: bytes | None = None
    cert: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    files: tuple[str, str] | None = field(default=None, repr=False)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For a channel."""
        return grpc.ssl_channel_credentials(self.ca, self.key, self.cert)


def read_tls(tls: bool, ca: str | None, cert: str | None, key: str | None) -> Tls | None:
    """None for plaintext. Raises OSError or ValueError that names the file that is wrong."""
    if not (tls or ca or cert or key):
        return None
    if bool(cert) != bool(key):
        raise ValueError("--cert and --key belong together")
    trusted = _read_ca(ca) if ca else None
    if cert is None or key is None:
        return Tls(trusted)
    _check_pair(cert, key)
    return Tls(
        trusted,
        Path(cert).read_bytes(),
        Path(key).read_bytes(),
        (cert, key),
    )


def _read_ca(path: str) -> bytes:
    """gRPC would take anything here, and fail later with a riddle.

    Read once: a pipe, such as a shell's ``<(...)``, has no second reading.
    """
    text = Path(path).read_bytes()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise ValueError(f"--ca {path}: not a PEM certificate") from None
    return text


def _check_pair(cert: str, key: str) -> None:
    for path in (cert, key):
        Path(path).read_bytes()  # an OSError that names the file
    try:
        # A password would be asked for on the terminal, for ever.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or "not a certificate and its unencrypted key"
        raise ValueError(f"--cert {cert} --key {key}: {reason}") from None
