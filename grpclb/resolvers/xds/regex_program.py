"""A regex's tree laid out as numbers, so that a step from a set of places is a few operations.

A place is one of the pattern's characters, each copy of a repeated one a place of its own; a set of
places is an integer with a bit per place. Glushkov's construction says which places may follow
which: no step reads nothing, so a set never has to be closed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, assert_never

from grpclb.resolvers.xds.regex_parser import (
    Chars,
    Choice,
    Edge,
    Ranges,
    RegexError,
    Repeat,
    Sequence,
    Tree,
)

MAX_PLACES = 4_096  # as a pattern may have characters
_MAX_WORK = 20_000  # to lay it out: parts, and ways from one to the next; some 50 ms
# A step asks each branch with a number of a bit per place. Some 5 ms for 1,000 steps: the usual
# pattern for IPv6 addresses needs two thirds of it, and those for paths a hundredth.
_MAX_COST = 2**17

# Where nothing is read, ``^`` and ``$`` may hold: inside of the text, before its first character,
# behind its last one, in a text without any. A bit for each; all of them: it may be skipped.
_INSIDE: Final = 1
_AT_START: Final = 2
_AT_END: Final = 4
_IN_EMPTY: Final = 8
_ANYWHERE: Final = 15


@dataclass(frozen=True, slots=True)
class Program:
    """What may come first, what last, and what after what.

    `classes` are sets of places by the code points that they read, from each of `bounds` on.
    From a place of `chain` the next one follows, one of `loops` follows itself, and each of
    `branches` is a set of places with the set of all that may follow any of them.
    """

    first: int
    last: int
    takes_empty: bool
    bounds: tuple[int, ...]
    classes: tuple[int, ...]
    chain: int
    loops: int
    branches: tuple[tuple[int, int], ...]

    def reads(self, char: str) -> int:
        """The places that read this character."""
        return self.classes[bisect_right(self.bounds, ord(char)) - 1]

    def follow(self, places: int) -> int:
        """The places that may come after these."""
        found = (places & self.chain) << 1 | places & self.loops
        for of, after in self.branches:
            if places & of:
                found |= after
        return found


class _Part(NamedTuple):
    """Places that may read a first or last character: inside of the text, or at its edge, too."""

    first: int = 0
    first_of_text: int = 0
    last: int = 0
    last_of_text: int = 0
    empty: int = 0  # where it matches without reading


def lay_out(tree: Tree) -> Program:
    """Raises RegexError for a pattern that could take long to match."""
    layout = _Layout()
    whole = layout.build(tree)
    chain, loops, branches = _edges(layout.follow)
    places = len(layout.follow)
    if len(branches) * (512 + places) > _MAX_COST:
        raise RegexError(f"{places} states that branch in {len(branches)} ways are too complex")
    bounds, classes = _alphabet(layout.reads)
    takes_empty = bool(whole.empty & _IN_EMPTY)
    first, last = whole.first_of_text, whole.last_of_text
    return Program(first, last, takes_empty, bounds, classes, chain, loops, branches)


class _Layout:
    def __init__(self) -> None:
        self.follow: list[int] = []  # by place
        self.reads: dict[Ranges, int] = {}
        self._work = 0

    def build(self, tree: Tree) -> _Part:
        self._works(1)
        match tree:
            case Chars(ranges):
                return self._chars(ranges)
            case Edge(at_start):
                return _Part(empty=_IN_EMPTY | (_AT_START if at_start else _AT_END))
            case Sequence(items):
                return self._joined([self.build(item) for item in items])
            case Choice(items):
                return _either([self.build(item) for item in items])
            case Repeat():
                return self._repeat(tree)
        assert_never(tree)

    def _works(self, much: int) -> None:
        self._work += much
        if self._work > _MAX_WORK:
            raise RegexError(f"needs more than {_MAX_WORK} steps to lay out")

    def _chars(self, ranges: Ranges) -> _Part:
        place = len(self.follow)
        if place >= MAX_PLACES:
            raise RegexError(f"needs more than {MAX_PLACES} states")
        self.follow.append(0)
        bit = 1 << place
        self.reads[ranges] = self.reads.get(ranges, 0) | bit
        return _Part(bit, bit, bit, bit)

    def _joined(self, parts: list[_Part]) -> _Part:
        """One after the other. From the right, so that each part is linked once to all behind."""
        whole = _Part(empty=_ANYWHERE)
        for part in reversed(parts):
            whole = self._join(part, whole)
        return whole

    def _join(self, one: _Part, rest: _Part) -> _Part:
        self._link(one.last, rest.first)
        return _Part(
            one.first | (rest.first if one.empty & _INSIDE else 0),
            one.first_of_text | (rest.first_of_text if one.empty & _AT_START else 0),
            rest.last | (one.last if rest.empty & _INSIDE else 0),
            rest.last_of_text | (one.last_of_text if rest.empty & _AT_END else 0),
            one.empty & rest.empty,
        )

    def _link(self, places: int, after: int) -> None:
        if after:
            self._works(places.bit_count())
            for place in _bits(places):
                self.follow[place] |= after

    def _repeat(self, tree: Repeat) -> _Part:
        item, least, most = _flat(tree)
        if most == 0:
            return _Part(empty=_ANYWHERE)
        places = len(self.follow)
        parts = [self.build(item)]
        if len(self.follow) > places:  # else all copies together are as one
            copies = max(least, 1) if most is None else most
            parts += (self.build(item) for _ in range(copies - 1))
        if most is None:
            self._link(parts[-1].last, parts[-1].first)
        # xx(x(x)?)? for {2,4}: each leads to the next one only.
        whole = _Part(empty=_ANYWHERE)
        for number in range(len(parts) - 1, -1, -1):
            whole = self._join(parts[number], whole)
            if number >= least:
                whole = whole._replace(empty=_ANYWHERE)
        return whole


def _flat(tree: Repeat) -> tuple[Tree, int, int | None]:
    """(x{0,3}){1,5} is x{0,15}, with far fewer ways through it."""
    item, least, most = tree.item, tree.least, tree.most
    while isinstance(item, Repeat) and item.least == 0:
        least = 0
        if most == 0 or item.most == 0:
            most = 0
        else:
            most = None if most is None or item.most is None else most * item.most
        item = item.item
    return item, least, most


def _either(parts: list[_Part]) -> _Part:
    first = first_of_text = last = last_of_text = empty = 0
    for part in parts:
        first |= part.first
        first_of_text |= part.first_of_text
        last |= part.last
        last_of_text |= part.last_of_text
        empty |= part.empty
    return _Part(first, first_of_text, last, last_of_text, empty)


def _bits(places: int) -> Iterator[int]:
    while places:
        low = places & -places
        yield low.bit_length() - 1
        places ^= low


def _edges(follow: list[int]) -> tuple[int, int, tuple[tuple[int, int], ...]]:
    """`chain`, `loops` and `branches`: places that branch to the same ones do so together."""
    chain = loops = 0
    branches: dict[int, int] = {}
    shared = Counter(follow)
    for place, every in enumerate(follow):
        bit = 1 << place
        others = every & ~(bit | bit << 1)
        if others and shared[every] > 1:
            branches[every] = branches.get(every, 0) | bit
            continue
        loops |= every & bit
        chain |= (every >> 1) & bit
        if others:
            branches[others] = branches.get(others, 0) | bit
    return chain, loops, tuple((of, after) for after, of in branches.items())


def _alphabet(reads: dict[Ranges, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`bounds` and `classes`. No place is in two of the sets, so that a bound turns bits over."""
    turns: dict[int, int] = {0: 0}
    for ranges, places in reads.items():
        for low, high in ranges:
            turns[low] = turns.get(low, 0) ^ places
            turns[high + 1] = turns.get(high + 1, 0) ^ places
    classes, now = [], 0
    bounds = sorted(turns)
    for bound in bounds:
        now ^= turns[bound]
        classes.append(now)
    return tuple(bounds), tuple(classes)
