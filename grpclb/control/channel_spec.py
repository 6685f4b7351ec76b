"""What a channel was asked to be: the factories' arguments, checked and put in their place."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import grpc

from grpclb.control.options import ChannelOptions, Option, parse_options, subchannel_options
from grpclb.control.registries import POLICIES, RESOLVERS
from grpclb.core.address import Address
from grpclb.core.balancer import PolicyConfig
from grpclb.core.resolver import Resolver, ResolverContext, ResolverFactory
from grpclb.core.service_config import (
    ServiceConfig,
    message_limits_json,
    parse_service_config,
)
from grpclb.core.target import Target, default_authority, parse_target

_LOG = logging.getLogger("grpclb.channel")
_DEFAULT_POLICY = "round_robin"


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """One channel's fixed facts. The default service config is used where the resolver has none."""

    target: Target
    options: ChannelOptions
    authority: str
    default_config: ServiceConfig
    has_default_config: bool
    default_policy: PolicyConfig
    resolver: Resolver | None
    factory: ResolverFactory | None
    compression: Any = None

    def policy_of(self, config: ServiceConfig) -> PolicyConfig:
        """The policy that counts under a service config: its own, else the option's."""
        return config.lb or self.default_policy

    def make_resolver(self, context: ResolverContext) -> Resolver:
        """The user's own resolver, or a new one from the factory of the target's scheme."""
        if self.resolver is not None:
            return self.resolver
        assert self.factory is not None
        return self.factory(self.target, context)

    def parse_config(self, raw: Mapping[str, Any] | str) -> ServiceConfig:
        """A service config for this channel. Raises ServiceConfigError."""
        cap = self.options.knob("grpclb.max_retry_attempts")
        return parse_service_config(
            raw,
            find_policy=POLICIES.get,
            max_retry_attempts=cap,
            known_policies=POLICIES,
        )

    def subchannel_config(self, config: ServiceConfig) -> str | None:
        """The service config that C-core executes on a subchannel, as JSON; None for none.

        Health checks (gRFC A17) and message limits are done by C-core on the data connection. A
        C-core pick_first would ignore the health check, so a one-address round_robin asks for it;
        where pick_first is the channel's own policy, ignoring it is right.
        """
        limits = message_limits_json(config)
        result: dict[str, Any] = json.loads(limits) if limits else {}
        service = config.health_check_service
        policy = self.policy_of(config).policy
        checked = policy.name != "pick_first" and not self.options.health_checks_inhibited
        if service is not None and checked:
            result["healthCheckConfig"] = {"serviceName": service}
            result["loadBalancingConfig"] = [{"round_robin": {}}]
        return json.dumps(result, sort_keys=True) if result else None

    def subchannel_options(self, address: Address, args: str | None) -> tuple[Option, ...]:
        """The arguments of the grpcio channel to `address`."""
        return subchannel_options(self.options, address.server_name or self.authority, args)


def build_spec(
    target: str,
    options: Sequence[Option] | None,
    service_config: Mapping[str, Any] | str | None,
    resolver: Resolver | None,
    compression: Any = None,
    *,
    secure: bool = False,
) -> ChannelSpec:
    """Check a factory's arguments. Raises TypeError or ValueError that says what, where and how.

    `secure`: backends must prove a name, so there has to be one.
    """
    checked = parse_options(options)
    _check_compression(compression)
    _check_resolver(resolver)
    parsed = _target(target, resolver)
    factory = None if resolver is not None else RESOLVERS.require(parsed.scheme)
    given = checked.values.get("grpc.service_config") if service_config is None else service_config
    if isinstance(given, bytes):
        given = given.decode()
    cap = checked.knob("grpclb.max_retry_attempts")
    config = parse_service_config(
        {} if given is None else given,
        find_policy=POLICIES.get,
        max_retry_attempts=cap,
        known_policies=POLICIES,
    )
    spec = ChannelSpec(
        target=parsed,
        options=checked,
        authority=_authority(checked, parsed, resolver),
        default_config=config,
        has_default_config=given is not None,
        default_policy=_default_policy(checked),
        resolver=resolver,
        factory=factory,
        compression=compression,
    )
    if factory is not None:
        resolver = _try_factory(spec)
        spec = replace(spec, authority=_authority(checked, parsed, resolver))
    if secure and getattr(resolver, "authority", "") is None and not _name_option(checked):
        raise ValueError(
            f"target {parsed.text!r}: a secure channel must know the name in the backends' "
            f"certificates, and {parsed.scheme}: has none; set the channel option "
            "'grpc.default_authority', or server_name= of the resolver"
        )
    log_ignored(parsed, config)
    return spec


