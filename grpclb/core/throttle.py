"""Retry throttling (gRFC A6): one bucket of tokens that all RPCs of a channel fill and empty.

Tokens are counted in thousandths, as integers: `tokenRatio` has three decimals, and ten times 0.1
must be 1 when the sum is compared with the threshold.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from grpclb.core.retry_config import RetryThrottling

_TOKEN = 1000


class Throttle:
    """The bucket of one channel. It starts full; retries stop at half of it or less.

    `lock` is held while the bucket changes: a `threading.Lock()` where RPCs run on many threads,
    a `contextlib.nullcontext()` where one event loop runs them all. With it, every method may be
    called from any thread. A full bucket, so a healthy channel, takes no lock on success.
    """

    __slots__ = ("_config", "_level", "_lock", "_most", "_reward")

    def __init__(self, config: RetryThrottling, lock: AbstractContextManager[object]) -> None:
        self._lock = lock
        self._config = config
        self._most = self._level = config.max_tokens * _TOKEN
        self._reward = _reward(config)

    @property
    def config(self) -> RetryThrottling:
        """What the service config asks for."""
        return self._config

    @property
    def tokens(self) -> float:
        """How full the bucket is, 0 to `config.max_tokens`."""
        return self._level / _TOKEN

    @property
    def allows(self) -> bool:
        """Whether a retry, or a hedged copy but the first, may go out now."""
        return self._level * 2 > self._most

    def record_success(self) -> None:
        """An RPC of any method ended OK: `tokenRatio` more."""
        # Read without the lock: to a bucket seen full, a success adds nothing, then or now.
        if self._level >= self._most:
            return
        with self._lock:
            self._level = min(self._level + self._reward, self._most)

    def record_failure(self) -> bool:
        """An attempt failed with a code to retry, or the server asked not to: one token less.

        Returns `allows` as it is right after that, whatever other threads do meanwhile.
        """
        with self._lock:
            self._level = max(self._level - _TOKEN, 0)
            return self._level * 2 > self._most

    def reconfigure(self, config: RetryThrottling) -> None:
        """A new service config: equal values change nothing, others keep how full it is in parts.

        RPCs under way see the new values at once.
        """
        with self._lock:
            most = config.max_tokens * _TOKEN
            self._level = self._level * most // self._most
            self._most = most
            self._reward = _reward(config)
            self._config = config

    def __repr__(self) -> str:
        most, state = self._config.max_tokens, "" if self.allows else " (throttled)"
        return f"<Throttle {self.tokens:g} of {most} tokens{state}>"


def _reward(config: RetryThrottling) -> int:
    """`tokenRatio` in thousandths; more than the bucket holds is no more than a full one."""
    return round(min(config.token_ratio, config.max_tokens) * _TOKEN)
