"""A small part of the .proto language, parsed into plain values. Pure; needs no protobuf.

Known: proto3 `syntax`, `package`, `import`, messages and enums (nested, too), `oneof`, `map`,
`optional`, `repeated`, comments. Passed over: options (but `allow_alias`) and `reserved`. Anything
else is an error that names file and line, since these files are our own and none may be misread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>[0-9][0-9a-zA-Z_.+]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<mark>[-;={}\[\]()<>,.:+])""",
    re.VERBOSE | re.DOTALL,
)
_INTEGER = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*")
_MOST_FIELDS = 2**29 - 1
_RESERVED_BY_PROTOBUF = range(19_000, 20_000)
_MAP_KEYS = frozenset(
    {"int32", "int64", "uint32", "uint64", "sint32", "sint64", "bool", "string"}
    | {"fixed32", "fixed64", "sfixed32", "sfixed64"}
)
# Words of the language that begin something which this parser does not know.
_UNKNOWN = frozenset({"extend", "extensions", "group", "required", "service", "rpc", "stream"})


class ProtoError(ValueError):
    """A .proto text that cannot be taken as it is: which file, which line, what and why."""


@dataclass(slots=True)
class Field:
    """One field. `type` is a scalar's name or a type's as written; `map_key` only of a map."""

    name: str
    number: int
    type: str
    line: int
    repeated: bool = False
    optional: bool = False
    oneof: str | None = None
    map_key: str | None = None


@dataclass(slots=True)
class Enum:
    name: str
    line: int
    values: list[tuple[str, int]] = field(default_factory=list)
    allow_alias: bool = False


@dataclass(slots=True)
class Message:
    name: str
    line: int
    fields: list[Field] = field(default_factory=list)
    oneofs: list[str] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    enums: list[Enum] = field(default_factory=list)


@dataclass(slots=True)
class File:
    """One .proto file. `name` is what other files import it by."""

    name: str
    package: str = ""
    imports: list[str] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    enums: list[Enum] = field(default_factory=list)


def parse(name: str, text: str) -> File:
    """The file `name` with this text. Raises ProtoError for what it does not know."""
    return _Parser(name, text).file()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # name, number, string, mark or end
    text: str
    line: int


def _tokens(name: str, text: str) -> Iterator[_Token]:
    position, line = 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise ProtoError(f"{name}:{line}: {text[position : position + 20]!r} is no token")
        if match.lastgroup != "space":
            yield _Token(match.lastgroup, match[0], line)
        line += match[0].count("\n")
        position = match.end()
    yield _Token("end", "the end of the file", line)


