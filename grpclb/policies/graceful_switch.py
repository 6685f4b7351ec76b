"""Changing the policy of a channel without failing an RPC.

The old policy serves while the new one connects. The new one takes over as soon as it has an
answer of its own (it is READY, or has failed), or when the old one has none any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from grpc import StatusCode

from grpclb.core.address import Address
from grpclb.core.balancer import (
    QUEUE_PICKER,
    Fail,
    FixedPicker,
    Helper,
    LoadBalancer,
    Picker,
    PolicyConfig,
    Subchannel,
    SubchannelState,
)
from grpclb.core.connectivity import CONNECTING, READY, TRANSIENT_FAILURE, ConnectivityState
from grpclb.core.resolver import ResolverState
from grpclb.core.status import Status

if TYPE_CHECKING:
    from random import Random

    from grpclb.core.clock import Clock

_LOG = logging.getLogger("grpclb.policy")
_LOG_EVERY = 60.0  # seconds between two lines about the same policy's updates


class _Side:
    """One of the two policies, of which it is the core.balancer.Helper."""

    __slots__ = ("_switch", "balancer", "closed", "name", "picker", "state")

    def __init__(self, switch: GracefulSwitch, name: str) -> None:
        self._switch = switch
        self.name = name
        self.balancer: LoadBalancer | None = None
        self.closed = False
        self.state: ConnectivityState = CONNECTING
        self.picker: Picker = QUEUE_PICKER

    @property
    def clock(self) -> Clock:
        return self._switch.helper.clock

    @property
    def random(self) -> Random:
        return self._switch.helper.random

    def create_subchannel(
        self, address: Address, on_state: Callable[[SubchannelState], None]
    ) -> Subchannel:
        return self._switch.helper.create_subchannel(address, on_state)

    def update_picker(self, state: ConnectivityState, picker: Picker) -> None:
        if not self.closed:
            self.state, self.picker = state, picker
            self._switch._published(self)

    def request_resolution(self) -> None:
        if not self.closed:
            self._switch.helper.request_resolution()

    def close(self) -> None:
        """Silent from now on. A policy that was thrown out may not spoil that of others."""
        self.closed = True
        balancer, self.balancer = self.balancer, None
        if balancer is not None:
            try:
                balancer.close()
            except Exception:
                _LOG.exception("policy %s raised in close()", self.name)


class GracefulSwitch:
    """core.balancer.LoadBalancer whose config is a `PolicyConfig`.

    A policy that raises in `build` or `update` does not take the channel with it: the one before
    goes on, or RPCs fail INTERNAL with what it raised.
    """

    def __init__(self, helper: Helper) -> None:
        self.helper = helper
        self._current: _Side | None = None
        self._pending: _Side | None = None
        self._leaving: list[_Side] = []
        self._logged: dict[str, float] = {}  # when a policy's mistake was last told

    @property
    def policy_name(self) -> str | None:
        """The policy that answers RPCs now."""
        return None if self._current is None else self._current.name

    @property
    def pending_name(self) -> str | None:
        """The policy that is to take over."""
        return None if self._pending is None else self._pending.name

    def update(self, state: ResolverState, config: object, *, anew: bool = False) -> bool:
        """Hand the update to the newest policy; switch if `config` names another one.

        `anew` switches to a new instance even of the same policy: what its subchannels are made
        of has changed.
        """
        if not isinstance(config, PolicyConfig):
            raise TypeError(f"expected a PolicyConfig, got {config!r}")
        latest = self._pending or self._current
        if latest is None or anew or latest.name != config.policy.name:
            latest = self._bring_in(config)
        try:
            if latest.balancer is None:
                latest.balancer = config.policy.build(latest)
            return latest.balancer.update(state, config.config)
        except Exception as error:
            self._log_mistake(latest.name)
            self._broken(latest, error)
            return False

    def _log_mistake(self, name: str) -> None:
        now = self.helper.clock.now()
        if now - self._logged.get(name, float("-inf")) >= _LOG_EVERY:
            self._logged[name] = now
            _LOG.exception("policy %s raised in update()", name)

    def exit_idle(self) -> None:
        latest = self._pending or self._current
        if latest is not None and latest.balancer is not None:
            latest.balancer.exit_idle()

    def close(self) -> None:
        sides = [self._pending, self._current, *self._leaving]
        self._pending = self._current = None
        self._leaving.clear()
        for side in sides:
            if side is not None:
                side.close()

    # -- the two sides -------------------------------------------------------------------------

    def _bring_in(self, config: PolicyConfig) -> _Side:
        side = _Side(self, config.policy.name)
        replaced, self._pending = self._pending, None
        if replaced is not None:
            self._see_off(replaced)
        if self._current is None:
            self._current = side
        else:
            self._pending = side
        return side

    def _published(self, side: _Side) -> None:
        if side is self._current:
            if self._pending is not None and side.state is not READY:
                self._take_over(self._pending)
            else:
                self.helper.update_picker(side.state, side.picker)
        elif side is self._pending:
            current = self._current
            if current is None or current.state is not READY or side.state is not CONNECTING:
                self._take_over(side)

    def _take_over(self, side: _Side) -> None:
        """The new picker first: nobody may pick from a policy whose subchannels are released."""
        old, self._current, self._pending = self._current, side, None
        self.helper.update_picker(side.state, side.picker)
        if old is not None:
            self._see_off(old)

    def _see_off(self, side: _Side) -> None:
        """Close it when it is not in the middle of a call that brought us here."""
        self._leaving.append(side)
        self.helper.clock.call_later(0, self._close_leaving)

    def _close_leaving(self) -> None:
        leaving, self._leaving = self._leaving, []
        for side in leaving:
            side.close()

    def _broken(self, side: _Side, error: Exception) -> None:
        if side is self._pending:
            self._pending = None
            self._see_off(side)
        elif side is self._current and side.state is not READY:
            text = f"policy {side.name!r} raised {type(error).__name__}: {error}"
            status = Status(StatusCode.INTERNAL, text)
            side.update_picker(TRANSIENT_FAILURE, FixedPicker(Fail(status)))
