"""From the command line to a checked request. What is wrong here is exit code 2."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import grpclb
from grpclb.cli.credentials import Tls, read_tls
from grpclb.cli.output import complain
from grpclb.control.channel_spec import ChannelSpec, build_spec

_TXT = "grpc.service_config_disable_resolution"
_EPILOG = """\
Examples:
  python -m grpclb doctor dns:///api.shop:50051 --health --method /shop.Api/Ping
  python -m grpclb doctor kubernetes:///api.shop:grpc --tls --json
  python -m grpclb watch etcd://etcd:2379/shop/api
  python -m grpclb resolve api.shop:50051

Each finding says what it means and what to do about it. --method is really called, on every
backend: choose one that changes nothing. Keys, passwords and messages are never printed.

Exit codes: 0 all is well (warnings included), 1 a problem was found, 2 wrong usage.
"""


class UsageError(ValueError):
    """The user's mistake, with what to write instead."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for. `options` and `service_config` are as the factories take them.

    `tls` is None for plaintext. `health` is the service to ask for, None for no question;
    `deadline` is that of the call of `method`, in seconds like `timeout`.
    """

    command: str
    target: str
    options: tuple[tuple[str, Any], ...]
    service_config: str | None
    spec: ChannelSpec
    tls: Tls | None
    timeout: float
    json: bool
    seconds: float | None = None
    health: str | None = None
    method: str | None = None
    data: bytes = b""
    deadline: float | None = None

    @property
    def asks_for_txt(self) -> bool:
        """Whether the user wants the service config of DNS."""
        return bool(self.spec.options.values.get(_TXT, 1) == 0)


def parse(argv: Sequence[str] | None) -> Request:
    """Raises SystemExit(2), after a message on standard error, for wrong usage."""
    parser = _parser()
    given = parser.parse_args(argv)
    try:
        return _request(given)
    except OSError as error:
        _refuse(given.command, f"{error.filename}: {error.strerror}")
    except (ValueError, TypeError, OverflowError, ImportError) as error:
        _refuse(given.command, str(error))


def _refuse(command: str, reason: str) -> NoReturn:
    complain(f"{command}: {reason}")
    raise SystemExit(2) from None


def _request(given: argparse.Namespace) -> Request:
    if not 0 < given.timeout <= 3600:
        raise UsageError(f"--timeout: expected seconds in 0 to 3600, got {given.timeout:g}")
    seconds = getattr(given, "seconds", None)
    if seconds is not None and not seconds > 0:
        raise UsageError(f"--seconds: expected seconds above 0, got {seconds:g}")
    _find_target(given)
    full = given.command != "resolve"
    tls = None
    options = [*_defaults(given), *map(_option, given.option)]
    if full:
        tls = read_tls(given.tls, given.ca, given.cert, given.key)
        if tls is not None and given.insecure:
            raise UsageError("--insecure means plaintext; leave it or the TLS options out")
        if given.server_name:
            options.append(("grpc.default_authority", given.server_name))
    config = _service_config(given.service_config)
    spec = build_spec(given.target, options, config, None)
    request = Request(
        command=given.command,
        target=given.target,
        options=tuple(options),
        service_config=config,
        spec=spec,
        tls=tls,
        timeout=given.timeout,
        json=given.json,
        seconds=seconds,
    )
    return _with_probes(request, given) if given.command == "doctor" else request


def _find_target(given: argparse.Namespace) -> None:
    """``doctor --health TARGET``: the option takes the next word for its SERVICE."""
    if given.target is not None:
        return
    if not given.health:
        raise UsageError("TARGET is missing, such as dns:///api.shop:50051")
    if ":" not in given.health:
        raise UsageError(
            f"TARGET is missing: --health took {given.health!r} as its SERVICE; "
            "write `doctor TARGET --health`"
        )
    given.target, given.health = given.health, ""


def _with_probes(request: Request, given: argparse.Namespace) -> Request:
    if given.method is None and (given.data_hex or given.data_file or given.deadline is not None):
        raise UsageError("--data-hex, --data-file and --deadline belong to --method")
    if given.data_hex is not None and given.data_file is not None:
        raise UsageError("give one of --data-hex and --data-file")
    if given.method is not None and given.method.strip("/").count("/") != 1:
        raise UsageError(f"--method: expected /pkg.Service/Method, got {given.method!r}")
    if given.deadline is not None and not math.isfinite(given.deadline):
        raise UsageError(f"--deadline: expected seconds, got {given.deadline}")
    return replace(
        request,
        health=given.health,
        method=None if given.method is None else "/" + given.method.strip("/"),
        data=_data(given),
        deadline=given.deadline,
    )


def _defaults(given: argparse.Namespace) -> list[tuple[str, Any]]:
    """Time limits a little below ours, so that a step ends with its reason; the user's win."""
    limit = max(1, int(given.timeout * 900))
    defaults: list[tuple[str, Any]] = [("grpclb.dns_timeout_ms", min(limit, 600_000))]
    if given.command == "doctor":
        defaults.append(("grpc.min_reconnect_backoff_ms", limit))
    if given.command == "watch":
        defaults.append(("grpc.client_idle_timeout_ms", 2**31 - 1))
    if getattr(given, "txt", False):
        defaults.append((_TXT, 0))
    return defaults


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UsageError(f"--option: expected key=value, got {text!r}")
    try:
        return key, int(value)
    except ValueError:
        return key, value


