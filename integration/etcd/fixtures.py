"""Fixtures: one etcd for all that do it no harm, and clusters of a test's own to be broken."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from integration.etcd.cluster import Cluster
from integration.etcd.install import MISSING, Install, find
from integration.etcd.service import Service

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def installs() -> list[Install]:
    """Every version that is here, the one that most tests use first."""
    found = find()
    if not found:
        if os.environ.get("CI") == "true":
            pytest.fail(MISSING, pytrace=False)
        pytest.skip(MISSING)
    return found


@pytest.fixture(scope="session")
def etcd(installs: list[Install]) -> Iterator[Cluster]:
    """One member that is never harmed; tests keep apart by the names of their services."""
    with Cluster(installs[0]) as cluster:
        yield cluster


@pytest.fixture
def service() -> str:
    """The name of a service that no other test uses."""
    return f"shop/api{next(_NUMBERS)}"


Own = Callable[..., Cluster]


@pytest.fixture
def own_etcd(installs: list[Install]) -> Iterator[Own]:
    """Starts clusters for one test; the arguments are those of `Cluster`."""
    with contextlib.ExitStack() as stack:

        def start(members: int = 1, *, install: Install | None = None, **options: Any) -> Cluster:
            return stack.enter_context(Cluster(install or installs[0], members, **options))

        yield start


Run = Callable[..., Service]


@pytest.fixture
def run_service() -> Iterator[Run]:
    """Starts services that register themselves, in processes of their own."""
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> Service:
            service = Service.launch(**options)
            stack.callback(service.kill)
            return service

        yield start
