"""What the explanations make of what was seen, without anybody to see it at."""

from __future__ import annotations

import pytest

from grpclb.cli.cluster_ip import suspicion
from grpclb.cli.explain import explain
from grpclb.cli.seen import Seen, Stage
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


@pytest.mark.parametrize(
    ("scheme", "details", "explained"),
    [
        ("dns", "no answer from 10.96.0.10:53", "dns-no-answer"),
        ("kubernetes", "no answer from the API server in 5 s", "api-server-unreachable"),
        ("etcd", "10.0.0.1:2379: Connection refused", "etcd-unreachable"),
        ("etcd", "etcdserver: permission denied", "forbidden"),
        ("dns", "10.96.0.10:53: Connection refused", "dns-unreachable"),
    ],
)
def test_words_mean_another_thing_in_another_scheme(
    scheme: str, details: str, explained: str
) -> None:
    seen = Seen(Stage.RESOLVE, details=details, target=f"{scheme}:///api", scheme=scheme)
    assert explain(seen).id == explained


@pytest.mark.parametrize("stage", Stage)
def test_everything_has_an_explanation(stage: Stage) -> None:
    found = explain(Seen(stage, "INTERNAL", "{never} seen {0} before", method="/a.B/C"))
    assert found.meaning
    assert found.advice
