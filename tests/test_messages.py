"""What a person reads who made a mistake: one row per bad input, the same in both stacks."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
import pytest

import grpclb
from grpclb.control.registries import POLICIES, RESOLVERS
from grpclb.core.balancer import FixedPicker, Helper, Picker
from grpclb.core.connectivity import READY
from grpclb.core.resolver import ResolverState, Update
from grpclb.testing import ManualResolver

TARGET = "ipv4:127.0.0.1:80"
# What is registered by then, as others may register more.
SCHEMES, NAMES = "<schemes>", "<policies>"
EXAMPLES = "write for example host:port, dns:///host:port, ipv4:10.0.0.1:80, unix:/path"
NO_RESOLVER = "resolver= must have the methods of grpclb.Resolver (run, resolve_now), got "
NO_FACTORY = "; a factory belongs in grpclb.register_resolver"


def a_factory(target: grpclb.Target, context: grpclb.ResolverContext) -> ManualResolver:
    raise AssertionError("never called")


# -- mistakes in a factory's arguments: told when the channel is made ------------------------------

TARGETS: list[tuple[Any, type[Exception], str]] = [
    (5, TypeError, "target must be str, got int"),
    (None, TypeError, "target must be str, got NoneType"),
    ("", ValueError, f"target '' is empty; {EXAMPLES}"),
    (
        "kubrnets:///api",
        ValueError,
        f"target 'kubrnets:///api': unknown scheme 'kubrnets'; known: {SCHEMES}; ",
    ),
    (
        "ipv44:///1.1.1.1:80",
        ValueError,
        (
            f"target 'ipv44:///1.1.1.1:80': unknown scheme 'ipv44'; known: {SCHEMES}; "
            "did you mean ipv4 or ipv6?"
        ),
    ),
    (
        "https://api:443/x",
        ValueError,
        (
            f"target 'https://api:443/x': unknown scheme 'https'; known: {SCHEMES}; "
            "gRPC targets are not URLs; write host:port, here api:443 with secure_channel for TLS"
        ),
    ),
    ("dns:///", ValueError, f"target 'dns:///': nothing after 'dns'; {EXAMPLES}"),
    ("api:99999", ValueError, "target 'api:99999': port '99999' is not a number in 1..65535"),
    ("api:http", ValueError, "target 'api:http': port 'http' is not a number in 1..65535"),
    (
        "my host:80",
        ValueError,
        "target 'my host:80': ' ' at character 2; remove it, or write it as %XX",
    ),
    (
        "api:80\n",
        ValueError,
        "target 'api:80\\n': '\\n' at character 6; remove it, or write it as %XX",
    ),
    (
        "10.0.0.300:80",
        ValueError,
        (
            "target '10.0.0.300:80': '10.0.0.300' is not an IPv4 address; "
            "expected for example 10.0.0.7:443"
        ),
    ),
    ("[::1:80", ValueError, "target '[::1:80': expected '[ipv6]:port', got '[::1:80'"),
    (
        "ipv4:10.0.0.1:80,",
        ValueError,
        (
            "target 'ipv4:10.0.0.1:80,': address 2 of 2 is empty; "
            "write one comma between two addresses"
        ),
    ),
    (
        "ipv4:api:80",
        ValueError,
        (
            "target 'ipv4:api:80': address 1 of 1: address 'api' port '80': not an IP address; "
            "resolvers hand over IP addresses, names belong in a dns: target"
        ),
    ),
    (
        "ipv6:[::1]:0",
        ValueError,
        "target 'ipv6:[::1]:0': address 1 of 1: address '::1': port '0' is not in 1..65535",
    ),
    (
        "dns://nameserver/api:80",
        ValueError,
        (
            "target 'dns://nameserver/api:80': DNS server 'nameserver' must be an IP address, "
            "as there is nobody to ask for it"
        ),
    ),
]

ARGUMENTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"options": [("grpc.lb_policy_name", "round_robbin")]},
        ValueError,
        (
            "channel option 'grpc.lb_policy_name': unknown policy 'round_robbin'; "
            f"known: {NAMES}; did you mean 'round_robin'?"
        ),
    ),
    (
        {"options": [("grpclb.subset_sise", 1)]},
        ValueError,
        "unknown channel option 'grpclb.subset_sise'; did you mean 'grpclb.subset_size'?",
    ),
    (
        {"options": [("grpclb.subset_size", "many")]},
        TypeError,
        "channel option 'grpclb.subset_size': expected an int, got 'many'",
    ),
    (
        {"options": [("grpc.max_receive_message_length", 1.5)]},
        TypeError,
        "channel option 'grpc.max_receive_message_length': expected int, str or bytes, got float",
    ),
    (
        {"options": {"grpc.max_receive_message_length": 1}},
        ValueError,
        "options must be a list of (key, value) pairs, got dict",
    ),
    (
        {"compression": "gzip"},
        ValueError,
        "compression must be a grpc.Compression (NoCompression, Deflate, Gzip), got 'gzip'",
    ),
    (
        {"resolver": ManualResolver},
        TypeError,
        f"{NO_RESOLVER}the class ManualResolver{NO_FACTORY}",
    ),
    ({"resolver": a_factory}, TypeError, f"{NO_RESOLVER}function{NO_FACTORY}"),
    ({"resolver": ["10.0.0.1:80"]}, TypeError, f"{NO_RESOLVER}list{NO_FACTORY}"),
]

CONFIGS: list[tuple[Any, str]] = [
    (5, "$: expected a dict or JSON text, got 5"),
    ("[]", "$: expected a JSON object, got an array"),
    ("{", "$: not JSON: Expecting property name enclosed in double quotes at line 1 column 2"),
    (
        {"loadBalancingConfig": [{"round_robbin": {}}]},
        f'$.loadBalancingConfig: no known policy in "round_robbin"; known: {NAMES}',
    ),
    (
        {"loadBalancingPolicy": "nope"},
        f'$.loadBalancingPolicy: unknown policy "nope"; known: {NAMES}',
    ),
    (
        {"loadBalancingConfig": [{"pick_first": {"shuffleAddressList": "yes"}}]},
        '$.loadBalancingConfig[0].pick_first.shuffleAddressList: expected true or false, got "yes"',
    ),
    (
        {"methodConfig": [{"name": [{"service": "a"}], "timeout": "2"}]},
        '$.methodConfig[0].timeout: expected a duration such as "0.5s", got "2"',
    ),
    (
        {"methodConfig": [{"name": [{"method": "m"}]}]},
        '$.methodConfig[0].name[0]: method "m" without a service',
    ),
    (
        {"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 1}}]},
        "$.methodConfig[0].retryPolicy.maxAttempts: expected an integer >= 2, got 1",
    ),
    (
        {"healthCheckConfig": {"serviceName": 5}},
        "$.healthCheckConfig.serviceName: expected text, got 5",
    ),
]

both_factories = pytest.mark.parametrize(
    "factory", [grpclb.insecure_channel, grpclb.aio.insecure_channel], ids=["sync", "aio"]
)
both_secure = pytest.mark.parametrize(
    "factory", [grpclb.secure_channel, grpclb.aio.secure_channel], ids=["sync", "aio"]
)


def filled(message: str) -> str:
    """A message with the names that are known."""
    for mark, names in ((SCHEMES, sorted(RESOLVERS)), (NAMES, sorted(POLICIES))):
        message = message.replace(mark, ", ".join(names))
    return message


def told(error: type[Exception], make: Callable[[], object]) -> str:
    """The message of the exception that is raised, which must be of this kind."""
    with pytest.raises(error) as raised:
        make()
    return str(raised.value)


@both_factories
@pytest.mark.parametrize(("target", "error", "message"), TARGETS)
def test_a_malformed_target(factory: Any, target: Any, error: Any, message: str) -> None:
    text, expected = told(error, lambda: factory(target)), filled(message)
    assert text == expected or (expected.endswith("; ") and text.startswith(expected))


@both_factories
@pytest.mark.parametrize(("arguments", "error", "message"), ARGUMENTS)
def test_a_wrong_argument(factory: Any, arguments: Any, error: Any, message: str) -> None:
    assert told(error, lambda: factory(TARGET, **arguments)) == filled(message)


@both_factories
@pytest.mark.parametrize("given_as", ["argument", "option"])
@pytest.mark.parametrize(("config", "message"), CONFIGS, ids=[m for _, m in CONFIGS])
def test_a_wrong_service_config(factory: Any, config: Any, message: str, given_as: str) -> None:
    def make() -> object:
        if given_as == "argument":
            return factory(TARGET, service_config=config)
        import json

        text = config if isinstance(config, str) else json.dumps(config)
        return factory(TARGET, options=[("grpc.service_config", text)])

    said = told(grpclb.ServiceConfigError, make)
    if config == 5 and given_as == "option":
        assert said == "service config: $: expected a JSON object, got 5"
    else:
        assert said == filled(f"service config: {message}")


@both_secure
@pytest.mark.parametrize(("credentials", "kind"), [(None, "NoneType"), ("secret", "str")])
def test_wrong_credentials(factory: Any, credentials: Any, kind: str) -> None:
    message = f"credentials must be grpc.ChannelCredentials, got {kind}"
    assert told(TypeError, lambda: factory(TARGET, credentials)) == message


REGISTRATIONS: list[tuple[Callable[[], object], type[Exception], str]] = [
    (
        lambda: grpclb.register_resolver("My Scheme", a_factory),
        ValueError,
        "target scheme name 'My Scheme' must match [a-z][a-z0-9+.-]*",
    ),
    (
        lambda: grpclb.register_policy(Abusive("my policy", lambda _: None)),
        ValueError,
        "load-balancing policy name 'my policy' must match [a-zA-Z0-9_.+-]+",
    ),
    (
        lambda: ManualResolver("10.0.0.1:80"),
        TypeError,
        "expected a list of addresses or a ResolverState, got '10.0.0.1:80' alone",
    ),
    (
        lambda: ManualResolver(["api:80"]),
        ValueError,
        (
            "address 'api' port '80': not an IP address; "
            "resolvers hand over IP addresses, names belong in a dns: target"
        ),
    ),
    (
        lambda: grpclb.Address.parse("10.0.0.1"),
        ValueError,
        "address '10.0.0.1': expected 'ip:port' or '[ipv6]:port'",
    ),
    (lambda: grpclb.Endpoint(()), ValueError, "an endpoint needs at least one address"),
]


@pytest.mark.parametrize("row", REGISTRATIONS, ids=[message for *_, message in REGISTRATIONS])
def test_a_plug_in_author_s_mistake(row: tuple[Any, Any, str]) -> None:
    make, error, message = row
    assert told(error, make) == message


# -- mistakes that only show at work: told by the RPC ----------------------------------------------


class Abusive:
    """A policy, its balancer and a picker's maker in one."""

    def __init__(self, name: str, update: Callable[[Helper], object]) -> None:
        self.name = name
        self._update = update

    def parse_config(self, raw: Mapping[str, Any]) -> object:
        return None

    def build(self, helper: Helper) -> Any:
        self._helper = helper
        return self

    def update(self, state: ResolverState, config: object) -> bool:
        self._update(self._helper)
        return True

    def exit_idle(self) -> None: ...

    def close(self) -> None: ...


