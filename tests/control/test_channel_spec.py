"""What a factory's arguments become. The messages that people see are in tests/test_messages.py."""

from __future__ import annotations

import json
from typing import Any

import pytest

import grpclb
from grpclb.control.channel_spec import build_spec
from grpclb.control.registries import RESOLVERS
from grpclb.core.address import Address
from grpclb.core.resolver import ResolverContext
from grpclb.core.target import Target
from grpclb.testing import ManualResolver
from tests.control.harness import ScriptedPolicy

TARGET = "ipv4:127.0.0.1:80"


def spec(
    target: str = TARGET, options: Any = None, config: Any = None, resolver: Any = None
) -> Any:
    return build_spec(target, options, config, resolver)


def test_the_default_policy_is_round_robin() -> None:
    assert spec().default_policy.policy.name == "round_robin"
    assert spec().default_config.lb is None
    assert not spec().has_default_config


def test_the_default_policy_is_an_option() -> None:
    assert spec(options=[("grpc.lb_policy_name", "pick_first")]).default_policy.policy.name == (
        "pick_first"
    )


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ([("grpc.service_config", "CONFIG")], None),
        ([("grpc.service_config", b"CONFIG")], None),
        ([], "CONFIG"),
        ([("grpc.service_config", "{")], "CONFIG"),
    ],
)
def test_a_config_by_option_or_argument_is_the_same(options: Any, argument: Any) -> None:
    text = '{"methodConfig": [{"name": [{}], "timeout": "3s"}]}'
    as_bytes = text.encode()
    filled = [(k, as_bytes if v == b"CONFIG" else text if v == "CONFIG" else v) for k, v in options]
    made = spec(options=filled, config=argument and json.loads(text))
    assert made.has_default_config
    assert made.default_config.method_config("/a.B/C").applied(None, None)[0] == 3


def test_an_empty_config_is_a_config() -> None:
    assert spec(config={}).has_default_config


@pytest.mark.parametrize(
    ("options", "authority"),
    [
        ([], "127.0.0.1:80"),
        ([("grpc.default_authority", "mine")], "mine"),
        ([("grpc.ssl_target_name_override", "named")], "named"),
        ([("grpc.ssl_target_name_override", b"named")], "named"),
        (
            [("grpc.ssl_target_name_override", "named"), ("grpc.default_authority", b"mine")],
            "mine",
        ),
    ],
)
def test_the_authority_comes_from_the_user_or_the_target(options: Any, authority: str) -> None:
    made = spec(options=options)
    assert made.authority == authority
    arguments = dict(made.subchannel_options(Address.ip("10.0.0.1", 80), None))
    assert arguments["grpc.default_authority"] == authority


def test_an_address_may_have_a_name_of_its_own() -> None:
    arguments = dict(spec().subchannel_options(Address.ip("10.0.0.1", 80, "s.example"), None))
    assert arguments["grpc.default_authority"] == "s.example"


@pytest.mark.parametrize(
    "target", ["whatever:///x", "own://authority/x", "dns:///x:80", "x:80", "x", b"x:80"]
)
def test_a_resolver_by_hand_takes_any_target(target: Any) -> None:
    resolver = ManualResolver()
    made = spec(target, resolver=resolver)
    assert made.make_resolver(ResolverContext(random=None)) is resolver  # type: ignore[arg-type]


def test_a_registered_scheme_gets_the_target_and_the_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(RESOLVERS, "_table", dict(RESOLVERS._table))
    seen: list[tuple[Target, ResolverContext]] = []

    def factory(target: Target, context: ResolverContext) -> ManualResolver:
        seen.append((target, context))
        return ManualResolver()

    grpclb.register_resolver("mine", factory)
    spec("mine://where/what?how", options=[("grpclb.subset_size", 7)])
    ((target, context),) = seen  # tried once, so that a mistake shows where it was made
    assert (target.scheme, target.authority, target.endpoint) == ("mine", "where", "what")
    assert context.options["grpclb.subset_size"] == 7


