"""One log line per cause and minute: a mistake that repeats must not fill a disk."""

from __future__ import annotations

import logging

from grpclb.core.clock import Clock

_EVERY = 60.0  # seconds
_MOST_CAUSES = 256


class Reporter:
    """Logs the mistakes of user code (resolvers, policies). Control loop only."""

    def __init__(self, logger: logging.Logger, name: str, clock: Clock) -> None:
        self._logger = logger
        self._name = name
        self._clock = clock
        self._last: dict[str, float] = {}

    def report(
        self, cause: str, text: str, *, level: int = logging.ERROR, trace: bool = False
    ) -> None:
        """Log a mistake, with the traceback of the exception under way if `trace`."""
        now = self._clock.now()
        if now - self._last.get(cause, float("-inf")) < _EVERY:
            return
        if len(self._last) >= _MOST_CAUSES:
            del self._last[next(iter(self._last))]
        self._last[cause] = now
        self._logger.log(level, "%s: %s", self._name, text, exc_info=trace)
