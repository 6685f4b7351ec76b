"""Every row of the table, on plain grpcio and on grpclb."""

from __future__ import annotations

from importlib import import_module

import pytest

from tests.parity.harness import ROWS, Place, Row, World, ours, plain

# Importing one of these puts its rows into the table.
for _source in (
    "specs",
    "sync_calls",
    "sync_streams",
    "sync_interceptors",
    "sync_channel",
    "sync_options",
    "aio_calls",
    "aio_streams",
    "aio_interceptors",
    "aio_channel",
    "aio_options",
):
    import_module(f"tests.parity.{_source}")


# A sync call whose requests are of a wrong type ends a thread of grpcio's with its exception.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.grpcio_leaks("a connection for each refused metadata and single-threaded stream")
@pytest.mark.expect_log(
    "Exception serializing message!",
    "Exception in a callback of an RPC",
    "Exception in a connectivity callback",
)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_caller_cannot_tell_grpclb_from_grpcio(row: Row, place: Place) -> None:
    expected, found = row.observe(World(plain(), place)), row.observe(World(ours(), place))
    if found != expected:
        # Some rows have deadlines of a moment, which a machine that stands still lets pass sooner
        # on one of the two; a real difference is there every time.
        expected, found = row.observe(World(plain(), place)), row.observe(World(ours(), place))
    assert found == expected
