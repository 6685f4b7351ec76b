"""Whole-string matching of RE2 patterns in time linear in the text.

Routes come from a management server and headers from anybody, so a backtracking matcher such as
`re` would hand both of them a way to stop the process. This one walks an automaton: its states are
sets of places in the pattern, made when a text first needs them, and kept up to a bound. What a
pattern may be is bounded such that no step takes long even if none of its states is there yet.
"""

from __future__ import annotations

from functools import lru_cache

from grpclb.resolvers.xds.regex_parser import parse
from grpclb.resolvers.xds.regex_program import lay_out

_MAX_STATES = 2_000  # some three megabytes, of the largest pattern
_MAX_STEPS = 10_000


class _State:
    """A set of places: whether the text may end here, and what the next character leads to."""

    __slots__ = ("accepts", "follow", "steps")

    def __init__(self, follow: int, accepts: bool) -> None:
        self.follow = follow
        self.accepts = accepts
        self.steps: dict[str, _State] = {}


_DEAD = _State(0, False)


class Regex:
    """A compiled pattern. Equal patterns are equal; `fullmatch` may be called on any thread."""

    __slots__ = ("_kept", "_program", "_start", "_states", "pattern")

    def __init__(self, pattern: str) -> None:
        """Raises RegexError."""
        self.pattern = pattern
        self._program = lay_out(parse(pattern))
        self._forget()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Regex) and other.pattern == self.pattern

    def __hash__(self) -> int:
        return hash(self.pattern)

    def __repr__(self) -> str:
        return f"Regex({self.pattern!r})"

    def fullmatch(self, text: str) -> bool:
        state = self._start
        for char in text:
            # Two threads may both work a step out; they find the same.
            state = state.steps.get(char) or self._step(state, char)
            if state is _DEAD:
                return False
        return state.accepts

    def _step(self, state: _State, char: str) -> _State:
        program = self._program
        places = state.follow & program.reads(char)
        found = self._states.get(places)
        if found is None:
            if not places:
                found = _DEAD
            else:
                found = _State(program.follow(places), bool(places & program.last))
            if len(self._states) >= _MAX_STATES:
                self._forget()
            self._states[places] = found
        if self._kept >= _MAX_STEPS:
            self._forget()
        self._kept += 1
        state.steps[char] = found
        return found

    def _forget(self) -> None:
        """Drop all states. Texts that are being matched keep theirs."""
        self._states: dict[int, _State] = {}
        self._kept = 0
        self._start = _State(self._program.first, self._program.takes_empty)


@lru_cache(maxsize=1024)
def compile_regex(pattern: str) -> Regex:
    """As ``Regex(pattern)``; a server repeats its patterns with every update."""
    return Regex(pattern)
