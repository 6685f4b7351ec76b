"""Our reader of .proto files: against protoc, for what it refuses, beside the default pool."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from grpclb.resolvers import protos
from grpclb.resolvers.protos import ProtoError

COMMON = """
syntax = "proto3"; // the first statement
package a.common;
option go_package = "example.com/a";
enum Colour { option allow_alias = true; NONE = 0; RED = 1; ROT = 1; reserved 5 to 9; BLUE = -2; }
message Id { string text = 1 [deprecated = true, (my.option) = { a: "]" }]; }
"""
EVERYTHING = """
syntax = 'proto3';
/* a comment;
   message NotHere {} */
package a.b;
import "common.proto";
import "google/protobuf/any.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
message Outer {
  option (some.thing) = { nested: { x: 1 } };
  reserved 4, 100 to max;
  reserved "old";
  message Inner {
    enum Kind { UNKNOWN = 0; OTHER = 0x10; }
    Kind kind = 1;
    common.Colour colour = 2;      // relative to the package's first part
    .a.common.Id id = 3;
    Outer parent = 05;
  }
  Inner inner = 1;
  repeated Inner.Kind kinds = 2;
  map<string, Inner> by_name = 3;
  map<int64, double> two_words_here = 5;
  optional uint32 maybe = 6;
  oneof which { string text = 7; Inner message_ = 8; }
  google.protobuf.Any any = 9;
  optional google.protobuf.Duration wait = 20;
  repeated bytes chunks = 21 [packed = false];
  oneof other { option (o) = 1; google.protobuf.UInt32Value weight = 22; bool reserved_flag = 23; }
  google.protobuf.Struct facts = 24;
  google.protobuf.Timestamp at = 25;
  fixed32 f = 26; sfixed64 g = 27; sint32 h = 28; float i = 29;
  ;
}
"""
TEXTS = {"everything.proto": EVERYTHING, "common.proto": COMMON}


def by_protoc(texts: dict[str, str], folder: Path) -> dict[str, Any]:
    """What protoc makes of the texts, as FileDescriptorProtos by name."""
    for name, text in texts.items():
        (folder / name).write_text(text)
    out = folder / "set"
    tool = [sys.executable, "-m", "grpc_tools.protoc"]
    subprocess.run(
        [*tool, f"-I{folder}", f"--descriptor_set_out={out}", "--include_imports", *texts],
        check=True,
        timeout=60,
    )
    files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    return {file.name: file for file in files}


def without_what_we_pass_over(file: Any) -> Any:
    """protoc's descriptor less options, reserved names and JSON names."""
    allow_alias = {enum.name for enum in file.enum_type if enum.options.allow_alias}

    def clean(message: Any) -> None:
        message.ClearField("reserved_range")
        message.ClearField("reserved_name")
        if not message.options.map_entry:
            message.ClearField("options")
        for field in message.field:
            field.ClearField("json_name")
            field.ClearField("options")
        for enum in message.enum_type:
            enum.ClearField("options")
        for inner in message.nested_type:
            clean(inner)

    for message in file.message_type:
        clean(message)
    file.ClearField("options")
    for enum in file.enum_type:
        enum.ClearField("options")
        enum.ClearField("reserved_range")
        if enum.name in allow_alias:
            enum.options.allow_alias = True
    return file


def sorted_nested(file: Any) -> str:
    """protoc puts map entries where their field stands; their place means nothing."""

    def sort(message: Any) -> None:
        message.nested_type.sort(key=lambda inner: inner.name)
        for inner in message.nested_type:
            sort(inner)

    for message in file.message_type:
        sort(message)
    return str(file)


def ours(namespace: protos.Namespace, name: str) -> Any:
    result = descriptor_pb2.FileDescriptorProto()
    namespace.pool.FindFileByName(name).CopyToProto(result)
    return without_what_we_pass_over(result)


@pytest.mark.slow
def test_protoc_reads_the_same(tmp_path: Path) -> None:
    # protoc refuses options that it cannot find the declaration of
    plain = {
        name: text.replace('(my.option) = { a: "]" }', "json_name = 'x'")
        .replace("option (some.thing) = { nested: { x: 1 } };", "")
        .replace("option (o) = 1;", "")
        for name, text in TEXTS.items()
    }
    plain["etcd.proto"] = (
        resources.files("grpclb.resolvers.etcd").joinpath("etcd.proto").read_text()
    )
    theirs = by_protoc(plain, tmp_path)
    namespace = protos.load_texts({**TEXTS, "etcd.proto": plain["etcd.proto"]}, extra="etcd")
    for name in plain:
        expected = sorted_nested(without_what_we_pass_over(theirs[name]))
        assert sorted_nested(ours(namespace, name)) == expected
        assert len(expected) > 100


def test_messages_are_used_as_generated_ones() -> None:
    namespace = protos.load_texts(TEXTS, extra="etcd")
    outer = namespace.message("a.b.Outer")
    inner = namespace.message("a.b.Outer.Inner")
    message = outer(
        inner=inner(kind=16, colour=-2), kinds=[0, 16], by_name={"x": inner(kind=16)}, text="t"
    )
    message.any.Pack(inner(kind=16))
    message.wait.FromSeconds(3)
    message.facts["a"] = [1, "b"]
    message.weight.value = 0
    again = outer.FromString(message.SerializeToString())
    # Comparing an Any with == would look for its type in the default pool (in pure Python).
    assert again.SerializeToString(deterministic=True) == message.SerializeToString(
        deterministic=True
    )
    assert again.WhichOneof("which") == "text"
    assert again.WhichOneof("other") == "weight"
    assert not again.HasField("maybe")
    assert outer(maybe=0).HasField("maybe")
    unpacked = inner()
    assert again.any.Is(inner.DESCRIPTOR)
    assert again.any.Unpack(unpacked)
    assert unpacked.kind == 16
    assert again.wait.ToTimedelta().total_seconds() == 3
    assert dict(namespace.enum("a.common.Colour")) == {"NONE": 0, "RED": 1, "ROT": 1, "BLUE": -2}


