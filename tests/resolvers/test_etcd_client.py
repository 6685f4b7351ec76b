"""The etcd client against a scripted etcd: fail-over, users, watches that end in every way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from grpclb.resolvers.etcd import messages as m
from grpclb.resolvers.etcd.client import EtcdClient, prefix_end
from grpclb.resolvers.etcd.model import EtcdCompacted, EtcdFailed, Event, KeyValue, LeaseGrant
from grpclb.resolvers.etcd.settings import EtcdSettings
from tests.support.fake_etcd import FakeEtcd
from tests.support.tls import Authority

pytestmark = pytest.mark.slow
SECRET = "canary-password"


@pytest.fixture
def etcd() -> Iterator[FakeEtcd]:
    with FakeEtcd() as etcd:
        yield etcd


@pytest.fixture
async def client(etcd: FakeEtcd) -> AsyncIterator[EtcdClient]:
    async with EtcdClient(EtcdSettings.of(etcd.endpoint, timeout=10)) as client:
        yield client


def settings(*etcds: FakeEtcd, user: str | None = None, **more: Any) -> EtcdSettings:
    if user is not None:
        more |= {"user": user, "password": SECRET, "allow_plaintext_auth": True}
    return EtcdSettings.of([etcd.endpoint for etcd in etcds], **{"timeout": 10, **more})


async def until(condition: Callable[[], bool], patience: float = 10.0) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


# ---- keys and leases


async def test_keys(client: EtcdClient) -> None:
    assert await client.get(b"s/a") is None
    revision = await client.put(b"s/a", b"1")
    assert await client.get(b"s/a") == KeyValue(b"s/a", b"1", revision)
    assert await client.delete(b"s/a") == 1
    assert await client.delete(b"s/a") == 0
    assert "127.0.0.1" in repr(client)


def test_prefixes_end() -> None:
    assert prefix_end(b"s/") == b"s0"
    assert prefix_end(b"a\xff\xff") == b"b"
    assert prefix_end(b"\xff") == b"\0"


async def test_long_lists_come_in_pages_of_one_revision(client: EtcdClient, etcd: FakeEtcd) -> None:
    for number in range(2_300):
        etcd.put(f"s/{number:05}", "x")
    listed_at = etcd.revision
    etcd.page_hook = lambda: etcd.put("t/other", "changes meanwhile")
    listing = await client.list(b"s/")
    assert [item.key for item in listing.items] == [b"s/%05d" % n for n in range(2_300)]
    assert (listing.revision, listing.complete) == (listed_at, True)
    assert etcd.calls["Range"] == 3
    cut = await client.list(b"s/", limit=1_500)
    assert (len(cut.items), cut.complete) == (1_500, False)


async def test_leases(client: EtcdClient, etcd: FakeEtcd) -> None:
    lease = await client.lease_grant(1)
    assert lease == LeaseGrant(lease.id, 2)
    assert await client.lease_grant(5, lease=77) == LeaseGrant(77, 5)
    await client.put(b"s/a", b"1", lease=lease.id)
    async with client.keep_alive(lease.id) as stream:
        assert [await stream.ping(), await stream.ping()] == [5, 5]
        assert await client.lease_revoke(lease.id)
        assert await stream.ping() == 0
    assert not await client.lease_revoke(lease.id)
    assert await client.get(b"s/a") is None
    with pytest.raises(EtcdFailed) as caught:
        await client.put(b"s/a", b"1", lease=12345)
    assert caught.value.code is StatusCode.NOT_FOUND


async def test_transactions(client: EtcdClient, etcd: FakeEtcd) -> None:
    put = m.RequestOp(request_put=m.PutRequest(key=b"s/a", value=b"1"))
    assert (await client.txn([], [put])).succeeded
    assert etcd.calls["Txn"] == 1


# ---- several members


async def test_a_dead_member_is_passed_over() -> None:
    with FakeEtcd() as one, FakeEtcd() as other:
        one.put("s/a", "x")
        other.put("s/a", "x")
        both = settings(one, other)
        one.stop()
        for _ in range(4):  # whoever begins
            async with EtcdClient(both) as client:
                assert len((await client.list(b"s/")).items) == 1
        other.stop()
        async with EtcdClient(both) as client:
            with pytest.raises(EtcdFailed) as caught:
                await client.list(b"s/")
            assert caught.value.code is StatusCode.UNAVAILABLE
            assert "refused" in caught.value.details


async def test_a_refusal_is_final(client: EtcdClient, etcd: FakeEtcd) -> None:
    etcd.put_fails = StatusCode.INVALID_ARGUMENT
    with FakeEtcd() as other:
        async with EtcdClient(settings(etcd, other)) as client:
            client._members._turn = 0
            with pytest.raises(EtcdFailed, match="INVALID_ARGUMENT: as the test wants"):
                await client.put(b"s/a", b"")
            assert other.calls["Put"] == 0


async def test_what_may_have_been_done_is_repeated_only_if_that_is_harmless() -> None:
    with FakeEtcd() as one, FakeEtcd() as other:
        one.put_fails = StatusCode.UNAVAILABLE
        async with EtcdClient(settings(one, other)) as client:
            client._members._turn = 0
            assert await client.put(b"s/a", b"") == 2  # by the other one
            client._members._turn = 0
            with pytest.raises(EtcdFailed, match="UNAVAILABLE"):
                await client.txn([], [])
            assert other.calls == {"Put": 1}


async def test_without_a_quorum_members_tell_what_they_know(
    client: EtcdClient, etcd: FakeEtcd
) -> None:
    etcd.put("s/a", "x")
    etcd.leader = False
    with pytest.raises(EtcdFailed, match="no leader"):
        await client.list(b"s/")
    listing = await client.list(b"s/", fall_back=True)
    assert (len(listing.items), listing.serializable) == (1, True)
    assert etcd.serializable == 1
    etcd.leader = True
    assert not (await client.list(b"s/", fall_back=True)).serializable


async def test_what_is_no_message_is_a_failure(client: EtcdClient, etcd: FakeEtcd) -> None:
    async with client.watch(b"s/", 2) as watch, client.keep_alive(1) as stream:
        await stream.ping()
        etcd.garbage = b"\xff\xff\xff"
        etcd.put("s/a", "1")

        async def enter() -> None:
            async with client.watch(b"s/", 2):
                pass

        for attempt in (client.get(b"s/a"), anext(watch), stream.ping(), enter()):
            with pytest.raises(
                EtcdFailed, match=r"INTERNAL: the answer is no \w+Response"
            ) as failed:
                await attempt
            assert failed.value.where == etcd.endpoint


# ---- users


async def test_a_token_is_got_once_and_again_when_it_is_refused(etcd: FakeEtcd) -> None:
    etcd.users = {"app": SECRET}
    etcd.put("s/a", "x")
    async with EtcdClient(settings(etcd, user="app")) as client:
        client._members.auth_pause = 0.0
        await asyncio.gather(*(client.list(b"s/") for _ in range(5)))
        assert etcd.calls["Authenticate"] == 1
        for code, words in (
            (StatusCode.PERMISSION_DENIED, "etcdserver: permission denied"),
            (StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token"),
            (StatusCode.INVALID_ARGUMENT, "etcdserver: revision of auth store is old"),
            (StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty"),
        ):
            etcd.denied_code, etcd.denied = code, words
            etcd.expire_tokens()
            before = etcd.calls["Authenticate"]
            await asyncio.gather(*(client.list(b"s/") for _ in range(5)))
            assert etcd.calls["Authenticate"] == before + 1
        etcd.expire_tokens()
        async with client.watch(b"s/", 2) as watch:
            assert (await anext(watch)).events[0].key == b"s/a"


async def test_a_user_without_permission_does_not_storm(etcd: FakeEtcd) -> None:
    etcd.users = {"app": SECRET}
    async with EtcdClient(settings(etcd, user="app")) as client:
        await client.get(b"s/a")
        etcd._tokens = type("Nothing", (set,), {"add": lambda self, item: None})()
        for _ in range(20):
            with pytest.raises(EtcdFailed) as caught:
                await client.get(b"s/a")
            assert caught.value.code is StatusCode.PERMISSION_DENIED
        assert etcd.calls["Authenticate"] <= 3


async def test_a_wrong_password_is_said_without_showing_it(etcd: FakeEtcd) -> None:
    etcd.users = {"app": "another"}
    async with EtcdClient(settings(etcd, user="app")) as client:
        with pytest.raises(EtcdFailed) as caught:
            await client.get(b"s/a")
        text = f"{caught.value!r} {caught.value} {client!r} {client.settings!r}"
        assert "user 'app': etcdserver: authentication failed" in text
        assert SECRET not in text
    assert etcd.calls["Authenticate"] == 1


async def test_authentication_may_be_off_and_come_on(etcd: FakeEtcd) -> None:
    async with EtcdClient(settings(etcd, user="app")) as client:
        client._members.auth_pause = 0.0
        assert await client.get(b"s/a") is None
        assert await client.get(b"s/a") is None
        assert etcd.calls["Authenticate"] == 1
        etcd.users = {"app": SECRET}
        etcd.denied_code, etcd.denied = StatusCode.INVALID_ARGUMENT, "user name is empty"
        assert await client.get(b"s/a") is None
        assert etcd.calls["Authenticate"] == 2


# ---- watches


async def test_a_watch_tells_what_happens(client: EtcdClient, etcd: FakeEtcd) -> None:
    etcd.put("s/a", "1")
    async with client.watch(b"s/", 2) as watch:
        assert etcd.metadata["hasleader"] == "true"
        assert (await anext(watch)).events == (Event(b"s/a", b"1", 2),)
        etcd.put("s2/a", "1")  # not ours
        etcd.put("s/b", "2")
        etcd.delete("s/a")
        assert (await anext(watch)).events == (Event(b"s/b", b"2", 4),)
        assert (await anext(watch)).events == (Event(b"s/a", None, 5),)
        etcd.progress()
        idle = await anext(watch)
        assert (idle.revision, idle.events) == (5, ())
    await until(lambda: etcd.watching == 0)


async def test_fragments_are_put_together(client: EtcdClient, etcd: FakeEtcd) -> None:
    etcd.fragments = 3
    async with client.watch(b"s/", 2) as watch:
        etcd.put_at_once(*((f"s/{n}", "x") for n in range(8)))
        assert len((await anext(watch)).events) == 8


@pytest.mark.parametrize(
    ("end", "code", "details"),
    [
        (lambda e: e.end_watches(), StatusCode.UNAVAILABLE, "etcd closed the stream"),
        (
            lambda e: e.end_watches(StatusCode.UNAVAILABLE, "etcdserver: no leader"),
            StatusCode.UNAVAILABLE,
            "etcdserver: no leader",
        ),
        (lambda e: e.cancel_watches("for a reason"), StatusCode.UNAVAILABLE, "for a reason"),
        (
            lambda e: e.cancel_watches("etcdserver: permission denied"),
            StatusCode.PERMISSION_DENIED,
            "permission denied",
        ),
        (lambda e: e.stop(), StatusCode.UNAVAILABLE, ""),
    ],
)
async def test_a_watch_that_ends_says_why(
    client: EtcdClient,
    etcd: FakeEtcd,
    end: Callable[[FakeEtcd], None],
    code: StatusCode,
    details: str,
) -> None:
    async with client.watch(b"s/", 2) as watch:
        end(etcd)
        with pytest.raises(EtcdFailed) as caught:
            await anext(watch)
        assert caught.value.code in (code, StatusCode.CANCELLED)
        assert details in caught.value.details
        assert not caught.value.interrupted


async def test_a_compacted_watch(client: EtcdClient, etcd: FakeEtcd) -> None:
    etcd.put("s/a", "1")
    etcd.compact()

    async def first() -> None:
        async with client.watch(b"s/", 2) as watch:
            await anext(watch)

    with pytest.raises(EtcdCompacted, match="compacted at revision 3"):
        await first()
    async with client.watch(b"s/", 3) as watch:
        etcd.cancel_watches("mvcc: required revision has been compacted", 9)
        with pytest.raises(EtcdCompacted):
            await anext(watch)


async def test_a_member_without_a_leader_or_a_word_is_left(etcd: FakeEtcd) -> None:
    with FakeEtcd() as other:
        async with EtcdClient(settings(etcd, other, timeout=0.3)) as client:
            for change in ("leader", "silent"):
                client._members._turn = 0
                etcd.leader, etcd.silent = change != "leader", change == "silent"
                with pytest.raises(EtcdFailed) as caught:
                    await client.watch(b"s/", 2).__aenter__()
                assert caught.value.code in (
                    StatusCode.UNAVAILABLE,
                    StatusCode.DEADLINE_EXCEEDED,
                )
                assert client._members.current == other.endpoint


# ---- TLS


def tls_server(authority: Authority, *names: str, client_ca: bool = False) -> Any:
    pair = authority.issue(*names)
    return grpc.ssl_server_credentials(
        [(pair.key.encode(), pair.cert.encode())],
        authority.pem.encode() if client_ca else None,
        client_ca,
    )


async def refused(client: EtcdClient) -> str:
    with pytest.raises(EtcdFailed) as caught:
        await client.get(b"s/a")
    assert caught.value.code is StatusCode.UNAVAILABLE
    return caught.value.details


async def test_tls_and_client_certificates() -> None:
    authority = Authority()
    ca = authority.pem.encode()
    pair = authority.issue("app")
    cert, key = pair.cert.encode(), pair.key.encode()
    with FakeEtcd(tls_server(authority, "127.0.0.1", client_ca=True)) as etcd:
        async with EtcdClient(settings(etcd, ca=ca, cert=cert, key=key)) as client:
            assert await client.get(b"s/a") is None
        async with EtcdClient(settings(etcd, ca=ca)) as client:
            await refused(client)
        async with EtcdClient(settings(etcd, ca=Authority().pem.encode())) as client:
            await refused(client)
        async with EtcdClient(settings(etcd)) as client:
            await refused(client)
    assert sum(etcd.calls.values()) == 1


async def test_etcds_certificate_may_carry_another_name() -> None:
    authority = Authority()
    with FakeEtcd(tls_server(authority, "etcd.internal")) as etcd:
        ca = authority.pem.encode()
        async with EtcdClient(settings(etcd, ca=ca)) as client:
            await refused(client)
        named = settings(etcd, ca=ca, server_name="etcd.internal")
        async with EtcdClient(named) as client:
            assert await client.get(b"s/a") is None


async def test_renewed_certificates_are_used(tmp_path: Any) -> None:
    old, new = Authority(), Authority()
    path = tmp_path / "ca.pem"
    path.write_text(old.pem)
    with FakeEtcd(tls_server(new, "127.0.0.1")) as etcd:
        async with EtcdClient(settings(etcd, ca=path)) as client:
            await refused(client)
            path.write_text(new.pem)
            assert await client.get(b"s/a") is None
            path.write_text("gone wrong")
            assert await client.get(b"s/a") is None  # the connection stands
