"""`import grpclb`: what it offers, and how little it loads."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import grpclb

_HEAVY = {"dns", "google", "kubernetes", "opentelemetry", "yaml"}


@pytest.mark.parametrize("name", grpclb.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert name in dir(grpclb)
    assert getattr(grpclb, name) is getattr(grpclb, name)


def test_a_wrong_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'grpclb' has no attribute 'insecure_chanel'"):
        _ = grpclb.insecure_chanel  # type: ignore[attr-defined]


def _loaded_after(code: str) -> set[str]:
    """The modules that a fresh interpreter holds after `code`."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"
    return set(json.loads(subprocess.check_output([sys.executable, "-c", script])))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import grpclb", {"grpc", "grpclb.sync", "grpclb.aio", "grpclb.core"}),
        ("import grpclb\ngrpclb.insecure_channel('ipv4:127.0.0.1:1')", {"grpclb.aio"}),
        ("import grpclb\ngrpclb.aio.insecure_channel('ipv4:127.0.0.1:1')", {"grpclb.sync"}),
    ],
)
def test_a_program_loads_the_stack_that_it_uses(code: str, absent: set[str]) -> None:
    loaded = _loaded_after(code)
    assert not absent & loaded
    assert not _HEAVY & {module.partition(".")[0] for module in loaded}
