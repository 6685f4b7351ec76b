"""Objects of the Kubernetes API, as a server sends them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

SERVICE_LABEL = "kubernetes.io/service-name"


def endpoint_object(
    *addresses: str,
    ready: bool | None = True,
    serving: bool | None = None,
    terminating: bool | None = None,
    pod: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """One endpoint; conditions that are None are left out, as a server does with nil."""
    given = {"ready": ready, "serving": serving, "terminating": terminating}
    found: dict[str, Any] = {
        "addresses": list(addresses),
        "conditions": {k: v for k, v in given.items() if v is not None},
        **more,
    }
    if pod is not None:
        found["targetRef"] = {"kind": "Pod", "namespace": "shop", "name": pod, "uid": f"u-{pod}"}
    return found


def slice_object(
    name: str,
    service: str,
    endpoints: Iterable[str | dict[str, Any]],
    *,
    namespace: str = "shop",
    family: str = "IPv4",
    ports: Sequence[tuple[str, int]] | None = (("grpc", 50051),),
) -> dict[str, Any]:
    """An EndpointSlice as the API has it."""
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": name, "namespace": namespace, "labels": {SERVICE_LABEL: service}},
        "addressType": family,
        "endpoints": [endpoint_object(e) if isinstance(e, str) else e for e in endpoints],
        "ports": None
        if ports is None
        else [{"name": n, "port": p, "protocol": "TCP"} for n, p in ports],
    }


def status_object(code: int, reason: str, message: str) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
