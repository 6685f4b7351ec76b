"""A config selector decides per RPC (gRFC A31): every row on both stacks, over real servers."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from grpclb.core.address import Endpoint
from grpclb.core.attributes import CLUSTER
from grpclb.core.balancer import Fail, PickInfo
from grpclb.core.config_selector import OUTDATED, Selected, SelectResult
from grpclb.core.method_config import MethodConfig
from grpclb.core.resolver import ResolverState
from grpclb.core.retry_config import RetryPolicy
from grpclb.core.status import Status
from grpclb.testing import ManualResolver
from tests.retries.servers import Scripted, Step
from tests.selector.stacks import KINDS, AioStack, SyncStack

OK = grpc.StatusCode.OK
UNAVAILABLE: Step = {"code": grpc.StatusCode.UNAVAILABLE}
SLOW: Step = {"delay": 0.3}
RETRY = RetryPolicy(3, 0.001, 0.002, 2.0, frozenset({grpc.StatusCode.UNAVAILABLE}))
_KEYS = itertools.count()

Stack = type[SyncStack] | type[AioStack]
both = pytest.mark.parametrize("stack", [SyncStack, AioStack], ids=["sync", "aio"])
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def servers() -> Iterator[Scripted]:
    scripted = Scripted()
    yield scripted
    scripted.stop()


class Selector:
    """Cluster by the header `to`, else `default`; counts the RPCs that hold a cluster."""

    def __init__(self, default: str = "a", config: MethodConfig | None = None) -> None:
        self.default = default
        self.config = config or MethodConfig()
        self.held: Counter[str] = Counter()
        self.asked = 0
        self.outdated = False
        self._lock = threading.Lock()

    def select(self, info: PickInfo) -> SelectResult:
        if self.outdated:
            return OUTDATED
        headers = dict(info.metadata)
        cluster = str(headers.get("to", self.default))
        if cluster == "nowhere":
            return Fail(Status(grpc.StatusCode.NOT_FOUND, f"no route for {info.method}"))
        with self._lock:
            self.asked += 1
            self.held[cluster] += 1

        def committed() -> None:
            with self._lock:
                self.held[cluster] -= 1

        return Selected(self.config, {CLUSTER: cluster}, committed)

    def let_go(self) -> bool:
        """Whether all is given back, within a moment."""
        end = time.monotonic() + 5
        while self.held.total() and time.monotonic() < end:
            gc.collect()
            time.sleep(0.005)
        return not self.held.total()


def world(servers: Scripted, selector: Any, *clusters: str) -> ResolverState:
    """Cluster a has the first server, b the second, and so on."""
    children: dict[str, Any] = {name: {"childPolicy": [{"round_robin": {}}]} for name in clusters}
    return ResolverState(
        tuple(
            Endpoint.of(servers.addresses[ord(name) - ord("a")], hierarchy=(name,))
            for name in clusters
        ),
        {"loadBalancingConfig": [{"xds_cluster_manager_experimental": {"children": children}}]},
        config_selector=selector,
    )


def resolved(servers: Scripted, selector: Any, *clusters: str) -> ManualResolver:
    resolver = ManualResolver()
    resolver.update(world(servers, selector, *clusters))
    return resolver


def script(servers: Scripted, *steps: Step) -> tuple[str, tuple[tuple[str, str], ...]]:
    key = f"selector{next(_KEYS)}"
    return key, servers.script(key, *steps)


@pytest.mark.slow
@both
@every_kind
def test_rpcs_go_where_they_are_sent(stack: Stack, kind: str, servers: Scripted) -> None:
    selector = Selector()
    with stack(resolved(servers, selector, "a", "b")) as channel:
        for to in ("b", "a", "b", "b"):
            key, metadata = script(servers)
            assert channel.call(kind, (*metadata, ("to", to)), timeout=10)[0] is OK
            assert servers.attempts_of(key) == [to]
            key, metadata = script(servers)
            call = channel.start(kind, (*metadata, ("to", to)), timeout=10)
            assert channel.end(call)[0] is OK
            assert servers.attempts_of(key) == [to]
            del call
        assert selector.asked == 8, "once per RPC"
        assert selector.let_go()


@both
@every_kind
def test_the_first_rpcs_of_all_wait_for_the_selector(
    stack: Stack, kind: str, servers: Scripted
) -> None:
    resolver, selector = ManualResolver(), Selector("b")
    key, metadata = script(servers)
    with stack(resolver) as channel:
        call = channel.start(kind, metadata, timeout=10)
        resolver.update(world(servers, selector, "a", "b"))
        assert channel.end(call)[0] is OK
        assert servers.attempts_of(key) == ["b"]
        assert selector.asked == 1
        del call
        assert selector.let_go()


@pytest.mark.slow
@both
def test_its_timeout_counts(stack: Stack, servers: Scripted) -> None:
    selector = Selector(config=MethodConfig(timeout=0.2))
    begin = time.monotonic()
    with stack(resolved(servers, selector, "a")) as channel:
        for _ in range(2):  # the first ones find the channel asleep
            calls = [
                channel.start(kind, script(servers, {"delay": 9})[1], timeout=30) for kind in KINDS
            ]
            for call in calls:
                assert channel.end(call)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        metadata = script(servers, {"delay": 9})[1]
        code, _ = channel.call("unary_unary", metadata, timeout=30)
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - begin < 8
        assert selector.let_go()


@pytest.mark.slow
@both
def test_its_timeout_counts_while_there_is_no_backend(stack: Stack, servers: Scripted) -> None:
    """Queued since before there was a selector, and then by a cluster without endpoints."""
    resolver = ManualResolver()
    selector = Selector("nobody", MethodConfig(timeout=0.2, wait_for_ready=True))
    with stack(resolver) as channel:
        calls = [channel.start(kind, timeout=30) for kind in KINDS]
        state = world(servers, selector, "a")
        raw: Any = state.service_config
        (manager,) = raw["loadBalancingConfig"][0].values()
        manager["children"]["nobody"] = manager["children"]["a"]
        resolver.update(state)
        begin = time.monotonic()
        for call in calls:
            assert channel.end(call)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        assert channel.call("unary_unary", timeout=30)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - begin < 10
        assert selector.let_go()


@pytest.mark.slow
@both
@every_kind
def test_its_retry_policy_counts(stack: Stack, kind: str, servers: Scripted) -> None:
    selector = Selector("b", MethodConfig(retry=RETRY))
    with stack(resolved(servers, selector, "a", "b")) as channel:
        channel.call(kind, timeout=10)  # the channel is warm
        for failures, code in ((2, OK), (5, grpc.StatusCode.UNAVAILABLE)):
            for start in (True, False):
                key, metadata = script(servers, *[UNAVAILABLE] * failures)
                if start:
                    ended = channel.end(channel.start(kind, metadata, timeout=10))
                else:
                    ended = channel.call(kind, metadata, timeout=10)
                assert ended[0] is code
                assert servers.attempts_of(key) == ["b"] * 3, "to the cluster that was selected"
        assert selector.asked == 5, "once per RPC, not per attempt"
        assert selector.let_go()


@both
@every_kind
def test_its_retry_policy_counts_for_rpcs_that_waited_for_it(
    stack: Stack, kind: str, servers: Scripted
) -> None:
    selector, resolver = Selector("b", MethodConfig(retry=RETRY)), ManualResolver()
    with stack(resolver) as channel:
        keys = [script(servers, *[UNAVAILABLE] * failures) for failures in (2, 9)]
        calls = [channel.start(kind, metadata, timeout=10) for _, metadata in keys]
        cancelled = channel.start(kind, timeout=10)
        resolver.update(world(servers, selector, "a", "b"))
        channel.cancel(cancelled)
        codes = [channel.end(call)[0] for call in (*calls, cancelled)]
        assert codes == [OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED]
        assert [servers.attempts_of(key) for key, _ in keys] == [["b"] * 3] * 2
        del calls, cancelled
        assert selector.let_go()
        assert not any(count < 0 for count in selector.held.values())


@both
def test_a_selector_may_refuse(stack: Stack, servers: Scripted) -> None:
    selector = Selector()
    with stack(resolved(servers, selector, "a")) as channel:
        for kind, wait_for_ready in itertools.product(KINDS, (None, True)):
            code, details = channel.call(
                kind, (("to", "nowhere"),), timeout=10, wait_for_ready=wait_for_ready
            )
            assert code is grpc.StatusCode.INTERNAL, "gRFC A54"
            assert "NOT_FOUND" in details
            assert f"no route for /s/{kind}" in details


@both
def test_a_selector_that_raises_ends_the_rpc_only(stack: Stack, servers: Scripted) -> None:
    class Broken(Selector):
        def select(self, info: PickInfo) -> Any:
            raise KeyError("a slip") if info.metadata else LookupError("another")

    class Junk(Selector):
        def select(self, info: PickInfo) -> Any:
            return "b"

    class Liar(Selector):
        def select(self, info: PickInfo) -> Any:
            return OUTDATED

    resolver = resolved(servers, Broken(), "a")
    with stack(resolver) as channel:
        for kind in ("unary_unary", "stream_stream"):
            code, details = channel.call(kind, timeout=10)
            assert code is grpc.StatusCode.INTERNAL
            assert "config selector raised LookupError: another" in details
        for selector, said in ((Junk(), "returned str"), (Liar(), "returned Outdated")):
            resolver.update(world(servers, selector, "a"))
            channel.pause(0.2)
            assert said in channel.call("unary_unary", timeout=10)[1]


@both
def test_a_cluster_that_is_held_outlives_its_route(stack: Stack, servers: Scripted) -> None:
    """The RPC was routed to b, and waits there; the new routes know only a."""
    old, new = Selector("b"), Selector("a")
    resolver = resolved(servers, old, "a")
    raw: Any = resolver._state.service_config  # type: ignore[union-attr]
    (manager,) = raw["loadBalancingConfig"][0].values()
    manager["children"]["b"] = manager["children"]["a"]
    with stack(resolver) as channel:
        held = []
        for kind in KINDS:
            key, metadata = script(servers)
            call = channel.start(kind, metadata, timeout=20, wait_for_ready=True)
            held.append((key, call))
        while old.held["b"] < len(KINDS):
            channel.pause(0.01)
        resolver.update(world(servers, new, "a", "b"))
        for key, call in held:
            assert channel.end(call)[0] is OK
            assert servers.attempts_of(key) == ["b"]
        key, metadata = script(servers)
        assert channel.call("unary_unary", metadata, timeout=10)[0] is OK
        assert servers.attempts_of(key) == ["a"]
        assert old.let_go()
        assert new.let_go()


@pytest.mark.slow
@both
def test_an_rpc_that_is_cancelled_or_dropped_gives_back(stack: Stack, servers: Scripted) -> None:
    selector = Selector()
    with stack(resolved(servers, selector, "a")) as channel:
        calls = [channel.start(kind, script(servers, SLOW)[1], timeout=10) for kind in KINDS]
        while selector.held["a"] < len(KINDS):
            channel.pause(0.01)
        for call in calls:
            channel.cancel(call)
        channel.pause(0.05)
        assert selector.let_go(), "though the call objects are still here"
        for kind in ("unary_stream", "stream_stream"):
            channel.start(kind, script(servers, SLOW)[1], timeout=10)  # and nobody keeps it
        channel.pause(0.1)
        assert selector.let_go()


@both
def test_a_selector_that_was_replaced_sends_on_to_the_next(stack: Stack, servers: Scripted) -> None:
    """It was read just before: here it says so only once it is not the current one any more."""
    old, new = Selector("a"), Selector("b")
    resolver = resolved(servers, old, "a", "b")
    with stack(resolver) as channel:
        assert channel.call("unary_unary", timeout=10)[0] is OK
        resolver.update(world(servers, new, "a", "b"))
        channel.pause(0.2)
        old.outdated = True
        key, metadata = script(servers)
        assert channel.call("unary_unary", metadata, timeout=10)[0] is OK
        assert servers.attempts_of(key) == ["b"]


@pytest.mark.slow
@both
def test_a_channel_that_slept_asks_the_selector_of_its_next_life(
    stack: Stack, servers: Scripted
) -> None:
    selector = Selector("b")
    resolver = resolved(servers, selector, "a", "b")
    options = (("grpc.client_idle_timeout_ms", 1000),)
    with stack(resolver, options=options) as channel:
        for kind in KINDS:
            key, metadata = script(servers)
            assert channel.call(kind, metadata, timeout=10)[0] is OK
            assert servers.attempts_of(key) == ["b"]
        end = time.monotonic() + 20
        while channel.channel.debug_snapshot()["state"] != "IDLE":
            assert time.monotonic() < end
            channel.pause(0.05)
        selector.outdated, selector = True, Selector("a")
        resolver.update(world(servers, selector, "a"))
        for kind in KINDS:
            key, metadata = script(servers)
            assert channel.call(kind, metadata, timeout=10)[0] is OK
            assert servers.attempts_of(key) == ["a"]
        assert selector.let_go()


@both
def test_the_resolver_may_take_its_selector_back(stack: Stack, servers: Scripted) -> None:
    resolver = resolved(servers, Selector("b"), "a", "b")
    with stack(resolver) as channel:
        assert channel.call("unary_unary", timeout=10)[0] is OK
        plain = ResolverState.of([servers.addresses[2]])
        resolver.update(
            ResolverState(plain.endpoints, {"loadBalancingConfig": [{"round_robin": {}}]})
        )
        end = time.monotonic() + 10
        key = ""
        while servers.attempts_of(key) != ["c"]:
            assert time.monotonic() < end
            key, metadata = script(servers)
            channel.call("unary_unary", metadata, timeout=10)
