"""Why there is no connection to a backend."""

from __future__ import annotations

from grpclb.cli.rules import Rule, always, says
from grpclb.cli.seen import Stage, Wire

_CONNECT = (Stage.CONNECT,)

CONNECTING: tuple[Rule, ...] = (
    Rule(
        "connection-refused",
        _CONNECT,
        lambda seen: seen.wire is Wire.REFUSED or says("connection refused")(seen),
        "The machine is there, but nothing listens on this port.",
        (
            (
                "Is the server up, and does it listen on all interfaces ([::]) rather than on "
                "localhost?"
            ),
            (
                "A headless Service does not translate ports: the target needs the container's own "
                "port, not the Service's."
            ),
        ),
    ),
    Rule(
        "connection-timeout",
        _CONNECT,
        lambda seen: seen.wire is Wire.TIMEOUT,
        "No answer at all: packets to this address are dropped.",
        (
            (
                "A NetworkPolicy or firewall between the two; or the pod is gone and its address "
                "is stale."
            ),
            "Look whether the address is still listed: `kubectl get pods -o wide`.",
        ),
    ),
    Rule(
        "no-such-socket",
        _CONNECT,
        says("No such file or directory"),
        "There is no Unix socket at this path.",
        ("Check the path and the volume mount; unix:relative/path is relative to this directory.",),
    ),
    Rule(
        "tls-expected",
        _CONNECT,
        lambda seen: not seen.tls and seen.wire in (Wire.TLS, Wire.TLS_CLOSED),
        "The server speaks TLS, the client was told to speak plaintext. Its certificate is for: "
        "{names}.",
        (
            "Use grpclb.secure_channel (here: --tls, with --ca FILE for a CA of your own).",
            "The target, or --server-name, must be one of the certificate's names.",
        ),
    ),
    Rule(
        "plaintext-expected",
        _CONNECT,
        lambda seen: seen.tls and seen.wire is Wire.HTTP2,
        "The server speaks plaintext HTTP/2, the client was told to speak TLS.",
        (
            "Use grpclb.insecure_channel (here: without --tls), or give the server a certificate.",
            "With a service mesh the sidecar does TLS, and the program speaks plaintext.",
        ),
    ),
    Rule(
        "not-http2",
        _CONNECT,
        lambda seen: seen.wire is Wire.HTTP1,
        "An HTTP/1 server listens here, not a gRPC server.",
        (
            (
                "This is probably the port of metrics, of health probes or of a REST gateway: "
                "check which port serves gRPC."
            ),
            "A proxy in front must be told to speak HTTP/2 (h2c) to clients.",
        ),
    ),
    Rule(
        "not-grpc",
        _CONNECT,
        lambda seen: seen.wire is Wire.OTHER,
        "Something answers here that speaks neither TLS nor HTTP.",
        ("Check which port serves gRPC.",),
    ),
    Rule(
        "certificate-name",
        _CONNECT,
        says("Hostname Verification Check failed"),
        "The certificate is genuine, but not for {server_name}. It is for: {names}.",
        (
            (
                "Use one of its names: --server-name NAME, in programs the option "
                "grpc.default_authority (or grpc.ssl_target_name_override)."
            ),
            "Or have a certificate issued for the name in the target.",
        ),
    ),
    Rule(
        "certificate-expired",
        _CONNECT,
        says("certificate has expired"),
        "The server's certificate, or one that signed it, has expired. The server's ended "
        "{not_after}.",
        ("Renew it, and restart the server if it read its files at the start only.",),
    ),
    Rule(
        "certificate-not-yet-valid",
        _CONNECT,
        says("certificate is not yet valid"),
        "The server's certificate begins only at {not_before}.",
        ("Compare the clocks of the two machines.",),
    ),
    Rule(
        "certificate-unknown-ca",
        _CONNECT,
        says("CERTIFICATE_VERIFY_FAILED"),
        "The certificate was issued by {issuer}, whom this client does not trust. "
        "It is for: {names}.",
        (
            (
                "Give the client the CA that signed it: --ca FILE, in programs "
                "grpc.ssl_channel_credentials(root_certificates=...)."
            ),
            "The server must send its intermediate certificates too.",
        ),
    ),
    Rule(
        "client-certificate",
        _CONNECT,
        lambda seen: seen.tls and seen.wire is Wire.TLS_CLOSED,
        "The TLS handshake went through, and then the server closed the connection: most likely "
        "it wants a client certificate (mTLS), or refused the one that it was shown.",
        (
            (
                "Show one with --cert and --key; in programs grpc.ssl_channel_credentials("
                "root_certificates, private_key, certificate_chain)."
            ),
            "It must be signed by a CA that the server trusts, and not have expired.",
        ),
    ),
    Rule(
        "no-alpn",
        _CONNECT,
        lambda seen: seen.tls and seen.wire is Wire.TLS and not seen.alpn,
        "The server speaks TLS, but did not agree to HTTP/2 in the handshake (ALPN).",
        (
            "A TLS terminator in front must offer the ALPN protocol h2.",
            "Or this is an HTTPS port that does not serve gRPC.",
        ),
    ),
    Rule(
        "server-silent",
        _CONNECT,
        lambda seen: seen.wire is Wire.SILENT,
        "The port accepts connections, and then says nothing.",
        (
            "A frozen process, or one so busy that it cannot answer.",
            "Or not a gRPC port, or a proxy whose own backend is away.",
        ),
    ),
    Rule(
        "server-closed",
        _CONNECT,
        lambda seen: seen.wire is Wire.CLOSED,
        "The port accepts connections and closes them at once.",
        (
            (
                "A proxy or load balancer without a healthy backend, or a server that is shutting "
                "down."
            ),
            "A limit on connections, or an address filter.",
        ),
    ),
    Rule(
        "connection-failed",
        _CONNECT,
        always,
        "No connection was made.",
        ("The reason above is gRPC's own.",),
    ),
)
