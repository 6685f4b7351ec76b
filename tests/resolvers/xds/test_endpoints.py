"""EDS: localities and endpoints, and every reason to refuse them (A27)."""

from __future__ import annotations

from typing import Any

import pytest

from grpclb.core.address import Address
from grpclb.resolvers.xds.kinds import Kinds, Parsed
from grpclb.resolvers.xds.resources import Drop, Endpoints, LbEndpoint, Locality, LocalityId
from tests.support.xds_resources import endpoint, endpoints, locality, pack, registry

EDS = Kinds.of(registry()).eds
UNHEALTHY, DRAINING, TIMEOUT, DEGRADED = 2, 3, 4, 5
MOST = 2**32 - 1


def parse(*localities: dict[str, Any], **fields: Any) -> Parsed:
    packed = pack(endpoints("c", *localities, **fields))
    return EDS.parse(packed.type_url, packed.value)


def value(*localities: dict[str, Any], **fields: Any) -> Endpoints:
    parsed = parse(*localities, **fields)
    assert parsed.error == ""
    assert isinstance(parsed.resource, Endpoints)
    return parsed.resource


def at(text: str) -> LbEndpoint:
    return LbEndpoint((Address.parse(text),))


def test_localities_by_priority() -> None:
    found = value(
        locality(endpoint("10.0.0.2"), zone="b", priority=1, weight=5),
        locality(endpoint("10.0.0.1"), zone="a", weight=MOST),
        locality(endpoint("::1", 443), zone="b", weight=3, priority=1) | {"locality": {}},
    )
    assert found == Endpoints(
        "c",
        (
            (Locality(LocalityId(zone="a"), MOST, (at("10.0.0.1:80"),)),),
            (
                Locality(LocalityId(zone="b"), 5, (at("10.0.0.2:80"),)),
                Locality(LocalityId(), 3, (at("[::1]:443"),)),
            ),
        ),
    )


def test_nothing_at_all_is_a_cluster_without_backends() -> None:
    assert value() == Endpoints("c", ())


def test_only_healthy_endpoints_and_those_of_unknown_health_are_used() -> None:
    kinds = (0, 1, UNHEALTHY, DRAINING, TIMEOUT, DEGRADED, 77)
    found = value(
        locality(*(endpoint(f"10.0.0.{i + 1}", health_status=k) for i, k in enumerate(kinds)))
    )
    assert found.priorities[0][0].endpoints == (at("10.0.0.1:80"), at("10.0.0.2:80"))


def test_what_is_not_healthy_is_not_looked_at() -> None:
    assert value(locality(endpoint("no address", 0, health_status=UNHEALTHY)))


def test_a_locality_without_weight_is_not_looked_at() -> None:
    bad = {"lb_endpoints": [{}], "priority": 9}
    found = value(bad, locality(weight=0, priority=3), locality(endpoint()))
    assert len(found.priorities) == 1


def test_weights_and_several_addresses_of_an_endpoint() -> None:
    both = endpoint(load_balancing_weight={"value": 7})
    both["endpoint"] |= {
        "hostname": "h",
        "additional_addresses": [endpoint("fd00::1", 81)["endpoint"]],
    }
    (found,) = value(locality(both)).priorities[0][0].endpoints
    addresses = Address.parse("10.0.0.1:80"), Address.parse("[fd00::1]:81")
    assert found == LbEndpoint(addresses, 7, "h")


def drop(category: str = "x", **percent: int) -> dict[str, Any]:
    return {"category": category, "drop_percentage": percent}


def test_drops_are_parts_of_a_million() -> None:
    overloads = [
        drop("a", numerator=5),
        drop("b", numerator=5, denominator=1),
        drop("c", numerator=5, denominator=2),
        drop("d", numerator=900),
    ]
    found = value(policy={"drop_overloads": overloads}).drops
    assert found == (Drop("a", 50_000), Drop("b", 500), Drop("c", 5), Drop("d", 1_000_000))


def dropping(overload: dict[str, Any]) -> dict[str, Any]:
    return {"policy": {"drop_overloads": [overload]}}


SOCKET = "endpoints[0].lb_endpoints[0].endpoint.address.socket_address"
REFUSED: list[tuple[list[dict[str, Any]], dict[str, Any], str]] = [
    ([locality(endpoint(port=0))], {}, f"{SOCKET}: address '10.0.0.1': port 0 is not in"),
    ([locality(endpoint(port=70_000))], {}, "port 70000 is not in 1..65535"),
    ([locality(endpoint("example.com"))], {}, "'example.com' port 80: not an IP address"),
    ([locality(endpoint("0.0.0.0"))], {}, "not dialable"),
    ([locality({"endpoint": {}})], {}, f"{SOCKET}: not set"),
    ([locality({})], {}, "endpoints[0].lb_endpoints[0].endpoint: not set"),
    (
        [locality(endpoint(load_balancing_weight={"value": 0}))],
        {},
        "lb_endpoints[0].load_balancing_weight: 0; above 0",
    ),
    (
        [locality(*(endpoint(f"10.0.0.{i}", load_balancing_weight={"value": MOST}) for i in "12"))],
        {},
        "endpoints[0].lb_endpoints: the sum of the endpoints' weights is above",
    ),
    (
        [locality(endpoint()), locality(endpoint(), zone="b")],
        {},
        "endpoints[1].lb_endpoints[0].endpoint: 10.0.0.1:80 is there twice",
    ),
    (
        [locality(endpoint("::1")), locality(endpoint("0:0::1"), zone="b")],
        {},
        "[::1]:80 is there twice",
    ),
    (
        [locality(), locality()],
        {},
        "endpoints[1]: {region='', zone='a', sub_zone=''} is in priority 0 twice",
    ),
    (
        [locality(weight=MOST), locality(zone="b", weight=1)],
        {},
        "endpoints: the sum of the weights in priority 0 is above 4294967295",
    ),
    ([locality(priority=1)], {}, "endpoints: there is a priority 1 but no 0"),
    ([locality(), locality(priority=2)], {}, "there is a priority 2 but no 1"),
    ([locality(priority=MOST)], {}, f"there is a priority {MOST} but no 0"),
    (
        [{"load_balancing_weight": {"value": 1}}],
        {},
        "endpoints[0].locality: not set",
    ),
    ([], dropping({"category": "x"}), "policy.drop_overloads[0].drop_percentage: not set"),
    ([], dropping(drop("", numerator=1)), "policy.drop_overloads[0].category: empty"),
    (
        [],
        dropping(drop(denominator=3)),
        "drop_overloads[0].drop_percentage.denominator: unknown denominator 3",
    ),
]


@pytest.mark.parametrize(("localities", "fields", "reason"), REFUSED)
def test_refused_with_the_reason(
    localities: list[dict[str, Any]], fields: dict[str, Any], reason: str
) -> None:
    parsed = parse(*localities, **fields)
    assert parsed.name == "c"
    assert parsed.resource is None
    assert reason in parsed.error


def test_the_same_locality_may_be_in_two_priorities() -> None:
    found = value(locality(weight=1), locality(weight=2, priority=1))
    assert [p[0].weight for p in found.priorities] == [1, 2]


def test_a_thousand_mistakes_make_a_short_message() -> None:
    many = [endpoint("x", 0) for _ in range(1000)]
    error = parse(locality(*many)).error
    assert "and 980 more" in error
    assert len(error) < 10_000
