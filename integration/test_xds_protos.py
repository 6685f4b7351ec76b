"""Our subset of the xDS messages beside the whole API: the same names, numbers and meanings.

The generated messages (xds-protos) live in an environment of their own, ``.venv-xds``, which the
first run makes.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grpclb.resolvers.xds import messages as m
from integration.xds_protos import oracle

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".venv-xds"
PYTHON = HOME / "bin" / "python"
READ = (
    m.LISTENER, m.HTTP_CONNECTION_MANAGER, m.ROUTE_CONFIGURATION, m.CLUSTER,
    m.CLUSTER_LOAD_ASSIGNMENT, m.AGGREGATE, m.FAULT, m.RESOURCE_WRAPPER, m.PICK_FIRST,
    m.WRR_LOCALITY, m.LEAST_REQUEST, m.RING_HASH, m.WEIGHTED_ROUND_ROBIN, *m.TYPED_STRUCTS,
    "envoy.service.discovery.v3.DiscoveryResponse",
    "envoy.service.discovery.v3.DiscoveryRequest",
)  # fmt: skip
MESSAGES = 2_000


def descriptors() -> dict[str, dict[str, list[Any]]]:
    """All messages of ours, but protobuf's own."""
    found: dict[str, dict[str, list[Any]]] = {}

    def add(descriptor: Any) -> None:
        if descriptor.GetOptions().map_entry or descriptor.full_name.startswith("google.protobuf"):
            return
        found[descriptor.full_name] = oracle.facts(descriptor)
        for nested in descriptor.nested_types:
            add(nested)

    seen = set()

    def walk(file: Any) -> None:
        if file.name in seen:
            return
        seen.add(file.name)
        for descriptor in file.message_types_by_name.values():
            add(descriptor)
        for imported in file.dependencies:
            walk(imported)

    for name in READ:
        walk(m.message(name).DESCRIPTOR.file)
    return found


class Oracle:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [str(PYTHON), str(ROOT / "integration/xds_protos/oracle.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate(timeout=10)


def environment() -> str:
    """Make it if need be; returns what went wrong."""
    stamp = HOME / "ready"
    if stamp.exists():
        return ""
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(HOME)],
        [str(PYTHON), "-m", "pip", "install", "--quiet", "xds-protos>=1.80"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            return done.stderr.strip()[-500:]
    stamp.touch()
    return ""


@pytest.fixture(scope="module")
def whole_api() -> Iterator[Oracle]:
    problem = environment()
    if problem:
        if os.environ.get("CI"):
            pytest.fail(f"xds-protos could not be installed: {problem}")
        pytest.skip(f"needs xds-protos from the package index, in {HOME.name}: {problem}")
    found = Oracle()
    try:
        yield found
    finally:
        found.close()


@pytest.mark.timeout(300)
def test_our_messages_are_a_part_of_the_api(whole_api: Oracle) -> None:
    fields = descriptors()
    assert len(fields) > 60
    assert whole_api.ask(fields=fields)["differences"] == []


@pytest.mark.timeout(300)
def test_random_messages_of_the_api_mean_the_same_to_us(whole_api: Oracle) -> None:
    fields = descriptors()
    whole_api.ask(fields=fields)
    told = 0
    for seed in range(MESSAGES):
        name = READ[seed % len(READ)]
        answer = whole_api.ask(make=name, seed=seed)
        ours = m.message(name).FromString(bytes.fromhex(answer["bytes"]))
        assert oracle.meaning(ours, fields) == answer["meaning"], (name, seed)
        told += bool(answer["meaning"])
    assert told > MESSAGES * 0.8


@pytest.mark.timeout(300)
def test_random_messages_of_ours_mean_the_same_to_the_api(whole_api: Oracle) -> None:
    fields = descriptors()
    whole_api.ask(fields=fields)
    for seed in range(MESSAGES // 4):
        name = READ[seed % len(READ)]
        message = oracle.make(m.message(name)(), random.Random(seed))
        answer = whole_api.ask(read=name, bytes=message.SerializeToString().hex())
        assert oracle.meaning(message, fields) == answer["meaning"], (name, seed)
