"""Rules of the ADS protocol and of gRFCs A46, A57 and A88, one by one, on a fake clock."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import any_pb2
from grpc import StatusCode

from grpclb.core.status import Status
from grpclb.resolvers.xds.ads_stream import STEADY
from grpclb.resolvers.xds.wire import Request, Response
from tests.resolvers.xds.ads_harness import CDS, DOWN, EDS, LDS, RDS, World, server
from tests.support.xds_resources import (
    cluster,
    endpoint,
    endpoints,
    listener,
    locality,
    pack,
    wrapped,
)

BAD = cluster("bad", type=1)


def subscribe(kind: Any, *names: str, **fields: Any) -> Request:
    return Request(kind.type_url, names, **fields)


def started(*servers: Any) -> tuple[World, Any]:
    """A world with a listener watched on an open stream."""
    world = World(*servers)
    watch = world.watch(LDS, "lis")
    world.open()
    world.asked()
    world.taken()
    return world, watch


# -- requests


def test_nobody_watches_nothing_is_asked() -> None:
    world = World()
    world.pump()
    assert world.taken() == ([], [])
    assert world.machine.next_wake is None


def test_the_first_watch_opens_a_stream_and_only_the_first_request_says_who_asks() -> None:
    world = World()
    world.watch(LDS, "lis")
    world.watch(CDS, "c")
    assert world.taken() == ([0], [])
    assert world.asked() == [], "not before the stream is there"
    world.open()
    assert world.asked() == [subscribe(LDS, "lis", first=True), subscribe(CDS, "c")]
    world.watch(CDS, "d")
    assert world.asked() == [subscribe(CDS, "c", "d")]


def test_several_watches_of_one_resource_are_one_subscription() -> None:
    world, _ = started()
    other = world.watch(LDS, "lis")
    assert world.asked() == []
    world.respond(LDS, "1", "lis")
    assert other.take() == ["use lis"]


def test_what_watchers_ask_for_goes_with_the_ack() -> None:
    world, watch = started()
    watch.then = lambda: world.machine.watch(RDS, "routes", lambda _: None)
    nonce = world.respond(LDS, "1", "lis")
    assert world.asked() == [
        subscribe(LDS, "lis", version="1", nonce=nonce),
        subscribe(RDS, "routes"),
    ]


def test_many_subscriptions_at_once_are_one_request() -> None:
    world, _ = started()
    for number in range(500):
        world.machine.watch(CDS, f"c{number}", lambda _: None)
    world.pump()
    (request,) = world.asked()
    assert len(request.names) == 500


# -- responses


def test_an_ack_has_the_new_version_and_nonce() -> None:
    world, watch = started()
    nonce = world.respond(LDS, "7", "lis")
    assert world.asked() == [subscribe(LDS, "lis", version="7", nonce=nonce)]
    assert watch.take() == ["use lis"]


def test_a_nack_has_the_last_good_version_the_new_nonce_and_the_reason() -> None:
    world, _ = started()
    watch = world.watch(CDS, "bad")
    world.respond(CDS, "1", "bad")
    world.asked()
    nonce = world.respond(CDS, "2", BAD)
    (request,) = world.asked()
    assert (request.version, request.nonce) == ("1", nonce)
    assert request.error == "bad: type: discovery type 1 is not supported"
    assert watch.take() == ["use bad", "note INVALID_ARGUMENT"]
    world.unwatch(CDS, world.watch(CDS, "c"))
    assert [request.error for request in world.asked()] == ["", ""], "said once"
    nonce = world.respond(CDS, "3", "bad")
    assert world.asked() == [subscribe(CDS, "bad", version="3", nonce=nonce)]
    assert watch.take() == ["well"], "it is what it was"


def test_a_nack_before_any_version_has_none() -> None:
    world, _ = started()
    watch = world.watch(CDS, "bad")
    world.asked()
    nonce = world.respond(CDS, "1", BAD)
    (request,) = world.asked()
    assert (request.version, request.nonce, bool(request.error)) == ("", nonce, True)
    assert watch.take() == ["fail INVALID_ARGUMENT"]


def test_good_resources_of_a_nacked_response_are_used() -> None:
    world, _ = started()
    good, bad = world.watch(CDS, "c"), world.watch(CDS, "bad")
    world.asked()
    world.respond(CDS, "1", "c", BAD)
    assert good.take() == ["use c"]
    assert bad.take() == ["fail INVALID_ARGUMENT"]
    assert [bool(r.error) for r in world.asked()] == [True]


@pytest.mark.parametrize(
    ("resource", "reason"),
    [
        (any_pb2.Any(type_url="t/a.B"), "resource 0: is of type 't/a.B' instead of"),
        (any_pb2.Any(type_url=CDS.type_url, value=b"\xff"), "resource 0: cannot be decoded"),
        (cluster(""), "resource 0: has no name"),
        (listener("x"), "resource 0: is of type"),
        (wrapped(listener("x"), "c"), "c: is of type"),
    ],
)
def test_a_resource_that_cannot_be_read_is_named_as_well_as_it_can_be(
    resource: Any, reason: str
) -> None:
    world, _ = started()
    watch = world.watch(CDS, "c")
    world.respond(CDS, "1", "c")
    world.asked()
    world.respond(CDS, "2", resource)
    (request,) = world.asked()
    assert request.error.startswith(reason)
    assert request.version == "1"
    # It may be the one that is missing: nothing is deleted.
    assert "note NOT_FOUND" not in watch.take()


def test_one_name_twice_is_refused_and_the_first_is_used() -> None:
    world, _ = started()
    watch = world.watch(CDS, "c")
    world.asked()
    world.respond(CDS, "1", "c", cluster("c", circuit_breakers={}))
    assert world.asked()[0].error == "c: is in the response twice"
    assert watch.take() == ["use c"]


def test_resources_in_a_wrapper_go_by_the_name_outside() -> None:
    world, _ = started()
    watch = world.watch(CDS, "outside")
    world.respond(CDS, "1", wrapped(cluster("inside"), "outside"))
    assert watch.take() == ["use inside"]


def test_a_kind_that_is_unknown_or_was_not_asked_for_is_ignored() -> None:
    world, watch = started()
    world.machine.response(0, world.serials[0], Response("t/a.Unknown", "1", "x"), world.now)
    world.respond(CDS, "1", "c")  # an answer would subscribe to all clusters there are
    assert world.asked() == []
    assert watch.take() == []


def test_resources_that_nobody_asked_for_are_accepted_and_dropped() -> None:
    world, watch = started()
    nonce = world.respond(LDS, "1", "lis", "other")
    assert world.asked() == [subscribe(LDS, "lis", version="1", nonce=nonce)]
    assert watch.take() == ["use lis"]
    assert [entry["name"] for entry in world.machine.dump()] == ["lis"]


def test_a_resource_that_came_before_anybody_watched_it_has_to_come_again() -> None:
    world, _ = started()
    world.respond(LDS, "1", "lis", "later", errors=[("never", DOWN)])
    later, never = world.watch(LDS, "later"), world.watch(LDS, "never")
    world.pass_time(16)
    assert (later.take(), never.take()) == (["fail NOT_FOUND"], ["fail NOT_FOUND"])


def test_what_did_not_change_is_not_told_again() -> None:
    world, _ = started()
    watch = world.watch(EDS, "c")
    same = endpoints("c", locality(endpoint()))
    world.respond(EDS, "1", same)
    assert watch.take() == ["use c"]
    world.respond(EDS, "2", same)
    world.respond(EDS, "3", wrapped(same))  # other bytes, same meaning
    assert watch.take() == []
    world.respond(EDS, "4", endpoints("c"))
    assert watch.take() == ["use c"]


def test_what_did_not_change_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world, _ = started()
    watches = [world.watch(CDS, name) for name in "abc"]
    world.respond(CDS, "1", *"abc")
    reads: list[Any] = []
    parse = type(CDS).parse

    def counting(*args: Any) -> Any:
        reads.append(args)
        return parse(*args)

    monkeypatch.setattr(type(CDS), "parse", counting)
    world.respond(CDS, "2", "a", cluster("b", circuit_breakers={"thresholds": [{}]}), "c")
    assert len(reads) == 1
    assert [watch.take() for watch in watches] == [["use a"], ["use b"], ["use c"]]


def test_the_same_nonce_twice_is_answered_twice() -> None:
    world, watch = started()
    for version in "12":
        world.nonce = 4
        world.respond(LDS, version, "lis")
    assert [(r.version, r.nonce) for r in world.asked()] == [("1", "n5"), ("2", "n5")]
    assert watch.take() == ["use lis"]


def test_a_long_complaint_is_cut() -> None:
    world, _ = started()
    names = [f"cluster-{number}-{'x' * 200}" for number in range(200)]
    for name in names:
        world.machine.watch(CDS, name, lambda _: None)
    world.pump()
    world.asked()
    world.respond(CDS, "1", *(cluster(name, type=1) for name in names))
    assert len(world.asked()[0].error) < 10_000


# -- unsubscribing


def test_the_last_watch_of_a_name_ends_its_subscription() -> None:
    world, _ = started()
    watches = [world.watch(CDS, name) for name in ("a", "b", "b")]
    world.asked()
    world.unwatch(CDS, watches[1])
    assert world.asked() == []
    world.unwatch(CDS, watches[2])
    world.unwatch(CDS, watches[2])  # harmless
    assert world.asked() == [subscribe(CDS, "a")]
    world.unwatch(CDS, watches[0])
    assert world.asked() == [subscribe(CDS)], "the last name of a kind: an empty list"
    world.watch(CDS, "c")
    assert world.asked() == [subscribe(CDS, "c")]


def test_a_kind_without_names_is_not_asked_for_on_a_new_stream() -> None:
    world, _ = started()
    world.unwatch(CDS, world.watch(CDS, "a"))
    world.respond(LDS, "1", "lis")
    world.asked()
    world.end()
    world.pass_time(0)
    world.open()
    assert [r.type_url for r in world.asked()] == [LDS.type_url]


def test_an_unwatched_watcher_is_told_nothing_even_if_it_is_on_its_way() -> None:
    world, watch = started()
    other = world.watch(LDS, "lis")
    packed = pack(listener("lis"))
    response = Response(LDS.type_url, "1", "n", ((packed.type_url, packed.value),))
    world.machine.response(0, world.serials[0], response, world.now)
    world.machine.unwatch(LDS, "lis", other)
    world.pump()
    assert (watch.take(), other.take()) == (["use lis"], [])


def test_without_watches_the_stream_is_closed_and_everything_forgotten() -> None:
    world, watch = started()
    world.respond(LDS, "1", "lis")
    world.asked()
    world.unwatch(LDS, watch)
    assert world.taken() == ([], [0])
    assert world.machine.dump() == []
    assert world.machine.next_wake is None
    for event in (world.machine.opened, world.machine.sent):
        event(0, 1, world.now)  # of the stream that was closed
    world.pump()
    assert (world.asked(), world.taken()) == ([], ([], []))
    again = world.watch(LDS, "lis")
    assert again.take() == []
    assert world.taken() == ([0], [])
    world.open()
    assert world.asked()[-1] == subscribe(LDS, "lis", first=True)


# -- does not exist


def test_a_resource_that_does_not_come_within_15_seconds_does_not_exist() -> None:
    world, watch = started()
    world.pass_time(14.9)
    assert watch.take() == []
    world.pass_time(0.2)
    assert watch.take() == ["fail NOT_FOUND"]
    assert world.machine.next_wake is None
    assert world.watch(LDS, "lis").take() == ["fail NOT_FOUND"], "who asks later hears it, too"
    world.respond(LDS, "1", "lis")
    assert watch.take() == ["use lis"]


def test_each_resource_has_its_own_time() -> None:
    world, watch = started()
    world.pass_time(10)
    later = world.watch(LDS, "later")
    world.pass_time(10)
    assert (watch.take(), later.take()) == (["fail NOT_FOUND"], [])
    world.pass_time(10)
    assert later.take() == ["fail NOT_FOUND"]


@pytest.mark.parametrize("resource", ["lis", listener("lis", http_filters=[])])
def test_no_time_runs_for_what_came_good_or_bad(resource: Any) -> None:
    world, watch = started()
    world.respond(LDS, "1", resource)
    watch.take()
    world.pass_time(60)
    assert watch.take() == []


def test_time_runs_only_from_when_a_connection_has_taken_the_request() -> None:
    world = World()
    world.connected = False
    watch = world.watch(LDS, "lis")
    world.open()
    world.pass_time(100)
    assert watch.take() == []
    world.flush()
    world.pass_time(14)
    assert watch.take() == []
    world.pass_time(2)
    assert watch.take() == ["fail NOT_FOUND"]


def test_requests_of_an_earlier_stream_are_not_waited_for() -> None:
    world = World()
    world.connected = False
    world.watch(LDS, "lis")
    world.open()
    world.end()
    world.pass_time(2)
    world.open()
    world.connected = True
    world.flush()
    later = world.watch(LDS, "later")
    world.pass_time(16)
    assert later.take() == ["fail UNAVAILABLE", "fail NOT_FOUND"]


def test_a_new_stream_begins_the_time_anew_but_only_for_what_is_missing() -> None:
    world, watch = started()
    missing = world.watch(LDS, "missing")
    world.respond(LDS, "1", "lis")
    world.pass_time(14)
    world.end()
    world.pass_time(60)
    assert missing.take() == [], "no time runs without a stream"
    world.open()
    world.pass_time(14)
    assert missing.take() == []
    world.pass_time(2)
    assert missing.take() == ["fail NOT_FOUND"]
    assert watch.take() == ["use lis"]


def test_where_the_server_says_so_the_time_is_longer_and_its_end_means_less() -> None:
    world, watch = started(server(timer_is_transient=True))
    world.pass_time(29)
    assert watch.take() == []
    world.pass_time(2)
    assert watch.take() == ["fail UNAVAILABLE"]
    assert world.machine.dump()[0]["client_status"] == "TIMEOUT"


def test_unwatching_stops_the_time() -> None:
    world, _ = started()
    other = world.watch(LDS, "other")
    world.unwatch(LDS, other)
    world.pass_time(60)
    assert other.take() == []


# -- data errors (A88)


@pytest.mark.parametrize(("strict", "deleted"), [(False, "note"), (True, "fail")])
def test_a_listener_or_cluster_that_a_response_lacks_was_deleted(
    strict: bool, deleted: str
) -> None:
    world, watch = started(server(fail_on_data_errors=strict))
    other = world.watch(LDS, "other")
    world.respond(LDS, "1", "lis")
    assert (watch.take(), other.take()) == (["use lis"], []), "other may still come"
    world.respond(LDS, "2")
    assert watch.take() == [f"{deleted} NOT_FOUND"]
    world.respond(LDS, "3")
    assert watch.take() == [], "told once"
    entry = world.machine.dump()[0]
    assert (entry["client_status"], entry["cached"]) == ("DOES_NOT_EXIST", not strict)
    world.respond(LDS, "4", "lis")
    assert watch.take() == ["use lis" if strict else "well"]


@pytest.mark.parametrize("kind", [RDS, EDS], ids=["RDS", "EDS"])
def test_routes_and_endpoints_are_never_deleted(kind: Any) -> None:
    world, _ = started(server(fail_on_data_errors=True))
    one, two = world.watch(kind, "one"), world.watch(kind, "two")
    world.respond(kind, "1", "one")
    world.respond(kind, "2", "two")
    assert (one.take(), two.take()) == (["use one"], ["use two"])


def test_strictly_a_bad_resource_takes_the_place_of_the_good_one() -> None:
    world, _ = started(server(fail_on_data_errors=True))
    watch = world.watch(CDS, "bad")
    world.respond(CDS, "1", "bad")
    world.respond(CDS, "2", BAD)
    assert watch.take() == ["use bad", "fail INVALID_ARGUMENT"]
    assert world.watch(CDS, "bad").take() == ["fail INVALID_ARGUMENT"]
    world.respond(CDS, "3", "bad")
    assert watch.take() == ["use bad"]


def test_the_same_mistake_is_told_once() -> None:
    world, _ = started()
    watch = world.watch(CDS, "bad")
    world.respond(CDS, "1", BAD)
    world.respond(CDS, "2", BAD)
    assert watch.take() == ["fail INVALID_ARGUMENT"]
    assert [bool(r.error) for r in world.asked() if r.nonce] == [True, True]


def test_who_comes_later_is_told_the_resource_and_what_is_wrong() -> None:
    world, _ = started()
    world.watch(CDS, "bad")
    world.respond(CDS, "1", "bad")
    world.respond(CDS, "2", BAD)
    assert world.watch(CDS, "bad").take() == ["use bad", "note INVALID_ARGUMENT"]


@pytest.mark.parametrize(
    ("code", "strict", "expected"),
    [
        (StatusCode.NOT_FOUND, False, "note NOT_FOUND"),
        (StatusCode.NOT_FOUND, True, "fail NOT_FOUND"),
        (StatusCode.PERMISSION_DENIED, True, "fail PERMISSION_DENIED"),
        (StatusCode.UNAVAILABLE, False, "note UNAVAILABLE"),
        (StatusCode.UNAVAILABLE, True, "note UNAVAILABLE"),
    ],
)
def test_errors_that_the_server_reports_for_a_resource(
    code: StatusCode, strict: bool, expected: str
) -> None:
    world, _ = started(server(fail_on_data_errors=strict))
    cached, fresh = world.watch(EDS, "cached"), world.watch(EDS, "fresh")
    world.respond(EDS, "1", "cached")
    cached.take()
    errors = [("cached", Status(code, "why")), ("fresh", Status(code, "why")), ("x", DOWN)]
    world.respond(EDS, "2", errors=errors)
    assert cached.take() == [expected]
    assert fresh.take() == [f"fail {code.name}"]
    world.pass_time(60)
    assert fresh.take() == [], "no time runs for it"
    assert {e["client_status"] for e in world.machine.dump() if e["type"] == "EDS"} == {
        "RECEIVED_ERROR"
    }


def test_a_listener_with_an_error_is_not_deleted_as_well() -> None:
    world, watch = started(server(fail_on_data_errors=True))
    world.respond(LDS, "1", "lis")
    world.respond(LDS, "2", errors=[("lis", DOWN)])
    assert watch.take() == ["use lis", "note UNAVAILABLE"]


# -- streams that end (A57)


def test_a_stream_that_never_came_to_be_is_an_error_for_all() -> None:
    world = World()
    watch = world.watch(LDS, "lis")
    world.end(DOWN)
    assert watch.take() == ["fail UNAVAILABLE"]
    assert world.watch(LDS, "lis").take() == ["fail UNAVAILABLE"]
    (failed,) = watch.news or world.watch(LDS, "x").news
    assert "xDS server one: UNAVAILABLE: connection refused" in str(failed)


def test_a_stream_that_ends_before_its_first_response_is_an_error_too() -> None:
    world, watch = started()
    world.end()
    assert watch.take() == ["fail UNAVAILABLE"]


def test_with_something_cached_it_is_a_note_until_the_server_answers_again() -> None:
    world, watch = started()
    world.respond(LDS, "1", "lis")
    world.pass_time(STEADY)
    world.end()
    assert watch.take() == ["use lis"], "after a response no error at all"
    world.pass_time(0)
    world.open()
    world.end(DOWN)
    assert watch.take() == ["note UNAVAILABLE"]
    assert world.watch(LDS, "lis").take() == ["use lis", "note UNAVAILABLE"]
    world.pass_time(2)
    world.open()
    assert watch.take() == []
    world.respond(LDS, "1", "lis")
    assert watch.take() == ["well"]
    assert world.watch(LDS, "lis").take() == ["use lis"]
    assert world.watch(LDS, "new").take() == []


def test_a_new_stream_repeats_all_names_with_their_versions_and_no_nonce() -> None:
    world, _ = started()
    world.watch(CDS, "c")
    world.respond(LDS, "5", "lis")
    world.respond(CDS, "6", "c")
    world.asked()
    world.end()
    world.pass_time(0)
    assert world.taken() == ([0], [])
    world.open()
    assert world.asked() == [
        subscribe(LDS, "lis", version="5", first=True),
        subscribe(CDS, "c", version="6"),
    ]


def test_news_of_an_earlier_stream_are_not_heard() -> None:
    world, watch = started()
    old = world.serials[0]
    world.end(DOWN)
    watch.take()
    world.pass_time(2)
    response = Response(LDS.type_url, "1", "n")
    world.machine.response(0, old, response, world.now)
    world.machine.opened(0, old, world.now)
    world.machine.sent(0, old, world.now)
    world.machine.closed(0, old, DOWN, world.now)
    world.machine.interrupted(0, old, world.now)
    world.pump()
    assert (watch.take(), world.asked()) == ([], [])


def test_failures_are_followed_by_growing_pauses() -> None:
    world = World()
    world.watch(LDS, "lis")
    pauses = []
    for _ in range(12):
        world.end(DOWN)
        wake = world.machine.next_wake
        assert wake is not None
        pauses.append(wake - world.now)
        world.pass_time(pauses[-1])
    for pause, expected in zip(pauses, (1, 1.6, 2.56, 4.1, 6.55, 10.5, 16.8, 26.8), strict=False):
        assert expected * 0.79 < pause < expected * 1.21
    assert max(pauses) <= 30 * 1.2
    world.open()
    world.respond(LDS, "1", "lis")
    world.pass_time(STEADY)
    world.end()
    world.pass_time(0)
    world.end(DOWN)
    wake = world.machine.next_wake
    assert wake is not None
    assert wake - world.now < 1.21, "a response begins the row anew"


def test_who_comes_when_all_had_left_begins_anew() -> None:
    world = World()
    for _ in range(2):
        watch = world.watch(LDS, "lis")
        for _ in range(5):
            world.end(DOWN)
            world.pass_time(40)
        world.end(DOWN)
        world.unwatch(LDS, watch)
    world.watch(LDS, "lis")
    world.end(DOWN)
    wake = world.machine.next_wake
    assert wake is not None
    assert wake - world.now < 1.21


def test_a_server_that_ends_stream_after_stream_is_not_hammered() -> None:
    world, watch = started()
    pauses = []
    for _ in range(6):
        world.respond(LDS, "1", "lis")
        world.end()
        wake = world.machine.next_wake
        assert wake is not None
        pauses.append(wake - world.now)
        world.pass_time(pauses[-1])
        world.open()
    assert pauses[0] == 0
    assert all(pause > 0.7 for pause in pauses[1:])
    assert pauses[-1] > 3
    assert watch.take() == ["use lis"]


def test_a_stream_that_we_ended_is_an_error_whatever_came_before() -> None:
    world, watch = started()
    other = world.watch(LDS, "other")
    world.respond(LDS, "1", "lis")
    world.end(Status(StatusCode.RESOURCE_EXHAUSTED, "too large"), our_fault=True)
    assert watch.take() == ["use lis", "note UNAVAILABLE"]
    assert other.take() == ["fail UNAVAILABLE"]
    assert world.machine.next_wake > world.now + 0.7  # type: ignore[operator]


def test_after_a_fork_the_stream_is_opened_again_at_once_and_nobody_is_told() -> None:
    world, watch = started()
    world.machine.interrupted(0, world.serials[0], world.now)
    world.pass_time(0)
    assert world.taken() == ([0], [])
    world.pass_time(60)
    assert watch.take() == [], "no time runs without a stream"
    world.open()
    assert world.asked() == [subscribe(LDS, "lis", first=True)]


def test_dumps_say_what_is_known() -> None:
    world, _ = started()
    world.watch(CDS, "bad")
    world.respond(LDS, "3", "lis")
    world.respond(CDS, "4", BAD)
    assert world.machine.dump() == [
        {
            "type": "LDS",
            "name": "lis",
            "version": "3",
            "client_status": "ACKED",
            "cached": True,
            "error": None,
        },
        {
            "type": "CDS",
            "name": "bad",
            "version": "",
            "client_status": "NACKED",
            "cached": False,
            "error": "INVALID_ARGUMENT: CDS resource 'bad' is invalid: type: discovery type 1 "
            "is not supported",
        },
    ]
    assert world.machine.dump_servers() == [
        {"server_uri": "one", "stream": "open", "in_use": True, "failure": None}
    ]
