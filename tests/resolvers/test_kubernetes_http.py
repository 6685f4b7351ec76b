"""The small HTTP client: bodies in every form and cut in every place, and what is no HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpclb.resolvers.kubernetes.http import Connection, HttpError, Origin, Response
from tests.support.virtual_loop import run_virtual

BODY = b'{"a": 1}\n{"b": 2}\n'
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'5\r\n{"a":\r\n4;x=y\r\n 1}\n\r\n9\r\n{"b": 2}\n\r\n0\r\nTrailer: x\r\n\r\n'
)
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n" + BODY
CLOSED = b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n" + BODY


class Wire:
    """Connections that answer each request with the next bytes, in pieces, and then close."""

    def __init__(self, *answers: bytes, pieces: int = 1 << 20, keep: bool = False) -> None:
        self.sent: list[bytes] = []
        self.opened = self.aborted = 0
        self.transport = self
        self._answers = list(answers)
        self._pieces = pieces
        self._keep = keep
        self._reader: asyncio.StreamReader

    async def open(self, *where: object) -> Any:
        self.opened += 1
        self._reader = asyncio.StreamReader()
        return self._reader, self

    def write(self, data: bytes) -> None:
        self.sent.append(data)
        answer = self._answers.pop(0)
        for start in range(0, len(answer), self._pieces):
            self._reader.feed_data(answer[start : start + self._pieces])
        if not self._keep:
            self._reader.feed_eof()

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def abort(self) -> None:
        self.aborted += 1


async def ask(connection: Connection, path: str = "/x") -> Response:
    return await connection.get(path, {"Accept": "application/json"}, 5.0)


def connect(wire: Wire) -> Connection:
    return Connection(Origin("10.0.0.1", 443, None, None, "/base"), wire.open, 5.0)


def lines_of(wire: Wire, limit: int = 1_000) -> list[bytes]:
    async def main() -> list[bytes]:
        async with connect(wire) as connection:
            response = await ask(connection)
            return [line async for line in response.lines(limit)]

    return run_virtual(main())


@pytest.mark.parametrize("pieces", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("answer", [CHUNKED, SIZED, CLOSED], ids=["chunked", "sized", "closed"])
def test_bodies(answer: bytes, pieces: int) -> None:
    wire = Wire(answer, pieces=pieces)
    assert lines_of(wire) == [b'{"a": 1}', b'{"b": 2}']
    assert wire.sent == [
        b"GET /base/x HTTP/1.1\r\nHost: 10.0.0.1:443\r\nAccept: application/json\r\n\r\n"
    ]
    assert wire.aborted == 1


@pytest.mark.parametrize("answer", [CHUNKED, SIZED], ids=["chunked", "sized"])
def test_a_body_that_is_cut_anywhere_is_an_error(answer: bytes) -> None:
    for end in range(len(answer)):
        with pytest.raises(HttpError):
            lines_of(Wire(answer[:end]))


def test_after_half_an_answer_the_connection_is_not_used_again() -> None:
    wire = Wire(SIZED, SIZED, keep=True)

    async def main() -> None:
        async with connect(wire) as connection:
            with pytest.raises(HttpError, match="more than 3 bytes"):
                await (await ask(connection)).read(5.0, 3)
            assert await (await ask(connection)).read(5.0) == BODY

    run_virtual(main())
    assert wire.opened == 2


def test_a_line_that_is_cut_off_by_a_closed_connection() -> None:
    with pytest.raises(HttpError, match="ended within a line"):
        lines_of(Wire(CLOSED[:-3]))


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"", "closed the connection"),
        (b"SSH-2.0-x\r\n", "not HTTP/1.1"),
        (b"HTTP/2 200\r\n\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 abc\r\n\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200, "more than 100 headers"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 200_000, "without an end"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "'-1' is no length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n", "is no length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n", "is no length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "'xyz' is no length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\n", "is no length"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 20 + b"\r\n",
            "is no length",
        ),
        (CHUNKED.replace(b"4;x=y", b"2;x=y"), "longer than it says"),
        (CLOSED + b"x" * 2_000, "a line of more than 1000 bytes"),
    ],
    ids=lambda v: "" if isinstance(v, bytes) else v[:30],
)
def test_what_is_refused(answer: bytes, problem: str) -> None:
    with pytest.raises(HttpError, match=problem) as error:
        lines_of(Wire(answer))
    assert len(str(error.value)) < 200


def test_a_body_has_a_bound() -> None:
    async def main() -> bytes:
        async with connect(Wire(SIZED)) as connection:
            return await (await ask(connection)).read(5.0, 10)

    with pytest.raises(HttpError, match="more than 10 bytes"):
        run_virtual(main())


def test_one_connection_for_requests_one_after_the_other() -> None:
    wire = Wire(SIZED, CHUNKED, SIZED, keep=True)

    async def main() -> None:
        async with connect(wire) as connection:
            for _ in range(3):
                assert await (await ask(connection)).read(5.0) == BODY

    run_virtual(main())
    assert (wire.opened, wire.aborted) == (1, 1)


def test_a_server_that_closes_gets_a_new_connection() -> None:
    wire = Wire(SIZED.replace(b"\r\n\r\n", b"\r\nConnection: Close\r\n\r\n", 1), SIZED)

    async def main() -> None:
        async with connect(wire) as connection:
            for _ in range(2):
                assert await (await ask(connection)).read(5.0) == BODY

    run_virtual(main())
    assert (wire.opened, wire.aborted) == (2, 2)


def test_a_server_that_does_not_answer() -> None:
    async def main() -> None:
        async with connect(Wire(b"", keep=True)) as connection:
            await ask(connection)

    with pytest.raises(HttpError, match=r"no answer from http://10\.0\.0\.1:443/base in 5 s"):
        run_virtual(main())


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=100), place=st.integers(0, len(CHUNKED)), answer=st.booleans())
def test_no_bytes_raise_anything_else(data: bytes, place: int, answer: bool) -> None:
    good = CHUNKED if answer else SIZED
    for wire in (Wire(good[:place] + data), Wire(good[:place] + data + good[place:], pieces=5)):
        try:
            lines_of(wire)
        except HttpError as error:
            assert "\n" not in str(error)  # noqa: PT017
