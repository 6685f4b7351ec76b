"""The members of one cluster: connections, whose turn it is, and the token of the user."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, TypeVar

import grpc
from grpc import StatusCode

from grpclb.resolvers.etcd import messages as m
from grpclb.resolvers.etcd.model import EtcdFailed, EtcdRefused
from grpclb.resolvers.etcd.settings import EtcdSettings
from grpclb.resolvers.rpc import ControlChannel, RpcFailed
from grpclb.resolvers.rpc_life import LIFE

T = TypeVar("T")
_LARGEST_MESSAGE = 64 << 20  # bytes
# With it a member that lost its leader says so; without, a partitioned one is silent for ever.
NEED_LEADER = ("hasleader", "true")
# Seconds between two Authenticate calls that nothing but a refusal asked for.
_AUTH_PAUSE = 1.0
_MOST_INTERRUPTIONS = 3  # by forks, of one call
_NEVER_LEFT = ("failed to connect to all addresses", "connections to all backends failing")
# What a member says that another one may be able to do.
_NEXT_MEMBER = frozenset(
    {StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED}
)


# "user name is empty": authentication was enabled after we learnt that it is not.
_AUTH_WORDS = ("auth token", "auth store is old", "user name is empty")


def token_may_be_old(code: StatusCode, details: str) -> bool:
    """Whether a refusal may mean that the token has expired.

    etcd 3.5 says "permission denied" of an expired token, too; others "invalid auth token"; a
    change of users or roles gives "revision of auth store is old".
    """
    if code in (StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED):
        return True
    return any(words in details for words in _AUTH_WORDS)


def parse(kind: Any, answer: bytes) -> Any:
    """A message from what etcd, or whatever answers in its place, has sent. Raises RpcFailed."""
    try:
        return kind.FromString(answer)
    except m.DecodeError:
        text = f"the answer is no {kind.DESCRIPTOR.name}; is this etcd?"
        raise RpcFailed(StatusCode.INTERNAL, text) from None


class Members:
    """See the module. One loop; calls may overlap."""

    def __init__(self, settings: EtcdSettings, random: Random) -> None:
        self.settings = settings
        self._channels: dict[str, ControlChannel] = {}
        self._stale: set[str] = set()  # failed with TLS: its next connection reads files again
        self._generation = LIFE.generation
        # Clients begin at different members.
        self._turn = random.randrange(len(settings.endpoints))
        self._token: str | None = None
        self._refused_token: str | None = None  # the one before: errors about it may still come
        self._token_number = 0  # counts tokens, so that calls side by side renew one only once
        self._auth_at = float("-inf")
        self._auth_off = False  # etcd says that authentication is not enabled
        self._auth_lock = asyncio.Lock()
        self.auth_pause = _AUTH_PAUSE

    @property
    def current(self) -> str:
        """The endpoint whose turn it is."""
        endpoints = self.settings.endpoints
        return endpoints[self._turn % len(endpoints)]

    def move_on(self, endpoint: str) -> None:
        """`endpoint` failed: it is the next one's turn, unless that was seen already."""
        if self.settings.tls:
            self._stale.add(endpoint)
        if endpoint == self.current:
            self._turn += 1

    def channel(self, endpoint: str) -> ControlChannel:
        """The connection to a member; made now if there is none."""
        if self._generation != LIFE.generation:  # the parent's connections are not ours
            self._channels, self._generation = {}, LIFE.generation
        if endpoint not in self._channels:
            self._channels[endpoint] = _connect(self.settings, endpoint)
        return self._channels[endpoint]

    async def _refresh(self, endpoint: str) -> None:
        """Close an idle connection whose certificates may have been renewed since it was made."""
        channel = self._channels.get(endpoint)
        if endpoint in self._stale and (channel is None or not channel.busy):
            self._stale.discard(endpoint)
            if channel is not None:
                del self._channels[endpoint]
                await channel.close()

    def failed(
        self, failure: RpcFailed, where: str, kind: type[EtcdFailed] = EtcdFailed, user: str = ""
    ) -> EtcdFailed:
        """An RPC's failure as the client's, with whose it is, if `user` is given."""
        details = user + self.redacted(failure.details)
        return kind(failure.code, details, where, interrupted=failure.interrupted)

    def redacted(self, text: str) -> str:
        """What etcd said, without secrets: a proxy or an etcd of another kind may send back what
        it was sent."""
        for secret in (self.settings.password, self._token, self._refused_token):
            if secret:
                # A whole word: a password that is a part of etcd's own words is not given away.
                text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
        return text

    async def close(self) -> None:
        while self._channels:
            _, channel = self._channels.popitem()
            await channel.close()

    # -- calls -----------------------------------------------------------------------------------

    async def unary(
        self,
        method: str,
        request: Any,
        response: Any,
        *,
        timeout: float,
        need_leader: bool = False,
        repeatable: bool = True,
    ) -> Any:
        """One RPC, at one member after the other, at each with a token of its time."""
        message = request.SerializeToString()

        async def at(endpoint: str, metadata: list[tuple[str, str]]) -> Any:
            if need_leader:
                metadata = [*metadata, NEED_LEADER]
            answer = await self.channel(endpoint).unary(
                method, message, timeout=timeout, metadata=metadata
            )
            return parse(response, answer)

        failure: EtcdFailed | None = None
        tried = 0
        for _ in range(len(self.settings.endpoints) + _MOST_INTERRUPTIONS):
            endpoint = self.current
            try:
                return await self.with_token(endpoint, at)
            except EtcdRefused:
                raise
            except EtcdFailed as error:
                tried += not error.interrupted
                if not error.interrupted and error.code in _NEXT_MEMBER:
                    self.move_on(endpoint)
                again = repeatable or error.details.startswith(_NEVER_LEFT)
                all_tried = tried == len(self.settings.endpoints)
                if error.code not in _NEXT_MEMBER or not again or all_tried:
                    raise
                failure = error
        assert failure is not None
        raise failure

    async def with_token(
        self, endpoint: str, call: Callable[[str, list[tuple[str, str]]], Awaitable[T]]
    ) -> T:
        """Do `call` with the metadata of the user; once more with a new token if refused.

        `call` raises RpcFailed; this raises EtcdFailed.
        """
        try:
            await self._refresh(endpoint)
            metadata, number = await self._credentials(endpoint)
            try:
                return await call(endpoint, metadata)
            except RpcFailed as refusal:
                if not token_may_be_old(refusal.code, refusal.details):
                    raise
                if not await self._renew(endpoint, number):
                    raise self.failed(refusal, endpoint, EtcdRefused) from None
            metadata, _ = await self._credentials(endpoint)
            return await call(endpoint, metadata)
        except RpcFailed as failure:
            kind = EtcdRefused if token_may_be_old(failure.code, failure.details) else EtcdFailed
            raise self.failed(failure, endpoint, kind) from None

    # -- the user --------------------------------------------------------------------------------

    async def _credentials(self, endpoint: str) -> tuple[list[tuple[str, str]], int]:
        """Metadata with the token, and the token's number."""
        if self.settings.user is None or self._auth_off:
            return [], self._token_number
        async with self._auth_lock:
            if self._token is None:
                await self._authenticate(endpoint)
        token = self._token
        return ([] if token is None else [("token", token)]), self._token_number

    async def _renew(self, endpoint: str, number: int) -> bool:
        """A new token after token `number` was refused; False if there is none to be had now."""
        if self.settings.user is None:
            return False
        async with self._auth_lock:
            if self._token_number != number:
                return True  # another call has renewed it
            # A user without the permission is refused every time: no storm of Authenticate.
            if asyncio.get_running_loop().time() - self._auth_at < self.auth_pause:
                return False
            await self._authenticate(endpoint)
            return True

    async def _authenticate(self, endpoint: str) -> None:
        settings = self.settings
        request = m.AuthenticateRequest(name=settings.user, password=settings.password)
        self._auth_at = asyncio.get_running_loop().time()
        self._refused_token = self._token
        self._token, self._auth_off = None, False
        try:
            answer = await self.channel(endpoint).unary(
                m.AUTHENTICATE, request.SerializeToString(), timeout=settings.timeout
            )
        except RpcFailed as failure:
            if "authentication is not enabled" in failure.details:
                self._auth_off = True
                self._token_number += 1
                return
            if failure.code not in _NEXT_MEMBER:
                user = f"user {settings.user!r}: "
                raise self.failed(failure, endpoint, EtcdRefused, user) from None
            raise
        self._token = parse(m.AuthenticateResponse, answer).token
        self._token_number += 1


def _connect(settings: EtcdSettings, endpoint: str) -> ControlChannel:
    options: list[tuple[str, str | int]] = [
        ("grpc.keepalive_time_ms", round(settings.keepalive_time * 1000)),
        ("grpc.keepalive_timeout_ms", round(settings.keepalive_timeout * 1000)),
        # Without it a frozen member is noticed after 60 s, whatever the two above say.
        ("grpc.http2.ping_timeout_ms", round(settings.keepalive_timeout * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
    ]
    if settings.server_name is not None:
        options.append(("grpc.ssl_target_name_override", settings.server_name))
    credentials = None
    if settings.tls:
        try:
            credentials = grpc.ssl_channel_credentials(*settings.pem())
        except ValueError as error:
            raise RpcFailed(StatusCode.UNAVAILABLE, str(error)) from None
    return ControlChannel(f"dns:///{endpoint}", credentials, options)
