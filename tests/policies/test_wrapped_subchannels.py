"""A policy around another policy, with subchannels of its own making (custom.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

import grpclb
from grpclb.control.registries import POLICIES
from grpclb.core.address import Address
from grpclb.core.balancer import Helper, LoadBalancer, Policy, Subchannel, SubchannelState
from tests.policies.test_docs import examples
from tests.support.backend import Backend

METHOD = "/test.Echo/UnaryUnary"


def _round_robin() -> Policy:
    return POLICIES.require("round_robin")


class Delegating:
    """The channel's helper, but for the subchannels."""

    def __init__(self, helper: Helper, wrap: Callable[[Subchannel], Any]) -> None:
        self._helper = helper
        self._wrap = wrap

    def create_subchannel(
        self, address: Address, on_state: Callable[[SubchannelState], None]
    ) -> Any:
        return self._wrap(self._helper.create_subchannel(address, on_state))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._helper, name)


class Wrapping:
    """round_robin over subchannels that are wrapped by what the page shows, twice."""

    name = "wrapping"

    def __init__(self, wrap: Callable[[Subchannel], Any]) -> None:
        self._wrap = wrap

    def parse_config(self, raw: Mapping[str, Any]) -> object:
        return _round_robin().parse_config(raw)

    def build(self, helper: Helper) -> LoadBalancer:
        child: Any = Delegating(helper, self._wrap)
        balancer: LoadBalancer = _round_robin().build(child)
        return balancer


class Nameless:
    """A wrapper that does not say what it wraps."""

    def __init__(self, hidden: Subchannel) -> None:
        self._hidden = hidden

    address = property(lambda self: self._hidden.address)

    def connect(self) -> None:
        self._hidden.connect()

    def release(self) -> None:
        self._hidden.release()


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    with Backend.start(name="a") as started:
        yield started


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[[Subchannel], Any]:
    monkeypatch.setattr(POLICIES, "_table", POLICIES._table)
    page: dict[str, Any] = {"dataclass": dataclass, "grpclb": grpclb, "Subchannel": Subchannel}
    exec(examples("policies/custom.md")[-2], page)
    wrapper: Callable[[Subchannel], Any] = page["Watched"]
    return lambda subchannel: wrapper(wrapper(subchannel))


CONFIG: dict[str, Any] = {"loadBalancingConfig": [{"wrapping": {}}]}


def test_sync(watched: Callable[[Subchannel], Any], backend: Backend) -> None:
    grpclb.register_policy(Wrapping(watched))
    with grpclb.insecure_channel(f"ipv4:{backend.address}", service_config=CONFIG) as channel:
        call: Any = channel.unary_unary(METHOD)
        assert call(b"one", timeout=10) == b"one"
        assert call.future(b"two", timeout=10).result() == b"two"


def test_aio(watched: Callable[[Subchannel], Any], backend: Backend) -> None:
    grpclb.register_policy(Wrapping(watched))

    async def main() -> Any:
        target = f"ipv4:{backend.address}"
        async with grpclb.aio.insecure_channel(target, service_config=CONFIG) as channel:
            return await channel.unary_unary(METHOD)(b"one", timeout=10)

    assert asyncio.run(main()) == b"one"


def test_a_wrapper_that_hides_it_is_named(
    watched: Callable[[Subchannel], Any], backend: Backend
) -> None:
    grpclb.register_policy(Wrapping(Nameless))
    with grpclb.insecure_channel(f"ipv4:{backend.address}", service_config=CONFIG) as channel:
        call: Any = channel.unary_unary(METHOD)
        with pytest.raises(grpc.RpcError, match="`wrapped`; got a Nameless") as caught:
            call(b"one", timeout=10)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INTERNAL
