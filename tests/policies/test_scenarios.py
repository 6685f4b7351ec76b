"""The policies against the scenarios in tests/spec/policies; see scenarios.py for the format."""

from __future__ import annotations

from typing import Any

import pytest

from tests.policies.scenarios import Scenario, load

CASES = list(load())


@pytest.mark.parametrize(("policy", "case"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_scenario(policy: str, case: dict[str, Any]) -> None:
    Scenario(policy, case).run()


def test_the_scenarios_were_found() -> None:
    assert len(CASES) >= 50
