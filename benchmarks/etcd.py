"""C5: from a put into a real etcd to the first RPC on the new backend."""

from __future__ import annotations

import statistics
import sys

from benchmarks.report import heading, table
from integration.etcd.changes import measure_aio, measure_sync
from integration.etcd.cluster import Cluster
from integration.etcd.install import MISSING, find

_CHANGES = 200


def _row(what: str, seconds: list[float]) -> tuple[str, ...]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return (
        f"C5 {what}",
        "p50 <= 20 ms, p99 <= 100 ms",
        f"**{cuts[49] * 1e3:.1f} ms**",
        f"**{cuts[98] * 1e3:.1f} ms**",
        f"{max(seconds) * 1e3:.1f} ms",
    )


def main() -> None:
    found = find()
    if not found or sys.platform != "linux":
        reason = MISSING if not found else "platform: not all of 127.0.0.0/8 is this machine here"
        heading("Changes in etcd (C5)", f"Not measured: {reason.partition(': ')[2]}.")
        return
    with Cluster(found[0]) as etcd:
        heading(
            "Changes in etcd (C5)",
            f"{_CHANGES} backends put into etcd {found[0].version} one by one, under one RPC after "
            "the other; each at an address to which nobody was connected before.",
        )
        rows = [
            _row("sync", measure_sync(etcd, "bench/sync", _CHANGES)),
            _row("aio", measure_aio(etcd, "bench/aio", _CHANGES)),
        ]
        table(("put -> first RPC on the new backend", "goal", "p50", "p99", "most"), rows)


if __name__ == "__main__":
    main()
