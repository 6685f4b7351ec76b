"""How to get into the API server: its address, whom to trust, and a token.

Everything is looked at again for each connection (at least every few minutes, and after each
401), since a kubelet replaces tokens about once an hour, and certificates some day.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from grpclb.resolvers.kubernetes.files import FileError, changed, read_file, read_text, trust
from grpclb.resolvers.kubernetes.http import Origin

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


class CredentialsError(Exception):
    """No way in; the text says what is missing and where."""


@dataclass(frozen=True, slots=True)
class Access:
    """What the user said about the way in; channels with equal ones share their watches.

    With nothing said: the service account of the pod, or outside of a cluster the kubeconfig.
    """

    api_server: str | None = None
    token_file: str | None = None
    ca_file: str | None = None
    client_cert_file: str | None = None
    client_key_file: str | None = None
    kubeconfig: str | None = None
    context: str | None = None
    insecure_skip_tls_verify: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for what contradicts itself."""
        if self.api_server is not None:
            if self.kubeconfig is not None or self.context is not None:
                raise ValueError("api_server= and a kubeconfig exclude each other")
            parse_origin(self.api_server, None)
            if self.plaintext and (self.token_file or self.client_cert_file):
                raise ValueError(
                    f"api_server={self.api_server!r}: no token and no certificate is sent over "
                    "plain http; write https"
                )
        if (self.client_cert_file is None) != (self.client_key_file is None):
            raise ValueError("client_cert_file= and client_key_file= belong together")

    @property
    def plaintext(self) -> bool:
        return self.api_server is not None and self.api_server.startswith("http://")

    @property
    def in_cluster(self) -> bool:
        """Whether this runs in a pod and the user did not say otherwise."""
        if self.api_server is not None or self.kubeconfig is not None or self.context is not None:
            return False
        return bool(os.environ.get("KUBERNETES_SERVICE_HOST"))


@dataclass(frozen=True, slots=True)
class Grant:
    """What one connection needs. The token is never shown; `source` says where it is from."""

    origin: Origin
    token: str | None = field(default=None, repr=False)
    source: str = ""


class Credentials(Protocol):
    """Lives on one loop."""

    async def grant(self) -> Grant:
        """For a new connection. Raises CredentialsError or FileError."""
        ...

    def reject(self) -> None:
        """The server did not accept the last grant: ask everybody again."""
        ...

    async def namespace(self) -> str:
        """The namespace of a target that has none."""
        ...


class FileCredentials:
    """A token and certificates in files: those of the pod, or those that the user named."""

    def __init__(self, access: Access) -> None:
        self._access = access
        pod = access.in_cluster
        self._token_file = access.token_file or (f"{SERVICE_ACCOUNT}/token" if pod else None)
        self._ca_file = access.ca_file or (f"{SERVICE_ACCOUNT}/ca.crt" if pod else None)
        self._tls: ssl.SSLContext | None = None
        self._tls_of: object = None

    async def grant(self) -> Grant:
        origin = parse_origin(self._access.api_server or _pod_api_server(), self._context())
        token = None if self._token_file is None else read_text(self._token_file)
        return Grant(origin, token, self._token_file or "no token")

    def reject(self) -> None:
        """Nothing is kept that could be old."""

    async def namespace(self) -> str:
        return pod_namespace() if self._access.in_cluster else "default"

    def _context(self) -> ssl.SSLContext | None:
        access = self._access
        if access.plaintext:
            return None
        files = (self._ca_file, access.client_cert_file, access.client_key_file)
        now = tuple(changed(path) for path in files if path)
        if self._tls is None or now != self._tls_of:
            self._tls = tls_context(*files, verify=not access.insecure_skip_tls_verify)
            self._tls_of = now
        return self._tls


def tls_context(
    ca_file: str | None, cert_file: str | None, key_file: str | None, *, verify: bool
) -> ssl.SSLContext:
    """What the server must prove, and what we do. Raises FileError."""
    # Not create_default_context(): from Python 3.13 on that asks for certificate extensions
    # which the authorities of older clusters do not have.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file is not None:
        trust(context, ca_file)
    else:
        context.load_default_certs()
    if cert_file is not None:
        for path in (cert_file, key_file or cert_file):
            read_file(path)  # OpenSSL would wait for a FIFO
        try:
            context.load_cert_chain(cert_file, key_file, password=_no_password)
        except (OSError, ValueError) as error:
            kind = type(error).__name__
            raise FileError(f"{cert_file}, {key_file}: no usable key pair ({kind})") from None
    return context


def parse_origin(url: str, tls: ssl.SSLContext | None, server_name: str | None = None) -> Origin:
    """Where ``https://host[:port][/path]`` is. Raises ValueError."""
    # Before an '@' there may be a password.
    where = f"api server {url.rpartition('@')[2][:200]!r}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError(f"{where}: expected https://host:port")
    if parts.username or parts.query or parts.fragment:
        raise ValueError(f"expected https://host:port, got a URL with more ({parts.hostname})")
    path = parts.path.rstrip("/")
    if not (parts.hostname + path).isascii() or not (parts.hostname + path).isprintable():
        raise ValueError(f"{where}: expected ASCII")
    default = 443 if parts.scheme == "https" else 80
    return Origin(parts.hostname, port or default, tls, server_name, path)


def pod_namespace() -> str:
    """The pod's own, or ``default``."""
    try:
        return read_text(f"{SERVICE_ACCOUNT}/namespace")
    except FileError:
        return "default"


def _pod_api_server() -> str:
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise CredentialsError("KUBERNETES_SERVICE_HOST is not set any more")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _no_password() -> str:
    raise ValueError("the key is encrypted")  # rather than to ask on the terminal
