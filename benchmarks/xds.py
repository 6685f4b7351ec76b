"""C8 by xDS: 500 clusters with 5,000 endpoints, all connected to, and one endpoint that changes.

The management server is in this process, so that its own work is in the times, but not in the CPU
of the control loop.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import grpc

import grpclb
import grpclb.xds
from benchmarks.report import heading, table
from benchmarks.rounds import Spread
from grpclb.control.loop import CONTROL
from grpclb.core.balancer import CallOutcome, PickInfo
from integration.xds.server import XdsServer
from tests.support import xds_resources as x
from tests.support.backend import Backend, steer

_CLUSTERS, _EACH = 500, 10
_CHANGES = 60
_TARGET = "xds:///many"
_METHOD = "/test.Echo/UnaryUnary"
_WATCHED = _CLUSTERS - 1  # the cluster that changes has the last route
_LIMIT = 30.0


def _name(number: int) -> str:
    return f"cluster-{number}"


def _endpoints(number: int, port: int, last: dict[str, Any] | None = None) -> Any:
    addresses = (f"127.{2 + i}.{number >> 8}.{number & 255}" for i in range(_EACH))
    found = [x.endpoint(address, port) for address in addresses]
    return x.endpoints(_name(number), x.locality(*found[: _EACH - 1], last or found[-1]))


def _world(port: int) -> list[Any]:
    routes = [
        {
            "match": {"prefix": "", "headers": [{"name": "to", "exact_match": str(number)}]},
            "route": {"cluster": _name(number)},
        }
        for number in range(_CLUSTERS)
    ]
    return [
        x.listener("many"),
        x.route_config("routes", routes),
        *(x.cluster(_name(number)) for number in range(_CLUSTERS)),
        *(_endpoints(number, port) for number in range(_CLUSTERS)),
    ]


def _control_cpu() -> float:
    thread = CONTROL.thread
    assert thread is not None
    assert thread.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


class _Changes:
    """Replaces one endpoint of the watched cluster, and calls until the new one answers."""

    def __init__(self, server: XdsServer, channel: Any, base: int, others: list[Backend]) -> None:
        self._server = server
        self._call: Any = channel.unary_unary(_METHOD)
        self._base = base
        self._others = others
        self._made = 0

    def answer(self) -> bytes:
        metadata = (("to", str(_WATCHED)), *steer(report=True))
        answer: bytes = self._call(b"", metadata=metadata, wait_for_ready=True, timeout=_LIMIT)
        return answer

    def __call__(self, tell: Callable[[Any], None]) -> tuple[float, float]:
        """Milliseconds until the first RPC on it has ended, and of the control loop's CPU."""
        self._made += 1
        backend = self._others[self._made % 2]
        address = f"127.1.{self._made >> 8}.{self._made & 255}"
        changed = _endpoints(_WATCHED, self._base, x.endpoint(address, backend.port))
        sign = f'"name": "{backend.name}"'.encode()
        cpu, began = _control_cpu(), time.monotonic()
        tell(changed)
        while sign not in self.answer():
            assert time.monotonic() < began + _LIMIT, "the new endpoint is not used"
        taken = time.monotonic() - began
        time.sleep(0.5)  # what the loop does after that counts, too
        return taken * 1e3, (_control_cpu() - cpu) * 1e3


def _pick_cost(channel: Any, route: int | None = None) -> Callable[[], float]:
    """Nanoseconds of all that is decided about one RPC: by xDS if it has a `route`."""
    metadata = (("to", str(route)),)
    plain = PickInfo(_METHOD, metadata)

    def one() -> None:
        published, found, info = channel._engine.slot.current, None, plain
        if route is not None:
            found = published.selector.select(plain)
            info = PickInfo(_METHOD, metadata, attributes=found.attributes)
        pick = published.picker.pick(info)
        if pick.on_done is not None:
            pick.on_done(_OK)
        if found is not None:
            found.on_committed()

    def nanoseconds() -> float:
        began = time.perf_counter()
        for _ in range(2_000):
            one()
        return (time.perf_counter() - began) / 2_000 * 1e9

    return nanoseconds


def _changes(change: _Changes, server: XdsServer) -> list[tuple[str, str, str]]:
    rows = []
    for what, tell in (
        ("all 500 told again", server.put),
        ("told alone", lambda changed: server.say(server.response("EDS", changed))),
    ):
        found = [change(tell) for _ in range(_CHANGES)]
        times, cpu = zip(*found, strict=True)
        p99 = statistics.quantiles(times, n=100, method="inclusive")[98]
        rows += [
            (
                f"one endpoint changes, {what}: until the first RPC on it has ended",
                "p50 <= 100 ms",
                f"**{Spread.of(times)}** ms, p99 {p99:.0f} ms",
            ),
            ("... CPU of the control loop", "<= 50 ms", f"**{Spread.of(cpu)}** ms"),
        ]
    return rows


def _picks(many: Any, plain: Any) -> list[tuple[str, str, str]]:
    rows = []
    base = _pick_cost(plain)
    for what, route in (("first", 0), ("last", _WATCHED)):
        cost = _pick_cost(many, route)
        samples = [(base(), cost()) for _ in range(50)]
        before, after = (statistics.median(column) for column in zip(*samples, strict=True))
        result = f"**{after / 1e3:.1f}** us, round_robin alone {before / 1e3:.1f} us"
        rows.append((f"route and pick, the {what} of 500 routes matches", "", result))
    return rows


def main() -> None:
    if sys.platform != "linux":
        heading("xDS (C8)", "Not measured: not all of 127.0.0.0/8 is this machine here.")
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    backends = Backend.start_many(["base", "even", "odd"], host="0.0.0.0")
    base = backends[0].port
    try:
        with XdsServer() as server:
            server.put(*_world(base))
            found = grpclb.xds.resolver(_TARGET, bootstrap=server.bootstrap("bench"))
            began = time.monotonic()
            with grpclb.insecure_channel(_TARGET, resolver=found) as many:
                change = _Changes(server, many, base, backends[1:])
                change.answer()
                first = time.monotonic() - began
                time.sleep(5.0)  # all the others connect
                before = _control_cpu()
                time.sleep(5.0)
                idle = (_control_cpu() - before) / 5.0 * 100
                rows = _changes(change, server)
                plain = "ipv4:" + ",".join(f"127.3.0.{n}:{base}" for n in range(1, _EACH + 1))
                with grpclb.insecure_channel(plain) as small:
                    small.unary_unary(_METHOD)(b"", timeout=_LIMIT, wait_for_ready=True)
                    rows += _picks(many, small)
        rows[:0] = [
            ("new channel to first RPC done, to 500 clusters", "", f"{first:.1f} s"),
            ("idle, 5,000 connections: CPU of the control loop", "", f"{idle:.1f} % of a core"),
        ]
    finally:
        for backend in backends:
            backend.kill()
    heading(
        "500 clusters with 5,000 endpoints by xDS (C8)",
        f"All of them connected to; {_CHANGES} changes each. The management server is in the same "
        "process: its work is in the times, not in the CPU.",
    )
    table(("what", "goal", "result (quartiles)"), rows)


_OK = CallOutcome(grpc.StatusCode.OK)


if __name__ == "__main__":
    main()
