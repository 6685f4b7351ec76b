"""A request stream that several attempts read from its first message on, within a budget."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from grpclb.control.method import MethodHandle
from grpclb.control.retries import ReplayBudget
from grpclb.sync.arguments import serialized
from grpclb.sync.errors import RpcFailure


class ReplayedRequests:
    """The serialized messages of one RPC. grpcio reads each attempt's on a thread of its own.

    Until `commit`, every message is kept; then only the winner's next ones. Once a message did not
    fit, `on_overflow` is called with the serial of each attempt that reads on, first the one
    furthest ahead, until one of them commits the RPC: an attempt that has ended cannot.
    """

    def __init__(
        self,
        source: Iterator[Any],
        method: MethodHandle,
        limit: int,
        budget: ReplayBudget,
        on_overflow: Callable[[int], None],
    ) -> None:
        self._source = source
        self._method = method
        self._limit = limit
        self._budget = budget
        self._on_overflow = on_overflow
        self._pulling = threading.Lock()  # held while the user's iterator works
        # Re-entrant: a garbage collection may drop the call, and so close this, while it is held.
        self._lock = threading.RLock()
        self._kept: list[bytes] = []
        self._dropped = 0  # messages before the first one kept
        self._size = 0
        self._overflowed = False
        self._winner: int | None = None
        self._ended: BaseException | None = None

    def attempt(self, serial: int) -> Iterator[bytes | None]:
        """The messages for an attempt, from the first on; None: the next has no bytes."""
        position = 0
        while self._is_wanted(serial):
            if self._overflowed and self._winner is None:
                self._on_overflow(serial)
            message = self._at(serial, position)
            if message is None:
                with self._pulling:
                    self._pull(position)
                if self._ended is not None and self._at(serial, position) is None:
                    if isinstance(self._ended, StopIteration):
                        return
                    if isinstance(self._ended, RpcFailure):
                        # What grpcio takes for a failed serializer, and ends its attempt with.
                        yield None
                        return
                    raise self._ended
                continue
            position += 1
            yield message

    def commit(self, serial: int) -> None:
        """This attempt is the RPC: the others' iterators end, and nothing is kept any more."""
        with self._lock:
            if self._winner is None:
                self._winner = serial
                self._budget.give(self._size)
                self._size = 0

    def close(self) -> None:
        """The RPC is over."""
        self.commit(-1)

    def _is_wanted(self, serial: int) -> bool:
        return self._winner is None or self._winner == serial

    def _at(self, serial: int, position: int) -> bytes | None:
        with self._lock:
            index = position - self._dropped
            if index >= len(self._kept):
                return None
            if self._winner == serial and index:
                del self._kept[:index]
                self._dropped += index
                index = 0
            return self._kept[index]

    def _pull(self, position: int) -> None:
        """Read on, unless another attempt has done so meanwhile."""
        with self._lock:
            if position < self._dropped + len(self._kept) or self._ended is not None:
                return
        try:
            message = serialized(self._method, next(self._source))
        except BaseException as error:
            self._ended = error
            return
        with self._lock:
            self._kept.append(message)
            if self._winner is not None:
                return
            size = len(message)
            if self._size + size > self._limit or not self._budget.take(size):
                self._overflowed = True
            elif self._winner is not None:  # a garbage collection closed this just now
                self._budget.give(size)
            else:
                self._size += size
