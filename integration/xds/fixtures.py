"""Fixtures: one world for all tests of xDS, and a part of it for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integration.xds.side import Side, World, open_world


@pytest.fixture(scope="session")
def xds_world() -> Iterator[World]:
    with open_world() as world:
        yield world


@pytest.fixture
def side(xds_world: World, request: pytest.FixtureRequest) -> Iterator[Side]:
    """With all clients, or those that ``@pytest.mark.parametrize("side", [...], indirect=True)``
    names.
    """
    mine = Side(xds_world, *getattr(request, "param", ()))
    yield mine
    mine.close()