class Raising:
    def pick(self, info: object) -> Any:
        raise KeyError("zone")


class Resolves:
    """A resolver whose `run` begins with this."""

    def __init__(self, action: Callable[[Update], object]) -> None:
        self._action = action

    async def run(self, update: Update) -> None:
        self._action(update)
        await asyncio.Event().wait()

    def resolve_now(self) -> None: ...


@pytest.fixture
def policies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Policies that make mistakes, for one test."""
    monkeypatch.setattr(POLICIES, "_table", dict(POLICIES._table))

    def publish(picker: Any) -> Callable[[Helper], None]:
        def update(helper: Helper) -> None:
            published: Picker = picker
            helper.update_picker(READY, published)

        return update

    for policy in (
        Abusive("raises", lambda helper: dict[str, str]()["zone"]),
        Abusive("picker_raises", publish(Raising())),
        Abusive("picker_returns_junk", publish(FixedPicker("10.0.0.1:80"))),  # type: ignore[arg-type]
        Abusive("no_picker", publish(None)),
    ):
        grpclb.register_policy(policy)


@pytest.fixture
def refusing() -> Iterator[str]:
    """An address where nobody listens, and nobody else can."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{deaf.getsockname()[1]}"


def policy(name: str) -> dict[str, Any]:
    return {
        "resolver": ManualResolver(["127.0.0.1:1"]),
        "service_config": {"loadBalancingConfig": [{name: {}}]},
    }


