"""Why a call on a connected backend failed. Health checks are calls, too."""

from __future__ import annotations

from grpclb.cli.rules import Level, Rule, always, both, code, says
from grpclb.cli.seen import Stage

_CALLS = (Stage.CALL, Stage.HEALTH)

CALLING: tuple[Rule, ...] = (
    Rule(
        "http-status",
        _CALLS,
        says("http2 header with status"),
        "Not a gRPC server but something on the way answered, with HTTP status {http_status}.",
        (
            (
                "404: a proxy has no route for this host and path; 502 to 504: its backend is "
                "away; 401 and 403: it wants credentials; 429: it limits the rate."
            ),
            "Call a pod itself to see whether the server is well.",
        ),
    ),
    Rule(
        "method-unimplemented",
        _CALLS,
        code("UNIMPLEMENTED"),
        "The backend was reached, and does not know {method}.",
        (
            (
                "Check the name, package and all: /{service_of_method}/{name_of_method} must be "
                "spelt as in the .proto file that the server was built from."
            ),
            (
                "Is the service registered (add_...Servicer_to_server), and in this version of the "
                "server? During a rollout old pods may not have the method yet."
            ),
            "Is this port the port of that server?",
        ),
    ),
    Rule(
        "reply-too-large",
        _CALLS,
        both(code("RESOURCE_EXHAUSTED"), says("CLIENT: Received message larger")),
        "The answer is larger than this client accepts (gRPC's default is 4 MiB): {details}.",
        (
            (
                "Set the option grpc.max_receive_message_length on the channel, or "
                "maxResponseMessageBytes in the service config if that is the limit."
            ),
            "Better: page or stream large answers.",
        ),
    ),
    Rule(
        "request-too-large",
        _CALLS,
        both(code("RESOURCE_EXHAUSTED"), says("Received message larger")),
        "The request is larger than the server accepts (gRPC's default is 4 MiB): {details}.",
        (
            "Set grpc.max_receive_message_length on the server.",
            "Better: stream large requests.",
        ),
    ),
    Rule(
        "request-over-own-limit",
        _CALLS,
        both(code("RESOURCE_EXHAUSTED"), says("Sent message larger")),
        "The request is larger than this channel may send: {details}.",
        ("Raise grpc.max_send_message_length, or maxRequestMessageBytes in the service config.",),
    ),
    Rule(
        "metadata-too-large",
        _CALLS,
        both(code("RESOURCE_EXHAUSTED"), says("metadata size")),
        "The metadata (headers) is larger than the receiver accepts: {details}.",
        (
            (
                "Send less: cookies and tokens add up; a long ipv4: list is sent as the authority, "
                "unless grpc.default_authority says otherwise."
            ),
            "Or raise grpc.absolute_max_metadata_size at the receiver.",
        ),
    ),
    Rule(
        "resource-exhausted",
        _CALLS,
        code("RESOURCE_EXHAUSTED"),
        "The backend refused the call for want of something: a quota, a rate limit, or threads. "
        "This is not gRPC's limit on the size of messages.",
        (
            (
                "Its details tell which; a Python server says 'Concurrent RPC limit exceeded!' "
                "when maximum_concurrent_rpcs is reached."
            ),
        ),
    ),
    Rule(
        "stream-reset",
        _CALLS,
        says("RST_STREAM"),
        "The stream was reset with HTTP/2 error {reset}, without a gRPC status: servers end calls "
        "with a status, so this mostly comes from a proxy on the way.",
        (
            (
                "An idle or request timeout of a load balancer, ingress or mesh is the usual "
                "cause: compare with how long the call had run ({ms}), and raise it or use "
                "keepalive (grpc.keepalive_time_ms)."
            ),
            "Call a pod itself to see whether it happens without the proxy.",
        ),
    ),
    Rule(
        "deadline-before-call",
        _CALLS,
        lambda seen: seen.code == "DEADLINE_EXCEEDED" and (seen.deadline or 0.0) <= 0.0,
        "The deadline ({deadline_ms}) had passed before the call began: nothing was sent.",
        (
            (
                "Look at how the program computes it: a time of day where seconds are expected, or "
                "what was left of an outer deadline, spent on earlier calls."
            ),
            "A timeout of 0 in methodConfig of the service config does the same.",
        ),
    ),
    Rule(
        "deadline-too-short",
        _CALLS,
        lambda seen: (
            seen.code == "DEADLINE_EXCEEDED"
            and (seen.deadline or 0.0) < max(seen.connect_seconds or 0.0, 0.001)
        ),
        "The deadline ({deadline_ms}) is shorter than the way to this backend and back: the "
        "connection alone took {connect_ms}.",
        ("Seconds, not milliseconds: timeout=5 is five seconds.", "Give it more time."),
    ),
    Rule(
        "deadline-exceeded",
        _CALLS,
        code("DEADLINE_EXCEEDED"),
        "The backend took the call, and did not answer within {deadline_ms}.",
        (
            (
                "It is slow, stuck, or out of threads: a Python server runs max_workers calls at a "
                "time, the others wait."
            ),
            "Is the deadline right for this method? A timeout in the service config counts too.",
        ),
    ),
    Rule(
        "server-going-away",
        _CALLS,
        says("GOAWAY"),
        "The server (or a proxy) closed the connection with GOAWAY during the call.",
        (
            (
                "It is shutting down, or moves connections by max_connection_age: such calls may "
                "be retried."
            ),
            "too_many_pings means that the client's keepalive is faster than the server allows.",
        ),
    ),
    Rule(
        "connection-lost",
        _CALLS,
        both(code("UNAVAILABLE"), says("Socket closed", "Connection reset", "Broken pipe")),
        "The connection broke during the call, and the outcome of the call is unknown.",
        (
            "Did the server crash or restart (`kubectl get pods`: restarts, OOMKilled)?",
            "A retryPolicy in a service config's methodConfig repeats calls that may be repeated.",
        ),
    ),
    Rule(
        "unavailable",
        _CALLS,
        code("UNAVAILABLE"),
        "The backend was reached, and says itself that it is UNAVAILABLE.",
        (
            "Its details tell why; often something behind it is down.",
            "The code may be retried, with a retryPolicy.",
        ),
    ),
    Rule(
        "no-grpc-status",
        _CALLS,
        says("No status received"),
        "The answer ended without a gRPC status: something on the way drops HTTP trailers, or it "
        "is no gRPC server.",
        ("Proxies must pass HTTP/2 trailers; call a pod itself to compare.",),
    ),
    Rule(
        "request-not-understood",
        _CALLS,
        says("deserializing request", "unmarshal", "parsing request"),
        "The backend knows {method}, and cannot read the request.",
        (
            (
                "The request has another type there: client and server were built from other "
                ".proto files. With --data-hex or --data-file: is this the serialized message?"
            ),
        ),
    ),
    Rule(
        "handler-raised",
        _CALLS,
        both(code("UNKNOWN"), says("Exception calling application", "Exception iterating")),
        "The backend's own code raised an exception: the call got through.",
        ("The traceback is in the server's log.",),
    ),
    Rule(
        "answered",
        _CALLS,
        code(
            "INVALID_ARGUMENT",
            "NOT_FOUND",
            "ALREADY_EXISTS",
            "PERMISSION_DENIED",
            "UNAUTHENTICATED",
            "FAILED_PRECONDITION",
            "ABORTED",
            "OUT_OF_RANGE",
        ),
        "The way is free: the backend runs {method} and answered {code}, which is its own word "
        "about this request.",
        (
            (
                "An empty request without credentials is often refused so; --data-hex or "
                "--data-file send a real one."
            ),
        ),
        Level.WARNING,
    ),
    Rule(
        "call-failed",
        _CALLS,
        always,
        "The backend was reached, and the call failed with {code}.",
        ("Its details, and its log, tell why.",),
    ),
)
