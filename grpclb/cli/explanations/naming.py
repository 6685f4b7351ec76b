"""What a resolved name stands for, the config that came with it, and what was passed over."""

from __future__ import annotations

from grpclb.cli.rules import Level, Rule, always
from grpclb.cli.seen import Stage

_NAME, _CONFIG, _SKIPPED = (Stage.NAME,), (Stage.CONFIG,), (Stage.SKIPPED,)

_CLUSTER_IP = (
    (
        "gRPC keeps one connection, and a ClusterIP balances connections: every RPC of a client "
        "goes to the one pod that its connection came to."
    ),
    (
        "Make the Service headless (`clusterIP: None`) and give the target the pods' own port; or "
        "watch the EndpointSlices with kubernetes:///service.namespace:port."
    ),
)

NAMING: tuple[Rule, ...] = (
    Rule(
        "cluster-ip",
        _NAME,
        lambda seen: bool(seen.variable),
        "This is the ClusterIP of a Service (the variable {variable} says so), not its pods.",
        _CLUSTER_IP,
    ),
    Rule(
        "one-address",
        _NAME,
        always,
        "DNS gives one address for this name. That is right for a single backend; if there are "
        "several, it is a ClusterIP or the address of another load balancer.",
        _CLUSTER_IP,
        Level.WARNING,
    ),
    Rule(
        "service-config-rejected",
        _CONFIG,
        always,
        "The service config that came with the addresses is wrong; channels go on without it.",
        ("Correct it at its source (for DNS: the TXT records of _grpc_config.NAME).",),
    ),
    Rule(
        "entries-skipped",
        _SKIPPED,
        always,
        "The source of the addresses holds entries that could not be used, as a whole or in part. "
        "Backends may be missing, or be used without their weight or by an older entry.",
        (
            (
                "Correct each at its source: in etcd the value of the key (`etcdctl get KEY`) and "
                "whoever writes it, in Kubernetes the EndpointSlice, with xDS the resource."
            ),
        ),
        Level.WARNING,
    ),
)