def fails(update: Update) -> None:
    raise OSError("no route to the registry")


RESOLVED = r"; test:///api resolved 1 endpoint \d\.\d s ago"
AT_WORK: dict[str, tuple[Callable[[], dict[str, Any]], str, str]] = {
    "zero endpoints": (
        lambda: {"resolver": Resolves(lambda update: update(ResolverState(())))},
        "UNAVAILABLE",
        (
            r"round_robin: the resolver found no endpoints; "
            r"test:///api resolved 0 endpoints \d\.\d s ago"
        ),
    ),
    "the look-up fails": (
        lambda: {"resolver": Resolves(lambda update: update(_failed()))},
        "UNAVAILABLE",
        "registry: permission denied for key /api",
    ),
    "a resolver raises": (
        lambda: {"resolver": Resolves(fails)},
        "UNAVAILABLE",
        "test:///api: the resolver raised OSError: no route to the registry",
    ),
    "a resolver gives a name": (
        lambda: {"resolver": Resolves(lambda update: update(ResolverState.of(["api:80"])))},
        "UNAVAILABLE",
        (
            "test:///api: the resolver raised AddressError: address 'api' port '80': "
            "not an IP address; resolvers hand over IP addresses, names belong in a dns: target"
        ),
    ),
    "a resolver gives an unchecked address": (
        lambda: {"resolver": Resolves(lambda update: update(_unchecked("10.0.0.300:80")))},
        "UNAVAILABLE",
        (
            "test:///api: the resolver returned an unusable state: address '10.0.0.300' port '80': "
            "not an IP address; resolvers hand over IP addresses, names belong in a dns: target"
        ),
    ),
    "a resolver gives junk": (
        lambda: {"resolver": Resolves(lambda update: update(["10.0.0.1:80"]))},  # type: ignore[arg-type]
        "UNAVAILABLE",
        "test:///api: the resolver returned an unusable state: expected a ResolverState, got list",
    ),
    "a resolver never answers": (
        lambda: {
            "resolver": ManualResolver(),
            "options": [("grpclb.resolve_timeout_ms", 20)],
        },
        "UNAVAILABLE",
        r"test:///api: no answer from the resolver in 0\.02 s",
    ),
    "a resolver never answers in the RPC's time": (
        lambda: {"resolver": ManualResolver()},
        "DEADLINE_EXCEEDED",
        r"Deadline Exceeded after \S+ s: resolution of test:///api \S+ s \(CONNECTING\)",
    ),
    "a resolver gives a bad config": (
        lambda: {"resolver": Resolves(lambda update: update(ResolverState((), "{")))},
        "UNAVAILABLE",
        r"test:///api: service config: \$: not JSON: .*",
    ),
    "a policy raises": (
        lambda: policy("raises"),
        "INTERNAL",
        f"policy 'raises' raised KeyError: 'zone'{RESOLVED}",
    ),
    "a picker raises": (
        lambda: policy("picker_raises"),
        "INTERNAL",
        f"the load-balancing policy's picker raised KeyError: 'zone'{RESOLVED}",
    ),
    "a picker returns junk": (
        lambda: policy("picker_returns_junk"),
        "INTERNAL",
        f"the load-balancing policy's picker returned a str{RESOLVED}",
    ),
    "a policy publishes no picker": (
        lambda: policy("no_picker"),
        "INTERNAL",
        (
            "the load-balancing policy's picker raised AttributeError: "
            f"'NoneType' object has no attribute 'pick'{RESOLVED}"
        ),
    ),
}


