"""Resources that are wrong, shown to clients in the middle of their RPCs (FIGURES F40).

All clients must refuse them, with the nonce of that response and the version of the one before, and
no RPC may notice. (Which resources are wrong is held against C-core, one by one, in
test_xds_verdicts.py; where grpclb refuses more is said there, too.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from grpclb.resolvers.xds import messages as m
from integration.xds.side import Side
from tests.support import xds_resources as x
from tests.support.xds_resources import locality

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]
MOST = 2**32 - 1


def _route(side: Side, **action: Any) -> Any:
    return side.routes({"match": {"prefix": ""}, "route": action or {"cluster": side.named("c")}})


def _weighted(side: Side, *weights: int) -> Any:
    clusters = [{"name": side.named("c"), "weight": {"value": weight}} for weight in weights]
    return _route(side, weighted_clusters={"clusters": clusters})


def _matching(side: Side, **match: Any) -> Any:
    return side.routes({"match": match, "route": {"cluster": side.named("c")}})


def _aggregate(*names: str) -> dict[str, Any]:
    packed = x.pack(x.make(m.AGGREGATE, {"clusters": list(names)}))
    return {"name": "envoy.clusters.aggregate", "typed_config": packed}


def _endpoints(*localities: dict[str, Any], **fields: Any) -> Callable[[Side], Any]:
    return lambda side: side.endpoints("c", *localities, **fields)


ONE, TWO = x.endpoint("127.0.0.1", 1), x.endpoint("127.0.0.1", 2)
Make = Callable[[Side], Any]
WRONG: dict[str, dict[str, Make]] = {
    "LDS": {
        "no api_listener": lambda s: x.make(m.LISTENER, {"name": s.name}),
        "no filter at all": lambda s: s.listener(http_filters=[]),
        "an unknown filter": lambda s: s.listener(
            http_filters=[{"name": "x", "typed_config": x.pack("a.b.Unknown")}, x.ROUTER_FILTER]
        ),
        "no routes": lambda s: x.listener(s.name, rds={}),
        "trusted hops": lambda s: s.listener(xff_num_trusted_hops=1),
    },
    "RDS": {
        "no domains": lambda s: s.routes(domains=[]),
        "a bad domain": lambda s: s.routes(domains=["a*b"]),
        "sum of weights": lambda s: _weighted(s, MOST, 1),
        "no weight": lambda s: _weighted(s, 0, 0),
        "no match": lambda s: s.routes({"route": {"cluster": s.named("c")}}),
        "no path": _matching,
        "a bad regex": lambda s: _matching(s, safe_regex={"regex": "(a"}),
        "no cluster": lambda s: _route(s, cluster=""),
        "no retries": lambda s: _route(
            s,
            cluster=s.named("c"),
            retry_policy={"retry_on": "unavailable", "num_retries": {"value": 0}},
        ),
        "an unknown plugin": lambda s: _route(s, cluster_specifier_plugin="x"),
    },
    "CDS": {
        "static": lambda s: s.cluster(type=0),
        "no EDS config": lambda s: s.cluster(type=3),
        "DNS without a host": lambda s: s.cluster(type=2),
        "an empty aggregate": lambda s: s.cluster(cluster_type=_aggregate()),
        "an unknown policy": lambda s: s.cluster(lb_policy=5),
        "no known policy": lambda s: s.cluster(
            load_balancing_policy=x.policies(x.pack("a.b.Unknown"))
        ),
        "another load server": lambda s: s.cluster(lrs_server=x.ADS),
        "outliers": lambda s: s.cluster(outlier_detection={"max_ejection_percent": {"value": 101}}),
    },
    "EDS": {
        "a gap": _endpoints(locality(ONE), locality(TWO, zone="b", priority=2)),
        "a locality twice": _endpoints(locality(ONE), locality(TWO)),
        "an address twice": _endpoints(locality(ONE), locality(ONE, zone="b")),
        "sum of weights": _endpoints(locality(ONE, weight=MOST), locality(TWO, zone="b")),
        "weight 0": _endpoints(locality(x.endpoint("::1", 1, load_balancing_weight={"value": 0}))),
        "port 70000": _endpoints(locality(x.endpoint("127.0.0.1", 70_000))),
        "a host name": _endpoints(locality(x.endpoint("localhost", 1))),
        "no locality": _endpoints({"lb_endpoints": [ONE], "load_balancing_weight": {"value": 1}}),
        "a drop without a name": _endpoints(
            locality(ONE), policy={"drop_overloads": [{"drop_percentage": {"numerator": 1}}]}
        ),
    },
}
NAMES = {
    "LDS": lambda side: side.name,
    "RDS": lambda side: side.named("routes"),
    "CDS": lambda side: side.named("c"),
    "EDS": lambda side: side.named("c"),
}
GOOD: dict[str, Make] = {
    "LDS": lambda side: side.listener(),
    "RDS": lambda side: side.routes(),
    "CDS": lambda side: side.cluster(),
    "EDS": lambda side: side.endpoints("c", locality(side.at("a"))),
}
TYPES = {
    "LDS": m.LISTENER,
    "RDS": m.ROUTE_CONFIGURATION,
    "CDS": m.CLUSTER,
    "EDS": m.CLUSTER_LOAD_ASSIGNMENT,
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_resources_are_refused_and_nothing_breaks(side: Side, kind: str) -> None:
    side.serve(eds=[locality(side.at("a"))])
    side.until_from("a")
    name = NAMES[kind](side)
    rows = {
        **WRONG[kind],
        # Without the wrapper its name is not known, so that it is nobody's.
        "bad bytes": lambda side: _wrapped(name, x.pack(TYPES[kind], b"\xff")),
        "another type": lambda side: _wrapped(name, x.pack("a.b.Other")),
    }
    with side.flowing() as flows:
        for what, make in rows.items():
            before = {client: seen.version for client, seen in side.verdicts(kind).items()}
            side.server.put_as(kind, name, make(side))
            for client, seen in side.verdicts(kind).items():
                assert seen.error, (client, kind, what)
                assert name in seen.error, (client, kind, what, seen.error)
                assert seen.version == before[client], (client, kind, what, seen)
            side.server.put_as(kind, name, GOOD[kind](side))
            for client, seen in side.verdicts(kind).items():
                assert not seen.error, (client, kind, what, seen)
    for client, flow in flows.items():
        assert not flow.failed, (client, flow)
        assert set(flow.answers) == {"a"}, (client, flow)


def _wrapped(name: str, packed: Any) -> Any:
    outer = m.message(m.RESOURCE_WRAPPER)(name=name)
    outer.resource.type_url, outer.resource.value = packed.type_url, packed.value
    return x.pack(outer)


def test_the_good_ones_of_a_refused_response_are_used(side: Side) -> None:
    """gRFC A46: one bad resource, and the others of the same response."""
    side.serve(
        side.routes(side.to("two", "/test.Echo/Two"), side.to("c")),
        *side.one("two", "b"),
        eds=[locality(side.at("a"))],
    )
    side.until_from("a")
    side.until_from("b", method="/test.Echo/Two")
    with side.flowing() as flows:
        side.put(
            side.endpoints("c", locality(x.endpoint("127.0.0.1", 1, load_balancing_weight={}))),
            side.endpoints("two", locality(side.at("c"))),
        )
        for client, seen in side.verdicts("EDS").items():
            assert side.named("c") in seen.error, (client, seen)
            assert side.named("two") not in seen.error, (client, seen)
        side.until_from("c", method="/test.Echo/Two")
        side.until_from("a")
    for client, flow in flows.items():
        assert not flow.failed, (client, flow)


# C-core reads nothing more of a stream on which it saw a type that it does not know.
@pytest.mark.parametrize("side", [("sync", "aio")], indirect=True)
def test_a_type_that_nobody_knows_is_passed_over(side: Side) -> None:
    side.serve(eds=[locality(side.at("a"))])
    side.until_from("a")
    with side.flowing() as flows:
        side.server.say(side.server.response("LDS", type_url=m.TYPE_PREFIX + "a.b.Other"))
        side.put(side.endpoints("c", locality(side.at("b"))))
        side.until_from("b")
    for client, flow in flows.items():
        assert not flow.failed, (client, flow)
        assert not any(seen.error for seen in side.server.asked(client)[-3:])
