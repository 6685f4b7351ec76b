"""The command line: ``python -m grpclb doctor | watch | resolve TARGET``.

Stands above everything else in the package; nothing inside imports it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 all well, 1 a problem found, 2 wrong usage."""
    # Before grpc is imported: gRPC's own log lines would stand between ours, and what they say is
    # in the errors.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from grpclb.cli.commands import run

    return run(argv)
