"""One client: a process with one channel, as a service has, and a few workers that call.

    python -m integration.skew.client SIDE TARGET [--workers N] [--rate CALLS_PER_SECOND]

SIDE is a or b (plain grpcio: as it comes, with its round_robin), or c or d (grpclb); nothing else
differs. It prints JSON lines: {"ready": ...} after its first answers, then one each quarter of a
second with what happened in it, and {"end": ...} on SIGTERM, which stops it. Times are the wall
clock's, since runner and client need not share a machine.
"""

import argparse
import json
import os
import re
import signal
import threading
import time
from collections import Counter
from typing import Any

import grpc

from integration.report.recording import TICK
from integration.skew.pod import METHOD

WORKERS = 4
RATE = 25.0  # calls a second of each worker
TIMEOUT = 2.0
CONNECTIONS = 30  # that (a) makes at first: enough to meet every pod
FIRST_ANSWER = 120.0  # seconds that a cluster may take to get its DNS and its pods going


def open_channel(side: str, target: str) -> grpc.Channel:
    """The one line in which the sides differ."""
    match side:
        case "a":
            return grpc.insecure_channel(target)
        case "b":
            return grpc.insecure_channel(target, [("grpc.lb_policy_name", "round_robin")])
        case _:
            import grpclb  # here, so that the plain clients run without it

            return grpclb.insecure_channel(target)


def connect_often(target: str, count: int) -> Counter[str]:
    """One call on each of `count` connections, by the pod that answered."""
    pods: Counter[str] = Counter()
    for _ in range(count):
        # Channels share connections else, and these are all alike.
        with grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
            pods[call(b"", timeout=TIMEOUT, wait_for_ready=True).decode()] += 1
    return pods


class Counts:
    """What the workers saw since the last `take`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()

    def answered(self, pod: str) -> None:
        """Count a call that `pod` answered."""
        with self._lock:
            self._calls[pod] += 1

    def failed(self, error: str) -> None:
        """Count a call that failed."""
        with self._lock:
            self._errors[error] += 1

    def take(self) -> dict[str, Counter[str]]:
        """The counts, which start again from zero."""
        with self._lock:
            taken = {"calls": self._calls, "errors": self._errors}
            self._calls, self._errors = Counter(), Counter()
            return taken


class Reporter:
    """Prints the lines, numbered: a reader of a log that was cut knows what it has already."""

    def __init__(self, side: str) -> None:
        self._side = side
        self._number = 0
        self._lock = threading.Lock()

    def line(self, **fields: Any) -> None:
        """Print one line, from any thread."""
        with self._lock:
            common = {"side": self._side, "n": self._number, "at": time.time()}
            print(json.dumps(common | fields), flush=True)
            self._number += 1


def work(
    call: "grpc.UnaryUnaryMultiCallable[bytes, bytes]", counts: Counts, rate: float, offset: float
) -> None:
    """Make `rate` calls a second for ever, each with a deadline, and count how they end."""
    due = time.monotonic() + offset / rate
    while True:
        time.sleep(max(0.0, due - time.monotonic()))
        # After a call that hung, go on from now: a burst to catch up would blur the rates.
        due = max(due + 1 / rate, time.monotonic())
        try:
            counts.answered(call(b"", timeout=TIMEOUT).decode())
        except grpc.RpcError as error:
            counts.failed(f"{error.code().name}: {error.details()}")


def dns_ttl(target: str) -> float | None:
    """The TTL that the cluster's DNS gives for the target's name; None where there is none.

    A cache counts it down: the most that is seen over a while is what the record has.
    """
    import dns.exception
    import dns.resolver

    name = re.sub(r"^dns:/*|:\d+$", "", target)
    try:
        answer = dns.resolver.resolve(name, "A", search=True, lifetime=5)
    except dns.exception.DNSException:
        return None
    assert answer.rrset is not None
    return float(answer.rrset.ttl)


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m integration.skew.client")
    parser.add_argument("side", choices="abcd")
    parser.add_argument("target")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--rate", type=float, default=RATE)
    arguments = parser.parse_args()
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    channel = open_channel(arguments.side, arguments.target)
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
    call(b"", timeout=FIRST_ANSWER, wait_for_ready=True)
    reporter, counts = Reporter(arguments.side), Counts()
    if arguments.side == "a":
        reporter.line(connections=connect_often(arguments.target, CONNECTIONS))
    reporter.line(ready=True, workers=arguments.workers, grpcio=grpc.__version__)
    for index in range(arguments.workers):
        offset = index / arguments.workers
        threading.Thread(
            target=work, args=(call, counts, arguments.rate, offset), daemon=True
        ).start()
    if arguments.side == "c":
        threading.Thread(target=_watch_ttl, args=(arguments.target, reporter), daemon=True).start()
    _report(reporter, counts, stopping)
    os._exit(0)  # the workers are in the middle of calls, which nobody waits for


def _report(reporter: Reporter, counts: Counts, stopping: threading.Event) -> None:
    due = time.monotonic()
    while not stopping.is_set():
        due += TICK
        stopping.wait(max(0.0, due - time.monotonic()))
        reporter.line(**counts.take())
    reporter.line(end=True)


def _watch_ttl(target: str, reporter: Reporter) -> None:
    most = 0.0
    while True:
        ttl = dns_ttl(target)
        if ttl is not None and ttl > most:
            most = ttl
            reporter.line(ttl=ttl)
        time.sleep(1)


if __name__ == "__main__":
    main()
