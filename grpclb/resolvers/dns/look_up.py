"""One look-up of one host: hosts file, search domains, A beside AAAA, SRV, TXT."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, assert_never

from grpclb.core import txt_config
from grpclb.core.address import Address, AddressError, Endpoint
from grpclb.core.status import Status
from grpclb.core.target import srv_domain
from grpclb.resolvers.dns.client import Answer, Ask, Failure, Negative, Outcome
from grpclb.resolvers.dns.order import by_family
from grpclb.resolvers.dns.system import ResolvConf
from grpclb.resolvers.dns.wire import Srv
from grpclb.resolvers.thread import off_loop

_FAMILIES = ("A", "AAAA")
_STRAGGLER = 1.0  # seconds that one family waits for the other, when it has addresses itself
_AT_ONCE = 16  # SRV targets looked up side by side
_MOST_TARGETS = 1_000  # SRV targets looked up at all
_MOST_ENDPOINTS = 50_000
_INLINE = 200  # addresses turned into endpoints on the loop; more would make it late
_INLINE_TXT = 4_096  # bytes of JSON parsed on the loop

ServiceConfigSource = Mapping[str, Any] | Status | None


@dataclass(frozen=True, slots=True)
class Found:
    """A good answer; `ttl` is in seconds."""

    endpoints: tuple[Endpoint, ...]
    ttl: float
    service_config: ServiceConfigSource = None


@dataclass(frozen=True, slots=True)
class Missing:
    """No addresses. `negative`: a server says that there are none, as opposed to no word."""

    details: str
    negative: bool


@dataclass(frozen=True, slots=True)
class Host:
    """What to look for. `srv`: the name is one of SRV records, which give the ports."""

    name: str
    port: int
    srv: bool = False


@dataclass(frozen=True, slots=True)
class Txt:
    """How TXT records are read for this client: its name, and its place among a hundred."""

    hostname: str
    draw: int


@dataclass(frozen=True, slots=True)
class _Ips:
    ips: tuple[str, ...]
    ttl: float


@dataclass(frozen=True, slots=True)
class _Place:
    ips: tuple[str, ...]
    port: int
    weight: int | None = None


_Memory = dict[tuple[str, str], tuple[str, ...]]  # (name, type) -> addresses


class LookUp:
    """Looks up one host again and again; remembers what it saw last.

    When one family (or one SRV target) cannot be asked while the others answer, its last known
    addresses stand in: a lost datagram must not halve the list.
    """

    def __init__(
        self,
        host: Host,
        ask: Ask,
        *,
        hosts_file: Callable[[], tuple[str, ...]] = tuple,
        txt: Txt | None = None,
    ) -> None:
        """`hosts_file` gives the addresses that the machine's own table has for the host."""
        self._host = host
        self._ask = ask
        self._hosts_file = hosts_file
        self._txt = txt
        self._seen: _Memory = {}
        self._before: _Memory = {}

    async def run(self, conf: ResolvConf, timeout: float) -> Found | Missing:
        """One look-up, over after `timeout` seconds. Nothing that a server sends makes it raise."""
        if not self._host.srv and (local := self._hosts_file()):
            return await _found([_Place(local, self._host.port)], ttl=float("inf"))
        deadline = asyncio.get_running_loop().time() + timeout
        self._before, self._seen = self._seen, {}
        names = conf.candidates(self._host.name)
        asked: list[str] = []
        missing = Missing("no name to ask for", negative=True)
        for name in names:
            asked.append(name)
            found = await self._name(conf, name, deadline)
            if isinstance(found, Found):
                return found
            missing = found
            # To go on after a failure could end at another name, with strangers behind it.
            if not missing.negative:
                break
        self._seen = self._before
        types = "SRV" if self._host.srv else "A and AAAA"
        return replace(missing, details=f"{missing.details} (asked {types} of {', '.join(asked)})")

    async def _name(self, conf: ResolvConf, name: str, deadline: float) -> Found | Missing:
        if self._host.srv:
            found = await self._srv(conf, name, deadline)
        else:
            ips = await self._ips(conf, name, deadline)
            if isinstance(ips, Missing):
                return ips
            found = await _found([_Place(ips.ips, self._host.port)], ips.ttl)
        if isinstance(found, Found) and self._txt is not None:
            domain = srv_domain(name) or name
            config = await self._service_config(self._txt, conf, domain, deadline)
            return replace(found, service_config=config)
        return found

    # -- addresses ---------------------------------------------------------------------------

    async def _ips(self, conf: ResolvConf, name: str, deadline: float) -> _Ips | Missing:
        """Both families side by side. One that answers is enough; the other gets a moment more."""
        tasks = {
            rdtype: asyncio.ensure_future(self._ask(conf, name, rdtype, deadline))
            for rdtype in _FAMILIES
        }
        try:
            done, late = await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
            if late:
                good = any(isinstance(task.result(), Answer) for task in done)
                await asyncio.wait(late, timeout=_STRAGGLER if good else None)
            outcomes = {
                rdtype: task.result() if task.done() else Failure("no answer in time")
                for rdtype, task in tasks.items()
            }
        finally:
            await _end(tasks.values())
        return self._union(name, outcomes)

    def _union(self, name: str, outcomes: Mapping[str, Outcome]) -> _Ips | Missing:
        good = [outcome for outcome in outcomes.values() if isinstance(outcome, Answer)]
        if not good:
            return _missing(outcomes.values())
        ips: list[str] = []
        for rdtype, outcome in outcomes.items():
            if isinstance(outcome, Answer):
                self._seen[name, rdtype] = _texts(outcome)
            elif isinstance(outcome, Failure):
                self._remember(name, rdtype)
            ips.extend(self._seen.get((name, rdtype), ()))
        return _Ips(tuple(ips), min(answer.ttl for answer in good))

    def _remember(self, name: str, rdtype: str) -> tuple[str, ...]:
        """What the last look-up saw; nobody could say whether that is still so."""
        before = self._before.get((name, rdtype), ())
        if before:
            self._seen[name, rdtype] = before
        return before

    # -- SRV ---------------------------------------------------------------------------------

    async def _srv(self, conf: ResolvConf, name: str, deadline: float) -> Found | Missing:
        """The targets of the lowest priority of which any has an address (RFC 2782)."""
        outcome = await self._ask(conf, name, "SRV", deadline)
        if not isinstance(outcome, Answer):
            return _missing([outcome])
        records = [r for r in outcome.records if isinstance(r, Srv) and r.target and r.port]
        if not records:
            return Missing("SRV says that the service is not offered", negative=True)
        records = sorted(records, key=lambda record: record.priority)[:_MOST_TARGETS]
        missing = Missing("", negative=True)
        for _, group in groupby(records, key=lambda record: record.priority):
            found = await self._group(conf, list(group), outcome, deadline)
            if isinstance(found, Found):
                return found
            missing = found
            if not missing.negative:
                break
        return missing

    async def _group(
        self, conf: ResolvConf, group: list[Srv], answer: Answer, deadline: float
    ) -> Found | Missing:
        targets = list(dict.fromkeys(record.target for record in group))
        known: dict[str, _Ips | Missing] = {
            target: _Ips(answer.glue[target], answer.ttl)
            for target in targets
            if target in answer.glue
        }
        unknown = iter([target for target in targets if target not in known])

        async def work() -> None:
            for target in unknown:
                known[target] = await self._ips(conf, target, deadline)

        workers = [asyncio.ensure_future(work()) for _ in range(_AT_ONCE)]
        try:
            await asyncio.gather(*workers)
        finally:
            await _end(workers)
        return await self._places(group, known, answer.ttl)

    async def _places(
        self, group: list[Srv], known: Mapping[str, _Ips | Missing], ttl: float
    ) -> Found | Missing:
        found = {target: ips for target, ips in known.items() if isinstance(ips, _Ips)}
        missing = [m for m in known.values() if isinstance(m, Missing)]
        if not found:
            return min(missing, key=lambda m: m.negative)
        # As a zero among other weights means "rarely", not "never", it counts as one.
        weighted = any(record.weight for record in group)
        places = []
        for record in group:
            target = known[record.target]
            if isinstance(target, _Ips):
                ips = target.ips
            elif target.negative:
                continue
            else:
                ips = tuple(ip for rd in _FAMILIES for ip in self._remember(record.target, rd))
            weight = max(record.weight, 1) if weighted else None
            places.append(_Place(ips, record.port, weight))
        return await _found(places, min(ttl, *(ips.ttl for ips in found.values())))

    # -- TXT ---------------------------------------------------------------------------------

    async def _service_config(
        self, txt: Txt, conf: ResolvConf, domain: str, deadline: float
    ) -> ServiceConfigSource:
        name = txt_config.NAME_PREFIX + domain
        outcome = await self._ask(conf, name, "TXT", deadline)
        match outcome:
            case Negative():
                return None
            case Failure(details):
                return Status.unavailable(f"TXT of {name}: {details}")
            case Answer(records):
                strings = [record for record in records if isinstance(record, tuple)]
                choose = functools.partial(
                    txt_config.choose, strings, hostname=txt.hostname, draw=txt.draw
                )
                size = sum(len(string) for record in strings for string in record)
                return choose() if size <= _INLINE_TXT else await off_loop(choose)
        assert_never(outcome)


