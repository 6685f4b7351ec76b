"""One question to the servers of resolv.conf: tries, rotation, TCP, and what came of it."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from grpclb.resolvers.dns.system import ResolvConf, Server
from grpclb.resolvers.dns.transport import exchange
from grpclb.resolvers.dns.wire import UDP_PAYLOAD, MalformedError, Query, Record, Reply, decode
from grpclb.resolvers.thread import off_loop

# Codes with which a server says that it cannot read EDNS, or any question like ours.
_NO_EDNS = ("FORMERR", "NOTIMP", "BADVERS")


@dataclass(frozen=True, slots=True)
class Answer:
    """There are records (never none)."""

    records: tuple[Record, ...]
    ttl: float
    glue: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Negative:
    """A server says that there is no such name (NXDOMAIN), or nothing of this type (NODATA)."""

    details: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Nobody could say."""

    details: str


Outcome = Answer | Negative | Failure


class Ask(Protocol):
    """Asks for the records of an absolute name until `deadline` (the loop's clock)."""

    async def __call__(
        self, conf: ResolvConf, name: str, rdtype: str, deadline: float
    ) -> Outcome: ...


class Client:
    """Asks real servers. Lives on one loop; holds nothing open between two questions."""

    def __init__(self) -> None:
        self._turn = itertools.count()

    async def ask(self, conf: ResolvConf, name: str, rdtype: str, deadline: float) -> Outcome:
        """As resolv.conf(5) says: each server in turn, `attempts` times around.

        A server that answers with an error is not asked again; one that keeps silent is. The
        time until `deadline` is divided among the tries that are left, so that a lost datagram
        does not use it all up.
        """
        try:
            Query.make(name, rdtype)
        except ValueError as error:
            return Negative(str(error))
        servers = list(conf.servers)
        if conf.rotate:
            first = next(self._turn) % len(servers)
            servers = servers[first:] + servers[:first]
        problems: dict[Server, str] = {}
        for attempt in range(conf.attempts):
            for index, server in enumerate(tuple(servers)):
                left = (conf.attempts - attempt) * len(servers) - index
                share = min(conf.timeout, (deadline - _now()) / max(left, 1))
                patience = _Patience(share, deadline)
                outcome = await _ask_server(server, name, rdtype, patience, tcp=conf.tcp)
                if outcome is None:
                    problems[server] = f"no answer from {server}"
                    continue
                if not isinstance(outcome, Failure):
                    return outcome
                problems[server] = outcome.details
                servers.remove(server)
        return Failure("; ".join(problems.values()))


@dataclass(frozen=True, slots=True)
class _Patience:
    """How long to wait for one message: `share` seconds, and never beyond `deadline`."""

    share: float
    deadline: float

    def limit(self) -> asyncio.Timeout:
        return asyncio.timeout_at(min(_now() + self.share, self.deadline))


async def _ask_server(
    server: Server, name: str, rdtype: str, patience: _Patience, *, tcp: bool
) -> Outcome | None:
    """One try; None if the server keeps silent."""
    try:
        reply = await _query(server, name, rdtype, patience, tcp=tcp)
    except MalformedError as error:
        return Failure(f"{error} from {server}")
    except TimeoutError:
        return None
    except OSError as error:
        return Failure(f"{server}: {error.strerror or error}")
    if reply.rcode == "NXDOMAIN":
        return Negative(f"NXDOMAIN from {server}")
    if reply.rcode != "NOERROR":
        return Failure(f"{reply.rcode} from {server}")
    if not reply.records:
        return Negative(f"NODATA from {server}")
    return Answer(reply.records, reply.ttl, reply.glue)


async def _query(
    server: Server, name: str, rdtype: str, patience: _Patience, *, tcp: bool
) -> Reply:
    query = Query.make(name, rdtype)
    reply = await _reply(server, query, patience, tcp=tcp)
    if reply.rcode in _NO_EDNS:
        query = Query.make(name, rdtype, edns=False)
        reply = await _reply(server, query, patience, tcp=tcp)
    if reply.truncated and not tcp:
        try:
            reply = await _reply(server, query, patience, tcp=True)
        except TimeoutError:
            raise OSError(None, "truncated answer, and then no answer over TCP") from None
        except OSError as error:
            raise OSError(
                error.errno, f"truncated answer, and then over TCP: {error.strerror or error}"
            ) from error
    if reply.truncated:
        raise MalformedError("truncated answer over TCP")
    return reply


async def _reply(server: Server, query: Query, patience: _Patience, *, tcp: bool) -> Reply:
    async with patience.limit():
        wire = await exchange(server, query, tcp=tcp)
    # Parsing is not the server's time: an answer that took long to parse is still an answer.
    if len(wire) <= UDP_PAYLOAD:
        return decode(wire, query.rdtype)
    return await off_loop(functools.partial(decode, wire, query.rdtype))


def _now() -> float:
    return asyncio.get_running_loop().time()
