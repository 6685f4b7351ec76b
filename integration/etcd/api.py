"""etcd spoken to without a line of grpclb: by its JSON gateway, which every member has.

What a test writes and reads this way says nothing about our own client, so it can judge it.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

_PATIENCE = 20.0  # seconds for one answer


class ApiError(Exception):
    """etcd said no."""


def _coded(text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    return base64.b64encode(data).decode()


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()


def _end_of(prefix: str) -> str:
    """The first key behind all that begin with `prefix` (ASCII)."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


class Api:
    """One member. Blocking; any thread."""

    def __init__(self, url: str, ca_file: str | None = None) -> None:
        self._url = url
        self._ca_file = ca_file
        self._tokens = threading.local()
        self._login: tuple[str, str] | None = None
        self.authenticated = 0  # how often this object has asked for a token

    def call(self, path: str, **body: Any) -> dict[str, Any]:
        try:
            return self._call(path, body)
        except ApiError as error:
            # A simple token ends with its time, and with the member that gave it.
            if self._login is None or "token" not in str(error):
                raise
            self._tokens.value = None
            return self._call(path, body)

    def _call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {}
        if self._login is not None and path != "auth/authenticate":
            headers["Authorization"] = self._token(*self._login)
        request = urllib.request.Request(
            f"{self._url}/v3/{path}", json.dumps(body).encode(), headers, method="POST"
        )
        try:
            with self._opener().open(request, timeout=_PATIENCE) as response:
                answer: dict[str, Any] = json.loads(response.read().splitlines()[0])
                return answer
        except urllib.error.HTTPError as error:
            with error:
                raise ApiError(error.read().decode(errors="replace")) from None

    def _opener(self) -> urllib.request.OpenerDirector:
        # No proxy of the environment's comes between us and this machine.
        handlers: list[Any] = [urllib.request.ProxyHandler({})]
        if self._ca_file is not None:
            tls = ssl.create_default_context(cafile=self._ca_file)
            handlers.append(urllib.request.HTTPSHandler(context=tls))
        return urllib.request.build_opener(*handlers)

    def _token(self, name: str, password: str) -> str:
        if getattr(self._tokens, "value", None) is None:
            self.authenticated += 1
            answer = self._call("auth/authenticate", {"name": name, "password": password})
            self._tokens.value = answer["token"]
        token: str = self._tokens.value
        return token

    # -- keys ------------------------------------------------------------------------------------

    def put(self, key: str, value: str, lease: int = 0) -> int:
        """Returns the revision."""
        answer = self.call("kv/put", key=_coded(key), value=_coded(value), lease=lease)
        return int(answer["header"]["revision"])

    def put_many(self, items: Mapping[str, str]) -> None:
        """In transactions as large as etcd takes by default."""
        left = iter(items.items())
        while some := tuple(itertools.islice(left, 128)):
            puts = [
                {"requestPut": {"key": _coded(key), "value": _coded(value)}} for key, value in some
            ]
            self.call("kv/txn", success=puts)

    def touch(self) -> None:
        """A write that changes nothing: there is a leader, and a quorum."""
        self.call("kv/deleterange", key=_coded("\x01nothing"))

    def items(self, prefix: str) -> dict[str, str]:
        return {key: value for key, value, _ in self.rows(prefix)}

    def rows(self, prefix: str) -> list[tuple[str, str, int]]:
        """(key, value, lease) of all keys that begin so."""
        answer = self.call("kv/range", key=_coded(prefix), range_end=_coded(_end_of(prefix)))
        return [
            (_decoded(kv["key"]), _decoded(kv.get("value", "")), int(kv.get("lease", 0)))
            for kv in answer.get("kvs", ())
        ]

    def delete(self, key: str) -> None:
        self.call("kv/deleterange", key=_coded(key))

    def delete_prefix(self, prefix: str) -> None:
        self.call("kv/deleterange", key=_coded(prefix), range_end=_coded(_end_of(prefix)))

    def revision(self) -> int:
        return int(self.call("kv/range", key=_coded("\x01"))["header"]["revision"])

    def watch_from(self, key: str, revision: int) -> dict[str, Any]:
        """What etcd first has to say on a watch from so long ago, after "created"."""
        create = {"key": _coded(key), "start_revision": revision}
        body = json.dumps({"create_request": create}).encode()
        request = urllib.request.Request(f"{self._url}/v3/watch", body, method="POST")
        with self._opener().open(request, timeout=_PATIENCE) as response:
            response.readline()
            answer: dict[str, Any] = json.loads(response.readline())["result"]
            return answer

    def compact(self) -> None:
        """Forget the past up to now."""
        self.call("kv/compaction", revision=self.revision(), physical=True)

    # -- leases ----------------------------------------------------------------------------------

    def grant(self, ttl: int) -> int:
        return int(self.call("lease/grant", TTL=ttl)["ID"])

    def revoke(self, lease: int) -> None:
        self.call("lease/revoke", ID=lease)

    def remaining(self, lease: int) -> int:
        """Whole seconds until it ends, unless it is kept alive; -1 if it is gone."""
        return int(self.call("lease/timetolive", ID=lease)["TTL"])

    def wait_kept_alive(self, lease: int, within: float = 20.0) -> None:
        """Until somebody keeps it alive, from now on: until its time is longer than it has been."""
        end, least = time.monotonic() + within, float("inf")
        while (left := self.remaining(lease)) <= least:
            least = left
            if left < 0 or time.monotonic() > end:
                raise AssertionError(f"lease {lease} was not kept alive; {left} s left")
            time.sleep(0.05)

    def leases(self) -> set[int]:
        return {int(lease["ID"]) for lease in self.call("lease/leases").get("leases", ())}

    def authentications(self) -> int:
        """Authenticate calls that this member has answered since it was started."""
        with self._opener().open(f"{self._url}/metrics", timeout=_PATIENCE) as response:
            text = response.read().decode()
        lines = re.findall(
            r'^grpc_server_started_total{.*"Authenticate".*} (\d+)$', text, re.MULTILINE
        )
        return sum(map(int, lines))

    # -- the cluster -----------------------------------------------------------------------------

    def member_id(self) -> str:
        member: str = self.call("maintenance/status")["header"]["member_id"]
        return member

    def leader_id(self) -> str:
        leader: str = self.call("maintenance/status")["leader"]
        return leader

    def enable_auth(self, user: str, password: str) -> None:
        self.call("auth/user/add", name=user, password=password)
        self.call("auth/role/add", name="root")
        self.call("auth/user/grant", user=user, role="root")
        self.call("auth/enable")

    def log_in(self, user: str, password: str) -> None:
        """Name these to etcd from now on."""
        self._login = (user, password)

    def change_password(self, user: str, password: str) -> None:
        self.call("auth/user/changepw", name=user, password=password)
