"""Does a name stand for one virtual address with many pods behind it? Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grpclb.cli.rules import Level
from grpclb.core.address import Address

_ADVICE = (
    (
        "gRPC keeps one connection, and a ClusterIP balances connections: every RPC of a client "
        "goes to the one pod that its connection came to."
    ),
    (
        "Make the Service headless (`clusterIP: None`) and keep the dns target with the pods' own "
        "port; or watch the EndpointSlices with kubernetes:///service.namespace:port."
    ),
)


def verdict(
    addresses: Sequence[Address], environment: Mapping[str, str]
) -> tuple[Level, str, tuple[str, ...]] | None:
    """Level, meaning and advice for what DNS gave; None when several addresses came.

    Kubernetes tells each pod the ClusterIPs of its namespace by variables such as
    API_SERVICE_HOST, which makes a suspicion certain. An address of each family counts as one.
    """
    families = [address.family for address in addresses]
    if not families or len(families) != len(set(families)):
        return None
    ips = {address.target.rpartition(":")[0].strip("[]"): address for address in addresses}
    for name, value in environment.items():
        if name.endswith("_SERVICE_HOST") and value in ips:
            return Level.PROBLEM, f"{value} is a ClusterIP (the variable {name} says so).", _ADVICE
    one = "one address" if len(families) == 1 else "one address of each family"
    text = (
        f"DNS gives {one} for this name. That is right for a single backend; but if there are "
        "several, it is a ClusterIP or another load balancer's address."
    )
    return Level.WARNING, text, _ADVICE
