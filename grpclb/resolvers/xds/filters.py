"""HTTP filters (A39): the router, and a fault filter that injects no faults.

Istio puts the fault filter into every listener for gRPC clients. One that would delay or abort
RPCs is refused: grpclb injects no faults, and says so instead of acting as if it did.
"""

from __future__ import annotations

from typing import Any

from grpclb.resolvers.xds.common import Extension, extension
from grpclb.resolvers.xds.errors import Problems
from grpclb.resolvers.xds.messages import FAULT, FILTER_CONFIG, ROUTER, decode


def check_filters(filters: Any, problems: Problems) -> None:
    """`http_filters` of a listener: the router, and behind nothing else."""
    names: set[str] = set()
    kept: list[str] = []
    bad = len(problems)
    for index, proto in enumerate(filters):
        with problems.at(f"[{index}]"):
            if not proto.name:
                problems.add("empty", "name")
                continue
            if proto.name in names:
                problems.add(f"{proto.name[:80]!r} is there twice", "name")
                continue
            names.add(proto.name)
            found = extension(proto, "typed_config", problems)
            if found is None:
                continue
            with problems.at("typed_config"):
                if _known(found, proto.is_optional, problems):
                    kept.append(found.type)
    if len(problems) > bad:
        return
    if not kept:
        problems.add("no HTTP filter")
    elif kept[-1] != ROUTER:
        problems.add("the last filter is not the router")
    elif ROUTER in kept[:-1]:
        problems.add("the router is not the last filter")


def _known(found: Extension, optional: bool, problems: Problems) -> bool:
    if found.type == ROUTER:
        return True
    if found.type == FAULT:
        _check_fault(found, problems)
        return True
    if not optional:
        problems.add(f"the filter {found.type[:120]} is not supported")
    return False


def _check_fault(found: Extension, problems: Problems) -> None:
    fault = decode(FAULT, found.data) if isinstance(found.data, bytes) else None
    if fault is None:
        problems.add(f"is no {FAULT}")
    elif _injects(fault, "delay") or _injects(fault, "abort"):
        problems.add("fault injection is not supported")


def _injects(fault: Any, field: str) -> bool:
    return bool(fault.HasField(field) and getattr(fault, field).percentage.numerator)


def check_override(name: str, packed: Any, problems: Problems) -> None:
    """One entry of a `typed_per_filter_config`."""
    if not name:
        problems.add("a filter without a name")
    found = _unpack(packed, problems)
    optional = False
    if found is not None and found.type == FILTER_CONFIG:
        wrapper = decode(FILTER_CONFIG, found.data) if isinstance(found.data, bytes) else None
        if wrapper is None:
            problems.add(f"is no {FILTER_CONFIG}")
            return
        optional = wrapper.is_optional
        found = extension(wrapper, "config", problems)
    if found is None:
        return
    if found.type == ROUTER:
        problems.add("the router has no override")
    else:
        _known(found, optional, problems)


class _Holder:
    """An Any that stands alone, read as if it were a field."""

    def __init__(self, packed: Any) -> None:
        self.value = packed

    def HasField(self, _: str) -> bool:  # noqa: N802 - protobuf's name
        return True


def _unpack(packed: Any, problems: Problems) -> Extension | None:
    return extension(_Holder(packed), "value", problems)
