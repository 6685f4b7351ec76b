"""Targets that are addresses already: ``ipv4:``, ``ipv6:``, ``unix:``, ``unix-abstract:``."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from grpclb.core.address import Address, AddressError
from grpclb.core.resolver import ResolverContext, ResolverState, Update
from grpclb.core.target import Target, own_host


class StaticResolver:
    """Reports the same addresses once, and is done."""

    def __init__(self, state: ResolverState) -> None:
        self._state = state

    async def run(self, update: Update) -> None:
        """Report the state. There is nothing to look up again, even if it is rejected."""
        update(self._state)

    def resolve_now(self) -> None:
        """Nothing: the addresses are the target itself."""


def factory(target: Target, context: ResolverContext) -> StaticResolver:
    """The resolver of a static target, each address an endpoint of its own, repeats dropped.

    Raises AddressError (a ValueError) that names the bad address and its place in the list.
    """
    return StaticResolver(_state(target))


@lru_cache(maxsize=64)  # a target is looked at when its channel is built, and when that starts
def _state(target: Target) -> ResolverState:
    addresses = tuple(dict.fromkeys(_addresses(target)))
    noun = "address" if len(addresses) == 1 else "addresses"
    return ResolverState.of(addresses, note=f"{target} resolved {len(addresses)} {noun}")


def _addresses(target: Target) -> list[Address]:
    match target.scheme:
        case "unix":
            return [_socket(target, Address.unix)]
        case "unix-abstract":
            return [_socket(target, Address.unix_abstract)]
        case "ipv4" | "ipv6":
            texts = target.endpoint.split(",")
            return [_ip(target, texts, index) for index in range(len(texts))]
    raise ValueError(f"target {target.text!r}: {target.scheme!r} is not a static scheme")


def _socket(target: Target, make: Callable[[str], Address]) -> Address:
    try:
        return make(target.endpoint)
    except AddressError as error:
        raise AddressError(f"target {target.text!r}: {error}") from None


def _ip(target: Target, texts: list[str], index: int) -> Address:
    text = texts[index]
    where = f"target {target.text!r}: address {index + 1} of {len(texts)}"
    if not text:
        raise AddressError(f"{where} is empty; write one comma between two addresses")
    if ":" not in text or text.endswith("]"):
        raise AddressError(f"{where}: {text!r} has no port; write {text}:50051")
    host, _, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if (own := own_host(bare)) != bare:
        text = f"[{own}]:{port}" if ":" in own else f"{own}:{port}"
    try:
        address = Address.parse(text)
    except AddressError as error:
        raise AddressError(f"{where}: {error}") from None
    if address.family != target.scheme:
        raise AddressError(f"{where}: {text!r} belongs in an {address.family}: target")
    return address
