"""Requests and responses of an ADS stream, and the names in them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from grpc import StatusCode

from grpclb.core.status import Status
from grpclb.resolvers.xds.bootstrap import Node
from grpclb.resolvers.xds.messages import message
from grpclb.resolvers.xds.names import authority_of, canonical, fill
from grpclb.resolvers.xds.wire import Request, Response, decode_response, encode_request

AGENT = ("grpclb", "1.2")


def request(value: Request, node: Node | None = None) -> Any:
    data = encode_request(value, node or Node("me"), AGENT)
    return message("envoy.service.discovery.v3.DiscoveryRequest").FromString(data)


def test_an_ack_says_version_and_nonce_and_all_names() -> None:
    proto = request(Request("t/a", ("x", "y"), "v", "n"))
    assert (proto.type_url, list(proto.resource_names)) == ("t/a", ["x", "y"])
    assert (proto.version_info, proto.response_nonce) == ("v", "n")
    assert not proto.HasField("node")
    assert not proto.HasField("error_detail")


def test_a_nack_says_what_is_wrong() -> None:
    proto = request(Request("t/a", (), "v", "n", error="why"))
    assert (proto.error_detail.code, proto.error_detail.message) == (3, "why")


def test_the_first_request_says_who_asks() -> None:
    metadata = {"a": [1, "x", None, True, {"b": {}}], "c": 1.5}
    node = Node("me", "cl", "r", "z", "s", json.dumps(metadata))
    proto = request(Request("t/a", ("x",), first=True), node).node
    assert (proto.id, proto.cluster) == ("me", "cl")
    assert (proto.locality.region, proto.locality.zone, proto.locality.sub_zone) == ("r", "z", "s")
    assert (proto.user_agent_name, proto.user_agent_version) == AGENT
    assert set(proto.client_features) == {
        "envoy.lb.does_not_support_overprovisioning",
        "xds.config.resource-in-sotw",
    }
    values = proto.metadata.fields["a"].list_value.values
    assert [value.WhichOneof("kind") for value in values] == [
        "number_value",
        "string_value",
        "null_value",
        "bool_value",
        "struct_value",
    ]
    assert proto.metadata.fields["c"].number_value == 1.5
    assert not request(Request("t/a", (), first=True)).node.HasField("locality")


def test_a_response_with_resources_and_errors() -> None:
    proto = message("envoy.service.discovery.v3.DiscoveryResponse")(
        type_url="t/a", version_info="v", nonce="n"
    )
    proto.resources.add(type_url="t/b", value=b"x")
    for name, code in (("one", 5), ("two", 99), ("three", 0), ("", 5)):
        error = proto.resource_errors.add()
        error.resource_name.name = name
        error.error_detail.code, error.error_detail.message = code, "why"
    assert decode_response(proto.SerializeToString()) == Response(
        "t/a",
        "v",
        "n",
        (("t/b", b"x"),),
        (
            ("one", Status(StatusCode.NOT_FOUND, "why")),
            ("two", Status(StatusCode.UNKNOWN, "why")),
            ("three", Status(StatusCode.UNKNOWN, "why")),
        ),
    )
    assert decode_response(b"\xff") is None
    assert decode_response(b"") == Response("")


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("b?x=2&a=1#f", "b?x=2&a=1#f"),  # a plain name is what it is
        ("xdstp://a/t/i?x=2&a=1#f", "xdstp://a/t/i?a=1&x=2"),
        ("xdstp://a/t/i#f", "xdstp://a/t/i"),
        ("xdstp://a/t/i?", "xdstp://a/t/i"),
    ],
)
def test_equal_names_get_equal_texts(name: str, same: str) -> None:
    assert canonical(name) == same
    assert canonical(same) == same


@pytest.mark.parametrize(
    ("name", "authority"),
    [("c", None), ("xdstp://a%2Fb/t/i", "a/b"), ("xdstp:///t/i", ""), ("xdstp:t", "")],
)
def test_the_authority_of_a_name(name: str, authority: str | None) -> None:
    assert authority_of(name) == authority


def test_a_template_is_filled_with_the_service() -> None:
    assert fill("%s", "a b:80") == "a b:80"
    assert fill("x/%s/y", "s") == "x/s/y"
    assert fill("xdstp://a/t/%s", "a b:80/c%") == "xdstp://a/t/a%20b:80/c%25"


def test_without_protobuf_the_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['google.protobuf'] = None\n"
        "import grpclb\n"
        "try: grpclb.insecure_channel('xds:///a')\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert "grpclb-client[xds]" in done.stdout, done.stdout + done.stderr
