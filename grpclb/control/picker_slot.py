"""The one place where the control loop and the callers' threads meet.

The control loop publishes a picker; callers read it with one attribute load. A caller whose pick
was queued registers a wake-up for the next generation. The lock guards the waiters only: a pick
never takes it.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from grpclb.core.balancer import QUEUE_PICKER, Picker
from grpclb.core.config_selector import ConfigSelector
from grpclb.core.connectivity import IDLE, SHUTDOWN, ConnectivityState
from grpclb.core.service_config import EMPTY, ServiceConfig

_LOG = logging.getLogger("grpclb.channel")


@dataclass(frozen=True, slots=True)
class Published:
    """What callers see: a picker with the state, config and selector that belong to it.

    `resolved` is False until the resolver has answered: its config may be another one (A21).
    """

    generation: int
    state: ConnectivityState
    picker: Picker
    config: ServiceConfig
    resolved: bool = False
    selector: ConfigSelector | None = None


class PickerSlot:
    """A published picker, and those who wait for the next one.

    `publish` and `close` are called on the control loop (or, before it runs, by the thread that
    owns the channel); `current` may be read and `wait` called on any thread.
    """

    __slots__ = ("_lock", "_tokens", "_waiters", "current", "used")

    def __init__(self, config: ServiceConfig = EMPTY) -> None:
        self.current = Published(0, IDLE, QUEUE_PICKER, config)
        # Set by every RPC, cleared by the idle timer: a plain store costs less than a clock read.
        self.used = False
        self._lock = threading.RLock()
        self._tokens = itertools.count()
        self._waiters: dict[int, Callable[[], None]] = {}

    def publish(
        self,
        state: ConnectivityState,
        picker: Picker,
        config: ServiceConfig,
        *,
        resolved: bool = True,
        selector: ConfigSelector | None = None,
    ) -> None:
        """Swap the picker and wake everybody who waited for it."""
        with self._lock:
            if self.current.state is SHUTDOWN:
                return
            generation = self.current.generation + 1
            self.current = Published(generation, state, picker, config, resolved, selector)
            waiters, self._waiters = self._waiters, {}
        for wake in waiters.values():
            try:
                wake()
            except Exception:  # no thread can be started, say: that is one waiter's trouble
                _LOG.exception("a waiter for a backend could not be woken")

    def reset(self) -> None:
        """Back to IDLE with nobody waiting; in a forked child, whose waiters do not exist."""
        self._lock = threading.RLock()
        self._waiters = {}
        if self.current.state is not SHUTDOWN:
            config = self.current.config
            self.current = Published(self.current.generation + 1, IDLE, QUEUE_PICKER, config)

    def wait(self, generation: int, wake: Callable[[], None]) -> int:
        """Call `wake` once, on any thread, when a generation other than this one is current.

        Returns a token for `forget`. `wake` must not block; it may run before this returns.
        """
        with self._lock:
            token = next(self._tokens)
            if self.current.generation == generation and self.current.state is not SHUTDOWN:
                self._waiters[token] = wake
                return token
        wake()
        return token

    def forget(self, token: int) -> None:
        """Drop a wake-up that is not wanted any more."""
        with self._lock:
            self._waiters.pop(token, None)

    @property
    def waiting(self) -> int:
        """How many callers wait (for the snapshot and the cap on pending RPCs)."""
        return len(self._waiters)