def test_a_factory_s_refusal_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RESOLVERS, "_table", dict(RESOLVERS._table))

    def factory(target: Target, context: ResolverContext) -> ManualResolver:
        raise ValueError(f"target {target}: which zone?")

    grpclb.register_resolver("mine", factory)
    with pytest.raises(ValueError, match=r"^target mine:///x: which zone\?$"):
        spec("mine:///x")


# -- what C-core is to do on the data connection ---------------------------------------------------


def parsed(**config: Any) -> Any:
    made = spec(config=config)
    return made.subchannel_config(made.default_config)


def test_without_health_check_and_limits_a_subchannel_has_no_config() -> None:
    assert parsed() is None
    assert parsed(methodConfig=[{"name": [{}], "timeout": "1s", "waitForReady": True}]) is None


@pytest.mark.parametrize("service", ["", "my.Service"])
def test_a_health_check_is_core_s_own(service: str) -> None:
    """C-core's pick_first ignores it; round_robin over the one address does not (A17)."""
    assert json.loads(parsed(healthCheckConfig={"serviceName": service})) == {
        "healthCheckConfig": {"serviceName": service},
        "loadBalancingConfig": [{"round_robin": {}}],
    }


def test_a_health_check_can_be_inhibited() -> None:
    made = spec(
        options=[("grpc.inhibit_health_checking", 1)],
        config={"healthCheckConfig": {"serviceName": ""}},
    )
    assert made.subchannel_config(made.default_config) is None


def test_pick_first_ignores_health_as_grpc_s_own_does() -> None:
    """gRFC A17, A61: only policies over endpoints look at health."""
    config: dict[str, Any] = {"healthCheckConfig": {"serviceName": ""}}
    made = spec(options=[("grpc.lb_policy_name", "pick_first")], config=config)
    assert made.subchannel_config(made.default_config) is None
    assert parsed(**config, loadBalancingConfig=[{"pick_first": {}}]) is None
    assert parsed(**config, loadBalancingConfig=[{"round_robin": {}}]) is not None


def test_message_limits_are_core_s_own_and_nothing_else_is() -> None:
    method = {
        "name": [{"service": "a.B"}],
        "timeout": "1s",
        "maxRequestMessageBytes": 100,
        "retryPolicy": {
            "maxAttempts": 2,
            "initialBackoff": "1s",
            "maxBackoff": "1s",
            "backoffMultiplier": 1,
            "retryableStatusCodes": ["UNAVAILABLE"],
        },
    }
    given = parsed(methodConfig=[method], healthCheckConfig={"serviceName": "s"})
    assert set(json.loads(given)) == {"methodConfig", "healthCheckConfig", "loadBalancingConfig"}
    for word in ("retryPolicy", "timeout"):
        assert word not in given


def test_equal_configs_give_equal_arguments() -> None:
    """They are part of a connection's key: another text would be another connection."""
    one = parsed(healthCheckConfig={"serviceName": "s"}, methodConfig=[])
    two = parsed(methodConfig=[], healthCheckConfig={"serviceName": "s"})
    assert one == two


def test_retry_attempts_are_capped_by_an_option() -> None:
    policy = {
        "maxAttempts": 9,
        "initialBackoff": "1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    config = {"methodConfig": [{"name": [{}], "retryPolicy": policy}]}
    for options, attempts in (([], 5), ([("grpclb.max_retry_attempts", 7)], 7)):
        made = spec(options=options, config=config)
        for parsed_config in (made.default_config, made.parse_config(config)):
            retry = parsed_config.method_config("/a/b").retry
            assert retry.max_attempts == attempts


def test_a_policy_that_needs_a_config_cannot_be_the_option_s(scripted: ScriptedPolicy) -> None:
    scripted.parse_config = _needs  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="which only a service config can give it: which size"):
        spec(options=[("grpc.lb_policy_name", "scripted")])


def _needs(raw: object) -> object:
    raise ValueError("which size?")
