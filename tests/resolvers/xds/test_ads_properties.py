"""Whatever happens in whatever order: what must hold of an AdsMachine at every moment."""

from __future__ import annotations

from typing import Any

from grpc import StatusCode
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from grpclb.core.status import Status
from grpclb.resolvers.xds.ads import Changed, Failed
from grpclb.resolvers.xds.ads_stream import Phase
from tests.resolvers.xds.ads_harness import CDS, DOWN, EDS, LDS, RDS, Watch, World, server
from tests.support.xds_resources import cluster, endpoint, endpoints, listener, locality

KINDS = (LDS, RDS, CDS, EDS)
NAMES = ("a", "b", "c")
SERVERS = st.integers(0, 2)
_ODD = locality(endpoint())
BAD = {
    LDS: lambda name: listener(name, http_filters=[]),
    CDS: lambda name: cluster(name, type=1),
    EDS: lambda name: endpoints(name, {**_ODD, "priority": 3}),
}
OTHER = {
    LDS: lambda name: listener(name, common_http_protocol_options={}),
    CDS: lambda name: cluster(name, circuit_breakers={"thresholds": [{}]}),
    EDS: lambda name: endpoints(name, _ODD),
}


class Ads(RuleBasedStateMachine):
    """Three servers, a dozen resources, and bad luck."""

    @initialize(strict=st.booleans(), transient=st.booleans())
    def begin(self, strict: bool, transient: bool) -> None:
        features = {"fail_on_data_errors": strict, "timer_is_transient": transient}
        self.world = World(*(server(uri, **features) for uri in ("one", "two", "three")))
        self.watches: list[tuple[Any, Watch]] = []
        self.said: dict[tuple[int, int, str], tuple[str, ...]] = {}
        self.firsts: dict[tuple[int, int], int] = {}

    # -- what happens

    @rule(kind=st.sampled_from(KINDS), name=st.sampled_from(NAMES))
    def watch(self, kind: Any, name: str) -> None:
        self.watches.append((kind, self.world.watch(kind, name)))

    @rule(which=st.integers(0, 50))
    def unwatch(self, which: int) -> None:
        if self.watches:
            kind, watch = self.watches.pop(which % len(self.watches))
            self.world.unwatch(kind, watch)

    @rule(index=SERVERS)
    def open(self, index: int) -> None:
        if self._phase(index) is Phase.OPENING:
            self.world.open(index)

    @rule(index=SERVERS, fault=st.booleans(), fork=st.booleans())
    def end(self, index: int, fault: bool, fork: bool) -> None:
        if self._phase(index) not in (Phase.OPENING, Phase.OPEN):
            return
        if fork:
            serial = self.world.serials[index]
            self.world.unsent = [pair for pair in self.world.unsent if pair[0] != index]
            self.world.machine.interrupted(index, serial, self.world.now)
            self.world.pump()
        else:
            self.world.end(DOWN, index, our_fault=fault)

    @rule(connected=st.booleans())
    def connect(self, connected: bool) -> None:
        self.world.connected = connected
        if connected:
            self.world.flush()
            self.world.pump()

    @rule(seconds=st.sampled_from([0.0, 0.5, 2.0, 16.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(
        index=SERVERS,
        kind=st.sampled_from(KINDS),
        shape=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["good", "other", "bad"])),
        errors=st.lists(st.sampled_from(NAMES), max_size=1),
        code=st.sampled_from([StatusCode.NOT_FOUND, StatusCode.INTERNAL]),
    )
    def respond(
        self, index: int, kind: Any, shape: dict[str, str], errors: list[str], code: Any
    ) -> None:
        if self._phase(index) is not Phase.OPEN:
            return
        makers = {"good": {}, "other": OTHER, "bad": BAD}
        resources = [makers[how].get(kind, lambda n: n)(name) for name, how in shape.items()]
        told = [(name, Status(code, "why")) for name in errors]
        self.world.respond(kind, "v", *resources, index=index, errors=told)

    # -- what must hold

    def _phase(self, index: int) -> Phase:
        return self.world.machine._streams[index].phase

    def _heard(self) -> None:
        for index, request in self.world.requests:
            key = index, self.world.machine._streams[index].serial
            self.said[(*key, request.type_url)] = request.names
            self.firsts[key] = self.firsts.get(key, 0) + request.first
        self.world.requests.clear()

    @invariant()
    def each_watcher_uses_what_the_cache_holds(self) -> None:
        for kind, watch in self.watches:
            using = None
            for news in watch.news:
                match news:
                    case Changed(resource):
                        using = resource
                    case Failed():
                        using = None
            entry = self.world.machine._entries[kind][watch.name]
            assert using == entry.value

    @invariant()
    def each_open_stream_was_asked_for_what_is_watched(self) -> None:
        self._heard()
        for index in range(3):
            stream = self.world.machine._streams[index]
            if stream.phase is not Phase.OPEN:
                continue
            for kind in KINDS:
                names = {watch.name for k, watch in self.watches if k is kind}
                said = self.said.get((index, stream.serial, kind.type_url), ())
                assert set(said) == names
            assert self.firsts.get((index, stream.serial), 0) == 1

    @invariant()
    def streams_are_wanted_up_to_the_active_server_only(self) -> None:
        active = self.world.machine._active
        for index in range(3):
            wanted = bool(self.watches) and index <= active
            assert (self._phase(index) is not Phase.IDLE) == wanted

    @invariant()
    def time_runs_for_watched_and_missing_resources_only(self) -> None:
        for stream in self.world.machine._streams:
            for kind, name in stream.deadlines:
                entry = self.world.machine._entries[kind][name]
                assert entry.value is None
                assert stream.phase is Phase.OPEN

    @invariant()
    def somebody_who_has_nothing_was_told_why_or_time_runs(self) -> None:
        """No watcher waits for ever: not while a connection takes requests."""
        machine = self.world.machine
        stream = machine._streams[machine._active]
        if stream.phase is not Phase.OPEN or not self.world.connected:
            return
        for kind, watch in self.watches:
            entry = machine._entries[kind][watch.name]
            if entry.value is None and entry.error is None:
                assert (kind, watch.name) in stream.deadlines


Ads.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAds = Ads.TestCase