async def _found(places: list[_Place], ttl: float) -> Found | Missing:
    """The endpoints of `places`, made off the loop when there are many."""
    make = functools.partial(endpoints_of, places)
    many = sum(len(place.ips) for place in places) > _INLINE
    endpoints = await off_loop(make) if many else make()
    if not endpoints:
        shown = ", ".join([ip for place in places for ip in place.ips][:3])
        return Missing(f"no address that can be dialled among {shown}", negative=False)
    return Found(endpoints, ttl)


def endpoints_of(places: Iterable[_Place]) -> tuple[Endpoint, ...]:
    """One endpoint for each address, repeats and addresses that nobody can dial left out."""
    found: dict[Address, Endpoint] = {}
    for place in places:
        attributes = {} if place.weight is None else {"weight": place.weight}
        for ip in by_family(place.ips):
            try:
                address = Address.ip(ip, place.port)
            except AddressError:
                continue
            found.setdefault(address, Endpoint.of(address, **attributes))
            if len(found) > _MOST_ENDPOINTS:  # one more, so that the channel sees the excess
                return tuple(found.values())
    return tuple(found.values())


def _missing(outcomes: Iterable[Outcome]) -> Missing:
    """Why there is no address: the failures, if any, else what was denied."""
    failures = [outcome.details for outcome in outcomes if isinstance(outcome, Failure)]
    denials = [outcome.details for outcome in outcomes if isinstance(outcome, Negative)]
    return Missing("; ".join(dict.fromkeys(failures or denials)), negative=not failures)


def _texts(answer: Answer) -> tuple[str, ...]:
    return tuple(record for record in answer.records if isinstance(record, str))


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel what still runs, and see it end: no task outlives the look-up that started it."""
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
