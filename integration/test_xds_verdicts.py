"""gRPC's own xDS client beside grpclb's reader: the same resources accepted, the same refused.

A process with a plain grpcio channel to ``xds:///lis`` asks our management server, which shows it
one resource after the other; its ACKs and NACKs are C-core's verdicts. The resources are those of
the tables in tests/resolvers/xds, so that each row there is held against C-core here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from grpclb.resolvers.xds import messages as m
from grpclb.resolvers.xds.kinds import Kinds, ResourceKind
from tests.resolvers.xds import test_cluster, test_endpoints, test_listener, test_route_config
from tests.resolvers.xds.test_any_bytes import SEEDS
from tests.support.xds_resources import (
    cluster,
    endpoint,
    endpoints,
    lb,
    listener,
    locality,
    make,
    pack,
    policies,
    registry,
    route,
    route_config,
)
from tests.support.xds_server import XdsServer

KINDS = Kinds.of(registry("my"))
CALLER = """
import grpc
call = grpc.insecure_channel("xds:///lis").unary_unary("/s/m")
while True:
    try:
        call(b"", timeout=1)
    except grpc.RpcError:
        pass
"""

# Where grpclb refuses what C-core takes, and why it does.
STRICTER = {
    # gRFC A44 asks for it; C-core does not look.
    "retry_back_off.base_interval: 0",
    "retry_back_off.max_interval: 0",
    "max_interval: shorter than base_interval",
    # Nothing could ever be asked for by this name, or reached at this address (grpc-go agrees
    # about the first three).
    "rds.route_config_name: empty",
    "port_value: 0",
    "the sum of the endpoints' weights",
    "port_value: 70000",
    "port 0 is not in",
    "not dialable",
    "a cluster without a name",
    # grpclb injects no faults, and has fewer policies.
    "fault injection",
    "RingHash, a.Unknown",
    "no supported policy",
    "my: bad: not wanted",  # a policy of the tests: C-core passes over it
    # Never talk in plain text to a cluster that is meant to be secured.
    "transport_socket_matches: not supported",
}


@dataclass
class Core:
    """C-core's client, and the server that it talks to."""

    server: XdsServer

    def accepts(self, kind: ResourceKind, name: str, message: Any) -> bool:
        """Show it this resource, and wait for the verdict."""
        before = len(self.server.of_kind(kind.type_url))
        self.server.set(kind.type_url, {name: message})
        self.server.wait_for(lambda: len(self.server.of_kind(kind.type_url)) > before, "a verdict")
        verdict = not self.server.of_kind(kind.type_url)[-1].error_detail.message
        if verdict:
            # Its consequences may be that nothing of the rest is asked for: take it back.
            before += 1
            self.server.set(kind.type_url, GOOD[kind])
            self.server.wait_for(
                lambda: len(self.server.of_kind(kind.type_url)) > before, "the good one again"
            )
        return verdict


GOOD: dict[ResourceKind, dict[str, Any]] = {
    KINDS.lds: {"lis": listener("lis")},
    KINDS.rds: {"routes": route_config("routes")},
    KINDS.cds: {"c": cluster("c")},
    KINDS.eds: {"c": endpoints("c", locality(endpoint("127.0.0.1", 1)))},
}
NAMES = {kind: next(iter(resources)) for kind, resources in GOOD.items()}


@pytest.fixture(scope="module")
def core() -> Iterator[Core]:
    with XdsServer() as server:
        for kind, resources in GOOD.items():
            server.set(kind.type_url, resources)
        environment = {
            **os.environ,
            "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(server.bootstrap()),
            "GRPC_VERBOSITY": "NONE",
        }
        process = subprocess.Popen(
            [sys.executable, "-c", CALLER], env=environment, stderr=subprocess.DEVNULL
        )
        try:
            server.wait_for(lambda: len(server.of_kind(KINDS.eds.type_url)) > 1, "C-core", 30)
            yield Core(server)
        finally:
            process.kill()
            process.wait()


def refused() -> Iterator[tuple[ResourceKind, Any, str]]:
    for _, message, reason in test_listener.REFUSED:
        yield KINDS.lds, message, reason
    for value, reason in test_route_config.REFUSED:
        yield KINDS.rds, route_config("routes", [value]), reason
    for message, reason in test_cluster.REFUSED:
        yield KINDS.cds, message, reason
    for localities, fields, reason in test_endpoints.REFUSED:
        yield KINDS.eds, endpoints("c", *localities, **fields), reason


