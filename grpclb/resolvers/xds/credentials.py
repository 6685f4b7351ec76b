"""What a management server and its client show each other."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from grpclb.resolvers.xds.errors import BootstrapError
from grpclb.resolvers.xds.files import FileError, read_file


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to talk to a server: ``insecure`` or ``tls``; files are paths or empty (A65).

    Without a CA file the roots are grpcio's own.
    """

    kind: str
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""

    def load(self) -> grpc.ChannelCredentials | None:
        """For grpcio, from the files as they are now; None: no TLS. Raises BootstrapError."""
        if self.kind == "insecure":
            return None
        try:
            roots, key, chain = (
                read_file(path) if path else None
                for path in (self.ca_file, self.key_file, self.certificate_file)
            )
        except FileError as error:
            raise BootstrapError(f"xds: tls credentials: {error}") from None
        return grpc.ssl_channel_credentials(roots, key, chain)
