"""One client pod of the demo: a process with one channel, as a service has, and a few workers.

    python -m integration.demo.client SIDE TARGET WORKERS CALLS_PER_SECOND

SIDE is ``plain``, ``robin`` (grpcio with its own round_robin) or ``grpclb``; nothing else differs.
It prints ``ready`` after a first answered call, starts at a line on standard input, then prints one
JSON line each quarter of a second with what happened in it, and ends when its standard input does.
"""

import json
import os
import signal
import sys
import threading
import time
from collections import Counter

import grpc

from integration.demo.backend import METHOD
from integration.report.recording import TICK

TIMEOUT = 2.0


def open_channel(side: str, target: str) -> grpc.Channel:
    """The one line in which the sides differ."""
    options: list[tuple[str, str | int]] = [
        ("grpc.enable_http_proxy", 0)  # a proxy set in the environment is no part of this
    ]
    match side:
        case "plain":
            return grpc.insecure_channel(target, options)
        case "robin":
            return grpc.insecure_channel(target, [*options, ("grpc.lb_policy_name", "round_robin")])
        case _:
            return open_balanced_channel(target, options)


def open_balanced_channel(target: str, options: list[tuple[str, str | int]]) -> grpc.Channel:
    """A channel that balances every call over every address that DNS holds for `target`."""
    import grpclb  # here, so that the plain clients run without it

    return grpclb.insecure_channel(target, options)


class Counts:
    """What the workers saw since the last `take`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()

    def answered(self, backend: str) -> None:
        """Count a call that `backend` answered."""
        with self._lock:
            self._calls[backend] += 1

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


def main(side: str, target: str, workers: str, rate: str) -> None:
    """Run until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = open_channel(side, target).unary_unary(
        METHOD
    )
    call(b"", timeout=20, wait_for_ready=True)
    print("ready", flush=True)
    sys.stdin.readline()
    counts = Counts()
    for index in range(int(workers)):
        offset = index / int(workers)
        threading.Thread(target=work, args=(call, counts, float(rate), offset), daemon=True).start()
    threading.Thread(target=_report, args=(counts,), daemon=True).start()
    sys.stdin.read()
    os._exit(0)  # the workers are in the middle of calls, which nobody waits for


def _report(counts: Counts) -> None:
    due = time.monotonic()
    while True:
        due += TICK
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            print(json.dumps({"at": time.monotonic(), **counts.take()}), flush=True)
        except BrokenPipeError:
            os._exit(0)  # the demo was interrupted


if __name__ == "__main__":
    main(*sys.argv[1:])
