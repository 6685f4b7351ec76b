"""The bootstrap: which management servers, with which credentials, and who this client is.

From an argument, or as every gRPC client from ``GRPC_XDS_BOOTSTRAP`` (a file) or
``GRPC_XDS_BOOTSTRAP_CONFIG`` (its text), in this order (A27, A47, A65, A71, A88).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import quote

from grpclb.resolvers.xds.credentials import GOOGLE_DEFAULT, INSECURE, KINDS, TLS, Credentials
from grpclb.resolvers.xds.errors import BootstrapError
from grpclb.resolvers.xds.files import MAX_BYTES, FileError, read_file

FILE_VARIABLE = "GRPC_XDS_BOOTSTRAP"
TEXT_VARIABLE = "GRPC_XDS_BOOTSTRAP_CONFIG"
_MAX_DEPTH = 32  # of the node's metadata

_FAIL_ON_DATA_ERRORS = "fail_on_data_errors"
# gRFC A88 spells it both ways.
_TIMER_IS_TRANSIENT = {
    "resource_timer_is_transient_error",
    "resource_timer_is_transient_failure",
}


@dataclass(frozen=True, slots=True)
class Server:
    """A management server. `uri` is a gRPC target.

    `fail_on_data_errors`: a resource that turns bad or is deleted is not used any longer.
    `timer_is_transient`: a resource that does not come may still exist (both A88).
    """

    uri: str
    credentials: Credentials
    fail_on_data_errors: bool = False
    timer_is_transient: bool = False


@dataclass(frozen=True, slots=True)
class Node:
    """Who this client is. `metadata` is a JSON object, as text so that a Node can be a key.

    It may hold what the server knows this client by, and is no part of what anybody prints.
    """

    id: str = ""
    cluster: str = ""
    region: str = ""
    zone: str = ""
    sub_zone: str = ""
    metadata: str = field(default="{}", repr=False)


@dataclass(frozen=True, slots=True)
class Authority:
    """Where names of an authority are asked for (A47). Without servers of its own: the others."""

    name: str
    listener_template: str
    servers: tuple[Server, ...] = ()


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Equal bootstraps share one client. `servers` in order, the first is the primary (A71).

    A template of listeners' names may lack ``%s``: then all targets share that listener, as in the
    other gRPC clients.
    """

    servers: tuple[Server, ...]
    node: Node = field(default_factory=Node)
    listener_template: str = "%s"
    authorities: tuple[Authority, ...] = ()

    @property
    def all_servers(self) -> tuple[Server, ...]:
        """Those of the authorities, too."""
        return self.servers + tuple(s for a in self.authorities for s in a.servers)

    def authority(self, name: str) -> Authority | None:
        return next((a for a in self.authorities if a.name == name), None)


# A dict, JSON text, or the path of a file.
Source: TypeAlias = "Bootstrap | Mapping[str, Any] | str | os.PathLike[str]"


def load_bootstrap(source: Source | None, environ: Mapping[str, str] = os.environ) -> Bootstrap:
    """The bootstrap that `source` is or names; without one, what the environment names.

    Reads files; raises BootstrapError.
    """
    match source:
        case Bootstrap():
            return source
        case None:
            return _from_environment(environ)
        case Mapping():
            return _parse(dict(source), "bootstrap")
        case str() if source.lstrip("\ufeff \t\r\n").startswith("{"):
            return _parse(_decode(source, "bootstrap"), "bootstrap")
        # Text that was spoilt on its way is not told as a path, which would be all of it.
        case str() if ("{" in source or _is_json(source)) and not os.path.lexists(source):
            raise BootstrapError(
                f"xds: bootstrap: expected a JSON object or the path of a file, got {source!r:.80}"
            )
        case str() | os.PathLike():
            return _from_file(source, "bootstrap")
    raise BootstrapError(f"xds: bootstrap: expected a dict, JSON or a path, got {source!r:.80}")


def _is_json(text: str) -> bool:
    try:
        _decode(text, "")
    except BootstrapError:
        return False
    return True


def _from_environment(environ: Mapping[str, str]) -> Bootstrap:
    path = environ.get(FILE_VARIABLE)
    if path:
        return _from_file(path, FILE_VARIABLE)
    text = environ.get(TEXT_VARIABLE)
    if text:
        return _parse(_decode(text, TEXT_VARIABLE), TEXT_VARIABLE)
    raise BootstrapError(
        f"xds: no bootstrap: set {FILE_VARIABLE} to the path of one, or {TEXT_VARIABLE} to its "
        "text, or hand it over as an argument"
    )


def _from_file(path: str | os.PathLike[str], origin: str) -> Bootstrap:
    try:
        data = read_file(path)
    except FileError as error:
        raise BootstrapError(f"xds: {origin}: {error}") from None
    origin = f"{origin} {os.fspath(path)}"
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise BootstrapError(f"xds: {origin}: not UTF-8 at byte {error.start}") from None
    return _parse(_decode(text, origin), origin)


def _decode(text: str, origin: str) -> Any:
    if len(text) > MAX_BYTES:
        raise BootstrapError(f"xds: {origin}: larger than {MAX_BYTES} bytes")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise BootstrapError(f"xds: {origin}: not JSON: {error.msg} at {where}") from None
    except (RecursionError, ValueError) as error:  # nested, or a number of thousands of digits
        raise BootstrapError(f"xds: {origin}: not usable JSON: {error}") from None


