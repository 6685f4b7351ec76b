"""The xds resolver over a scripted source, on virtual time."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest
from grpc import StatusCode
from hypothesis import given, settings
from hypothesis import strategies as st

from grpclb.core.attributes import CLUSTER
from grpclb.core.balancer import Fail, PickInfo
from grpclb.core.config_selector import OUTDATED, Selected
from grpclb.core.method_config import MethodConfig
from grpclb.core.retry_config import RetryPolicy
from grpclb.core.status import Status
from grpclb.resolvers.xds.ads import Ambient
from grpclb.resolvers.xds.resources import WeightedCluster
from grpclb.resolvers.xds.selector import ClusterUse, RouteSelector
from grpclb.resolvers.xds.survey import Kind
from tests.resolvers.xds.world import (
    MISSING,
    Scene,
    cluster_of,
    dns_cluster,
    eds_cluster,
    endpoints,
    listener,
    locality,
    route,
    routes,
    simple,
)
from tests.support.virtual_loop import run_virtual

A, B = "10.0.0.1:80", "10.0.0.2:80"
Play = Callable[[Scene], Awaitable[None]]


def scene(play: Play) -> Callable[[], None]:
    """A test that is played on virtual time."""

    def test() -> None:
        async def main() -> None:
            async with Scene() as on:
                await play(on)

        run_virtual(main())

    test.__name__, test.__doc__ = play.__name__, play.__doc__
    return test


@scene
async def test_nothing_is_told_before_all_is_there(on: Scene) -> None:
    whole = simple()
    for key, resource in list(whole.items())[:-1]:
        assert await on.say({key: resource}) is None
    state = await on.say({(Kind.EDS, "a"): whole[Kind.EDS, "a"]})
    assert state is not None
    assert on.addresses == {A}
    assert state.note == "xds:///svc resolved 1 endpoint in 1 cluster"
    assert on.start().attributes == {CLUSTER: "cluster:a"}


@scene
async def test_what_is_missing_is_named(on: Scene) -> None:
    assert on.resolver.waiting_for() == "LDS svc"
    whole = simple()
    await on.say({key: whole[key] for key in whole if key[0] in (Kind.LDS, Kind.RDS)})
    assert on.resolver.waiting_for() == "CDS a"
    await on.say({(Kind.RDS, "r"): routes(*(route(name) for name in "abcde"))})
    assert on.resolver.waiting_for() == "CDS a, CDS b, CDS c and 2 more"
    await on.say({**whole})
    assert on.resolver.waiting_for() == ""


@scene
async def test_an_update_of_endpoints_is_one_update(on: Scene) -> None:
    await on.say(simple())
    before = on.states[-1]
    state = await on.say({(Kind.EDS, "a"): endpoints("a", (locality("x", A, B),))})
    assert state is not None
    assert on.addresses == {A, B}
    assert state.service_config is before.service_config
    assert state.config_selector is before.config_selector
    assert await on.say({(Kind.EDS, "a"): endpoints("a", (locality("x", A, B),))}) is None


@scene
async def test_much_news_at_once_is_told_once(on: Scene) -> None:
    await on.say({**simple(), (Kind.RDS, "r"): routes(route("a", "b"))})
    assert not on.states
    await on.say({**cluster_of("b", B), (Kind.EDS, "a"): endpoints("a", (locality("x", B),))})
    assert len(on.states) == 1


@scene
async def test_old_routes_serve_until_the_new_ones_are_whole(on: Scene) -> None:
    await on.say(simple())
    assert await on.say({(Kind.RDS, "r"): routes(route("b"))}) is None
    assert (Kind.EDS, "a") in on.source.watched, "they are in use, and hear of changes"
    state = await on.say(cluster_of("b", B))
    assert state is not None
    assert on.start().attributes == {CLUSTER: "cluster:b"}
    assert on.clusters == {"a", "b"}, "an RPC may be on its way to a"


@scene
async def test_a_cluster_stays_for_its_rpcs(on: Scene) -> None:
    await on.say({**simple(), **cluster_of("b", B)})
    old = on.states[-1].config_selector
    assert old is not None
    rpcs = [on.start(), on.start()]
    await on.say({(Kind.RDS, "r"): routes(route("b"))})
    await on.settle(60)
    assert on.clusters == {"a", "b"}
    await on.say({(Kind.EDS, "a"): endpoints("a", (locality("x", "10.0.0.9:80"),))})
    assert "10.0.0.9:80" in on.addresses, "an RPC that waits in it finds new backends"
    for rpc in rpcs:
        assert on.clusters == {"a", "b"}
        assert rpc.on_committed is not None
        rpc.on_committed()
        await on.settle()
    assert on.clusters == {"b"}
    assert (Kind.CDS, "a") not in on.source.watched
    assert old.select(PickInfo("/s/m")) is OUTDATED


@scene
async def test_a_cluster_without_rpcs_goes_a_moment_after_its_routes(on: Scene) -> None:
    await on.say({**simple(), **cluster_of("b", B)})
    await on.say({(Kind.RDS, "r"): routes(route("b"))})
    await on.settle(0.9)
    assert on.clusters == {"a", "b"}
    await on.settle(0.2)
    assert on.clusters == {"b"}


@scene
async def test_a_cluster_that_is_routed_to_again_never_left(on: Scene) -> None:
    await on.say({**simple(), **cluster_of("b", B)})
    await on.say({(Kind.RDS, "r"): routes(route("b"))})
    await on.say({(Kind.RDS, "r"): routes(route("a"))})
    await on.settle(5)
    assert on.clusters == {"a"}
    assert on.start().attributes == {CLUSTER: "cluster:a"}


@scene
async def test_a_listener_that_never_was_is_a_failed_resolution(on: Scene) -> None:
    state = await on.say({(Kind.LDS, "svc"): MISSING})
    assert state is not None
    said = "xds:///svc: listener 'svc': NOT_FOUND: it does not exist"
    assert state.endpoints == Status.unavailable(said)
    assert await on.say(simple()) is not None
    assert on.addresses == {A}


@scene
async def test_a_listener_that_is_deleted_ends_new_rpcs_and_no_others(on: Scene) -> None:
    await on.say(simple())
    rpc = on.start()
    await on.say({(Kind.LDS, "svc"): MISSING})
    result = on.select()
    assert isinstance(result, Fail)
    assert "listener 'svc'" in result.status.details
    assert result.status.code is StatusCode.UNAVAILABLE
    await on.settle(5)
    assert on.clusters == {"a"}
    assert rpc.on_committed is not None
    rpc.on_committed()
    await on.settle()
    assert on.clusters == set()
    await on.say(simple())
    assert isinstance(on.select(), Selected)


@scene
async def test_one_cluster_s_trouble_is_its_own(on: Scene) -> None:
    found = routes(route("b", path="/b/"), route("a"))
    await on.say({**simple(), (Kind.RDS, "r"): found, (Kind.CDS, "b"): MISSING})
    assert on.clusters == {"a", "b"}
    assert on.addresses == {A}


@scene
async def test_an_outage_changes_nothing_and_is_told_to_people(on: Scene) -> None:
    await on.say(simple())
    gone = Status.unavailable("xDS server: connection refused")
    assert await on.say({(Kind.EDS, "a"): Ambient(gone)}) is None
    assert on.resolver.snapshot()["errors"] == {"EDS a": str(gone)}
    await on.say({(Kind.EDS, "a"): Ambient(None)})
    assert on.resolver.snapshot() == {
        "listener": "svc",
        "clusters": {"a": {"routed": True, "rpcs": 0}},
        "errors": {},
        "client": {"watched": 4},
    }


@scene
async def test_a_logical_dns_cluster_asks_dns(on: Scene) -> None:
    await on.say({**simple("d"), (Kind.CDS, "d"): dns_cluster("d")})
    assert not on.states
    host = on.hosts["db.example:80"]
    host.say(A, B)
    await on.settle()
    assert on.addresses == {f"{A}+{B}"}
    on.resolver.resolve_now()
    assert host.hints == 1
    assert host.update is not None
    host.update(type(on.states[-1])(Status.unavailable("SERVFAIL")))
    await on.settle()
    assert on.addresses == {f"{A}+{B}"}, "the last good answer stays"
    await on.say({(Kind.CDS, "d"): dns_cluster("d", "other.example")})
    on.hosts["other.example:80"].say(B)
    await on.settle()
    assert on.addresses == {B}
    assert host.update is None, "its look-ups have ended"


@scene
async def test_a_host_that_is_no_host_fails_its_cluster(on: Scene) -> None:
    await on.say({**simple("d"), (Kind.CDS, "d"): dns_cluster("d", "bad")})
    assert "bad:80: no name" in str(on.states[-1].service_config)


def test_the_authority_chooses_the_virtual_host() -> None:
    async def main() -> None:
        async with Scene(authority="other") as on:
            await on.say({**simple(), (Kind.RDS, "r"): routes(route("a"), domain="other")})
            assert on.addresses == {A}

    run_virtual(main())


# -- routes ----------------------------------------------------------------------------------


@scene
async def test_routes_by_method_and_header(on: Scene) -> None:
    found = routes(
        route("b", header="user=beta"),
        route("c", path="/shop."),
        route(path="/never"),
        route("a", path="/s/"),
    )
    news = {**simple(), **cluster_of("b", B), **cluster_of("c", B), (Kind.RDS, "r"): found}
    await on.say(news)

    def goes(method: str, **headers: str) -> Any:
        selected = on.select(method, **headers)
        if isinstance(selected, Fail):
            return selected.status.code
        assert isinstance(selected, Selected)
        return selected.attributes[CLUSTER].removeprefix("cluster:")

    assert goes("/s/m") == "a"
    assert goes("/s/m", user="beta") == "b"
    assert goes("/shop.Cart/Add") == "c"
    assert goes("/never/m") is StatusCode.UNAVAILABLE, "an action that is not supported"
    assert goes("/x/m") is StatusCode.UNAVAILABLE, "no route"
    twice = PickInfo("/s/m", (("user", "beta"), ("user", "x")))
    selector = on.states[-1].config_selector
    assert selector is not None
    result = selector.select(twice)
    assert isinstance(result, Selected)
    assert result.attributes[CLUSTER] == "cluster:a", "several values are joined"


@scene
async def test_weights_timeouts_and_retries(on: Scene) -> None:
    retry = RetryPolicy(3, 0.1, 1.0, 2.0, frozenset({StatusCode.UNAVAILABLE}))
    found = routes(
        route(WeightedCluster("a", 3), WeightedCluster("b", 1), path="/w/", retry=retry),
        route("a", path="/limit/", limit=2.0),
        route("a", path="/unlimited/", limit=0.0),
        route("a"),
    )
    news = {**simple(), **cluster_of("b", B), (Kind.RDS, "r"): found}
    await on.say({**news, (Kind.LDS, "svc"): listener(limit=7.0)})
    seen = Counter(on.start("/w/m").attributes[CLUSTER] for _ in range(2000))
    assert abs(seen["cluster:a"] - 1500) < 120
    assert on.start("/w/m").method_config == MethodConfig(timeout=7.0, retry=retry)
    limits = [on.start(path).method_config.timeout for path in ("/limit/m", "/unlimited/m", "/s/m")]
    assert limits == [2.0, None, 7.0]


def test_threads_that_route_while_a_cluster_goes_never_hold_it() -> None:
    """Either the RPC is counted, or it is told to ask again."""
    for _ in range(60):
        use = ClusterUse("a", lambda: None)
        selector = RouteSelector(
            listener(), routes(route("a")).virtual_hosts[0], {"a": use}, Random(1)
        )
        held: list[Selected] = []
        ready = threading.Barrier(3)

        def work(
            selector: RouteSelector = selector,
            held: list[Selected] = held,
            ready: threading.Barrier = ready,
        ) -> None:
            ready.wait()
            for _ in range(20):
                result = selector.select(PickInfo("/s/m"))
                if isinstance(result, Selected):
                    held.append(result)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        use.routed = False
        ready.wait()
        dropped = use.drop()
        for thread in threads:
            thread.join()
        if dropped:
            assert not held
        assert use.rpcs == len(held)
        for rpc in held:
            assert rpc.on_committed is not None
            rpc.on_committed()
        assert dropped or use.drop()


_CLUSTER = st.sampled_from(["a", "b", "c"])
_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("route"), st.lists(_CLUSTER, min_size=1, max_size=2)),
        st.tuples(st.just("cluster"), _CLUSTER),
        st.tuples(st.just("missing"), _CLUSTER),
        st.tuples(st.just("listener"), st.booleans()),
        st.tuples(st.just("start"), st.none()),
        st.tuples(st.just("end"), st.none()),
        st.tuples(st.just("wait"), st.sampled_from([0.1, 2.0])),
    ),
    max_size=25,
)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(_EVENTS)
def test_whatever_happens_every_rpc_finds_its_cluster(events: list[tuple[str, Any]]) -> None:
    async def main() -> None:
        async with Scene() as on:
            running: list[Selected] = []
            for what, value in events:
                await play(on, running, what, value)
                if on.states and not isinstance(on.states[-1].endpoints, Status):
                    held = {rpc.attributes[CLUSTER].removeprefix("cluster:") for rpc in running}
                    assert held <= on.clusters
                    selected = on.select()
                    assert selected is not OUTDATED
                    if isinstance(selected, Selected):
                        assert selected.attributes[CLUSTER].removeprefix("cluster:") in on.clusters
                        end(selected)
            while running:
                end(running.pop())
            await on.settle(5)
            counts = on.resolver.snapshot()["clusters"].values()
            assert all(cluster == {"routed": True, "rpcs": 0} for cluster in counts)

    run_virtual(main())


async def play(on: Scene, running: list[Selected], what: str, value: Any) -> None:
    match what:
        case "route":
            await on.say({(Kind.RDS, "r"): routes(route(*value))})
        case "cluster":
            await on.say(cluster_of(value, A))
        case "missing":
            await on.say({(Kind.CDS, value): MISSING})
        case "listener":
            await on.say({(Kind.LDS, "svc"): listener() if value else MISSING})
        case "start":
            selected = on.select() if on.states and on.states[-1].config_selector else None
            if isinstance(selected, Selected):
                running.append(selected)
        case "end":
            if running:
                end(running.pop())
                await on.settle()
        case "wait":
            await asyncio.sleep(value)


def end(rpc: Selected) -> None:
    assert rpc.on_committed is not None
    rpc.on_committed()


@scene
async def test_a_service_name_of_its_own(on: Scene) -> None:
    news = {**simple(), (Kind.CDS, "a"): eds_cluster("a", service="e")}
    news[Kind.EDS, "e"] = endpoints("e", (locality("x", B),))
    await on.say(news)
    assert on.addresses == {B}
    assert (Kind.EDS, "a") not in on.source.watched
