"""The documents of tests/spec/service_config_*.json, and the two policies that they name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from grpclb.core.balancer import Helper, LoadBalancer
from grpclb.core.config_node import Node
from grpclb.core.registry import Registry
from grpclb.core.service_config import ServiceConfig, parse_service_config

SPEC = Path(__file__).parent.parent / "spec"


@dataclass(frozen=True)
class FakePolicy:
    """Accepts what grpc core's policy of that name accepts; its config is the raw object."""

    name: str
    booleans: tuple[str, ...] = ()

    def parse_config(self, raw: Mapping[str, Any]) -> object:
        for name in self.booleans:
            Node(raw).optional(name, Node.boolean)
        return dict(raw)

    def build(self, helper: Helper) -> LoadBalancer:
        raise AssertionError("parsing a config builds nothing")


POLICIES: Registry[FakePolicy] = Registry("policy")
for _policy in (FakePolicy("round_robin"), FakePolicy("pick_first", ("shuffleAddressList",))):
    POLICIES.register(_policy.name, _policy)


def parse(raw: Any, **options: Any) -> ServiceConfig:
    return parse_service_config(raw, find_policy=POLICIES.get, known_policies=POLICIES, **options)


def documents(name: str) -> list[Any]:
    """The cases of a file, as pytest parameters."""
    cases = json.loads((SPEC / f"service_config_{name}.json").read_text())["cases"]
    return [pytest.param(case, id=case["name"]) for case in cases]


def text_of(case: Mapping[str, Any]) -> str:
    """A case's document as JSON text."""
    if "config" in case:
        return json.dumps(case["config"])
    if "text_of" in case:
        return "".join(part * times for part, times in case["text_of"])
    text: str = case["text"]
    return text