def _service_config(text: str | None) -> str | None:
    if text is None or text.lstrip().startswith("{"):
        return text
    return Path(text).read_text(encoding="utf-8")


def _data(given: argparse.Namespace) -> bytes:
    if given.data_file is not None:
        return Path(given.data_file).read_bytes()
    try:
        return bytes.fromhex(given.data_hex or "")
    except ValueError:
        raise UsageError("--data-hex: expected pairs of hexadecimal digits") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="grpclb",
        description="Look at a gRPC target as grpclb sees it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"grpclb {grpclb.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("doctor", "resolve, connect to every backend, and explain what is wrong"),
        ("watch", "print changes of addresses and connections as they happen"),
        ("resolve", "resolve once, and print the addresses"),
    ):
        command = commands.add_parser(
            name,
            help=text,
            description=text.capitalize() + ".",
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            usage=f"grpclb {name} TARGET [options]",
            allow_abbrev=False,
        )
        _add_common(command)
        if name != "resolve":
            _add_tls(command)
        if name == "watch":
            command.add_argument(
                "--seconds", type=float, metavar="S", help="end after so long (default: Ctrl-C)"
            )
        if name == "doctor":
            _add_probes(command)
    return parser


def _add_common(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    # Optional for argparse only: `_find_target` looks after it.
    nargs = "?" if command.prog.endswith("doctor") else None
    text = "as a channel takes it: dns:///api.shop:50051, ..."
    add("target", metavar="TARGET", nargs=nargs, help=text)
    add("--timeout", type=float, default=5.0, metavar="S", help="for each step (default: 5)")
    add("--option", action="append", default=[], metavar="K=V", help="a channel option; repeatable")
    add("--service-config", metavar="JSON", help="the default service config: JSON, or a file")
    add("--txt", action="store_true", help="ask DNS for a service config (TXT), too")
    add("--json", action="store_true", help="for programs")


def _add_tls(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--tls", action="store_true", help="speak TLS, and trust the CAs that gRPC trusts")
    add("--ca", metavar="FILE", help="speak TLS, and trust this CA (PEM)")
    add("--cert", metavar="FILE", help="client certificate for mTLS (PEM)")
    add("--key", metavar="FILE", help="its private key (PEM)")
    add("--server-name", metavar="NAME", help="the name that backends must prove")
    add("--insecure", action="store_true", help="speak plaintext (the default)")


def _add_probes(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--health", nargs="?", const="", metavar="SERVICE", help="ask each backend for its health")
    add("--method", metavar="/PKG.SERVICE/METHOD", help="call this on each backend")
    add("--data-hex", metavar="HEX", help="the serialized request (default: empty)")
    add("--data-file", metavar="FILE", help="the same, from a file")
    add("--deadline", type=float, metavar="S", help="of that call (default: the timeout)")