class _Parser:
    """One method per construct; each leaves the position behind what it read."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._tokens = list(_tokens(name, text))
        self._at = 0

    # -- constructs ----------------------------------------------------------------------------

    def file(self) -> File:
        result = File(self._name)
        if not (self._take("syntax") and self._take("=")):
            raise self._error('expected syntax = "proto3"; as the file\'s first statement')
        if self._string() != "proto3":
            raise self._error('only syntax = "proto3" is known', self._tokens[self._at - 1])
        self._expect(";")
        while self._next.kind != "end":
            word = self._word("package, import, option, message or enum")
            match word.text:
                case "package" if not result.package:
                    result.package = self._dotted()
                    self._expect(";")
                case "import":
                    result.imports.append(self._string())
                    self._expect(";")
                case "option":
                    self._option()
                case "message":
                    result.messages.append(self._message())
                case "enum":
                    result.enums.append(self._enum())
                case _:
                    raise self._error(f"{word.text!r} is not known here", word)
        return result

    def _message(self) -> Message:
        word = self._word("a message's name")
        result = Message(word.text, word.line)
        self._expect("{")
        while not self._take("}"):
            match self._next.text:
                case "message":
                    self._at += 1
                    result.messages.append(self._message())
                case "enum":
                    self._at += 1
                    result.enums.append(self._enum())
                case "oneof":
                    self._at += 1
                    self._oneof(result)
                case "option":
                    self._at += 1
                    self._option()
                case "reserved":
                    self._skip_to(";")
                case "map" if self._peek(1) == "<":
                    result.fields.append(self._map())
                case ";":
                    self._at += 1
                case _:
                    result.fields.append(self._field())
        self._check_fields(result)
        return result

    def _oneof(self, message: Message) -> None:
        name = self._word("a oneof's name")
        if name.text in message.oneofs:
            raise self._error(f"oneof {name.text!r} stands twice", name)
        message.oneofs.append(name.text)
        before = len(message.fields)
        self._expect("{")
        while not self._take("}"):
            if self._take("option"):
                self._option()
                continue
            found = self._field()
            if found.repeated or found.optional:
                raise self._error(f"{found.name}: no label may stand in a oneof")
            found.oneof = name.text
            message.fields.append(found)
        if len(message.fields) == before:
            raise self._error(f"oneof {name.text!r} is empty", name)

    def _field(self) -> Field:
        first = self._next
        if first.text in _UNKNOWN and self._peek(2) != "=":
            raise self._error(f"{first.text!r} is not known")
        repeated = self._take("repeated")
        optional = not repeated and self._take("optional")
        type_name = self._dotted()
        name = self._word("a field's name")
        result = Field(name.text, 0, type_name, name.line, repeated, optional)
        result.number = self._field_number()
        return result

    def _map(self) -> Field:
        self._at += 1
        self._expect("<")
        key = self._word("a map's key type")
        if key.text not in _MAP_KEYS:
            raise self._error(f"{key.text!r} cannot be the key of a map", key)
        self._expect(",")
        value = self._dotted()
        self._expect(">")
        name = self._word("a field's name")
        return Field(name.text, self._field_number(), value, name.line, map_key=key.text)

    def _field_number(self) -> int:
        self._expect("=")
        token = self._next
        number = self._integer()
        if not 0 < number <= _MOST_FIELDS or number in _RESERVED_BY_PROTOBUF:
            raise self._error(f"{number} cannot be a field's number", token)
        self._end_with_options()
        return number

    def _enum(self) -> Enum:
        word = self._word("an enum's name")
        result = Enum(word.text, word.line)
        self._expect("{")
        while not self._take("}"):
            if self._next.text == "option" and self._peek(1) != "=":
                self._at += 1
                result.allow_alias |= self._option() == "allow_alias = true"
            elif self._next.text == "reserved" and self._peek(1) != "=":
                self._skip_to(";")
            elif not self._take(";"):
                name = self._word("an enum value's name").text
                self._expect("=")
                sign = -1 if self._take("-") else 1
                result.values.append((name, sign * self._integer()))
                self._end_with_options()
        self._check_values(result, word)
        return result

    def _option(self) -> str:
        """Pass over ``name = value;``, nested braces and all; its words, for those we know."""
        start = self._at
        self._skip_to(";")
        return " ".join(token.text for token in self._tokens[start : self._at - 1])

    # -- checks that protobuf would make with a less helpful message, or not at all ---------------

    def _check_fields(self, message: Message) -> None:
        names: set[str] = set(message.oneofs)
        numbers: set[int] = set()
        for item in message.fields:
            if item.name in names or item.number in numbers:
                where = f"{self._name}:{item.line}"
                raise ProtoError(
                    f"{where}: {message.name}.{item.name} = {item.number}: name or number is taken"
                )
            names.add(item.name)
            numbers.add(item.number)

    def _check_values(self, enum: Enum, word: _Token) -> None:
        numbers = [number for _, number in enum.values]
        if not numbers or numbers[0] != 0:
            raise self._error(f"enum {enum.name!r}: the first value of proto3 must be 0", word)
        if len(set(numbers)) != len(numbers) and not enum.allow_alias:
            raise self._error(f"enum {enum.name!r}: a number stands twice", word)

    # -- tokens ----------------------------------------------------------------------------------

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _peek(self, ahead: int) -> str:
        return self._tokens[min(self._at + ahead, len(self._tokens) - 1)].text

    def _error(self, problem: str, token: _Token | None = None) -> ProtoError:
        token = token or self._next
        return ProtoError(f"{self._name}:{token.line}: {problem}, at {token.text!r}")

    def _take(self, text: str) -> bool:
        token = self._next
        found = token.text == text and token.kind in ("mark", "name")
        self._at += found
        return found

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise self._error(f"expected {text!r}")

    def _word(self, what: str) -> _Token:
        token = self._next
        if token.kind != "name":
            raise self._error(f"expected {what}")
        self._at += 1
        return token

    def _dotted(self) -> str:
        """A name such as ``google.protobuf.Any`` or ``.etcdserverpb.Compare``."""
        parts = "." if self._take(".") else ""
        parts += self._word("a name").text
        while self._take("."):
            parts += "." + self._word("a name").text
        return parts

    def _string(self) -> str:
        token = self._next
        if token.kind != "string" or "\\" in token.text:
            raise self._error("expected a plain string")
        self._at += 1
        return token.text[1:-1]

    def _integer(self) -> int:
        token = self._next
        if token.kind != "number" or not _INTEGER.fullmatch(token.text):
            raise self._error("expected an integer")
        self._at += 1
        octal = token.text.startswith("0") and token.text.isdigit()
        return int(token.text, 8 if octal else 0)

    def _end_with_options(self) -> None:
        """``;`` or ``[...];``, whose content is for other languages and for documentation."""
        if self._next.text == "[":
            self._skip_to(";")
        else:
            self._expect(";")

    def _skip_to(self, end: str) -> None:
        """Behind the next `end` that is in no bracket."""
        closing: list[str] = []
        start = self._next
        pairs = {"{": "}", "[": "]", "(": ")"}
        while True:
            token = self._next
            if token.kind == "end":
                raise self._error(f"no {end!r} ends what begins here", start)
            self._at += 1
            if token.kind != "mark":
                continue
            if not closing and token.text == end:
                return
            if token.text in pairs:
                closing.append(pairs[token.text])
            elif token.text in pairs.values() and (not closing or closing.pop() != token.text):
                raise self._error("this bracket closes nothing", token)
