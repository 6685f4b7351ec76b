"""What a management server and its client show each other (A27, A65)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import grpc

from grpclb.resolvers.thread import off_loop
from grpclb.resolvers.xds.errors import BootstrapError
from grpclb.resolvers.xds.files import FileError, read_file

INSECURE = "insecure"
TLS = "tls"
GOOGLE_DEFAULT = "google_default"
KINDS = (INSECURE, TLS, GOOGLE_DEFAULT)
_PATIENCE = 30.0  # seconds to find Google's credentials; where nobody answers it is about ten


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to talk to a server; `kind` is one of `KINDS`. Files are of ``tls``: paths, or empty.

    Without a CA file the roots are grpcio's own.
    """

    kind: str
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""

    def require(self) -> None:
        """Raises ImportError that names the extra, if that is needed and not installed."""
        if self.kind == GOOGLE_DEFAULT:
            from grpclb.resolvers.xds import google_default

            google_default.require()

    async def load(self, uri: str, patience: float | None = None) -> grpc.ChannelCredentials | None:
        """For grpcio and the server at `uri`; None: no TLS. Raises BootstrapError.

        From the files and Google's credentials as they are now; `patience` is how many seconds
        those may take to be found, None for as long as it takes where nobody answers.
        """
        if self.kind == INSECURE:
            return None
        if self.kind == GOOGLE_DEFAULT:
            return await _google_default(uri, _PATIENCE if patience is None else patience)
        try:
            roots, key, chain = (
                read_file(path) if path else None
                for path in (self.ca_file, self.key_file, self.certificate_file)
            )
        except FileError as error:
            raise BootstrapError(f"xds: tls credentials: {error}") from None
        return grpc.ssl_channel_credentials(roots, key, chain)


async def _google_default(uri: str, patience: float) -> grpc.ChannelCredentials:
    """On a thread: it may run gcloud, or ask a metadata server that is not there."""

    def find() -> grpc.ChannelCredentials:
        from grpclb.resolvers.xds import google_default

        return google_default.find(uri)

    try:
        async with asyncio.timeout(patience):
            return await off_loop(find)
    except TimeoutError:
        problem = f"nothing found within {patience:g} s"
        raise BootstrapError(f"xds: google_default credentials: {problem}") from None