def _failed() -> ResolverState:
    return ResolverState(grpclb.Status.unavailable("registry: permission denied for key /api"))


def _unchecked(text: str) -> ResolverState:
    return ResolverState((grpclb.Endpoint((grpclb.Address(text),)),))


def ended_sync(timeout: float, **arguments: Any) -> tuple[str, str]:
    with grpclb.insecure_channel("test:///api", **arguments) as channel:
        try:
            channel.unary_unary("/test.Echo/UnaryUnary")(b"x", timeout=timeout)
        except grpc.RpcError as error:
            return error.code().name, str(error.details())
    raise AssertionError("the RPC succeeded")


def ended_aio(timeout: float, **arguments: Any) -> tuple[str, str]:
    async def run() -> tuple[str, str]:
        async with grpclb.aio.insecure_channel("test:///api", **arguments) as channel:
            call = channel.unary_unary("/test.Echo/UnaryUnary")(b"x", timeout=timeout)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call
            return raised.value.code().name, str(raised.value.details())

    return asyncio.run(run())


both_stacks = pytest.mark.parametrize("ended", [ended_sync, ended_aio], ids=["sync", "aio"])


@both_stacks
@pytest.mark.parametrize("mistake", AT_WORK)
@pytest.mark.usefixtures("policies")
@pytest.mark.expect_log("test:///api", "raised in update")
def test_a_mistake_that_shows_at_work(ended: Any, mistake: str) -> None:
    arguments, code, pattern = AT_WORK[mistake]
    seen, details = ended(0.1 if code == "DEADLINE_EXCEEDED" else 10, **arguments())
    assert seen == code
    assert re.fullmatch(pattern, details), details


