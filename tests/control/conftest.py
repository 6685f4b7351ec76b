"""Fixtures of the engine's tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from grpclb.control.registries import POLICIES
from tests.control.harness import ScriptedPolicy


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[ScriptedPolicy], ScriptedPolicy]:
    """Make a policy known for one test."""
    monkeypatch.setattr(POLICIES, "_table", dict(POLICIES._table))

    def add(policy: ScriptedPolicy) -> ScriptedPolicy:
        POLICIES.register(policy.name, policy)
        return policy

    return add


@pytest.fixture
def scripted(register: Callable[[ScriptedPolicy], ScriptedPolicy]) -> ScriptedPolicy:
    return register(ScriptedPolicy())
