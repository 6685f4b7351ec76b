"""Running the programs of `tests.faults.programs`, for the tests of a process' whole life."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Ended:
    """A program that ended. `seconds` counts from its "ending" line, if it wrote one."""

    code: int
    stderr: str
    seconds: float


def _command(program: str, arguments: tuple[object, ...]) -> list[str]:
    module = f"tests.faults.programs.{program}"
    return [sys.executable, "-m", module, *(str(a) for a in arguments)]


def run_to_the_end(program: str, *arguments: object, limit: float = 20.0) -> Ended:
    """Run a program that says "ending" when all that is left to do is to end."""
    process = subprocess.Popen(
        _command(program, arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        said = time.monotonic()
        _, stderr = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise AssertionError(f"{program} {arguments} did not end in {limit} s") from None
    assert line == "ending\n", stderr
    return Ended(process.returncode, stderr, time.monotonic() - said)


def run_forks(
    mode: str, how: str, target: str, children: int, fork_support: str | None
) -> tuple[dict[str, Any], str]:
    """What `programs.forks` found, and its standard error."""
    environment = {k: v for k, v in os.environ.items() if k != "GRPC_ENABLE_FORK_SUPPORT"}
    if fork_support is not None:
        environment["GRPC_ENABLE_FORK_SUPPORT"] = fork_support
    done = subprocess.run(
        _command("forks", (mode, how, target, children)),
        env=environment,
        capture_output=True,
        text=True,
        timeout=50 + 10 * children,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found, done.stderr