@both_stacks
def test_nobody_listens(ended: Any, refusing: str) -> None:
    code, details = ended(10, resolver=ManualResolver([refusing]))
    assert code == "UNAVAILABLE"
    assert re.fullmatch(
        rf"round_robin: 0 of 1 backends ready; last: {refusing}: .*Connection refused{RESOLVED}",
        details,
    ), details


def test_a_closed_channel() -> None:
    channel = grpclb.insecure_channel(TARGET)
    call = channel.unary_unary("/a.B/C")
    channel.close()
    assert told(ValueError, lambda: call(b"")) == "Cannot invoke RPC on closed channel!"


async def test_a_closed_aio_channel() -> None:
    channel = grpclb.aio.insecure_channel(TARGET)
    call = channel.unary_unary("/a.B/C")
    await channel.close()
    assert told(grpc.aio.UsageError, lambda: call(b"")) == "Channel is closed."
    for waiting in (channel.wait_for_state_change(channel.get_state()), channel.channel_ready()):
        with pytest.raises(grpc.aio.UsageError, match=r"^Channel is closed\.$"):
            await waiting


@both_factories
def test_repr_names_target_policy_and_state(factory: Any) -> None:
    channel = factory("dns:///api.ns:80", options=[("grpc.lb_policy_name", "pick_first")])
    name = "grpclb.aio.Channel" if factory is grpclb.aio.insecure_channel else "grpclb.Channel"
    assert repr(channel) == f"<{name} dns:///api.ns:80 policy=pick_first state=IDLE ready=0/0>"
    closed = channel.close()
    if closed is not None:
        asyncio.run(closed)
    assert "state=SHUTDOWN" in repr(channel)


@both_factories
@pytest.mark.parametrize(
    ("config", "option"), [("pick_first", None), ("round_robin", "pick_first")]
)
def test_repr_names_the_policy_of_the_config(factory: Any, config: str, option: str | None) -> None:
    options = [("grpc.lb_policy_name", option)] if option else []
    service_config: dict[str, Any] = {"loadBalancingConfig": [{config: {}}]}
    channel = factory("dns:///api.ns:80", options=options, service_config=service_config)
    assert f" policy={config} state=IDLE " in repr(channel)
    closed = channel.close()
    if closed is not None:
        asyncio.run(closed)


def test_registering_what_makes_no_resolver() -> None:
    wrong: Any = 3
    assert told(TypeError, lambda: grpclb.register_resolver("dns", wrong)) == (
        "register_resolver takes a factory, to be called as factory(target, context), got int"
    )


class _Nameless:
    def build(self, helper: object) -> None: ...


class _Whole(_Nameless):
    name = "whole"

    def parse_config(self, raw: object) -> None: ...


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (object(), "object without name, parse_config, build"),
        (_Nameless(), "_Nameless without name, parse_config"),
        (_Whole, "the class _Whole itself, not an instance"),
    ],
)
def test_registering_what_is_no_policy(wrong: Any, got: str) -> None:
    assert told(TypeError, lambda: grpclb.register_policy(wrong)) == (
        f"register_policy takes a policy (name, parse_config, build), got {got}"
    )