def log_ignored(target: Target, config: ServiceConfig) -> None:
    """What is ignored by the rules of gRPC may be a slip of the pen: for whoever looks for it."""
    if config.ignored:
        paths = ", ".join(config.ignored)
        _LOG.info("%s: nothing reads these fields of the service config: %s", target, paths)


def _target(target: object, resolver: Resolver | None) -> Target:
    if isinstance(target, bytes):
        target = target.decode()
    if not isinstance(target, str):
        raise TypeError(f"target must be str, got {type(target).__name__}")
    if resolver is None:
        return parse_target(target, RESOLVERS)
    scheme, _, rest = target.partition(":")
    known = [*RESOLVERS, scheme] if rest.startswith("/") and scheme else RESOLVERS
    return parse_target(target, known)


def _authority(options: ChannelOptions, target: Target, resolver: Resolver | None) -> str:
    """C-core's order: what the user set, the name that TLS is told to expect, the target.

    A resolver whose targets are not host names has an attribute `authority`: the name that its
    target means, known when it is built; None where it means none. What it finds later never has a
    say in that.
    """
    named = getattr(resolver, "authority", None)
    meant = named if isinstance(named, str) and named else default_authority(target)
    return _name_option(options) or meant


def _name_option(options: ChannelOptions) -> str | None:
    """The name of the backends that the user's options say, if any."""
    override = options.values.get("grpc.ssl_target_name_override")
    if isinstance(override, bytes):
        override = override.decode()
    return options.authority or override or None


def _check_resolver(resolver: object) -> None:
    if resolver is None:
        return
    methods = (getattr(resolver, name, None) for name in ("run", "resolve_now"))
    if isinstance(resolver, type) or not all(map(callable, methods)):
        got = f"the class {resolver.__name__}" if isinstance(resolver, type) else None
        raise TypeError(
            "resolver= must have the methods of grpclb.Resolver (run, resolve_now), got "
            f"{got or type(resolver).__name__}; a factory belongs in grpclb.register_resolver"
        )


def _check_compression(compression: object) -> None:
    if compression is not None and compression not in tuple(grpc.Compression):
        names = ", ".join(c.name for c in grpc.Compression)
        raise ValueError(f"compression must be a grpc.Compression ({names}), got {compression!r}")


def _default_policy(options: ChannelOptions) -> PolicyConfig:
    name = options.values.get("grpc.lb_policy_name", _DEFAULT_POLICY)
    policy = POLICIES.get(name)
    if policy is None:
        near = difflib.get_close_matches(name, POLICIES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"channel option 'grpc.lb_policy_name': unknown policy {name!r}; "
            f"known: {', '.join(sorted(POLICIES))}{hint}"
        )
    try:
        return PolicyConfig(policy, policy.parse_config({}))
    except ValueError as error:
        raise ValueError(
            f"channel option 'grpc.lb_policy_name': {name} needs a config, which only a service "
            f"config can give it: {error}"
        ) from error


def _try_factory(spec: ChannelSpec) -> Resolver:
    """A target that its resolver cannot take is the caller's mistake: say so at construction."""
    from random import Random

    return spec.make_resolver(ResolverContext(Random(), spec.options.values))
