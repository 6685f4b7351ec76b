"""A cluster's load-balancing policy as one of ours (A52, and the old enum of A27, A42, A48).

The control plane lists policies by preference; the first one that our registry knows is taken, and
its config must then be right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpclb.core.balancer import Policy
from grpclb.core.registry import Registry
from grpclb.resolvers.xds.common import Extension, extension, nanoseconds
from grpclb.resolvers.xds.errors import Problems
from grpclb.resolvers.xds.messages import (
    LEAST_REQUEST,
    PICK_FIRST,
    RING_HASH,
    ROUND_ROBIN,
    WEIGHTED_ROUND_ROBIN,
    WRR_LOCALITY,
    decode,
)
from grpclb.resolvers.xds.resources import LbPolicy

_MAX_DEPTH = 16
_WRR_LOCALITY = "xds_wrr_locality_experimental"
_LEAST_REQUEST = "least_request_experimental"
_RING_HASH = "ring_hash_experimental"
# What a control plane sends for it, and our name.
_NAMES = {
    ROUND_ROBIN: "round_robin",
    PICK_FIRST: "pick_first",
    WRR_LOCALITY: _WRR_LOCALITY,
    LEAST_REQUEST: _LEAST_REQUEST,
    RING_HASH: _RING_HASH,
    WEIGHTED_ROUND_ROBIN: "weighted_round_robin",
}
_LARGEST_RING = 8_388_608
_DURATIONS = {
    "oob_reporting_period": "oobReportingPeriod",
    "blackout_period": "blackoutPeriod",
    "weight_expiration_period": "weightExpirationPeriod",
    "weight_update_period": "weightUpdatePeriod",
}


def read_lb_policy(cluster: Any, registry: Registry[Policy], problems: Problems) -> LbPolicy | None:
    """The policy of a Cluster message; None with a problem."""
    bad = len(problems)
    if cluster.HasField("load_balancing_policy"):
        with problems.at("load_balancing_policy"):
            policy = _first_known(cluster.load_balancing_policy, registry, problems, 0)
    else:
        policy = _from_enum(cluster, registry, problems)
    if policy is None or len(problems) > bad:
        return None
    known = registry.get(policy.name)
    if known is None:
        problems.add(f"the policy {policy.name} is not supported", "lb_policy")
        return None
    try:
        known.parse_config(policy.config)
    except ValueError as error:
        problems.add(f"{policy.name}: {error}", "load_balancing_policy")
        return None
    return policy


def _from_enum(cluster: Any, registry: Registry[Policy], problems: Problems) -> LbPolicy | None:
    """The enum's three values that gRPC knows: ROUND_ROBIN, LEAST_REQUEST and RING_HASH."""
    config: Mapping[str, Any]
    match cluster.lb_policy:
        case 0:
            return LbPolicy(_WRR_LOCALITY, {"childPolicy": [{"round_robin": {}}]})
        case 1 if _LEAST_REQUEST in registry:
            with problems.at("least_request_lb_config"):
                config = _least_request(cluster.least_request_lb_config, problems)
            return LbPolicy(_LEAST_REQUEST, config)
        case 2 if _RING_HASH in registry:
            with problems.at("ring_hash_lb_config"):
                config = _ring_hash(cluster.ring_hash_lb_config, (0,), problems)
            return LbPolicy(_RING_HASH, config)
    problems.add(f"the policy {cluster.lb_policy} is not supported", "lb_policy")
    return None


def _first_known(
    proto: Any, registry: Registry[Policy], problems: Problems, depth: int
) -> LbPolicy | None:
    if depth >= _MAX_DEPTH:
        problems.add(f"nested deeper than {_MAX_DEPTH}")
        return None
    passed = []
    for index, policy in enumerate(proto.policies):
        with problems.at(f"policies[{index}].typed_extension_config"):
            if not policy.HasField("typed_extension_config"):
                problems.add("not set")
                return None
            found = extension(policy.typed_extension_config, "typed_config", problems)
            if found is None:
                return None
            with problems.at("typed_config"):
                name = found.type if isinstance(found.data, dict) else _NAMES.get(found.type, "")
                if name in registry:
                    config = _config(found, registry, problems, depth)
                    return LbPolicy(name, config) if config is not None else None
            passed.append(found.type[:120])
    problems.add(f"no supported policy; passed over: {', '.join(passed) or 'nothing'}")
    return None


def _config(
    found: Extension, registry: Registry[Policy], problems: Problems, depth: int
) -> Mapping[str, Any] | None:
    if isinstance(found.data, dict):
        return found.data
    if found.type == ROUND_ROBIN:
        return {}
    message = decode(found.type, found.data)
    if message is None:
        problems.add(f"is no {found.type}")
        return None
    match found.type:
        case t if t == PICK_FIRST:
            return {"shuffleAddressList": message.shuffle_address_list}
        case t if t == LEAST_REQUEST:
            return _least_request(message, problems)
        case t if t == RING_HASH:
            return _ring_hash(message, (0, 1), problems)
        case t if t == WEIGHTED_ROUND_ROBIN:
            return _weighted_round_robin(message, problems)
    with problems.at("endpoint_picking_policy"):
        if not message.HasField("endpoint_picking_policy"):
            problems.add("not set")
            return None
        child = _first_known(message.endpoint_picking_policy, registry, problems, depth + 1)
    return {"childPolicy": child.json} if child is not None else None


def _least_request(proto: Any, problems: Problems) -> Mapping[str, Any]:
    count = proto.choice_count.value if proto.HasField("choice_count") else 2
    if count < 2:
        problems.add(f"{count}; at least 2", "choice_count")
    return {"choiceCount": count}


def _ring_hash(proto: Any, hashes: tuple[int, ...], problems: Problems) -> Mapping[str, Any]:
    if proto.hash_function not in hashes:
        problems.add("is not XX_HASH", "hash_function")
    sizes = {}
    for field, default in (("minimum_ring_size", 1024), ("maximum_ring_size", _LARGEST_RING)):
        size = getattr(proto, field).value if proto.HasField(field) else default
        if not 0 < size <= _LARGEST_RING:
            problems.add(f"{size} is not in [1, {_LARGEST_RING}]", field)
        sizes[field] = size
    least, most = sizes["minimum_ring_size"], sizes["maximum_ring_size"]
    if least > most:
        problems.add("above maximum_ring_size", "minimum_ring_size")
    return {"minRingSize": least, "maxRingSize": most}


def _weighted_round_robin(proto: Any, problems: Problems) -> Mapping[str, Any]:
    config: dict[str, Any] = {}
    if proto.enable_oob_load_report.value:
        config["enableOobLoadReport"] = True
    for field, name in _DURATIONS.items():
        if proto.HasField(field):
            with problems.at(field):
                config[name] = duration_json(nanoseconds(getattr(proto, field), problems))
    if proto.HasField("error_utilization_penalty"):
        penalty = proto.error_utilization_penalty.value
        if not penalty >= 0:  # NaN, too
            problems.add("below 0", "error_utilization_penalty")
        config["errorUtilizationPenalty"] = penalty
    return config


def duration_json(value: int) -> str:
    """Nanoseconds as protobuf's JSON writes a duration: ``"0.025s"``."""
    whole, rest = divmod(value, 1_000_000_000)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".") + "s"
