"""What the pages of docs/ promise: keys of the snapshot, fields of the service config, links."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import grpclb
from grpclb.control.channel_spec import build_spec
from grpclb.core import method_config, retry_config, service_config
from grpclb.testing import ManualResolver

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("kind-cluster/*.md"))
)
_OPAQUE = ("attributes", "skipped", "service_config", "details")


def keys(value: Any, path: str = "") -> Iterator[str]:
    """The paths of all leaves, as the pages write them, each once."""
    if isinstance(value, dict) and path.rpartition(".")[2] not in _OPAQUE:
        for key, item in value.items():
            yield from keys(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from dict.fromkeys(key for item in value for key in keys(item, f"{path}[]"))
    else:
        yield path


def first_column(page: str) -> list[str]:
    """What stands in backquotes in the first cell of the page's first table."""
    table = (ROOT / page).read_text().partition("| --- |")[2].partition("\n\n")[0]
    return re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)


# -- docs/snapshot.md ------------------------------------------------------------------------------


async def test_the_page_names_every_key_of_a_snapshot_and_no_other() -> None:
    resolver = ManualResolver([grpclb.Endpoint.of("127.0.0.1:1", "[::1]:1", zone="a")])
    async with grpclb.aio.insecure_channel("api", resolver=resolver) as channel:
        assert set(channel.debug_snapshot()) == {"target", "state", "subchannels"}
        channel.get_state(try_to_connect=True)
        while not channel.debug_snapshot()["subchannels"]:
            await channel.wait_for_state_change(channel.get_state())
        assert [*keys(channel.debug_snapshot())] == first_column("docs/snapshot.md")
    assert set(channel.debug_snapshot()) == {"target", "state", "subchannels"}


# -- docs/service-config.md ------------------------------------------------------------------------


def test_the_page_names_every_field_of_a_service_config_and_no_other() -> None:
    known = {
        "": service_config._FIELDS,
        "healthCheckConfig.": ("serviceName",),
        "retryThrottling.": retry_config.THROTTLING_FIELDS,
        "methodConfig[].": method_config._FIELDS,
        "methodConfig[].name[].": ("service", "method"),
        "methodConfig[].retryPolicy.": retry_config.RETRY_FIELDS,
        "methodConfig[].hedgingPolicy.": retry_config.HEDGING_FIELDS,
    }
    every = {path + name for path, names in known.items() for name in names}
    leaves = {p for p in every if not any(q.startswith((f"{p}.", f"{p}[")) for q in every)}
    documented = first_column("docs/service-config.md")
    assert len(documented) == len(set(documented))
    assert set(documented) == leaves
    whole = json.loads(examples("docs/service-config.md")[0])
    whole["loadBalancingConfig"] = []
    assert set(keys(whole)) - {"methodConfig[].name[]"} == leaves, "the example has all of them"


def examples(page: str) -> list[str]:
    return re.findall(r"^```json\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [p for p in PAGES if examples(p)])
def test_every_service_config_of_the_pages_is_one_and_is_read(page: str) -> None:
    for text in examples(page):
        if {"loadBalancingConfig", "methodConfig"} & json.loads(text).keys():
            assert build_spec("ipv4:10.0.0.1:1", None, text, None).default_config.ignored == ()


# -- links -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    source = ROOT / page
    text = re.sub(r"^ *```.*?^ *```", "", source.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (source.parent / path).resolve() if path else source
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """Of the page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {title.replace(" ", "-") for title in plain}


def test_every_page_of_the_docs_is_linked_from_another() -> None:
    linked: set[Path] = set()
    for page in PAGES:
        source = ROOT / page
        for link in re.findall(r"\]\(([^)\s#]+)", source.read_text()):
            linked.add((source.parent / link).resolve())
    alone = [page for page in PAGES if page.startswith("docs/") and ROOT / page not in linked]
    assert alone == []
