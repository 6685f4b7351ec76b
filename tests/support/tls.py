"""Certificates for tests: an authority that lives in memory and issues what is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
import trustme


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate chain and its private key, both PEM."""

    cert: str
    key: str


class Authority:
    """A certificate authority; `pem` is its root."""

    def __init__(self) -> None:
        self._ca = trustme.CA()
        self.pem: str = self._ca.cert_pem.bytes().decode()

    def issue(self, *names: str) -> Pair:
        """A certificate for these DNS names or IP addresses."""
        leaf = self._ca.issue_cert(*names)
        chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        return Pair(chain.decode(), leaf.private_key_pem.bytes().decode())

    def server(self, *names: str, client_ca: str | None = None) -> dict[str, str | None]:
        """The `tls` option of a `Backend`; with `client_ca`, client certificates are required."""
        pair = self.issue(*names)
        return {"cert": pair.cert, "key": pair.key, "client_ca": client_ca}

    def credentials(self, client: Pair | None = None) -> grpc.ChannelCredentials:
        """Channel credentials that trust this authority, and show `client` if there is one."""
        return grpc.ssl_channel_credentials(
            root_certificates=self.pem.encode(),
            private_key=None if client is None else client.key.encode(),
            certificate_chain=None if client is None else client.cert.encode(),
        )
