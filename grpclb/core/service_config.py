"""Service config (doc/service_config.md; gRFCs A2, A6, A17, A21, A24): value and strict parsing.

A field that we know and that is wrong rejects the whole config; one that we do not know is
ignored. Names of fields are gRPC's own lowerCamelCase and nothing else: grpc core and grpc-go
read ``wait_for_ready`` as an unknown field, and so do we. `ServiceConfig.ignored` lists them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from grpclb.core.balancer import Policy, PolicyConfig
from grpclb.core.config_json import load
from grpclb.core.config_node import Node, ServiceConfigError, brief, join, shown
from grpclb.core.method_config import (
    MethodConfig,
    limits_json,
    lookup,
    parse_method_configs,
)
from grpclb.core.retry_config import (
    DEFAULT_MAX_ATTEMPTS,
    THROTTLING_FIELDS,
    HedgingPolicy,
    RetryPolicy,
    RetryThrottling,
    parse_retry_throttling,
)

__all__ = [
    "EMPTY",
    "HedgingPolicy",
    "MethodConfig",
    "RetryPolicy",
    "RetryThrottling",
    "ServiceConfig",
    "ServiceConfigError",
    "message_limits_json",
    "parse_lb_config",
    "parse_service_config",
]

FindPolicy = Callable[[str], Policy | None]

_FIELDS = (
    "loadBalancingPolicy",
    "loadBalancingConfig",
    "methodConfig",
    "retryThrottling",
    "healthCheckConfig",
)
_MOST_IGNORED = 32  # a hint; a stranger's config may have thousands
_NO_METHODS: Mapping[str, MethodConfig] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """A parsed service config. Two that ask for the same are equal, however they are written.

    `lb` is None when the config names no policy. `health_check_service` is None for no health
    check, and "" for the server as a whole. `ignored` holds the paths of fields that nothing
    read, for a hint to a person.
    """

    lb: PolicyConfig | None = field(default=None, hash=False)
    health_check_service: str | None = None
    retry_throttling: RetryThrottling | None = None
    methods: Mapping[str, MethodConfig] = field(default_factory=lambda: _NO_METHODS, hash=False)
    text: str = field(default="{}", compare=False, repr=False)
    ignored: tuple[str, ...] = field(default=(), compare=False)

    @property
    def raw(self) -> dict[str, Any]:
        """What was parsed, ready for JSON; a copy of the caller's own at each call."""
        raw: dict[str, Any] = json.loads(self.text)
        return raw

    def method_config(self, path: str) -> MethodConfig:
        """The settings for ``/pkg.Service/Method``. Any thread; two or three dict look-ups."""
        return lookup(self.methods, path)


EMPTY = ServiceConfig()


def parse_service_config(
    raw: Mapping[str, Any] | str,
    *,
    find_policy: FindPolicy,
    max_retry_attempts: int = DEFAULT_MAX_ATTEMPTS,
    known_policies: Iterable[str] = (),
) -> ServiceConfig:
    """The config in a dict or in JSON text. Raises ServiceConfigError and nothing else.

    `find_policy` is a registry's `get`; `known_policies` are the names that an error lists.
    `max_retry_attempts` caps `maxAttempts` of retries and hedges (gRFC A6).
    """
    root = Node(load(raw))
    # Before the policies are asked: they may keep, and change, the objects that they are given.
    text = json.dumps(root.value)
    ignored = list(root.unread(_FIELDS))
    methods = root.get("methodConfig")
    throttling = root.get("retryThrottling")
    if throttling:
        ignored += throttling.unread(THROTTLING_FIELDS)
    return ServiceConfig(
        lb=_load_balancing(root, find_policy, tuple(known_policies)),
        health_check_service=_health_check(root, ignored),
        retry_throttling=parse_retry_throttling(throttling) if throttling else None,
        methods=MappingProxyType(
            parse_method_configs(methods, max_retry_attempts, ignored) if methods else {}
        ),
        text=text,
        ignored=tuple(ignored[:_MOST_IGNORED]),
    )


def message_limits_json(config: ServiceConfig) -> str | None:
    """A service config for a subchannel's own channel, or None when there are no limits.

    C-core enforces the limits while it reads and writes, before a byte too many is buffered. It
    is told of them only, as everything else in a config is done by us.
    """
    return limits_json(config.methods)


def _health_check(root: Node, ignored: list[str]) -> str | None:
    health = root.get("healthCheckConfig")
    if health is None:
        return None
    ignored += health.unread(("serviceName",))
    return health.optional("serviceName", Node.text)


def _load_balancing(
    root: Node, find_policy: FindPolicy, known: tuple[str, ...]
) -> PolicyConfig | None:
    choices = root.get("loadBalancingConfig")
    legacy = root.get("loadBalancingPolicy")
    name = "" if legacy is None else legacy.text()
    if choices is not None:
        return _first_known(choices, find_policy, known)
    if not (legacy and name):
        return None
    policy = find_policy(name.lower()) or find_policy(name)
    if policy is None:
        raise legacy.fail(f"unknown policy {shown(name)}{_naming(known)}")
    return _configure(policy, {}, legacy)


def parse_lb_config(
    raw: object, *, find_policy: FindPolicy, known_policies: Iterable[str] = ()
) -> PolicyConfig:
    """A `loadBalancingConfig` list, for a policy that has children.

    Raises ServiceConfigError with a path that starts at the list; a policy's `parse_config` may
    let it pass, `error.under("$.childPolicy")` gives it the right path.
    """
    return _first_known(Node(raw), find_policy, tuple(known_policies))


def _first_known(node: Node, find_policy: FindPolicy, known: tuple[str, ...]) -> PolicyConfig:
    """The first entry with a known name; if that one is wrong, no later one is tried (A24)."""
    names = []
    for entry in node.items():
        if len(entry.object()) != 1:
            raise entry.fail(
                f"expected one policy name with its config, got {len(entry.object())} names"
            )
        (name,) = entry.object()
        policy = find_policy(name)
        config = Node(entry.object()[name], join(entry.path, name))
        raw = config.object()
        if policy is not None:
            return _configure(policy, raw, config)
        names.append(name)
    listed = ", ".join(map(shown, names[:8])) or "an empty list"
    raise node.fail(f"no known policy in {listed}{_naming(known)}")


def _configure(policy: Policy, raw: dict[str, Any], node: Node) -> PolicyConfig:
    try:
        return PolicyConfig(policy, policy.parse_config(raw))
    except ServiceConfigError as error:
        raise error.under(node.path) from error
    except ValueError as error:
        raise node.fail(brief(error, 512)) from error
    except Exception as error:  # a user's policy; its slip must not stop the channel
        said = brief(error, 512)
        raise node.fail(f"the policy's parser raised {type(error).__name__}: {said}") from error


def _naming(known: tuple[str, ...]) -> str:
    return f"; known: {', '.join(sorted(known))}" if known else ""
