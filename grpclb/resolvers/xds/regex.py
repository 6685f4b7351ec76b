"""Whole-string matching of RE2 patterns in time linear in the text.

Routes come from a management server and headers from anybody, so a backtracking matcher such as
`re` would hand both of them a way to stop the process. This one walks an automaton: its states are
sets of places in the pattern, made when a text first needs them, and kept up to a bound.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from typing import TypeAlias, assert_never

from grpclb.resolvers.xds.regex_parser import (
    Chars,
    Choice,
    Edge,
    Ranges,
    RegexError,
    Repeat,
    Sequence,
    Tree,
    parse,
)

MAX_PLACES = 10_000
_MAX_STATES = 1_000
_MAX_HELD = 200_000  # places in all of the states kept: some ten megabytes

_Set: TypeAlias = frozenset[int]


class Regex:
    """A compiled pattern. Equal patterns are equal; `fullmatch` may be called on any thread."""

    __slots__ = ("_chars", "_edges", "_empty", "_end", "_held", "_start", "_steps", "pattern")

    def __init__(self, pattern: str) -> None:
        """Raises RegexError."""
        self.pattern = pattern
        # Per place: where nothing has to be read to go on (`_empty`), at the text's start or end
        # only (`_edges`), or a character of a set (`_chars`).
        self._empty: list[list[int]] = []
        self._edges: dict[int, tuple[bool, int]] = {}
        self._chars: dict[int, tuple[Ranges, int]] = {}
        start = self._place()
        self._end = self._build(parse(pattern), start)
        self._start = self._close({start}, at_start=True)
        self._steps: dict[tuple[_Set, str], _Set] = {}
        self._held = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Regex) and other.pattern == self.pattern

    def __hash__(self) -> int:
        return hash(self.pattern)

    def __repr__(self) -> str:
        return f"Regex({self.pattern!r})"

    def fullmatch(self, text: str) -> bool:
        state = self._start
        for char in text:
            if not state:
                return False
            # Two threads may both work a step out; they find the same.
            found = self._steps.get((state, char))
            state = self._step(state, char) if found is None else found
        return self._end in self._close(set(state), at_start=not text, at_end=True)

    def _step(self, state: _Set, char: str) -> _Set:
        code = ord(char)
        reached = set()
        for place in state:
            arrow = self._chars.get(place)
            if arrow is not None and _holds(arrow[0], code):
                reached.add(arrow[1])
        result = self._close(reached)
        if len(self._steps) >= _MAX_STATES or self._held > _MAX_HELD:
            self._steps.clear()
            self._held = 0
        self._held += len(result)
        self._steps[state, char] = result
        return result

    def _close(self, places: set[int], *, at_start: bool = False, at_end: bool = False) -> _Set:
        """All places that can be reached from these without reading a character."""
        waiting = list(places)
        while waiting:
            place = waiting.pop()
            reached = self._empty[place]
            edge = self._edges.get(place)
            if edge is not None and (at_start if edge[0] else at_end):
                reached = [edge[1]]
            for other in reached:
                if other not in places:
                    places.add(other)
                    waiting.append(other)
        return frozenset(places)

    # -- building --------------------------------------------------------------------------------

    def _place(self) -> int:
        if len(self._empty) >= MAX_PLACES:
            raise RegexError(f"needs more than {MAX_PLACES} states")
        self._empty.append([])
        return len(self._empty) - 1

    def _build(self, tree: Tree, start: int) -> int:
        """Lay out `tree` behind the place `start`; returns the place behind it."""
        match tree:
            case Chars(ranges):
                end = self._place()
                self._chars[self._from(start)] = (ranges, end)
            case Edge(at_start):
                end = self._place()
                self._edges[self._from(start)] = (at_start, end)
            case Sequence(items):
                end = start if items else self._from(start)  # never free: repeated, it counts
                for item in items:
                    end = self._build(item, end)
            case Choice(items):
                ends = [self._build(item, self._from(start)) for item in items]
                end = self._place()
                for one in ends:
                    self._empty[one].append(end)
            case Repeat(item, least, most):
                end = self._repeat(item, least, most, start)
            case _ as never:
                assert_never(never)
        return end

    def _from(self, start: int) -> int:
        """A fresh place with one empty arrow from `start`: each arrow has a place of its own."""
        place = self._place()
        self._empty[start].append(place)
        return place

    def _repeat(self, item: Tree, least: int, most: int | None, start: int) -> int:
        for _ in range(least):
            start = self._build(item, start)
        if most is None:
            loop = self._from(start)
            self._empty[self._build(item, loop)].append(loop)
            return self._from(loop)
        exits = [start]
        for _ in range(most - least):
            start = self._build(item, start)
            exits.append(start)
        end = self._place()
        for place in exits:
            self._empty[place].append(end)
        return end


def _holds(ranges: Ranges, code: int) -> bool:
    index = bisect_right(ranges, (code, 0x110000)) - 1
    return index >= 0 and ranges[index][0] <= code <= ranges[index][1]


@lru_cache(maxsize=1024)
def compile_regex(pattern: str) -> Regex:
    """As ``Regex(pattern)``; a server repeats its patterns with every update."""
    return Regex(pattern)
