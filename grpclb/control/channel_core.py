"""The engine of one channel: resolver -> service config -> policy -> picker.

Lives on one asyncio loop and is called there only. It decides nothing about RPCs: callers read
what it published in the picker slot.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from random import Random
from time import monotonic
from typing import Any

from grpc import StatusCode

from grpclb.control.channel_spec import ChannelSpec
from grpclb.control.clock import GuardedClock, LoopClock
from grpclb.control.picker_slot import PickerSlot
from grpclb.control.reporter import Reporter
from grpclb.control.resolution import Resolution
from grpclb.control.subchannel import Connection, SubchannelHandle, SubchannelPool, Transport
from grpclb.core.address import Address
from grpclb.core.balancer import QUEUE_PICKER, Fail, FixedPicker, Picker, SubchannelState
from grpclb.core.clock import Timer
from grpclb.core.config_selector import ConfigSelector
from grpclb.core.connectivity import (
    CONNECTING,
    IDLE,
    SHUTDOWN,
    TRANSIENT_FAILURE,
    ConnectivityState,
)
from grpclb.core.resolver import ResolverState
from grpclb.core.service_config import ServiceConfig
from grpclb.core.status import Status
from grpclb.policies.graceful_switch import GracefulSwitch
from grpclb.policies.pick_first import ATTEMPT_DELAY_MS

_LOG = logging.getLogger("grpclb.channel")


class _Helper:
    """What the channel's policy can touch: core.balancer.Helper."""

    def __init__(self, core: ChannelCore) -> None:
        self._core = core
        self.clock = GuardedClock(core.loop, core.timer_raised)
        self.random = core.random

    def create_subchannel(
        self, address: Address, on_state: Callable[[SubchannelState], None]
    ) -> SubchannelHandle:
        return self._core.pool.acquire(address, self._core.subchannel_args, on_state)

    def update_picker(self, state: ConnectivityState, picker: Picker) -> None:
        self._core.publish(state, picker)

    def request_resolution(self) -> None:
        self._core.resolve_now()


