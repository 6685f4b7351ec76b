"""Options, compression and credentials of sync channels and calls."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import grpc
from grpc import experimental

from tests.parity.harness import KINDS, WRONG_TYPE, World, row, stub
from tests.parity.observe import attempt, report
from tests.parity.proxy import Relay
from tests.support.backend import steer

SLOW = steer(delay_ms=300)
REPORT = steer(report=True)
STATES = "how many states a subscriber is shown on the way depends on polling"


def _told(channel: grpc.Channel, **arguments: Any) -> Any:
    """The backend's report on one call, or the error."""
    outcome = attempt(stub(channel, "uu"), b"x", metadata=REPORT, timeout=10, **arguments)
    if "raised" in outcome:
        return outcome
    return report(stub(channel, "uu")(b"x", metadata=REPORT, timeout=10, **arguments))


def _requests(kind: str) -> Any:
    return iter([b"x"]) if kind[0] == "s" else b"x"


@row("sync: the user agent")
def _(world: World) -> Any:
    options = [("grpc.primary_user_agent", "mine/1"), ("grpc.secondary_user_agent", "second/2")]
    with world.channel(options=options) as channel, world.channel() as usual:
        return [_told(channel), _told(usual)]


@row("sync: the authority")
def _(world: World) -> Any:
    with world.channel(options=[("grpc.default_authority", "api.test:80")]) as channel:
        return _told(channel)


@row("sync: the authority of a bare target")
def _(world: World) -> Any:
    with world.channel(world.place.backend.address) as channel:
        return _told(channel)


BAD_OPTIONS: dict[str, Any] = {
    "an object as value": [("grpc.max_send_message_length", object())],
    "a float as value": [("grpc.max_send_message_length", 1.5)],
    "a number-like object as value": [("grpc.max_send_message_length", Fraction(2000))],
    "None as value": [("grpc.max_send_message_length", None)],
    "a string for a number": [("grpc.max_send_message_length", "1000")],
    "a number as key": [(5, 5)],
    "bytes": [(b"grpc.primary_user_agent", b"mine/1")],
    "no pairs": ["grpc.max_send_message_length"],
    "a triple": [("grpc.max_send_message_length", 1, 2)],
    "a number": 5,
    "a dictionary": {"grpc.max_send_message_length": 1},
    "empty": (),
    "unknown": [("no.such.option", 1), ("no.such.text", "x")],
    "a huge number": [("grpc.max_send_message_length", 1 << 40)],
}


# grpcio takes a number that is no int for the address of a C object, and follows it.
OPTIONS_BY_DESIGN = {
    "text": "grpclb names the option",
    "a float as value": "grpclb refuses it",
    "a number-like object as value": "grpclb refuses it",
}


@row("sync: options of all sorts", by_design=OPTIONS_BY_DESIGN)
def _(world: World) -> Any:
    def use(options: Any) -> Any:
        with world.channel(options=options) as channel:
            return attempt(stub(channel, "uu"), bytes(10), timeout=5)

    return {name: attempt(use, options) for name, options in BAD_OPTIONS.items()}


@row("sync: message limits say their numbers")
def _(world: World) -> Any:
    small = [("grpc.max_receive_message_length", 100), ("grpc.max_send_message_length", 200)]
    with world.channel(options=small) as channel:
        call = stub(channel, "uu")
        return [attempt(call, bytes(size), timeout=5) for size in (50, 100, 101, 200, 201)]


@row("sync: unlimited messages")
def _(world: World) -> Any:
    with world.channel(options=[("grpc.max_receive_message_length", -1)]) as channel:
        big = {"metadata": steer(size=5 << 20), "timeout": 10}
        with world.channel() as usual:
            return [attempt(stub(c, "uu"), b"x", **big) for c in (channel, usual)]


