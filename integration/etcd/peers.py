"""Other Python clients of etcd, each in a process of its own, as they cannot share one.

    python -W ignore -m integration.etcd.peers etcd3 2379 put shop/a 10.0.0.7:443
    python -W ignore -m integration.etcd.peers pyetcd 2379 list shop/
    python -W ignore -m integration.etcd.peers etcd3 2379 follow shop 2

`follow` hands the client to a grpclb channel, and prints who has answered its RPCs once so many
have; then the same for a channel with our own client, in the same process.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
NAMES = ("etcd3", "pyetcd")  # pyetcd is the module of etcd-sdk-python


def run(name: str, port: int, *arguments: object) -> str:
    """What the program below prints. Their generated code wants the protobuf of Python alone."""
    environment = {**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
    command = [sys.executable, "-W", "ignore", "-m", "integration.etcd.peers", name, str(port)]
    done = subprocess.run(
        [*command, *map(str, arguments)], cwd=_ROOT, env=environment, capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def _follow(client: Any, port: int, service: str, count: int) -> list[list[str]]:
    """Who answers a channel with this client, and one with our own beside it in this process."""
    import grpclb
    import grpclb.etcd

    target = f"etcd:///{service}"
    given = grpclb.etcd.resolver(target, client=client)
    return [
        _answers(grpclb.insecure_channel(target, resolver=given), count),
        _answers(grpclb.insecure_channel(f"etcd://127.0.0.1:{port}/{service}"), count),
    ]


def _answers(channel: Any, count: int) -> list[str]:
    from tests.support.backend import steer

    end, names = time.monotonic() + 30, set[str]()
    with channel:
        stub = channel.unary_unary("/test.Echo/UnaryUnary")
        while len(names) < count and time.monotonic() < end:
            answer = stub(b"", metadata=steer(report=True), wait_for_ready=True, timeout=30)
            names.add(json.loads(answer)["name"])
    return sorted(names)


def main(argv: Sequence[str]) -> None:
    name, port, what, *rest = argv
    client = importlib.import_module(name).client(host="127.0.0.1", port=int(port))
    match what, rest:
        case "put", [key, value]:
            client.put(key, value)
        case "list", [prefix]:
            found = {meta.key.decode(): value.decode() for value, meta in client.get_prefix(prefix)}
            print(json.dumps(found))
        case "follow", [service, count]:
            print(json.dumps(_follow(client, int(port), service, int(count))))
        case _:
            raise SystemExit(f"unknown: {what}")
    client.close()


if __name__ == "__main__":
    main(sys.argv[1:])
