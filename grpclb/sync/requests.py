"""A request iterator that several attempts of one RPC can read, one after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any


class Requests:
    """The user's request iterator, read by the attempt that is current.

    grpcio reads the iterator of an attempt on a thread of its own and asks for a message when the
    one before it was sent. A message that was read for an attempt which never left the client is
    handed to the next attempt: nothing is lost, nothing is sent twice.
    """

    def __init__(self, source: Iterator[Any]) -> None:
        self.source = source
        self._lock = threading.Lock()
        self._unsent: list[Any] = []
        self._reader = 0
        self._ended: BaseException | None = None

    def attempt(self) -> Iterator[Any]:
        """The messages for a new attempt; the iterators of earlier ones end."""
        self._reader += 1
        return self._read(self._reader)

    def _read(self, reader: int) -> Iterator[Any]:
        position = 0
        while True:
            with self._lock:
                if reader != self._reader:
                    return
                if position and self._unsent:
                    # It asks for more, so what it had is on its way.
                    del self._unsent[:position]
                    position = 0
                if not self._unsent and not self._pull():
                    return
                if reader != self._reader:
                    return
                message = self._unsent[0]
                position = 1
            yield message

    def _pull(self) -> bool:
        if self._ended is not None:
            if isinstance(self._ended, StopIteration):
                return False
            raise self._ended
        try:
            self._unsent.append(next(self.source))
        except StopIteration as end:
            self._ended = end
            return False
        except BaseException as error:
            self._ended = error
            raise
        return True
