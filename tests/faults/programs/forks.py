"""Forks with a channel at hand: `forks unused|used|busy os.fork|multiprocessing TARGET CHILDREN`.

Prints {"children": ..., "parent_failures": ..., "slowest_fork": ...} as JSON; "children" are
the exit codes: 0 is an RPC on the inherited channel within 3 s.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

import grpclb
from tests.faults.harness import ECHO

_LIMIT = 3.0


def child(stub: Any) -> int:
    """The inherited channel, in the child: the first RPC counts, and the second."""
    faulthandler.dump_traceback_later(3 * _LIMIT, exit=True)
    try:
        return 0 if stub(b"c", timeout=_LIMIT) == stub(b"c", timeout=_LIMIT) == b"c" else 1
    except grpc.RpcError as error:
        sys.stderr.write(f"child: {error.code()} {error.details()}\n")
        return 2


def by_os_fork(stub: Any) -> Callable[[], int]:
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            code = child(stub)
        finally:
            sys.stderr.flush()
            os._exit(code)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def by_multiprocessing(stub: Any) -> Callable[[], int]:
    process = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(child(stub)))
    process.start()

    def join() -> int:
        process.join()
        assert process.exitcode is not None
        return process.exitcode

    return join


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")  # to stderr
    mode, how, target, children = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    fork = {"os.fork": by_os_fork, "multiprocessing": by_multiprocessing}[how]
    channel = grpclb.insecure_channel(target)
    stub = channel.unary_unary(ECHO)
    stopping, failures = threading.Event(), []

    def parent(count: int) -> None:
        for _ in range(count):
            try:
                stub(b"p", timeout=5)
            except grpc.RpcError as error:
                failures.append(str(error.code()))

    def for_ever() -> None:
        while not stopping.is_set():
            parent(1)

    threads = [threading.Thread(target=for_ever) for _ in range(2 if mode == "busy" else 0)]
    if mode != "unused":
        parent(20)
    for thread in threads:
        thread.start()
    codes, slowest = [], 0.0
    for _ in range(children):
        started = time.monotonic()
        join = fork(stub)
        slowest = max(slowest, time.monotonic() - started)
        if mode != "unused":
            parent(200 // children)
        codes.append(join())
    stopping.set()
    for thread in threads:
        thread.join()
    parent(20)
    with contextlib.closing(channel):
        result = {"children": codes, "parent_failures": failures, "slowest_fork": slowest}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
