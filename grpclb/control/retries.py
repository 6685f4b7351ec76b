"""What the RPCs of one channel share for their retries: the throttle and the source of chance."""

from __future__ import annotations

import threading
from random import Random

from grpclb.control.options import ChannelOptions
from grpclb.core.attempts import CallAttempts
from grpclb.core.method_config import MethodConfig
from grpclb.core.service_config import ServiceConfig
from grpclb.core.throttle import Throttle


class ReplayBudget:
    """Bytes that all RPCs of a channel may keep for replay together (gRFC A6). Any thread."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        # Re-entrant: a call that a garbage collection drops gives back from anywhere.
        self._lock = threading.RLock()

    def take(self, size: int) -> bool:
        """Reserve; False when the channel has no room."""
        with self._lock:
            if self._used + size > self._limit:
                return False
            self._used += size
            return True

    @property
    def used(self) -> int:
        """Bytes that are reserved now."""
        return self._used

    def give(self, size: int) -> None:
        with self._lock:
            self._used -= size


class Retries:
    """Per channel, as in grpc-go: gRFC A6 counts per server name, and a channel has one target.

    Any thread.
    """

    __slots__ = ("_enabled", "_lock", "_random", "_throttle")

    def __init__(self, options: ChannelOptions) -> None:
        self._enabled = options.retries
        self._lock = threading.Lock()
        self._random = Random()
        self._throttle: Throttle | None = None

    def wanted(self, config: ServiceConfig, method: MethodConfig) -> bool:
        """Whether an RPC needs a machine: a policy of its own, or a throttle that counts it."""
        if not self._enabled:
            return False
        return (
            method.retry is not None
            or method.hedging is not None
            or config.retry_throttling is not None
        )

    def machine(
        self, config: ServiceConfig, method: MethodConfig, deadline: float | None
    ) -> CallAttempts:
        """The machine of one RPC."""
        throttle = self._throttle_of(config)
        return CallAttempts(method.retry, method.hedging, throttle, deadline, self._random)

    def record_success(self, config: ServiceConfig) -> None:
        """An RPC ended well with its first attempt, for which no machine was made."""
        throttle = self._throttle_of(config)
        if throttle is not None:
            throttle.record_success()

    def _throttle_of(self, config: ServiceConfig) -> Throttle | None:
        wanted, throttle = config.retry_throttling, self._throttle
        if wanted is None:
            return None
        if throttle is None or throttle.config != wanted:
            with self._lock:
                if self._throttle is None:
                    self._throttle = Throttle(wanted, threading.Lock())
                self._throttle.reconfigure(wanted)
                throttle = self._throttle
        return throttle

    def reset_lock(self) -> None:
        """In a forked child locks may be held by threads that do not exist."""
        self._lock = threading.Lock()
        self._throttle = None
