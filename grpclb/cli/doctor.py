"""``grpclb doctor TARGET``: resolve, connect to every backend, try, explain."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import grpclb
from grpclb.cli.arguments import Request
from grpclb.cli.cluster_ip import suspicion
from grpclb.cli.lookup import Lookup, asked, is_fixed, is_srv, look_up
from grpclb.cli.probe import Backend, probe
from grpclb.cli.report import ChannelView, Report, findings_of
from grpclb.cli.seen import Seen, Stage
from grpclb.control.channel_spec import build_spec
from grpclb.core.address import Address
from grpclb.core.resolver import ResolverState
from grpclb.core.status import Status
from grpclb.testing import ManualResolver

_AT_ONCE = 64  # backends that are tried side by side
_LOOK_AGAIN = 0.02  # seconds between two looks at the channel
_MOST_NAMED = 8  # entries that were skipped; the JSON names all that the snapshot has
_SETTLED = ("READY", "TRANSIENT_FAILURE")


async def examine(request: Request) -> Report:
    """The whole examination; every step is bounded by `request.timeout`."""
    # Every endpoint, not the subset that one channel would use.
    whole = build_spec(
        request.target,
        [*request.options, ("grpclb.subset_size", 0)],
        request.service_config,
        None,
    )
    lookup = await look_up(whole, request.timeout)
    failure, whom = lookup.failure, asked(request.spec)
    if failure is not None or lookup.state is None:
        found = [*([] if failure is None else [failure]), *skipped(lookup)]
        return Report(lookup, whom, request.asks_for_txt, None, (), findings_of(found))
    addresses = _addresses(lookup.state)
    channel, backends = await asyncio.gather(
        _view(request, lookup.state), _probe_all(addresses, request, lookup)
    )
    found = [*_config(lookup), *skipped(lookup), *_name(request, addresses)]
    found += [seen for backend in backends for seen in backend.seen]
    return Report(lookup, whom, request.asks_for_txt, channel, backends, findings_of(found))


def _addresses(state: ResolverState) -> tuple[Address, ...]:
    endpoints = () if isinstance(state.endpoints, Status) else state.endpoints
    return tuple(dict.fromkeys(a for endpoint in endpoints for a in endpoint.addresses))


async def _probe_all(
    addresses: Sequence[Address], request: Request, lookup: Lookup
) -> tuple[Backend, ...]:
    turn = asyncio.Semaphore(_AT_ONCE)

    async def one(address: Address) -> Backend:
        async with turn:
            return await probe(address, request, lookup.config)

    return tuple(await asyncio.gather(*map(one, addresses)))


async def _view(request: Request, state: ResolverState) -> ChannelView:
    """A real channel over the same answer: what a program would have."""
    resolver = ManualResolver()
    resolver.update(state)
    # The name that the target's own resolver stands for, which this one does not know.
    options = [*request.options, ("grpc.default_authority", request.spec.authority)]
    arguments = {"service_config": request.service_config, "resolver": resolver}
    if request.tls is None:
        channel = grpclb.aio.insecure_channel(request.target, options, **arguments)  # type: ignore[arg-type]
    else:
        credentials = request.tls.channel_credentials()
        channel = grpclb.aio.secure_channel(
            request.target,
            credentials,
            options,
            **arguments,  # type: ignore[arg-type]
        )
    async with channel:
        channel.get_state(try_to_connect=True)
        end = asyncio.get_running_loop().time() + request.timeout
        while True:
            snapshot = channel.debug_snapshot()
            held = [s["state"] for s in snapshot["subchannels"] if not s["removed"]]
            settled = snapshot["state"] in _SETTLED and "CONNECTING" not in held
            if settled or asyncio.get_running_loop().time() > end:
                break
            await asyncio.sleep(_LOOK_AGAIN)
        return ChannelView(snapshot["state"], snapshot["policy"], held.count("READY"), len(held))


def _name(request: Request, addresses: Sequence[Address]) -> list[Seen]:
    """One address for a DNS name is worth a word."""
    spec = request.spec
    if spec.target.scheme != "dns" or is_fixed(spec) or is_srv(spec):
        return []
    found = suspicion(request.target, addresses, os.environ)
    return [] if found is None else [found]


def _config(lookup: Lookup) -> list[Seen]:
    """A service config that the resolver has, and that nobody can use."""
    error = lookup.config_error
    target = str(lookup.spec.target)
    return [] if error is None else [Seen(Stage.CONFIG, details=error, target=target)]


def skipped(lookup: Lookup) -> list[Seen]:
    """What the resolver's source has and the resolver passed over, as one thing seen."""
    found = lookup.skipped
    if not found:
        return []
    named = [f"{name}: {why}" for name, why in tuple(found.items())[:_MOST_NAMED]]
    if len(found) > _MOST_NAMED:
        named.append(f"and {len(found) - _MOST_NAMED} more")
    target = lookup.spec.target
    return [Seen(Stage.SKIPPED, "OK", "; ".join(named), str(target), target.scheme)]
