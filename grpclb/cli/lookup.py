"""One resolution of a target, by the very parts that a channel uses."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from grpclb.cli.seen import Seen, Stage
from grpclb.control.channel_spec import ChannelSpec
from grpclb.control.clock import LoopClock
from grpclb.control.resolution import Resolution
from grpclb.core.resolver import ResolverContext, ResolverState
from grpclb.core.service_config import ServiceConfig
from grpclb.core.status import Status
from grpclb.core.target import srv_domain
from grpclb.resolvers.static import StaticResolver

_GRACE = 0.3  # seconds beyond the resolver's own limit, for its reason to arrive
_END = 1.0


@dataclass(frozen=True, slots=True)
class Lookup:
    """What came of it. `state` is None if no answer came in time; `seconds` is how long it took.

    `snapshot` is a channel's own view (`debug_snapshot()["resolver"]`).
    """

    spec: ChannelSpec
    state: ResolverState | None
    config: ServiceConfig
    snapshot: Mapping[str, Any]
    seconds: float

    @property
    def failure(self) -> Seen | None:
        """What went wrong; None when there are endpoints."""
        state, target = self.state, self.spec.target
        if state is None:
            code, details = "DEADLINE_EXCEEDED", "no answer"
        elif isinstance(state.endpoints, Status):
            code, details = state.endpoints.code.name, state.endpoints.details
        elif not state.endpoints:
            code, details = "OK", state.note or "an empty list"
        else:
            return None
        return Seen(
            Stage.RESOLVE,
            code,
            details.removeprefix(f"{target}: "),
            str(target),
            target.scheme,
            seconds=self.seconds,
        )

    @property
    def skipped(self) -> dict[str, str]:
        """What the source holds and the resolver cannot use, by the source's names, and why."""
        found = {str(name): str(why) for name, why in self.snapshot["skipped"].items()}
        if self.failure is None:  # else it says the same already
            found.update(_refused(self.snapshot["details"].get("client")))
        return found

    @property
    def config_error(self) -> str | None:
        """Why the resolver's service config is not used; None if it is, or there is none."""
        given = None if self.state is None else self.state.service_config
        if given is None or self.snapshot["service_config_source"] != "default":
            return None
        if isinstance(given, Status):
            return given.details
        try:
            self.spec.parse_config(given)  # type: ignore[arg-type]
        except ValueError as error:
            return str(error)
        return None


def _refused(client: object) -> dict[str, str]:
    """The resources of an xDS client (`XdsClient.snapshot`) that it has no good version of, or an
    older one than the server's. Another resolver may call something else its client."""
    found: dict[str, str] = {}
    for session in client.values() if isinstance(client, Mapping) else ():
        resources = session.get("resources") if isinstance(session, Mapping) else None
        for entry in resources if isinstance(resources, list) else ():
            if isinstance(entry, Mapping) and entry.get("error"):
                kept = " (an older version stays in use)" if entry.get("cached") else ""
                found[f"{entry.get('type')} {entry.get('name')}"] = f"{entry['error']}{kept}"
    return found


async def look_up(spec: ChannelSpec, timeout: float) -> Lookup:
    """The first answer to `spec.target`, good or bad. Raises nothing that a resolver may raise."""
    loop = asyncio.get_running_loop()
    first: asyncio.Future[ResolverState] = loop.create_future()

    def apply(state: ResolverState, config: ServiceConfig) -> bool:
        del config
        if not first.done():
            first.set_result(state)
        return True

    resolution = Resolution(spec, Random(), LoopClock(loop), apply)
    began = loop.time()
    resolution.start(loop)
    state = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout + _GRACE):
            state = await first
    seconds = loop.time() - began
    snapshot, task = resolution.snapshot(loop.time()), resolution.task
    config = resolution.config
    resolution.stop()
    if task is not None:
        await asyncio.wait([task], timeout=_END)
    return Lookup(spec, state, config, snapshot, seconds)


def is_fixed(spec: ChannelSpec) -> bool:
    """Whether the target says the addresses itself, so that nobody is asked."""
    resolver = spec.make_resolver(ResolverContext(Random(), spec.options.values))
    return isinstance(resolver, StaticResolver)


def asked(spec: ChannelSpec) -> str:
    """Whom a `dns` target asks, for people: the servers, or the file that names them."""
    target = spec.target
    if target.scheme != "dns" or is_fixed(spec):
        return ""
    if target.authority:
        return f"DNS server {target.authority} (from the target)"
    from grpclb.resolvers.dns.system import RESOLV_CONF, WatchedFile, parse_resolv_conf

    conf = WatchedFile(RESOLV_CONF, parse_resolv_conf).get()
    servers = ", ".join(map(str, conf.servers))
    search = f"; search {' '.join(conf.search)}; ndots {conf.ndots}" if conf.search else ""
    return f"DNS server {servers} (from {RESOLV_CONF}{search})"


def is_srv(spec: ChannelSpec) -> bool:
    """Whether the target is a name of SRV records, which no ClusterIP has."""
    return spec.target.scheme == "dns" and srv_domain(spec.target.endpoint) is not None
