"""Does a name stand for one virtual address with many pods behind it? Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grpclb.cli.seen import Seen, Stage
from grpclb.core.address import Address


def suspicion(
    target: str, addresses: Sequence[Address], environment: Mapping[str, str]
) -> Seen | None:
    """What is odd about the addresses that DNS gave for a name; None when there are several.

    Kubernetes tells each pod the ClusterIPs of its namespace by variables such as
    API_SERVICE_HOST, which makes a suspicion certain. An address of each family counts as one.
    """
    families = [address.family for address in addresses]
    if not families or len(families) != len(set(families)):
        return None
    details = " and ".join(address.target for address in addresses)
    ips = {address.target.rpartition(":")[0].strip("[]") for address in addresses}
    for name, value in sorted(environment.items()):
        if name.endswith("_SERVICE_HOST") and value in ips:
            return Seen(Stage.NAME, "OK", details, target, variable=name)
    return Seen(Stage.NAME, "OK", details, target)
