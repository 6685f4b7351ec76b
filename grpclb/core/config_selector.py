"""A decision per RPC that comes before the pick: which settings it has, and where it may go.

gRFC A31: a resolver may hand over a config selector beside its endpoints. It is asked once per
RPC, before the first pick. What it says takes the place of the service config's method config,
and its `attributes` go to the pickers with every attempt (`PickInfo.attributes`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

from grpclb.core.balancer import NO_ATTRIBUTES, Fail, PickInfo
from grpclb.core.method_config import NO_METHOD_CONFIG, MethodConfig


@dataclass(frozen=True, slots=True)
class Selected:
    """The settings of one RPC.

    `on_committed` is called once, on any thread, when the RPC will not be picked again (at its
    end, at the latest). It must not block, and what it raises is dropped.
    """

    method_config: MethodConfig = NO_METHOD_CONFIG
    attributes: Mapping[str, Any] = field(default_factory=lambda: NO_ATTRIBUTES)
    on_committed: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Outdated:
    """This selector was replaced since it was read: ask the one that is published now."""


OUTDATED = Outdated()
SelectResult: TypeAlias = Selected | Fail | Outdated


class ConfigSelector(Protocol):
    """A snapshot of a resolver's routing. Any thread; never blocks."""

    def select(self, info: PickInfo) -> SelectResult:
        """The settings for one RPC, known by its method and metadata.

        `Fail` ends the RPC, whatever its wait_for_ready. `Outdated` may be said only by a
        selector that another one has taken the place of.
        """
        ...


class Selection:
    """What was selected for one RPC, until the RPC is over. Any thread.

    `attributes` is never `NO_ATTRIBUTES`, which says that nobody has selected yet.
    """

    __slots__ = ("_committed", "attributes", "config")

    def __init__(self, selected: Selected) -> None:
        self.config = selected.method_config
        self.attributes: Mapping[str, Any] = MappingProxyType(dict(selected.attributes))
        self._committed = [selected.on_committed]

    def release(self) -> None:
        """The RPC is over; harmless when repeated, from several threads too."""
        try:
            on_committed = self._committed.pop()  # atomic: only one caller gets it
        except IndexError:
            return
        if on_committed is not None:
            on_committed()

    def __del__(self) -> None:
        # An RPC whose call object was dropped unfinished.
        self.release()
