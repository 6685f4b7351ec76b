"""A small etcd client for one asyncio loop: what resolving and registering need, and no more.

Every method is one RPC, tried at one member after the other; it raises EtcdFailed when all have
failed. Streams (`watch`, `keep_alive`) are tried at one member and end with EtcdFailed; the next
one begins at the next member. There is no background task: who uses the client decides when to
try again.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from grpc import StatusCode

from grpclb.resolvers.etcd import messages as m
from grpclb.resolvers.etcd.members import Members
from grpclb.resolvers.etcd.model import EtcdFailed, KeyValue, LeaseGrant, Listing
from grpclb.resolvers.etcd.settings import EtcdSettings
from grpclb.resolvers.etcd.streams import KeepAlive, Watch

__all__ = ["EtcdClient", "EtcdFailed", "KeyValue", "LeaseGrant", "Listing"]

_PAGE = 1_000  # keys of one Range response
# How long one member may take to answer a list that needs a quorum before others are asked, and
# then the members by themselves: a member that lost its leader is silent.
_QUORUM_PATIENCE = 1.5


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all keys that begin with `prefix`, as etcd's ranges want it."""
    head = prefix.rstrip(b"\xff")
    return head[:-1] + bytes([head[-1] + 1]) if head else b"\0"


class EtcdClient:
    """See the module. Made and used on one loop; `close` gives everything back."""

    def __init__(self, settings: EtcdSettings, random: Random | None = None) -> None:
        self.settings = settings
        self._members = Members(settings, random or Random())

    def __repr__(self) -> str:
        return f"<EtcdClient {', '.join(self.settings.endpoints)}>"

    async def close(self) -> None:
        """Cancel what is under way, and give connections and threads back. Repeating is fine."""
        await self._members.close()

    async def __aenter__(self) -> EtcdClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- keys ------------------------------------------------------------------------------------

    async def get(self, key: bytes) -> KeyValue | None:
        """The key, or None."""
        request = m.RangeRequest(key=key)
        response = await self._call(m.RANGE, request, m.RangeResponse)
        return _key_value(response.kvs[0]) if response.kvs else None

    async def list(self, prefix: bytes, *, limit: int = 50_000, fall_back: bool = False) -> Listing:
        """The keys that begin with `prefix`, at one revision, in their order.

        With `fall_back` a cluster without a quorum is asked for what its members know.
        """
        try:
            patience = min(_QUORUM_PATIENCE, self.settings.timeout) if fall_back else None
            return await self._list(prefix, limit, serializable=False, timeout=patience)
        except EtcdFailed as failure:
            if not fall_back or failure.code not in _NO_QUORUM:
                raise
            try:
                return await self._list(prefix, limit, serializable=True, timeout=None)
            except EtcdFailed:
                raise failure from None

    async def _list(
        self, prefix: bytes, limit: int, *, serializable: bool, timeout: float | None
    ) -> Listing:
        items: list[KeyValue] = []
        request = m.RangeRequest(key=prefix, range_end=prefix_end(prefix))
        request.serializable = serializable
        while True:
            request.limit = min(_PAGE, limit - len(items))
            response = await self._call(
                m.RANGE, request, m.RangeResponse, timeout=timeout, need_leader=not serializable
            )
            items += map(_key_value, response.kvs)
            # All pages are of one revision, whatever changes meanwhile.
            request.revision = request.revision or response.header.revision
            if not response.more or not response.kvs or len(items) >= limit:
                complete = not response.more
                return Listing(request.revision, tuple(items), complete, serializable)
            request.key = response.kvs[-1].key + b"\0"

    async def put(self, key: bytes, value: bytes, *, lease: int = 0) -> int:
        """Set the key; the revision at which it was done. May be done twice on a failure."""
        request = m.PutRequest(key=key, value=value, lease=lease)
        return _revision(await self._call(m.PUT, request, m.PutResponse))

    async def delete(self, key: bytes) -> int:
        """Delete one key; the number of keys deleted, 0 or 1."""
        request = m.DeleteRangeRequest(key=key)
        response = await self._call(m.DELETE_RANGE, request, m.DeleteRangeResponse)
        deleted: int = response.deleted
        return deleted

    async def txn(
        self, compare: Sequence[Any], success: Sequence[Any], failure: Sequence[Any] = ()
    ) -> Any:
        """A transaction of `messages.Compare` and `messages.RequestOp`; its `TxnResponse`.

        Tried at the next member only when it has not left this process: it is not done twice.
        """
        request = m.TxnRequest(compare=compare, success=success, failure=failure)
        return await self._call(m.TXN, request, m.TxnResponse, repeatable=False)

    # -- leases ----------------------------------------------------------------------------------

    async def lease_grant(self, ttl: int, *, lease: int = 0) -> LeaseGrant:
        """A new lease of `ttl` seconds; `lease` is its id, else etcd chooses one.

        A failure may leave a lease that nobody uses, until it expires. An id that is taken fails
        with FAILED_PRECONDITION.
        """
        request = m.LeaseGrantRequest(TTL=ttl, ID=lease)
        response = await self._call(m.LEASE_GRANT, request, m.LeaseGrantResponse)
        if response.error:
            said = self._members.redacted(response.error)
            raise EtcdFailed(StatusCode.UNKNOWN, said, "lease grant")
        return LeaseGrant(response.ID, response.TTL)

    async def lease_revoke(self, lease: int) -> bool:
        """End the lease and delete its keys; False when there was none."""
        request = m.LeaseRevokeRequest(ID=lease)
        try:
            await self._call(m.LEASE_REVOKE, request, m.LeaseRevokeResponse)
        except EtcdFailed as failure:
            if failure.code is StatusCode.NOT_FOUND:
                return False
            raise
        return True

    def keep_alive(self, lease: int) -> KeepAlive:
        """A stream that keeps a lease alive: ``async with client.keep_alive(id) as stream``."""
        return KeepAlive(self._members, lease)

    # -- watching --------------------------------------------------------------------------------

    def watch(self, prefix: bytes, start_revision: int) -> Watch:
        """A stream of what happens to keys of `prefix` at `start_revision` and later."""
        return Watch(self._members, prefix, prefix_end(prefix), start_revision)

    async def _call(
        self,
        method: str,
        request: Any,
        response: Any,
        *,
        timeout: float | None = None,
        need_leader: bool = False,
        repeatable: bool = True,
    ) -> Any:
        return await self._members.unary(
            method,
            request,
            response,
            timeout=timeout or self.settings.timeout,
            need_leader=need_leader,
            repeatable=repeatable,
        )


_NO_QUORUM = frozenset({StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED})


def _key_value(kv: Any) -> KeyValue:
    return KeyValue(kv.key, kv.value, kv.mod_revision, kv.create_revision, kv.lease)


def _revision(response: Any) -> int:
    revision: int = response.header.revision
    return revision
