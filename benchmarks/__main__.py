"""``make bench``: every group in a process of its own; writes benchmarks/RESULTS.md.

``python -m benchmarks unary scale`` runs these groups only, and writes no file.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import grpc

import grpclb

_GROUPS = (
    "unary",
    "retries",
    "streams",
    "startup",
    "idle",
    "scale",
    "fairness",
    "etcd",
    "kubernetes",
    "xds",
)
_RESULTS = Path(__file__).with_name("RESULTS.md")
_PREFACE = """\
# What grpclb costs

Written by `make bench` (`python -m benchmarks`), from {began} to {ended} UTC, with grpclb {ours},
grpcio {grpcio}, Python {python} on {system}, {cores} cores; load average {load_before} before and
{load_after} after, so other programs had {share} of the machine.

Ratios are grpclb / plain grpcio with `round_robin` on the same backends: the median of interleaved
rounds, with the quartiles in brackets. *Time* is what a caller waits, *CPU* what the client's
process burns. *Noise* is plain grpcio against itself in the same rounds: a ratio is known no better
than that.
"""


def _share(load: float) -> str:
    return "much" if load > 0.75 * (os.cpu_count() or 1) else "little"


def main(chosen: Sequence[str]) -> int:
    unknown = set(chosen) - set(_GROUPS)
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(_GROUPS)}")
        return 2
    began, load_before = time.gmtime(), os.getloadavg()[0]
    sections = []
    for group in chosen or _GROUPS:
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{group}"],
            check=False,
            stdout=subprocess.PIPE,
            text=True,
        )
        print(done.stdout, flush=True)
        if done.returncode:
            return done.returncode
        sections.append(done.stdout)
    if not chosen:
        preface = _PREFACE.format(
            began=time.strftime("%Y-%m-%d %H:%M", began),
            ended=time.strftime("%H:%M", time.gmtime()),
            ours=grpclb.__version__,
            grpcio=grpc.__version__,
            python=platform.python_version(),
            system=platform.system(),
            cores=os.cpu_count(),
            load_before=f"{load_before:.1f}",
            load_after=f"{os.getloadavg()[0]:.1f}",
            share=_share(load_before),
        )
        _RESULTS.write_text(preface + "".join(sections))
        print(f"written: {_RESULTS.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
