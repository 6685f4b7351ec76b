"""The table's machinery: where a row runs, how it is registered, and what is compared.

A row is a function that uses a channel and returns an *observation*: lists, dictionaries,
strings, numbers, booleans and None. It runs once on plain grpcio and once on grpclb, against
the same backends, and the two observations must be equal. `World` is all that differs.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc

from tests.support.backend import Backend
from tests.support.tls import Authority

ROW_LIMIT = 30.0  # seconds; no row comes near unless something hangs

KINDS = ("uu", "us", "su", "ss")
METHODS: Mapping[str, str] = {
    "uu": "/test.Echo/UnaryUnary",
    "us": "/test.Echo/UnaryStream",
    "su": "/test.Echo/StreamUnary",
    "ss": "/test.Echo/StreamStream",
}
_FACTORIES: Mapping[str, str] = {
    "uu": "unary_unary",
    "us": "unary_stream",
    "su": "stream_unary",
    "ss": "stream_stream",
}


@dataclass(frozen=True, slots=True)
class Flavour:
    """The four channel factories under comparison."""

    name: str
    insecure: Callable[..., grpc.Channel]
    secure: Callable[..., grpc.Channel]
    aio_insecure: Callable[..., grpc.aio.Channel]
    aio_secure: Callable[..., grpc.aio.Channel]


def plain() -> Flavour:
    return Flavour(
        "grpcio",
        grpc.insecure_channel,
        grpc.secure_channel,
        grpc.aio.insecure_channel,
        grpc.aio.secure_channel,
    )


def ours() -> Flavour:
    import grpclb
    import grpclb.aio

    return Flavour(
        "grpclb",
        grpclb.insecure_channel,
        grpclb.secure_channel,
        grpclb.aio.insecure_channel,
        grpclb.aio.secure_channel,
    )


@dataclass(frozen=True, slots=True)
class Place:
    """What both flavours talk to."""

    backend: Backend
    tls: Backend
    authority: Authority
    unreachable: str  # an address that refuses connections
    runner: asyncio.Runner  # one loop for all aio rows


@dataclass(frozen=True, slots=True)
class World:
    """A row's only way to a channel."""

    flavour: Flavour
    place: Place

    def target(self, where: str = "backend") -> str:
        match where:
            case "backend":
                return f"ipv4:{self.place.backend.address}"
            case "tls":
                return f"ipv4:{self.place.tls.address}"
            case "unreachable":
                return f"ipv4:{self.place.unreachable}"
            case _:
                return where

    def channel(self, where: str = "backend", **arguments: Any) -> grpc.Channel:
        return self.flavour.insecure(self.target(where), **arguments)

    def secure(self, where: str = "tls", **arguments: Any) -> grpc.Channel:
        return self.flavour.secure(self.target(where), **self._trusting(arguments))

    def aio(self, where: str = "backend", **arguments: Any) -> grpc.aio.Channel:
        return self.flavour.aio_insecure(self.target(where), **arguments)

    def aio_secure(self, where: str = "tls", **arguments: Any) -> grpc.aio.Channel:
        return self.flavour.aio_secure(self.target(where), **self._trusting(arguments))

    def _trusting(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"credentials": self.place.authority.credentials(), **arguments}


def stub(channel: Any, kind: str, method: str | None = None, **arguments: Any) -> Any:
    """The multicallable of the echo method of this kind, sync or aio."""
    return getattr(channel, _FACTORIES[kind])(method or METHODS[kind], **arguments)


@dataclass(frozen=True, slots=True)
class Row:
    """`by_design` names the keys that may differ, wherever they stand, each with its reason."""

    name: str
    run: Callable[[World], Any]
    by_design: Mapping[str, str] = field(default_factory=dict)

    def observe(self, world: World) -> Any:
        """Run the row on one flavour and return what may be compared of its observation."""
        return _without(self.run(world), self.by_design.keys())


WRONG_TYPE = {
    "text": "grpclb names the argument",
    "type": "TypeError, where grpcio stumbles over an attribute that the value lacks",
}

ROWS: list[Row] = []


def row(
    name: str, *, by_design: Mapping[str, str] | None = None
) -> Callable[[Callable[[World], Any]], Callable[[World], Any]]:
    """Put a function, or a coroutine function, into the table."""

    def register(function: Callable[[World], Any]) -> Callable[[World], Any]:
        add(name, function, by_design or {})
        return function

    return register


def add(name: str, function: Callable[[World], Any], by_design: Mapping[str, str]) -> None:
    """Put a row into the table; a name stands for one row only."""
    if any(other.name == name for other in ROWS):
        raise ValueError(f"two rows are called {name!r}")
    runner = _looped(function) if inspect.iscoroutinefunction(function) else function
    ROWS.append(Row(name, runner, by_design))


def _looped(function: Callable[[World], Awaitable[Any]]) -> Callable[[World], Any]:
    async def bounded(world: World) -> Any:
        try:
            async with asyncio.timeout(ROW_LIMIT):
                return await function(world)
        finally:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    return lambda world: world.place.runner.run(bounded(world))


def _without(observation: Any, keys: Any) -> Any:
    if isinstance(observation, dict):
        return {k: _without(v, keys) for k, v in observation.items() if k not in keys}
    if isinstance(observation, list):
        return [_without(item, keys) for item in observation]
    return observation