def test_unknown_names_raise_key_error() -> None:
    namespace = protos.load_texts({"common.proto": COMMON}, extra="etcd")
    with pytest.raises(KeyError):
        namespace.message("a.common.Nothing")
    with pytest.raises(KeyError):
        namespace.enum("a.common.Id")


def test_nothing_of_ours_enters_the_default_pool() -> None:
    """Two copies of etcd's messages that disagree, and ours, all in one process."""
    code = """
from google.protobuf import descriptor_pb2, descriptor_pool
from grpclb.resolvers import protos
default = descriptor_pool.Default()
theirs = descriptor_pb2.FileDescriptorProto(
    name="etcd.proto", package="etcdserverpb", syntax="proto3",
    message_type=[descriptor_pb2.DescriptorProto(name="RangeRequest")])
default.AddSerializedFile(theirs.SerializeToString())
one = protos.load("grpclb.resolvers.etcd", "etcd.proto", extra="etcd")
two = protos.load("grpclb.resolvers.etcd", "etcd.proto", extra="etcd")
assert default.FindMessageTypeByName("etcdserverpb.RangeRequest").fields == []
for namespace in (one, two):
    request = namespace.message("etcdserverpb.RangeRequest")(key=b"k", serializable=True)
    assert request.SerializeToString() == b"\\n\\x01k8\\x01"
try:
    default.FindMessageTypeByName("etcdserverpb.PutRequest")
except KeyError:
    print("apart")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("apart\n", "")


def test_without_protobuf_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    with pytest.raises(ImportError, match=r"pip install 'grpclb-client\[xds\]'"):
        protos.load_texts(TEXTS, extra="xds")


HEAD = 'syntax = "proto3"; '


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected syntax"),
        ("message A {}", "expected syntax"),
        ('syntax = "proto2";', 'only syntax = "proto3" is known'),
        (HEAD + "service S {}", "f:1: 'service' is not known here"),
        (HEAD + "extend A {}", "'extend' is not known"),
        (HEAD + "package a; package b;", "'package' is not known here"),
        (HEAD + 'import public "x";', "expected a plain string"),
        (HEAD + 'import "x.proto";', "f: no file 'x.proto'"),
        (HEAD + 'import "f";', "leads back to itself"),
        (HEAD + "message A { required int32 a = 1; }", "'required' is not known"),
        (HEAD + "message A { extensions 4 to 5; }", "'extensions' is not known"),
        (HEAD + "message A { int32 a = 0; }", "0 cannot be a field's number"),
        (HEAD + "message A { int32 a = 19000; }", "19000 cannot be"),
        (HEAD + "message A { int32 a = 536870912; }", "cannot be a field's number"),
        (HEAD + "message A { int32 a = 1.5; }", "expected an integer"),
        (HEAD + "message A { int32 a = 08; }", "expected an integer"),
        (HEAD + "message A { int32 a = 1; int32 a = 2; }", "name or number is taken"),
        (HEAD + "message A { int32 a = 1;\nint32 b = 1; }", "f:2: A.b = 1"),
        (HEAD + "message A { int32 a = 1 }", "expected ';', at '}'"),
        (HEAD + "message A { Missing a = 1; }", "A.a: no type 'Missing'"),
        (HEAD + "message A { .int32 a = 1; }", "no type '.int32'"),
        (HEAD + "message A {} message A {}", "A is declared twice"),
        (HEAD + "message A { map<float, int32> a = 1; }", "'float' cannot be the key"),
        (HEAD + "message A { repeated map<string, int32> a = 1; }", "expected a field's name"),
        (HEAD + "message A { oneof b {} }", "oneof 'b' is empty"),
        (HEAD + "message A { oneof b { repeated int32 a = 1; } }", "no label may stand"),
        (HEAD + "message A { int32 a = 1; oneof a { int32 b = 2; } }", "A.a = 1: name"),
        (HEAD + "enum E { A = 1; }", "first value of proto3 must be 0"),
        (HEAD + "enum E { }", "first value of proto3 must be 0"),
        (HEAD + "enum E { A = 0; B = 0; }", "a number stands twice"),
        (HEAD + "message A { int32 a = 1 [x = {]; }", "closes nothing"),
        (HEAD + "message A {", "expected a name, at 'the end of the file'"),
        (HEAD + "message A { reserved 1", "no ';' ends what begins here"),
        (HEAD + "message A { int32 a = 1; } $", "is no token"),
        (HEAD + '\n\n"', "f:3: "),
    ],
)
def test_what_is_not_known_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ProtoError) as caught:
        protos.load_texts({"f": text}, extra="etcd")
    assert problem in str(caught.value)


def test_files_of_a_package_are_found_by_their_path() -> None:
    with pytest.raises(ProtoError, match=r"load: no file 'missing/file\.proto' in the package"):
        protos.load("grpclb.resolvers", "missing/file.proto", extra="xds")
    namespace = protos.load("grpclb.resolvers", "etcd/etcd.proto", extra="xds")
    assert namespace.message("etcdserverpb.WatchResponse")(compact_revision=3).compact_revision == 3