@row("sync: compression of channel and call, by the bytes on the wire")
def _(world: World) -> Any:
    cases = [
        (None, None), (None, "Gzip"), ("Gzip", None), ("Deflate", None),
        ("Gzip", "NoCompression"), (None, "Deflate"), ("NoCompression", None),
    ]  # fmt: skip
    seen = []
    for of_channel, of_call in cases:
        with Relay(world.place.backend.address) as relay:
            chosen = of_channel and getattr(grpc.Compression, of_channel)
            with world.channel(f"ipv4:{relay.address}", compression=chosen) as channel:
                each = of_call and getattr(grpc.Compression, of_call)
                for kind in KINDS:
                    sent = bytes(20_000)
                    outcome = stub(channel, kind)(
                        iter([sent]) if kind[0] == "s" else sent, compression=each, timeout=10
                    )
                    if kind[1] == "s":
                        list(outcome)
            seen.append([of_channel, of_call, relay.sent > 80_000])
    return seen


@row("sync: a compression that is none", by_design={"text": "grpclb names the argument"})
def _(world: World) -> Any:
    def channel() -> None:
        with world.channel(compression="zip") as made:
            stub(made, "uu")(b"x", timeout=5)

    def call() -> None:
        with world.channel() as made:
            stub(made, "uu")(b"x", compression="zip", timeout=5)

    return [attempt(channel), attempt(call)]


class Plugin(grpc.AuthMetadataPlugin):
    """Answers with `metadata`, or with `error`; keeps what it was asked for."""

    def __init__(self, metadata: Any = (), error: Exception | None = None) -> None:
        self.metadata, self.error = metadata, error
        self.asked: list[Any] = []

    def __call__(self, context: Any, callback: Any) -> None:
        self.asked.append([context.service_url, context.method_name])
        callback(self.metadata, self.error)


@row("sync: a secure channel")
def _(world: World) -> Any:
    with world.secure() as channel:
        return _told(channel)


@row("sync: call credentials on a secure channel")
def _(world: World) -> Any:
    plugin = Plugin((("who", "me"),))
    credentials = grpc.metadata_call_credentials(plugin)
    token = grpc.access_token_call_credentials("token")
    with world.secure() as channel:
        seen = [_told(channel, credentials=credentials), _told(channel, credentials=token)]
        both = grpc.composite_call_credentials(credentials, token)
        return [*seen, _told(channel, credentials=both), plugin.asked]


@row("sync: call credentials of the channel")
def _(world: World) -> Any:
    trusted = world.place.authority.credentials()
    token = grpc.access_token_call_credentials("token")
    plugin = Plugin((("who", "me"),))
    whole = grpc.composite_channel_credentials(
        trusted, token, grpc.metadata_call_credentials(plugin)
    )
    with world.secure(credentials=whole) as channel:
        return [_told(channel), plugin.asked]


@row("sync: credentials that fail", by_design={"debug": "addresses"})
def _(world: World) -> Any:
    refusing = grpc.metadata_call_credentials(Plugin(error=ValueError("no token today")))
    with world.secure() as channel:
        return [attempt(stub(channel, kind), _requests(kind), credentials=refusing, timeout=5)
                for kind in ("uu", "su")]  # fmt: skip


@row("sync: the name in the certificate")
def _(world: World) -> Any:
    options = [("grpc.ssl_target_name_override", "localhost")]
    wrong = [("grpc.ssl_target_name_override", "other.test")]
    with world.secure(options=options) as channel, world.secure(options=wrong) as other:
        refused = attempt(stub(other, "uu"), b"x", timeout=5)
        return [_told(channel), refused["raised"]["code"]]


@row("sync: the wrong trust")
def _(world: World) -> Any:
    mine = grpc.ssl_channel_credentials()
    with world.secure(credentials=mine) as channel, world.channel("tls") as clear:
        return [attempt(stub(c, "uu"), b"x", timeout=5)["raised"]["code"] for c in (channel, clear)]


@row("sync: credentials of a wrong type", by_design=WRONG_TYPE)
def _(world: World) -> Any:
    insecure = experimental.insecure_channel_credentials()
    return [
        attempt(lambda: world.secure(credentials=insecure).close()),
        attempt(lambda: world.secure(credentials=None).close()),
        attempt(lambda: world.secure(credentials="secret").close()),
    ]
