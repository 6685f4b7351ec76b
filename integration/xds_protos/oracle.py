"""Runs where xds-protos is installed, without grpclb. JSON lines in, JSON lines out.

- ``{"fields": {message: {field: [number, type, repeated, oneof]}}}`` answers with what is not so.
- ``{"make": message, "seed": n}`` answers with the bytes of a random message of the whole API, and
  what they mean in the fields of ours.
- ``{"read": message, "bytes": hex}`` answers with what the bytes mean.
"""

from __future__ import annotations

import importlib
import json
import random
import sys
from pathlib import Path
from typing import Any

import google.protobuf
from google.protobuf import descriptor_pool, message_factory

PACKAGES = (
    "envoy/service/discovery/v3", "envoy/config/core/v3", "envoy/config/listener/v3",
    "envoy/config/route/v3", "envoy/config/cluster/v3", "envoy/config/endpoint/v3",
    "envoy/extensions/filters/network/http_connection_manager/v3", "envoy/type/v3",
    "envoy/extensions/filters/http/fault/v3", "envoy/extensions/filters/common/fault/v3",
    "envoy/extensions/clusters/aggregate/v3", "envoy/type/matcher/v3", "xds/type/v3",
    "udpa/type/v1", "google/rpc",
    *(
        f"envoy/extensions/load_balancing_policies/{name}/v3"
        for name in (
            "wrr_locality", "pick_first", "least_request", "ring_hash",
            "client_side_weighted_round_robin",
        )
    ),
)  # fmt: skip
ROOT = Path(google.protobuf.__file__).parents[2]
MAX_DEPTH = 5
TEXTS = ("", "a", "x.y", "type.googleapis.com/a.B", "é")  # the last one: not ASCII
WHOLE = (0, 1, 2, 5, 100, 2**31 - 1)


def load() -> None:
    for package in PACKAGES:
        for file in sorted((ROOT / package).glob("*_pb2.py")):
            importlib.import_module(f"{package.replace('/', '.')}.{file.stem}")


def type_of(field: Any) -> str:
    if field.message_type is not None:
        return str(field.message_type.full_name)
    return str(field.enum_type.full_name) if field.enum_type is not None else str(field.type)


def facts(descriptor: Any) -> dict[str, list[Any]]:
    """Per field: number, type, whether it is repeated, and its oneof."""
    return {
        field.name: [
            field.number,
            type_of(field),
            field.is_repeated,
            field.containing_oneof.name if field.containing_oneof is not None else "",
        ]
        for field in descriptor.fields
    }


def is_map(field: Any) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def meaning(message: Any, known: dict[str, Any]) -> dict[str, Any]:
    """The fields that are set and known, as JSON; protobuf's own types as a whole."""
    result: dict[str, Any] = {}
    names = known.get(message.DESCRIPTOR.full_name)
    for field, value in message.ListFields():
        if names is not None and field.name not in names:
            continue
        if is_map(field):
            items = {str(key): one(field, item, known) for key, item in value.items()}
            result[field.name] = dict(sorted(items.items()))
        elif field.is_repeated:
            result[field.name] = [one(field, item, known) for item in value]
        else:
            result[field.name] = one(field, value, known)
    return result


def one(field: Any, value: Any, known: dict[str, Any]) -> Any:
    if hasattr(value, "ListFields"):
        return meaning(value, known)
    return value.hex() if isinstance(value, bytes) else repr(value)


def make(message: Any, chance: random.Random, depth: int = 0) -> Any:
    """Fill in about a third of all fields at random."""
    for field in message.DESCRIPTOR.fields:
        if chance.random() > (0.6 if depth == 0 else 0.3):
            continue
        if is_map(field):
            target = getattr(message, field.name)
            inner = field.message_type.fields_by_name["value"]
            if inner.message_type is not None and depth < MAX_DEPTH:
                make(target[chance.choice(TEXTS)], chance, depth + 1)
        elif field.message_type is not None:
            if depth < MAX_DEPTH:
                target = getattr(message, field.name)
                for _ in range(chance.randrange(3) if field.is_repeated else 1):
                    child = target.add() if field.is_repeated else target
                    child.SetInParent()
                    make(child, chance, depth + 1)
        elif field.is_repeated:
            getattr(message, field.name).extend(scalar(field, chance) for _ in range(2))
        else:
            setattr(message, field.name, scalar(field, chance))
    return message


def scalar(field: Any, chance: random.Random) -> Any:
    match field.type:
        case field.TYPE_STRING:
            return chance.choice(TEXTS)
        case field.TYPE_BYTES:
            return chance.randbytes(chance.randrange(4))
        case field.TYPE_BOOL:
            return chance.random() < 0.5
        case field.TYPE_DOUBLE | field.TYPE_FLOAT:
            return chance.choice((0.0, 0.5, -1.25))
        case field.TYPE_ENUM:
            return chance.choice(field.enum_type.values).number
    return chance.choice(WHOLE)


def class_of(name: str, pool: Any = None) -> Any:
    pool = pool or descriptor_pool.Default()
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def differences(ours: dict[str, dict[str, list[Any]]]) -> list[str]:
    found = []
    for name, fields in ours.items():
        try:
            theirs = facts(descriptor_pool.Default().FindMessageTypeByName(name))
        except KeyError:
            found.append(f"{name}: there is no such message")
            continue
        found += [
            f"{name}.{field}: {fact} is {theirs.get(field)}"
            for field, fact in fields.items()
            if theirs.get(field) != fact
        ]
    return found


def main() -> None:
    load()
    known: dict[str, Any] = {}
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        if "fields" in request:
            known = request["fields"]
            answer["differences"] = differences(known)
        elif "make" in request:
            message = make(class_of(request["make"])(), random.Random(request["seed"]))
            answer["bytes"] = message.SerializeToString().hex()
            answer["meaning"] = meaning(message, known)
        else:
            data = bytes.fromhex(request["bytes"])
            answer["meaning"] = meaning(class_of(request["read"]).FromString(data), known)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