@dataclass(frozen=True, slots=True)
class _Field:
    """A value with its JSON path. Fields that nobody asks for are ignored."""

    value: Any
    path: str
    origin: str

    def fail(self, problem: str) -> BootstrapError:
        return BootstrapError(f"xds: {self.origin}: {self.path}: {problem}")

    def of(self, kind: type, what: str) -> Any:
        if not isinstance(self.value, kind):
            got = "null" if self.value is None else type(self.value).__name__
            raise self.fail(f"expected {what}, got {got}")
        return self.value

    def get(self, name: str) -> _Field | None:
        """A field of this object; None if it is not there, or null."""
        value = self.of(dict, "an object").get(name)
        return None if value is None else _Field(value, f"{self.path}.{name}", self.origin)

    def text(self, name: str) -> str:
        found = self.get(name)
        if found is None:
            return ""
        text: str = found.of(str, "a string")
        if not text.isascii() and text != text.encode("utf-8", "replace").decode():
            raise found.fail("not Unicode: half a surrogate pair")
        return text

    def items(self, name: str) -> list[_Field]:
        found = self.get(name)
        values = [] if found is None else found.of(list, "an array")
        path = f"{self.path}.{name}"
        return [_Field(value, f"{path}[{i}]", self.origin) for i, value in enumerate(values)]


def _parse(document: Any, origin: str) -> Bootstrap:
    root = _Field(document, "$", origin)
    servers = _servers(root)
    if not servers:
        raise root.fail("xds_servers: at least one is needed")
    node = root.get("node")
    authorities = root.get("authorities")
    return Bootstrap(
        servers,
        Node() if node is None else _node(node),
        root.text("client_default_listener_resource_name_template") or "%s",
        () if authorities is None else _authorities(authorities),
    )


def _servers(parent: _Field) -> tuple[Server, ...]:
    return tuple(_server(item) for item in parent.items("xds_servers"))


def _server(item: _Field) -> Server:
    uri = item.text("server_uri")
    if not uri:
        raise item.fail("server_uri: missing or empty")
    features = {feature.of(str, "a string") for feature in item.items("server_features")}
    return Server(
        uri,
        _credentials(item),
        _FAIL_ON_DATA_ERRORS in features,
        bool(_TIMER_IS_TRANSIENT & features),
    )


def _credentials(server: _Field) -> Credentials:
    """The first of the listed kinds that is supported; never one that was not listed."""
    refused = []
    for item in server.items("channel_creds"):
        kind = item.text("type")
        if kind in (INSECURE, GOOGLE_DEFAULT):
            return Credentials(kind)
        if kind == TLS:
            config = item.get("config")
            return Credentials(TLS) if config is None else _tls(config)
        refused.append(kind or "(no type)")
    seen = f"none of {', '.join(refused)} is supported" if refused else "missing or empty"
    raise server.fail(f"channel_creds: {seen}; known are {', '.join(KINDS)}")


def _tls(config: _Field) -> Credentials:
    certificate, key = config.text("certificate_file"), config.text("private_key_file")
    if bool(certificate) != bool(key):
        raise config.fail("certificate_file and private_key_file: one needs the other")
    return Credentials(TLS, config.text("ca_certificate_file"), certificate, key)


def _node(node: _Field) -> Node:
    metadata = node.get("metadata")
    if metadata is not None:
        metadata.of(dict, "an object")
    locality = node.get("locality") or _Field({}, "", "")
    try:
        text = json.dumps(metadata.value if metadata else {}, sort_keys=True, allow_nan=False)
        _check(json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        raise node.fail(f"metadata: no JSON: {error}") from None
    return Node(
        node.text("id"),
        node.text("cluster"),
        locality.text("region"),
        locality.text("zone"),
        locality.text("sub_zone"),
        text,
    )


def _check(value: Any, depth: int = 0) -> None:
    """ValueError for what protobuf could not write."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested deeper than {_MAX_DEPTH}")
    match value:
        case str():
            value.encode()  # half a surrogate pair is a ValueError
        case int() if abs(value) > sys.float_info.max:
            raise ValueError("a number above 1.8e308")
        case dict():
            for key, item in value.items():
                key.encode()
                _check(item, depth + 1)
        case list():
            for item in value:
                _check(item, depth + 1)


def _authorities(table: _Field) -> tuple[Authority, ...]:
    found = []
    for name in table.of(dict, "an object"):
        if not isinstance(name, str):
            raise table.fail(f"expected strings as names, got {name!r:.80}")
        item = table.get(name) or _Field({}, f"{table.path}.{name}", table.origin)
        prefix = f"xdstp://{quote(name, safe='')}/"
        template = item.text("client_listener_resource_name_template")
        if template and not template.startswith(prefix):
            problem = f"client_listener_resource_name_template: does not begin with {prefix}"
            raise item.fail(problem)
        template = template or f"{prefix}envoy.config.listener.v3.Listener/%s"
        found.append(Authority(name, template, _servers(item)))
    return tuple(found)