def test_what_we_refuse_is_refused_by_c_core_but_for_what_is_listed(core: Core) -> None:
    unlisted, agreed = [], 0
    for kind, message, reason in refused():
        if not core.accepts(kind, NAMES[kind], message):
            agreed += 1
        elif not any(listed in reason for listed in STRICTER):
            unlisted.append(f"{kind.short} {reason}")
    assert not unlisted
    assert agreed > 80


EXTRA = {"name": "x", "typed_config": pack("a.b.Unknown"), "is_optional": True}
ROUTER = {"name": "router", "typed_config": pack(m.ROUTER)}
NO_FAULT = {"name": "fault", "typed_config": pack(m.FAULT)}
LOCAL = lb(
    "wrr_locality.v3.WrrLocality", endpoint_picking_policy=policies(lb("round_robin.v3.RoundRobin"))
)
OK_BACKOFF = {"base_interval": {"nanos": 1}, "max_interval": {"seconds": 1}}

ROUTES: list[dict[str, Any]] = [
    {"match": {"prefix": "/s/", "case_sensitive": {"value": False}}},
    {"match": {"safe_regex": {"regex": r"(?i)/[a-z\d]+/(x|y){2,3}\Q.\E"}}},
    {"match": {"prefix": "", "query_parameters": [{"name": "q"}]}},
    {"match": {"prefix": "", "headers": [{"name": "k", "string_match": {"exact": "a"}}]}},
    {"match": {"prefix": "", "headers": [{"name": "k", "present_match": False}]}},
    {"match": {"prefix": "", "headers": [{"name": "k", "contains_match": ""}]}},
    {"match": {"prefix": "", "runtime_fraction": {}}},
    {"match": {"prefix": "nonsense"}},
    {"route": {}},
    {"route": {"cluster": "c", "retry_policy": {"retry_on": "5xx"}}},
    {
        "route": {
            "cluster": "c",
            "retry_policy": {"retry_on": "internal", "retry_back_off": OK_BACKOFF},
        }
    },
    {"route": {"cluster": "c", "max_stream_duration": {"max_stream_duration": {}}}},
    {"typed_per_filter_config": {"f": pack(m.FAULT)}},
]


def accepted() -> Iterator[tuple[ResourceKind, Any]]:
    """As many turns as a resource can have that we take."""
    for kind, message in SEEDS:
        packed = pack(message)
        if kind.parse(packed.type_url, packed.value).name == NAMES[kind]:
            yield kind, message
    yield KINDS.lds, listener(http_filters=[EXTRA, ROUTER])
    yield KINDS.lds, listener(http_filters=[NO_FAULT, ROUTER])
    yield KINDS.lds, listener(rds={"config_source": {"self": {}}, "route_config_name": "routes"})
    yield KINDS.lds, listener(common_http_protocol_options={"max_stream_duration": {"nanos": 1}})
    for fields in ROUTES:
        yield KINDS.rds, route_config("routes", [{**route(), **fields}])
    yield KINDS.rds, route_config("routes", [], domains=["a", "*.b", "c.*"])
    yield KINDS.rds, make(m.ROUTE_CONFIGURATION, {"name": "routes"})
    yield KINDS.cds, cluster(load_balancing_policy=policies(pack("a.Unknown"), LOCAL))
    yield KINDS.cds, cluster(lrs_server={"self": {}})
    yield KINDS.cds, cluster(circuit_breakers={"thresholds": [{"priority": 1}, {}]})
    yield KINDS.cds, cluster(outlier_detection={"enforcing_success_rate": {"value": 100}})
    yield KINDS.eds, endpoints("c")
    yield KINDS.eds, endpoints("c", locality(weight=0, priority=7), locality(priority=0))
    yield KINDS.eds, endpoints("c", locality(endpoint("x", 0, health_status=2)))
    yield KINDS.eds, endpoints("c", locality(zone="b", priority=1), locality())


def test_what_we_accept_is_accepted_by_c_core(core: Core) -> None:
    for kind, message in accepted():
        packed = pack(message)
        assert kind.parse(packed.type_url, packed.value).error == ""
        assert core.accepts(kind, NAMES[kind], message), (kind.short, message)
