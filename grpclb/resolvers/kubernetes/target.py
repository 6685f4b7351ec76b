"""Which Service, namespace and port a ``kubernetes`` target means. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from grpclb.core.target import Target

# Names of namespaces, Services and their ports (RFC 1123 labels).
_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_FORMS = (
    "kubernetes:///service.namespace:port, kubernetes://namespace/service:port or "
    "kubernetes:///service"
)


@dataclass(frozen=True, slots=True)
class ServiceTarget:
    """A Service. `namespace` None is the client's own; `port` None is the first of each slice.

    A `port` that is a number is the pod's; a name is looked up in each slice.
    """

    service: str
    namespace: str | None = None
    port: int | str | None = None

    @classmethod
    def of(cls, target: Target) -> ServiceTarget:
        """What `target` names. Raises ValueError that says which part is wrong."""
        authority, endpoint = target.authority, target.endpoint.strip("/")
        if not endpoint:  # kubernetes://svc.ns:port/
            authority, endpoint = "", authority
        if "/" in endpoint:
            raise _error(target, f"{endpoint!r} has a '/'")
        host, colon, port = endpoint.partition(":")
        if not host:
            raise _error(target, "the Service is missing")
        service, *rest = host.removesuffix(".").split(".")
        namespace = rest[0] if rest else None
        if len(rest) > 1 and rest[1] != "svc":
            raise _error(target, f"{rest[1]!r} where 'svc' was expected, as in api.shop.svc")
        if authority:
            if ":" in authority or "." in authority:
                raise _error(target, f"{authority!r} is not a namespace")
            if namespace not in (None, authority):
                raise _error(target, f"two namespaces, {authority!r} and {namespace!r}")
            namespace = authority
        _check_label(target, "Service", service)
        if namespace is not None:
            _check_label(target, "namespace", namespace)
        return cls(service, namespace, _port(target, port) if colon else None)

    def authority(self, namespace: str) -> str:
        """The name that the backends' certificates carry, unless the user says otherwise."""
        return f"{self.service}.{self.namespace or namespace}.svc"


def check_namespace(name: str) -> str:
    """`name` if it can be a namespace; ValueError if not."""
    if not _LABEL.fullmatch(name):
        raise ValueError(f"namespace {name[:80]!r}: expected 1 to 63 of a-z, 0-9 and '-'")
    return name


def _check_label(target: Target, what: str, name: str) -> None:
    if not _LABEL.fullmatch(name):
        raise _error(target, f"{what} {name!r}: expected 1 to 63 of a-z, 0-9 and '-'")


def _port(target: Target, text: str) -> int | str:
    if text.isascii() and text.isdigit():
        if len(text) > 5 or not 0 < int(text) < 65536:
            raise _error(target, f"port {text[:20]!r} is not in 1..65535")
        return int(text)
    _check_label(target, "port name", text)
    return text


def _error(target: Target, problem: str) -> ValueError:
    return ValueError(f"target {target.text[:200]!r}: {problem}; write {_FORMS}")
