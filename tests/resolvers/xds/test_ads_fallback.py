"""Several servers in order (A71): when the next one is asked, and when the first one is back."""

from __future__ import annotations

from tests.resolvers.xds.ads_harness import CDS, DOWN, LDS, World, server

ONE, TWO, THREE = server("one"), server("two"), server("three")


def fallen_back() -> tuple[World, object]:
    """On the second server, with what it sent."""
    world = World(ONE, TWO)
    watch = world.watch(LDS, "lis")
    world.end(DOWN)
    world.open(1)
    world.respond(LDS, "2.1", "lis", index=1)
    assert watch.take() == ["use lis"]
    return world, watch


def test_the_next_server_is_asked_when_something_is_missing() -> None:
    world = World(ONE, TWO)
    watch = world.watch(LDS, "lis")
    world.end(DOWN)
    assert watch.take() == [], "nobody is told while there is a server to ask"
    assert world.taken() == ([0, 1], [])
    world.open(1)
    (request,) = world.asked(1)
    assert (request.names, request.version, request.first) == (("lis",), "", True)


def test_watchers_hear_of_it_when_the_last_server_failed() -> None:
    world = World(ONE, TWO, THREE)
    watch = world.watch(LDS, "lis")
    world.end(DOWN, 0)
    world.end(DOWN, 1)
    assert watch.take() == []
    world.end(DOWN, 2)
    (news,) = watch.news
    assert "xDS server three" in str(news)
    assert world.taken() == ([0, 1, 2], [])


def test_a_server_that_fails_later_does_not_wake_others_while_another_works() -> None:
    world = World(ONE, TWO, THREE)
    watch = world.watch(LDS, "lis")
    world.end(DOWN, 0)
    world.open(1)
    world.pass_time(2)  # the primary is tried again
    world.end(DOWN, 0)
    assert world.taken() == ([0, 1, 0], [])
    assert watch.take() == []


def test_with_everything_cached_the_next_server_is_left_alone() -> None:
    world = World(ONE, TWO)
    watch = world.watch(LDS, "lis")
    world.open()
    world.respond(LDS, "1", "lis")
    world.end()
    world.pass_time(0)
    world.end(DOWN)
    assert watch.take() == ["use lis", "note UNAVAILABLE"]
    assert 1 not in world.taken()[0]
    # Something new is wanted: now it matters.
    cluster = world.watch(CDS, "c")
    assert world.taken() == ([1], [])
    assert cluster.take() == []


def test_what_does_not_exist_is_not_missing() -> None:
    world = World(ONE, TWO)
    watch = world.watch(LDS, "lis")
    world.open()
    world.pass_time(16)
    assert watch.take() == ["fail NOT_FOUND"]
    world.end(DOWN)
    assert 1 not in world.taken()[0]
    assert watch.take() == [], "it knows of something worse"


def test_the_primary_takes_over_with_its_first_response() -> None:
    world, watch = fallen_back()
    world.taken()
    world.pass_time(2)
    world.open(0)
    assert world.taken() == ([0], []), "a stream alone is not enough"
    world.asked()
    world.respond(LDS, "1.1", "lis", index=0)
    assert world.taken() == ([], [1])
    (request,) = world.asked(0)
    assert request.version == "1.1"
    assert watch.take() == []  # type: ignore[attr-defined]
    assert [s["in_use"] for s in world.machine.dump_servers()] == [True, False]


def test_the_second_server_is_asked_afresh_the_next_time() -> None:
    world, _ = fallen_back()
    world.pass_time(2)
    world.open(0)
    world.respond(LDS, "1.1", "lis", index=0)
    world.watch(CDS, "c")
    world.end(index=0)
    world.pass_time(0)
    world.end(DOWN, 0)
    world.asked()
    world.open(1)
    assert [(r.version, r.nonce) for r in world.asked(1)] == [("", ""), ("", "")]


def test_a_server_is_hurried_only_when_another_is_next_and_all_is_new() -> None:
    world = World(ONE, TWO)
    world.watch(LDS, "lis")
    assert [world.machine.hasty(index) for index in (0, 1)] == [True, False]
    world.end(DOWN)
    assert not world.machine.hasty(0), "the other one is asked already"
    world.pass_time(2)
    world.open(0)
    world.respond(LDS, "1", "lis", index=0)
    assert world.machine.hasty(0)


def test_versions_are_each_servers_own() -> None:
    world, _ = fallen_back()
    world.asked()
    world.pass_time(2)
    world.open(0)
    assert [r.version for r in world.asked(0)] == [""]


def test_both_streams_learn_of_new_names() -> None:
    world, _ = fallen_back()
    world.pass_time(2)
    world.open(0)
    world.requests.clear()
    world.watch(CDS, "c")
    assert sorted(index for index, _ in world.requests) == [0, 1]


def test_everything_is_closed_when_nobody_watches() -> None:
    world, watch = fallen_back()
    world.pass_time(2)
    world.open(0)
    world.taken()
    world.unwatch(LDS, watch)  # type: ignore[arg-type]
    assert world.taken() == ([], [0, 1])
    assert world.machine.next_wake is None
    world.watch(LDS, "lis")
    assert world.taken() == ([0], []), "the primary first"
