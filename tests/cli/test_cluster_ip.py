"""When one address is worth a word."""

from __future__ import annotations

import pytest

from grpclb.cli.cluster_ip import suspicion
from grpclb.cli.explain import explain
from grpclb.core.address import Address

ENVIRONMENT = {"API_SERVICE_HOST": "10.96.0.7", "API_SERVICE_PORT": "1", "OTHER": "10.96.0.8"}


@pytest.mark.parametrize(
    ("addresses", "verdict"),
    [
        ([], None),
        (["10.96.0.7:1"], "cluster-ip"),
        (["10.96.0.8:1"], "one-address"),
        (["10.96.0.8:1", "10.96.0.9:1"], None),
        # A dual-stack ClusterIP has one address of each family.
        (["10.96.0.8:1", "[fd00::8]:1"], "one-address"),
        (["10.96.0.7:1", "[fd00::8]:1"], "cluster-ip"),
        (["10.96.0.7:1", "[fd00::8]:1", "[fd00::9]:1"], None),
    ],
)
def test_suspicion(addresses: list[str], verdict: str | None) -> None:
    found = suspicion("api:1", [Address.parse(a) for a in addresses], ENVIRONMENT)
    assert (found and explain(found).id) == verdict
