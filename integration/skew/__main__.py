"""Plain grpcio and grpclb against the same pods of a Kubernetes cluster, four ways.

    python -m integration.skew [--context NAME] [--image IMAGE] [--build-arg NAME=VALUE ...]
    python -m integration.skew --namespaces
    python -m integration.skew --down [--context NAME]

The first uses a Kubernetes cluster, and makes one with kind if none is named and there is none
(kind-cluster/README.md). --namespaces shows the same in network namespaces of this machine (Linux).
--down removes what the first left in the cluster, or the cluster if it is our own.
Exits 0 if all was seen that grpclb claims, 1 if not, 2 if it cannot be run here.
"""

import argparse
import sys
from pathlib import Path

from integration.report.terminal import Terminal
from integration.skew import kind, namespaces, report
from integration.skew.cluster import TITLES, Cluster, ClusterError
from integration.skew.figures import claims, summarize
from integration.skew.kube import KubeCluster
from integration.skew.play import Play, Timing, facts

_ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str]) -> int:
    """Run one comparison; the exit code is as the module says."""
    options = _parser().parse_args(arguments)
    try:
        if options.namespaces:
            return _in_namespaces(arguments, options.output)
        if options.down:
            kind.remove(options.context)
            return 0
        context, image = kind.prepare(options.context, options.image, options.build_arg)
        with KubeCluster(context, image) as cluster:
            return compare(cluster, options.output, Timing())
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _in_namespaces(arguments: list[str], output: Path) -> int:
    if not namespaces.inside():
        namespaces.enter(arguments)
    from integration.skew.local import LocalCluster  # only of use inside

    with LocalCluster() as cluster:
        return compare(cluster, output, Timing(roll=60, ready=60, settle=1.5))


def compare(cluster: Cluster, output: Path, timing: Timing) -> int:
    """Play the scenario on `cluster`, write the report; 0 if it shows what is claimed."""
    terminal = Terminal(TITLES)
    play = Play(cluster, terminal, timing)
    play.run()
    sides = {side: summarize(play.recording, side, play.windows) for side in TITLES}
    seen = play.collector
    found = claims(sides, seen.dns_ttl, play.workers, seen.connections)
    report.print_summary(list(sides.values()), found)
    for path in report.write(output, play.recording, list(sides.values()), found, facts(play)):
        terminal.say(f"  {path}")
    return 0 if all(claim.held for claim in found) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m integration.skew",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--namespaces", action="store_true", help="no Kubernetes: namespaces")
    which.add_argument("--down", action="store_true", help="remove what a run left")
    parser.add_argument("--context", metavar="NAME", help="a cluster of your kubeconfig")
    parser.add_argument("--image", metavar="IMAGE", help="built already, where the cluster pulls")
    parser.add_argument(
        "--build-arg", action="append", default=[], metavar="NAME=VALUE", help="for docker build"
    )
    output = _ROOT / "kind-cluster" / "output"
    parser.add_argument("--output", type=Path, default=output, metavar="DIRECTORY")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
