"""RE2's syntax, as far as a whole-string match needs it, parsed into a tree of frozen values.

What RE2 knows and this does not (word boundaries, `(?m)`, Unicode classes, `\\C`) is an error that
says so: a pattern is never taken to mean something else. A `?` that makes a repetition lazy is
read over, since laziness cannot change whether the whole string matches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

MAX_PATTERN = 4096  # characters
MAX_REPEAT = 1000  # RE2's own limit
_MAX_DEPTH = 100
_TOP: Final = 0x10FFFF

# Sorted, disjoint, inclusive ranges of code points.
Ranges: TypeAlias = "tuple[tuple[int, int], ...]"


class RegexError(ValueError):
    """A pattern that RE2 would refuse, or that this matcher does not know."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character out of a set."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Edge:
    """The start of the text, or its end."""

    start: bool


@dataclass(frozen=True, slots=True)
class Sequence:
    items: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    items: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`least` to `most` times; None is without end."""

    item: Tree
    least: int
    most: int | None


Tree: TypeAlias = "Chars | Edge | Sequence | Choice | Repeat"


def union(*parts: Ranges) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(r for part in parts for r in part):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)


def negate(ranges: Ranges) -> Ranges:
    result, next_low = [], 0
    for low, high in ranges:
        if low > next_low:
            result.append((next_low, low - 1))
        next_low = high + 1
    if next_low <= _TOP:
        result.append((next_low, _TOP))
    return tuple(result)


def _of(text: str) -> Ranges:
    """``"09AZ"`` as the ranges 0-9 and A-Z."""
    return tuple((ord(a), ord(b)) for a, b in zip(text[::2], text[1::2], strict=True))


_CLASSES: dict[str, Ranges] = {
    "d": _of("09"),
    "s": union(_of("\t\n\f\r  ")),
    "w": union(_of("09AZ__az")),
}
_POSIX: dict[str, Ranges] = {
    "alnum": _of("09AZaz"),
    "alpha": _of("AZaz"),
    "ascii": ((0, 0x7F),),
    "blank": _of("\t\t  "),
    "cntrl": ((0, 0x1F), (0x7F, 0x7F)),
    "digit": _of("09"),
    "graph": _of("!~"),
    "lower": _of("az"),
    "print": _of(" ~"),
    "punct": _of("!/:@[`{~"),
    "space": _of("\t\r  "),
    "upper": _of("AZ"),
    "word": _of("09AZ__az"),
    "xdigit": _of("09AFaf"),
}
_CONTROLS = {"a": 7, "f": 12, "t": 9, "n": 10, "r": 13, "v": 11}
_NEWLINE: Ranges = ((10, 10),)
_ANYTHING: Ranges = ((0, _TOP),)


def _fold(ranges: Ranges) -> Ranges:
    """With the other case of every ASCII letter; paths and headers are ASCII."""
    extra = []
    for low, high in ranges:
        for start, shift in ((ord("A"), 32), (ord("a"), -32)):
            first, last = max(low, start), min(high, start + 25)
            if first <= last:
                extra.append((first + shift, last + shift))
    return union(ranges, tuple(extra))


def _times(tree: Tree) -> int:
    """How often something in it is repeated by numbers; nested ones multiply, as in RE2."""
    match tree:
        case Repeat(item, least, most):
            return _times(item) * max(1, least if most is None else most)
        case Sequence(items) | Choice(items):
            return max(map(_times, items), default=1)
    return 1


def parse(pattern: str) -> Tree:
    """The tree of a pattern. Raises RegexError."""
    if len(pattern) > MAX_PATTERN:
        raise RegexError(f"longer than {MAX_PATTERN} characters")
    parser = _Parser(pattern)
    tree = parser.choice(0)
    if parser.at < len(pattern):
        raise RegexError("unexpected ')'")
    return tree


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self.at = 0
        self._fold = False
        self._dot_all = False

    def _peek(self) -> str:
        return self._text[self.at : self.at + 1]

    def _take(self, text: str) -> bool:
        if self._text.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def _next(self, what: str) -> str:
        if self.at >= len(self._text):
            raise RegexError(f"{what} at the end")
        self.at += 1
        return self._text[self.at - 1]

    def choice(self, depth: int) -> Tree:
        if depth > _MAX_DEPTH:
            raise RegexError(f"nested deeper than {_MAX_DEPTH}")
        flags = self._fold, self._dot_all  # a flag lasts to the end of its group
        items = [self._sequence(depth)]
        while self._take("|"):
            items.append(self._sequence(depth))
        self._fold, self._dot_all = flags
        return items[0] if len(items) == 1 else Choice(tuple(items))

    def _sequence(self, depth: int) -> Tree:
        items: list[Tree] = []
        while self._peek() not in ("", "|", ")"):
            if self._take("\\Q"):
                quoted, _, _ = self._text[self.at :].partition("\\E")
                self.at = min(len(self._text), self.at + len(quoted) + 2)
                items.extend(self._one(ord(c)) for c in quoted)
                if not quoted:
                    continue
            else:
                item = self._item(depth)
                if item is None:
                    continue
                items.append(item)
            items[-1] = self._repeated(items[-1])
        return items[0] if len(items) == 1 else Sequence(tuple(items))

    def _repeated(self, item: Tree) -> Tree:
        bounds = self._bounds()
        if bounds is None:
            return item
        self._take("?")
        if self._bounds() is not None:
            raise RegexError("a repetition of a repetition")
        repeated = Repeat(item, *bounds)
        if max(n or 0 for n in bounds) > 1 and _times(repeated) > MAX_REPEAT:
            raise RegexError(f"bad repetition: more than {MAX_REPEAT}, one within the other")
        return repeated

    def _bounds(self) -> tuple[int, int | None] | None:
        for mark, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(mark):
                return bounds
        if self._peek() != "{":
            return None
        inside, close, _ = self._text[self.at + 1 :].partition("}")
        least, comma, most = inside.partition(",")
        numbers = (least, most) if comma and most else (least,)
        if not close or not all(n.isascii() and n.isdigit() for n in numbers):
            return None  # RE2 takes such a brace as itself
        if any(len(n) > 9 for n in numbers):
            raise RegexError(f"more than {MAX_REPEAT} repetitions")
        low = int(least)
        high = (int(most) if most else None) if comma else low
        if low > MAX_REPEAT or (high is not None and not low <= high <= MAX_REPEAT):
            raise RegexError(f"bad repetition {{{inside}}}")
        self.at += len(inside) + 2
        return low, high

    def _item(self, depth: int) -> Tree | None:
        """One item; None for a group that only sets flags."""
        char = self._next("an item")
        match char:
            case "(":
                return self._group(depth)
            case "[":
                return Chars(self._set())
            case ".":
                return Chars(_ANYTHING if self._dot_all else negate(_NEWLINE))
            case "^" | "$":
                return Edge(char == "^")
            case "*" | "+" | "?":
                raise RegexError(f"nothing to repeat before {char!r}")
            case "\\":
                return self._escape()
        return self._one(ord(char))

    def _one(self, code: int) -> Chars:
        return self._chars(((code, code),))

    def _chars(self, ranges: Ranges) -> Chars:
        return Chars(_fold(ranges) if self._fold else ranges)

    def _group(self, depth: int) -> Tree | None:
        flags = self._fold, self._dot_all
        if self._take("?"):
            if self._take("P<") or self._take("<"):
                name, close, _ = self._text[self.at :].partition(">")
                if not close or not name or not name.replace("_", "a").isalnum():
                    raise RegexError("a group's name is not a word")
                self.at += len(name) + 1
            elif not self._flags():
                return None
        tree = self.choice(depth + 1)
        if not self._take(")"):
            raise RegexError("a group is not closed")
        self._fold, self._dot_all = flags
        return tree

    def _flags(self) -> bool:
        """``i``, ``s`` and ``U`` up to ``:`` (True: a group follows) or ``)``."""
        value = True
        while True:
            flag = self._next("a flag")
            match flag:
                case ":":
                    return True
                case ")":
                    return False
                case "-" if value:
                    value = False
                case "i":
                    self._fold = value
                case "s":
                    self._dot_all = value
                case "U":
                    pass  # lazy and greedy change places
                case _:
                    raise RegexError(f"the flag or group '(?{flag}' is not supported")

    def _escape(self) -> Tree:
        code = self._text[self.at : self.at + 1]
        if code in ("A", "z"):
            self.at += 1
            return Edge(code == "A")
        ranges = self._escaped_class()
        return self._chars(ranges) if ranges is not None else self._one(self._escaped_char())

    def _escaped_class(self) -> Ranges | None:
        code = self._peek()
        found = _CLASSES.get(code.lower()) if code else None
        if found is None:
            return None
        self.at += 1
        return found if code.islower() else negate(found)

    def _escaped_char(self) -> int:
        code = self._next("a backslash")
        if code in _CONTROLS:
            return _CONTROLS[code]
        if code == "x":
            if self._take("{"):
                digits, close, _ = self._text[self.at :].partition("}")
                self.at += len(digits) + 1
            else:
                digits, close = self._text[self.at : self.at + 2], "}"
                self.at += 2
            hexadecimal = 0 < len(digits) <= 6 and all(
                c in "0123456789abcdefABCDEF" for c in digits
            )
            if not close or not hexadecimal or int(digits, 16) > _TOP or self.at > len(self._text):
                raise RegexError("a bad \\x escape")
            return int(digits, 16)
        if code == "0":
            digits = ""
            while len(digits) < 2 and self._peek() in tuple("01234567"):
                digits += self._next("")
            return int(digits or "0", 8)
        if code.isalnum() or code == "_" or not code.isascii():
            raise RegexError(f"the escape '\\{code}' is not supported")
        return ord(code)

    def _set(self) -> Ranges:
        """A bracket expression, from behind its ``[``."""
        inverted = self._take("^")
        parts: list[Ranges] = []
        first = True
        while first or self._peek() != "]":
            if self._take("[:"):
                parts.append(self._posix())
            elif (shorthand := self._shorthand()) is not None:
                parts.append(shorthand)
            else:
                low = high = self._set_char()
                if self._peek() == "-" and self._text[self.at + 1 : self.at + 2] not in ("", "]"):
                    self.at += 1
                    high = self._set_char()
                if high < low:
                    raise RegexError("a range of characters that ends before it starts")
                parts.append(((low, high),))
            first = False
        self.at += 1
        ranges = union(*parts)
        if self._fold:
            ranges = _fold(ranges)
        return negate(ranges) if inverted else ranges

    def _posix(self) -> Ranges:
        name, close, _ = self._text[self.at :].partition(":]")
        inverted = name.startswith("^")
        found = _POSIX.get(name.removeprefix("^"))
        if not close or found is None:
            raise RegexError("an unknown class in [: :]")
        self.at += len(name) + 2
        return negate(union(found)) if inverted else union(found)

    def _shorthand(self) -> Ranges | None:
        if self._peek() != "\\":
            return None
        self.at += 1
        found = self._escaped_class()
        if found is None:
            self.at -= 1
        return found

    def _set_char(self) -> int:
        char = self._next("an open [")
        return self._escaped_char() if char == "\\" else ord(char)
