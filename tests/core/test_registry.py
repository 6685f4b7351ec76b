"""Things that are made when somebody first asks for them."""

from __future__ import annotations

import pytest

from grpclb.core.registry import Registry


def filled() -> tuple[Registry[str], list[str]]:
    made: list[str] = []

    def load() -> str:
        made.append("late")
        return "late thing"

    registry: Registry[str] = Registry("thing")
    registry.register("early", "early thing")
    registry.register_lazy("late", load)
    return registry, made


def test_it_is_known_before_it_is_made() -> None:
    registry, made = filled()
    assert list(registry) == ["early", "late"]
    assert "late" in registry
    assert registry.unknown("lat") == (
        "unknown thing 'lat'; known: early, late; did you mean 'late'?"
    )
    assert made == []


def test_it_is_made_once() -> None:
    registry, made = filled()
    assert registry.get("late") is registry.require("late")
    assert registry.get("late") == "late thing"
    assert made == ["late"]
    assert list(registry) == ["early", "late"]


def test_what_a_user_registers_wins() -> None:
    registry, made = filled()
    registry.register("late", "mine")
    assert registry.require("late") == "mine"
    assert made == []


def test_what_cannot_be_made_says_why_each_time() -> None:
    registry, _ = filled()

    def load() -> str:
        raise ImportError("pip install it")

    registry.register_lazy("broken", load)
    for _ in range(2):
        with pytest.raises(ImportError, match="pip install it"):
            registry.require("broken")
    assert registry.get("nothing") is None
    with pytest.raises(ValueError, match="unknown thing 'nothing'"):
        registry.require("nothing")
