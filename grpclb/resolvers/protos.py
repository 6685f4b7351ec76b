"""Protobuf messages from .proto text, in a descriptor pool of their own.

Two packages with generated etcd or xDS messages in one process crash each other in protobuf's
default pool, and the user of grpclb may have any of them. So ours never enter that pool: the
.proto files are shipped as they are, read when a target first needs them, and built into a
private pool.

A package that needs messages has one module that loads them at import, so that Python's import
lock is the only one:

    _MESSAGES = protos.load("grpclb.resolvers.etcd", "etcd.proto", extra="etcd")
    RangeRequest = _MESSAGES.message("etcdserverpb.RangeRequest")
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import resources
from typing import Any

from grpclb.resolvers.proto_parser import Enum, Field, File, Message, ProtoError, parse

__all__ = ["Namespace", "ProtoError", "load", "load_texts"]

# protobuf's own types; their descriptors are copied from the default pool.
_WELL_KNOWN = {
    f"google/protobuf/{name}.proto": f"google.protobuf.{name}_pb2"
    for name in ("any", "duration", "empty", "struct", "timestamp", "wrappers")
}
# FieldDescriptorProto.Type
_SCALARS = {
    "double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "fixed64": 6, "fixed32": 7,
    "bool": 8, "string": 9, "bytes": 12, "uint32": 13, "sfixed32": 15, "sfixed64": 16,
    "sint32": 17, "sint64": 18,
}  # fmt: skip
_MESSAGE, _ENUM = 11, 14
_OPTIONAL, _REPEATED = 1, 3


class Namespace:
    """The message classes and enums of some .proto files, by their full names."""

    def __init__(self, pool: Any, get_class: Callable[[Any], Any]) -> None:
        self.pool = pool
        self._get_class = get_class

    def message(self, full_name: str) -> Any:
        """The class of ``package.Message`` (or ``package.Outer.Inner``). Raises KeyError.

        Typed as Any, for its fields are known at run time only.
        """
        return self._get_class(self.pool.FindMessageTypeByName(full_name))

    def enum(self, full_name: str) -> Mapping[str, int]:
        """The numbers of an enum's values by their names. Raises KeyError."""
        found = self.pool.FindEnumTypeByName(full_name)
        return {value.name: value.number for value in found.values}


def load(package: str, *names: str, extra: str) -> Namespace:
    """The messages of .proto files that lie in `package`, and of those that they import.

    Names are paths below the package's folder, as the files' own imports write them. Without
    protobuf raises ImportError that names `extra`, which would have installed it; ProtoError for a
    file that is not in our part of the language.
    """
    folder = resources.files(package)

    def read(name: str) -> str | None:
        file = folder.joinpath(*name.split("/"))
        return file.read_text(encoding="utf-8") if file.is_file() else None

    return _build(read, names, extra)


def load_texts(texts: Mapping[str, str], *, extra: str) -> Namespace:
    """As `load`, from texts by file name."""
    return _build(texts.get, texts, extra)


def _build(read: Callable[[str], str | None], names: Iterable[str], extra: str) -> Namespace:
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as error:
        raise ImportError(
            f"{extra} needs protobuf, which is not installed: pip install 'grpclb-client[{extra}]'"
        ) from error
    pool = descriptor_pool.DescriptorPool()
    known: dict[str, int] = {}  # full name -> _MESSAGE or _ENUM, of all files so far
    for file in _in_order(read, names):
        if isinstance(file, str):
            copied = importlib.import_module(_WELL_KNOWN[file]).DESCRIPTOR.serialized_pb
            pool.AddSerializedFile(copied)
            descriptor = descriptor_pb2.FileDescriptorProto.FromString(copied)
            known.update(_declared(descriptor))
            continue
        descriptor = _Builder(file, known, descriptor_pb2.FileDescriptorProto).build()
        try:
            pool.AddSerializedFile(descriptor.SerializeToString())
        except (TypeError, ValueError) as error:
            raise ProtoError(f"{file.name}: {error}") from error
    return Namespace(pool, message_factory.GetMessageClass)


def _in_order(read: Callable[[str], str | None], names: Iterable[str]) -> Iterator[File | str]:
    """Files after all that they import; a well-known one as its name alone."""
    state: dict[str, bool] = {}  # True: done; False: what it imports is being read

    def visit(name: str, where: str) -> Iterator[File | str]:
        if name in state:
            if not state[name]:
                raise ProtoError(f"{where}: the import of {name!r} leads back to itself")
            return
        state[name] = False
        if name in _WELL_KNOWN:
            # struct and the others of these import nothing
            yield name
        else:
            text = read(name)
            if text is None:
                known = ", ".join(sorted(_WELL_KNOWN))
                raise ProtoError(f"{where}: no file {name!r} in the package; beside it: {known}")
            file = parse(name, text)
            for imported in file.imports:
                yield from visit(imported, name)
            yield file
        state[name] = True

    for name in names:
        yield from visit(name, "load")


