"""A registration at work: obeys its Registrar, on one asyncio loop."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, assert_never

from grpc import StatusCode

from grpclb.resolvers.etcd.model import EtcdFailed, EtcdRefused
from grpclb.resolvers.etcd.plan import Plan
from grpclb.resolvers.etcd.registrar import (
    Finished,
    Grant,
    KeepAlive,
    Look,
    Put,
    Registrar,
    RegistrationState,
    Revoke,
    Step,
    Wait,
)
from grpclb.resolvers.etcd.table import shown

if TYPE_CHECKING:
    from grpclb.resolvers.etcd.client import EtcdClient

_LOG = logging.getLogger("grpclb.etcd")
_CLOSE_PATIENCE = 2.0  # seconds for etcd to take the key away; then its lease ends by itself
_TAKEN = "lease already exists"
# To ask again will not help; somebody has to change something.
_FINAL = frozenset(
    {StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED, StatusCode.INVALID_ARGUMENT}
)


class RegistrationError(Exception):
    """A service could not be registered for the first time. Says what, where, and why."""


class Registrant:
    """Does what a Registrar asks for, on the running loop. `start` once, `close` as one likes."""

    def __init__(self, plan: Plan, metadata: Mapping[str, Any] | None) -> None:
        """Raises ImportError, naming the extra, where protobuf is missing."""
        # Here, as the import takes a while: not on the loop.
        from grpclb.resolvers.etcd.client import EtcdClient

        self.plan = plan
        self._random = Random()
        self._make_client = partial(EtcdClient, plan.settings, self._random)
        self._registrar = Registrar(plan.value(metadata), plan.ttl, self._random)
        self._state = RegistrationState.NEW
        self._pid = os.getpid()
        self._client: EtcdClient | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []
        self._final: EtcdFailed | None = None
        self._closing: asyncio.Task[None] | None = None

    # -- any thread ------------------------------------------------------------------------------

    @property
    def state(self) -> RegistrationState:
        return self._state

    @property
    def error(self) -> str | None:
        return self._registrar.error

    @property
    def lease(self) -> int | None:
        return self._registrar.lease

    def replace(self, value: bytes) -> None:
        """As `update`, before `start`."""
        self._registrar.update(value)

    # -- the loop --------------------------------------------------------------------------------

    async def start(self, timeout: float, *, keep_trying: bool) -> None:
        """Register. Raises RegistrationError after `timeout` seconds, or `keep_trying` for ever."""
        if self._state is not RegistrationState.NEW:
            raise RuntimeError(f"{self}: a registration is entered once; make a new one")
        self._state = RegistrationState.REGISTERING
        self._client = self._make_client()
        self._task = asyncio.create_task(self._run(self._client), name="grpclb-etcd-registration")
        if keep_trying:
            return
        try:
            if not await self.settled(timeout):
                raise RegistrationError(
                    f"{self.plan.target}: could not register {self.plan.address} as key "
                    f"{shown(self.plan.key)!r}: {self.error or f'no answer within {timeout:g} s'}"
                )
        except BaseException:
            await self.close()
            raise

    def update(self, value: bytes) -> None:
        self._registrar.update(value)
        self._wake.set()

    async def settled(self, timeout: float | None) -> bool:
        """Wait until etcd has what was last asked for; False if it has not by then, or refuses."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                while not self._registrar.settled:
                    over = self._state is RegistrationState.CLOSED
                    if over or (self._final and self._state is RegistrationState.REGISTERING):
                        return False
                    waiter = loop.create_future()
                    self._waiters.append(waiter)
                    await waiter
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Take the key away, and give everything back. Never raises; about 2 s where etcd is away.

        Called again while it works, it waits for that: who returns may end the loop. For the same
        reason it is seen through when the caller is cancelled, as often as may be; the cancellation
        is raised after it. In a forked child it does nothing: the key belongs to the parent.
        """
        if self._pid != os.getpid():
            return
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="grpclb-etcd-deregistration")
        cancelled: asyncio.CancelledError | None = None
        while not self._closing.done():
            try:
                await asyncio.wait([self._closing])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        if not self._closing.cancelled():  # else by the loop, which ends
            self._closing.result()

    async def _close(self) -> None:
        was, self._state = self._state, RegistrationState.CLOSED
        self._registrar.close()
        self._tell_waiters()
        if self._task is None or self._client is None:
            return
        try:
            self._task.cancel()
            await asyncio.wait([self._task])
            await self._revoke(self._client, was)
        finally:
            await self._client.close()

    def __str__(self) -> str:
        return f"{self.plan.target}: {shown(self.plan.key)}"

    # -- what is done about it -------------------------------------------------------------------

    async def _run(self, client: EtcdClient) -> None:
        loop = asyncio.get_running_loop()
        while self._pid == os.getpid():
            step = self._registrar.step(loop.time())
            if isinstance(step, Wait):
                await self._sleep(step.seconds)
                continue
            asked_at = loop.time()
            try:
                await self._do(client, step, asked_at)
            except EtcdFailed as failure:
                self._failed(step, failure, loop.time())
            except Exception as error:  # ours; the user's program goes on, and so does this
                _LOG.exception("%s: %s failed", self, type(step).__name__)
                self._registrar.failed(loop.time(), f"{type(error).__name__}: {error}")
            self._look_at_state()

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _do(self, client: EtcdClient, step: Step, asked_at: float) -> None:
        loop, registrar, key = asyncio.get_running_loop(), self._registrar, self.plan.key
        match step:
            case Grant(lease, ttl):
                try:
                    granted = await client.lease_grant(ttl, lease=lease)
                except EtcdFailed as failure:
                    if _TAKEN not in failure.details:
                        raise
                    registrar.granted(asked_at, 0)  # by an attempt before: kept alive at once
                else:
                    registrar.granted(asked_at, granted.ttl)
            case Put(lease, value):
                await client.put(key, value, lease=lease)
                registrar.put(loop.time(), value)
            case KeepAlive(lease):
                # A stream for each: a moment's work, and no thread that waits in between.
                async with client.keep_alive(lease) as stream:
                    registrar.kept_alive(asked_at, await stream.ping())
            case Look():
                found = await client.get(key)
                if found is None:
                    registrar.looked(loop.time(), None)
                else:
                    registrar.looked(loop.time(), found.lease, found.value)
            case Wait() | Revoke() | Finished():
                raise AssertionError(f"not to be done here: {step}")
            case never:
                assert_never(never)

    def _failed(self, step: Step, failure: EtcdFailed, now: float) -> None:
        if failure.interrupted:
            return
        if isinstance(step, Put) and failure.code is StatusCode.NOT_FOUND:
            self._registrar.lease_lost(now)
            return
        if isinstance(failure, EtcdRefused) or failure.code in _FINAL:
            self._final = failure
        self._registrar.failed(now, str(failure))

    async def _revoke(self, client: EtcdClient, was: RegistrationState) -> None:
        step = self._registrar.step(asyncio.get_running_loop().time())
        if not isinstance(step, Revoke):
            return
        error: object
        try:
            async with asyncio.timeout(_CLOSE_PATIENCE):
                await client.lease_revoke(step.lease)
        except TimeoutError:
            error = f"no answer within {_CLOSE_PATIENCE:g} s"
        except EtcdFailed as failure:
            error = failure
        else:
            _LOG.info("%s: deregistered", self)
            return
        finally:
            self._registrar.revoked()
        if was is not RegistrationState.REGISTERING:
            _LOG.warning(
                "%s: could not be deregistered (%s); it ends with its lease, within %d s",
                self, error, self.plan.ttl,
            )  # fmt: skip

    def _look_at_state(self) -> None:
        """Tell of a change, and whoever waits for one."""
        if self._state is RegistrationState.CLOSED:
            return
        was, self._state = self._state, self._registrar.state
        if self._state is not was:
            match self._state:
                case RegistrationState.REGISTERED:
                    _LOG.info("%s: registered under lease %s", self, self._registrar.lease)
                case RegistrationState.RECOVERING:
                    _LOG.warning("%s: %s; trying again", self, self._registrar.error)
        self._tell_waiters()

    def _tell_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
