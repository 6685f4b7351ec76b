"""Response streams that are retried or hedged: who reads a message commits the RPC to it."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import grpc

from grpclb.control.method import (
    MethodHandle,
)
from grpclb.sync.arguments import CallArguments
from grpclb.sync.engine import Engine
from grpclb.sync.retried_call import RetriedCall
from grpclb.sync.tries import Try


class RetriedStream(RetriedCall):
    """A response stream with a retry or hedging policy."""

    def __init__(
        self,
        engine: Engine,
        method: MethodHandle,
        arguments: CallArguments,
        hedged: bool,
    ) -> None:
        super().__init__(engine, method, arguments, hedged)
        self._read_ahead: list[Any] = []  # the first message of the hedged stream that won

    def _sent(self, one: Try) -> None:
        super()._sent(one)
        if self._hedged:
            one.reading = True
            threading.Thread(
                target=_read_first, args=(weakref.ref(self), one), name="grpclb-hedge", daemon=True
            ).start()

    def __next__(self) -> Any:
        while True:
            inner = self._arrived()
            if self._hedged:
                self._await_first_read(inner)
            if self._read_ahead:
                return self._read_ahead.pop()
            one = None if self._machine.committed is not None else self._start_reading(inner)
            try:
                message = next(inner)
            except StopIteration:
                self._stop_reading(one)
                self._settle(inner)
                raise
            except grpc.RpcError:
                self._stop_reading(one)
                if self._settle(inner):
                    raise self from None
            else:
                if one is not None:
                    self.commit_to(one.attempt.serial)
                    self._stop_reading(one)
                return message

    def _await_first_read(self, inner: Any) -> None:
        """The first message is read beside us, and grpcio allows one reader at a time.

        An attempt can win before that: a request that is too large to keep commits it at once.
        """
        with self._arrival:
            one = self._tries.get(self._serial_of(inner))
            if one is not None:
                self._arrival.wait_for(lambda: not one.reading)

    def _start_reading(self, inner: Any) -> Try | None:
        """Until it is known whether there is a message, nobody else says how the attempt ended."""
        with self._arrival:
            one = self._tries.get(self._serial_of(inner))
            if one is None or one.ended:
                return None
            one.reading = True
            return one

    def _stop_reading(self, one: Try | None) -> None:
        if one is None:
            return
        with self._arrival:
            one.reading = False
            pending, one.end_pending = one.end_pending, False
            if self._hedged:
                self._arrival.notify_all()
        if pending:
            self._try_is_over(one)


def _read_first(reference: weakref.ref[RetriedStream], one: Try) -> None:
    """Whether a hedged stream has a message is known only by reading it."""
    inner = one.inner
    try:
        message = [next(inner)]
    except (StopIteration, grpc.RpcError):
        message = []
    call = reference()
    if call is None:
        return
    with call._arrival:
        if message and not one.cancelled and call._machine.committed in (None, one.attempt):
            call._read_ahead = message
            call.commit_to(one.attempt.serial)
    call._stop_reading(one)