def _declared(descriptor: Any) -> Iterator[tuple[str, int]]:
    """The full names in a FileDescriptorProto, each with its kind."""

    def walk(prefix: str, messages: Any, enums: Any) -> Iterator[tuple[str, int]]:
        for enum in enums:
            yield prefix + enum.name, _ENUM
        for message in messages:
            yield prefix + message.name, _MESSAGE
            yield from walk(f"{prefix}{message.name}.", message.nested_type, message.enum_type)

    prefix = f"{descriptor.package}." if descriptor.package else ""
    yield from walk(prefix, descriptor.message_type, descriptor.enum_type)


class _Builder:
    """One parsed file as a FileDescriptorProto; adds its names to `known` first."""

    def __init__(self, file: File, known: dict[str, int], new: Callable[[], Any]) -> None:
        self._file = file
        self._known = known
        self._new = new

    def build(self) -> Any:
        file, result = self._file, self._new()
        result.name, result.package, result.syntax = file.name, file.package, "proto3"
        result.dependency.extend(file.imports)
        prefix = f"{file.package}." if file.package else ""
        self._declare(prefix, file.messages, file.enums)
        for message in file.messages:
            self._message(result.message_type.add(), message, prefix + message.name)
        for enum in file.enums:
            self._enum(result.enum_type.add(), enum)
        return result

    def _declare(self, prefix: str, messages: list[Message], enums: list[Enum]) -> None:
        items: list[Message | Enum] = [*messages, *enums]
        for item in items:
            name = prefix + item.name
            if name in self._known:
                raise ProtoError(f"{self._file.name}:{item.line}: {name} is declared twice")
            self._known[name] = _MESSAGE if isinstance(item, Message) else _ENUM
            if isinstance(item, Message):
                self._declare(f"{name}.", item.messages, item.enums)

    def _enum(self, result: Any, enum: Enum) -> None:
        result.name = enum.name
        if enum.allow_alias:
            result.options.allow_alias = True
        for name, number in enum.values:
            result.value.add(name=name, number=number)

    def _message(self, result: Any, message: Message, full_name: str) -> None:
        result.name = message.name
        for oneof in message.oneofs:
            result.oneof_decl.add(name=oneof)
        for inner in message.messages:
            self._message(result.nested_type.add(), inner, f"{full_name}.{inner.name}")
        for enum in message.enums:
            self._enum(result.enum_type.add(), enum)
        for item in message.fields:
            field = result.field.add(name=item.name, number=item.number, label=_OPTIONAL)
            if item.map_key is not None:
                self._map(result, field, item, full_name)
                continue
            self._type(field, item.type, item, full_name)
            if item.repeated:
                field.label = _REPEATED
            elif item.oneof is not None:
                field.oneof_index = message.oneofs.index(item.oneof)
        # A proto3 `optional` is a oneof of one; protobuf wants these behind the real ones.
        for field, item in zip(result.field, message.fields, strict=True):
            if item.optional:
                field.proto3_optional = True
                field.oneof_index = len(result.oneof_decl)
                result.oneof_decl.add(name=f"_{item.name}")

    def _map(self, result: Any, field: Any, item: Field, full_name: str) -> None:
        """A map is a repeated field of a nested message with a key and a value."""
        assert item.map_key is not None
        name = "".join(part[:1].upper() + part[1:] for part in item.name.split("_")) + "Entry"
        entry = result.nested_type.add(name=name)
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=_OPTIONAL, type=_SCALARS[item.map_key])
        value = entry.field.add(name="value", number=2, label=_OPTIONAL)
        self._type(value, item.type, item, full_name)
        field.label, field.type, field.type_name = _REPEATED, _MESSAGE, f".{full_name}.{name}"

    def _type(self, field: Any, written: str, item: Field, scope: str) -> None:
        scalar = _SCALARS.get(written)
        if scalar is not None:
            field.type = scalar
            return
        name = self._find(written, scope)
        if name is None:
            raise ProtoError(
                f"{self._file.name}:{item.line}: {scope}.{item.name}: no type {written!r}"
            )
        field.type, field.type_name = self._known[name], f".{name}"

    def _find(self, written: str, scope: str) -> str | None:
        """The full name of a type as protobuf finds it: from the innermost scope outwards."""
        if written.startswith("."):
            return written[1:] if written[1:] in self._known else None
        while True:
            candidate = f"{scope}.{written}" if scope else written
            if candidate in self._known:
                return candidate
            if not scope:
                return None
            scope = scope.rpartition(".")[0]
