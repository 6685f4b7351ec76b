"""The three requests that we make of an API server, and what its refusals mean."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from grpclb.resolvers.kubernetes.credentials import Credentials, CredentialsError, Grant
from grpclb.resolvers.kubernetes.events import (
    Event,
    Failure,
    JunkError,
    Page,
    parse_event,
    parse_page,
    parse_status,
    printable,
)
from grpclb.resolvers.kubernetes.files import FileError
from grpclb.resolvers.kubernetes.http import (
    Connection,
    HttpError,
    Opener,
    Response,
    open_streams,
)
from grpclb.resolvers.thread import off_loop

_INLINE = 131_072  # bytes of JSON that are parsed on the loop: a millisecond or two
_MOST_ERROR = 1 << 20
_MOST_RETRY_AFTER = 120.0
_MOST_PLUGIN = 60.0  # seconds for a credential plugin
_LABEL = "kubernetes.io/service-name"


class ApiError(Exception):
    """A request that was not answered as it should be; the text is for people.

    `status` is the HTTP status, or None where the connection failed; `retry_after` seconds.
    """

    def __init__(
        self, text: str, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. A watch is asked to end within `watch`, and must have by `grace` after that."""

    connect: float = 5.0
    answer: float = 30.0
    watch: tuple[int, int] = (240, 360)
    grace: float = 30.0


class Session:
    """The requests of one connection."""

    def __init__(self, api: Api, grant: Grant, connection: Connection) -> None:
        self._api = api
        self._grant = grant
        self._connection = connection

    async def page(self, limit: int | None, more: str | None) -> Page:
        """One page of the list. Raises ApiError, whose status is 410 if `more` is too old."""
        query = {"labelSelector": f"{_LABEL}={self._api.service}"}
        if limit is not None:
            query["limit"] = str(limit)
        if more is not None:
            query["continue"] = more
        response = await self._get(self._api.slices_path, query, "list endpointslices")
        try:
            body = await response.read(self._api.timeouts.answer)
            parse = functools.partial(parse_page, body)
            return parse() if len(body) < _INLINE else await off_loop(parse)
        except (HttpError, JunkError) as error:
            raise self._error("list endpointslices", error) from None

    async def watch(self, version: str, seconds: int) -> AsyncGenerator[Event, None]:
        """What happened after `version`, once the server has accepted the watch.

        It ends when the server ends it in good order. Raises ApiError for anything else.
        """
        query = {
            "labelSelector": f"{_LABEL}={self._api.service}",
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        }
        return self._events(await self._get(self._api.slices_path, query, "watch endpointslices"))

    async def service_exists(self) -> bool | None:
        """Whether there is such a Service; None if we may not know."""
        with contextlib.suppress(ApiError, HttpError, ValueError, RecursionError):
            response = await self._get(self._api.service_path, {}, "get services", (200, 404))
            raw = json.loads(await response.read(self._api.timeouts.answer, _MOST_ERROR))
            # A proxy's own 404 is no word of the API server's.
            if response.status == 200:
                return True
            if isinstance(raw, dict) and raw.get("reason") == "NotFound":
                return False
        return None

    async def _events(self, response: Response) -> AsyncGenerator[Event, None]:
        try:
            async with contextlib.aclosing(response.lines()) as lines:
                async for line in lines:
                    parse = functools.partial(parse_event, line)
                    event = parse() if len(line) < _INLINE else await off_loop(parse)
                    if isinstance(event, Failure):
                        event = Failure(event.status, self._redacted(event.message))
                    yield event
        except (HttpError, JunkError) as error:
            raise self._error("watch endpointslices", error) from None

    async def _get(
        self, path: str, query: dict[str, str], what: str, good: tuple[int, ...] = (200,)
    ) -> Response:
        headers = {"Accept": "application/json", "User-Agent": "grpclb"}
        if self._grant.token is not None:
            headers["Authorization"] = f"Bearer {self._grant.token}"
        text = f"{path}?{urlencode(query, quote_via=quote)}" if query else path
        try:
            response = await self._connection.get(text, headers, self._api.timeouts.answer)
        except HttpError as error:
            raise self._error(what, error) from None
        if response.status not in good:
            raise await self._refusal(response, what)
        return response

    async def _refusal(self, response: Response, what: str) -> ApiError:
        message = ""
        with contextlib.suppress(HttpError, ValueError, RecursionError):
            body = await response.read(self._api.timeouts.answer, _MOST_ERROR)
            message = parse_status(json.loads(body))[1]
        text = self._api.explain(response.status, what, self._grant, self._redacted(message))
        return ApiError(text, response.status, _seconds(response.headers.get("retry-after")))

    def _error(self, what: str, error: Exception) -> ApiError:
        return ApiError(f"cannot {what}: {self._redacted(printable(str(error)))}")

    def _redacted(self, text: str) -> str:
        """A server may send back what it was sent."""
        token = self._grant.token
        return text if not token else text.replace(token, "***")


class Api:
    """One Service at one API server. `session` is one connection, with fresh credentials."""

    def __init__(
        self,
        credentials: Credentials,
        namespace: str,
        service: str,
        timeouts: Timeouts,
        opener: Opener = open_streams,
    ) -> None:
        self.namespace = namespace
        self.service = service
        self.timeouts = timeouts
        # Names with a slash would be another path.
        namespace, service = quote(namespace, safe=""), quote(service, safe="")
        self.slices_path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        self.service_path = f"/api/v1/namespaces/{namespace}/services/{service}"
        self._credentials = credentials
        self._opener = opener

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Raises ApiError, also where the credentials cannot be read."""
        try:
            async with asyncio.timeout(_MOST_PLUGIN):
                grant = await self._credentials.grant()
        except (CredentialsError, FileError, ValueError, TimeoutError) as error:
            why = str(error) or f"none in {_MOST_PLUGIN:g} s"
            raise ApiError(f"no credentials for the API server: {why}") from None
        async with Connection(grant.origin, self._opener, self.timeouts.connect) as connection:
            yield Session(self, grant, connection)

    def reject(self) -> None:
        """The server did not take our token: get another one if there is."""
        self._credentials.reject()

    def explain(self, status: int, what: str, grant: Grant, message: str) -> str:
        """A refusal, and what to do about it."""
        said = f": {message}" if message else ""
        where = f"the API server {grant.origin}"
        if status == 401:
            return f"{where} does not accept the token ({grant.source}) (401){said}"
        if status == 403:
            return (
                f"{where} does not let us {what} in namespace {self.namespace!r} (403){said}; "
                "needed is a Role with apiGroups: [discovery.k8s.io], resources: "
                "[endpointslices], verbs: [get, list, watch], bound to the service account"
            )
        if 300 <= status < 400:
            return f"{where} redirects ({status}), which is not followed: the token would go along"
        if status == 404:
            return f"{where} does not know endpointslices of discovery.k8s.io/v1 (404){said}"
        return f"{where} cannot {what} ({status}){said}"


def _seconds(text: str | None) -> float | None:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 9:
        return None
    return min(float(text), _MOST_RETRY_AFTER)