class ChannelCore:
    """One channel at work, from the first RPC (or connect request) until close."""

    def __init__(
        self,
        spec: ChannelSpec,
        slot: PickerSlot,
        loop: asyncio.AbstractEventLoop,
        open_transport: Callable[[Connection], Transport],
    ) -> None:
        self.spec = spec
        self.slot = slot
        self.clock = LoopClock(loop)
        self.random = Random()
        self.state: ConnectivityState = IDLE
        self.subchannel_args: str | None = None
        self.closed = False
        self.resolved_at: float | None = None  # first answer since the channel left IDLE
        self._resolved = False
        self._selector: ConfigSelector | None = None
        self.loop = loop
        self._reporter = Reporter(_LOG, str(spec.target), self.clock)
        options = spec.options
        self.pool = SubchannelPool(
            self.clock,
            open_transport,
            options.knob("grpclb.subchannel_linger_ms") / 1000,
            options.knob("grpclb.drain_timeout_ms") / 1000,
            lambda error: self._policy_raised("a subchannel's on_state", error),
        )
        self.resolution = Resolution(spec, self.random, self.clock, self._apply)
        self._balancer: GracefulSwitch | None = None
        self._idle_timer: Timer | None = None
        self._first_answer_timer: Timer | None = None
        self._idle_since = 0.0

    # -- waking up and going to sleep ------------------------------------------------------

    def exit_idle(self) -> None:
        """A call waits, or the user asked: start what is not running, connect what is idle."""
        if self.closed:
            return
        if self._balancer is not None:
            try:
                self._balancer.exit_idle()
            except Exception as error:
                self._policy_raised("exit_idle()", error)
            return
        self._balancer = GracefulSwitch(_Helper(self))
        self.publish(CONNECTING, QUEUE_PICKER)
        timeout = self.spec.options.knob("grpclb.resolve_timeout_ms") / 1000
        self._first_answer_timer = self.clock.call_later(timeout, self._no_answer_yet)
        self._idle_since = self.clock.now()
        self.resolved_at = None
        self._arm_idle_timer()
        self.resolution.start(self.loop)

    def _no_answer_yet(self) -> None:
        self._first_answer_timer = None
        waited = self.spec.options.knob("grpclb.resolve_timeout_ms") / 1000
        missing = self.resolution.waiting_for()
        status = Status.unavailable(
            f"{self.spec.target}: no answer from the resolver in {waited:g} s"
            + (f"; it waits for {missing}" if missing else "")
        )
        self.publish(TRANSIENT_FAILURE, FixedPicker(Fail(status)))

    def _arm_idle_timer(self) -> None:
        timeout = self.spec.options.idle_timeout
        if timeout != float("inf"):
            self._idle_timer = self.clock.call_later(timeout / 4, self._look_for_idleness)

    def _look_for_idleness(self) -> None:
        """Four looks per timeout: an RPC marks the slot, so that it need not read a clock."""
        now = self.clock.now()
        busy = self.slot.used or self.slot.waiting or self.pool.inflight
        self.slot.used = False
        if busy:
            self._idle_since = now
        if now - self._idle_since >= self.spec.options.idle_timeout:
            self._go_idle()
        else:
            self._arm_idle_timer()

    def _go_idle(self) -> None:
        _LOG.info("%s: idle for %g s", self.spec.target, self.spec.options.idle_timeout)
        self._stop_all()
        self.publish(IDLE, QUEUE_PICKER)

    def _stop_all(self) -> None:
        self.resolution.stop()
        for timer in (self._idle_timer, self._first_answer_timer):
            if timer is not None:
                timer.cancel()
        self._idle_timer = self._first_answer_timer = None
        if self._selector is not None:
            # It goes with its resolver: whoever calls now waits for the next one's.
            self._selector, self._resolved = None, False
        balancer, self._balancer = self._balancer, None
        if balancer is not None:
            try:
                balancer.close()
            except Exception as error:
                self._policy_raised("close()", error)

    def close(self) -> None:
        """Close everything now. RPCs that wait are woken and see SHUTDOWN."""
        if self.closed:
            return
        self._stop_all()
        self.publish(SHUTDOWN, QUEUE_PICKER)
        self.closed = True
        self.pool.close()

    def resolve_now(self) -> None:
        """Look the name up again; a hint, coalesced by the resolver."""
        if not self.closed:
            self.resolution.resolve_now()

    # -- from the resolver to the policy -----------------------------------------------------

    def _apply(self, state: ResolverState, config: ServiceConfig) -> bool:
        """A new world from `Resolution`, its endpoints capped and its config chosen."""
        balancer = self._balancer
        if balancer is None:
            return False
        if self._first_answer_timer is not None:
            self._first_answer_timer.cancel()
            self._first_answer_timer = None
        args = self.spec.subchannel_config(config)
        anew = args != self.subchannel_args
        self.subchannel_args = args
        if not isinstance(state.endpoints, Status):
            self._resolved = True
            self.resolved_at = self.resolved_at or monotonic()
        if not isinstance(state.endpoints, Status):
            self._selector = state.config_selector
        choice = self.spec.policy_of(config)
        delay = self.spec.options.values.get(ATTEMPT_DELAY_MS)
        if delay is not None:
            state = replace(state, attributes={**state.attributes, ATTEMPT_DELAY_MS: delay})
        try:
            accepted = balancer.update(state, choice, anew=anew)
        except Exception as error:
            self._policy_raised("update()", error)
            return False
        current = self.slot.current
        if (
            current.config is not config
            or current.resolved is not self._resolved
            or current.selector is not self._selector
        ):
            self.publish(current.state, current.picker)
        return accepted

    def _policy_raised(self, where: str, error: Exception) -> None:
        """A mistake of a policy: what it published stays, and if that is nothing, RPCs fail."""
        text = f"the policy {self.policy_name!r} raised in {where}: {type(error).__name__}: {error}"
        self._reporter.report(f"policy {where}", text, trace=True)
        if self.state in (IDLE, CONNECTING):
            status = Status(StatusCode.INTERNAL, f"{self.spec.target}: {text}")
            self.publish(TRANSIENT_FAILURE, FixedPicker(Fail(status)))

    def timer_raised(self, error: Exception) -> None:
        """A mistake in a policy's timer: what it published stays."""
        text = f"the policy {self.policy_name!r} raised in a timer: {type(error).__name__}: {error}"
        self._reporter.report("policy timer", text, trace=True)

    def publish(self, state: ConnectivityState, picker: Picker) -> None:
        """The policy's (or our own) picker, for everybody to see."""
        if self.closed:
            return
        if state is not self.state:
            _LOG.debug("%s: %s -> %s", self.spec.target, self.state.name, state.name)
        self.state = state
        config = self.resolution.config
        self.slot.publish(state, picker, config, resolved=self._resolved, selector=self._selector)

    # -- for people ----------------------------------------------------------------------------

    def explain(self, status: Status) -> str:
        """A failed pick's details with what the resolver last said. Any thread."""
        seen = self.resolution.describe(self.loop.time())
        return f"{status.details}; {seen}" if seen else status.details

    def snapshot(self) -> dict[str, Any]:
        """The channel as a person on call wants to see it; JSON-ready."""
        now = self.clock.now()
        connections = sorted(self.pool.connections(), key=lambda c: c.address.target)
        return {
            "target": str(self.spec.target),
            "state": self.state.name,
            "policy": self.policy_name,
            "pending_calls": self.slot.waiting,
            "inflight": self.pool.inflight,
            "health_check": self.resolution.config.health_check_service,
            "connect_backoff": self.spec.options.connect_backoff,
            "resolver": self.resolution.snapshot(now),
            "subchannels": [connection.snapshot(now) for connection in connections],
        }

    @property
    def policy_name(self) -> str:
        return self.spec.policy_of(self.resolution.config).policy.name

    @property
    def ready_count(self) -> tuple[int, int]:
        """READY connections, and all that a policy holds. Any thread (a moment's impression)."""
        held = [c for c in self.pool.connections() if c.held]
        return sum(c.state.connectivity.name == "READY" for c in held), len(held)


def call_threadsafe(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    """Run `function` on `loop` soon; nothing happens if the loop has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function)
