"""RE2 patterns: the same answers as `re` where both mean the same, and a refusal of the rest."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpclb.resolvers.xds.regex import Regex, compile_regex
from grpclb.resolvers.xds.regex_parser import MAX_PATTERN, RegexError

MATCHES = [
    ("", "", True),
    ("", "a", False),
    ("/a/b", "/a/b", True),
    ("/a/b", "/a/bc", False),
    ("/a/.*", "/a/\n", False),
    ("(?s)/a/.*", "/a/\n", True),
    ("(?i)/AbC", "/aBc", True),
    ("(?i:a)b", "AB", False),
    ("a(?i)b|c", "aB", True),
    ("a(?i)b|c", "C", True),  # a flag lasts to the end of its group, over alternatives too
    ("(?-i)a", "a", True),
    ("^abc$", "abc", True),
    ("a^b", "ab", False),
    (r"\Aab\z", "ab", True),
    ("(^|/)a", "a", True),
    ("(^|/)a", "/a", True),
    (r"[\d-]+", "1-2", True),
    (r"[^\s\w]", "-", True),
    ("[]a]", "]", True),
    ("[^]a]", "]", False),
    ("[a-]", "-", True),
    ("[[:digit:][:^ascii:]]", "5", True),
    (r"\x41\x{42}\x43", "ABC", True),
    (r"\07\a", "\x07\x07", True),
    (r"\Qa.b*\E+", "a.b**", True),
    (r"\Qa.b", "a.b", True),
    (r"a{2}", "aa", True),
    (r"a{2,}", "a", False),
    (r"a{,2}", "a{,2}", True),  # as RE2: not a repetition
    (r"a{x}", "a{x}", True),
    (r"x*?y+?z??", "xxy", True),
    (r"(?P<name>a)(?<other>b)", "ab", True),
    (r"(a|b|)*c", "abbac", True),
    (r"\-\.\/", "-./", True),
    (r"(\s)", "\v", False),  # RE2's \s has no vertical tab
    ("(?U)a+", "aaa", True),
]

REFUSED = [
    ("(?m)^a", "'(?m'"),
    (r"a\b", r"'\b'"),
    (r"\pL", r"'\p'"),
    (r"\C", r"'\C'"),
    (r"(a)\1", r"'\1'"),
    ("(?=a)", "'(?='"),
    ("(?<!a)", "word"),
    ("(a", "not closed"),
    ("a)", "unexpected ')'"),
    ("[a", "["),
    ("a**", "repetition of a repetition"),
    ("*a", "nothing to repeat"),
    ("a{1001}", "bad repetition"),
    ("a{3,2}", "bad repetition"),
    ("a{1234567890}", "more than 1000"),
    ("[z-a]", "ends before"),
    ("[[:nope:]]", "unknown class"),
    (r"\x{110000}", r"\x"),
    (r"\x4", r"\x"),
    ("\\", "backslash"),
    ("((a{1000}){1000}){1000}", "states"),
    ("(((){1000}){1000}){1000}", "states"),
    ("(" * 200 + ")" * 200, "nested"),
    ("a" * (MAX_PATTERN + 1), "longer"),
]


@pytest.mark.parametrize(("pattern", "text", "expected"), MATCHES)
def test_matches_the_whole_text_as_re2_does(pattern: str, text: str, expected: bool) -> None:
    assert Regex(pattern).fullmatch(text) is expected


@pytest.mark.parametrize(("pattern", "reason"), REFUSED)
def test_refuses_what_it_would_not_match_as_re2_does(pattern: str, reason: str) -> None:
    with pytest.raises(RegexError) as error:
        Regex(pattern)
    assert reason in str(error.value)


_PIECES = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\d", r"\w", "-", r"\x61", "(?i:A)", ""])
_PATTERNS = st.recursive(
    _PIECES,
    lambda inner: st.one_of(
        st.builds(str.__add__, inner, inner),
        st.builds("(?:{}|{})".format, inner, inner),
        st.builds("({})".format, inner),
        st.builds("(?:{}){}".format, inner, st.sampled_from(["*", "+", "?", "{2}", "{0,2}"])),
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(_PATTERNS, st.text("abA1-\n", max_size=6))
def test_agrees_with_re_where_both_mean_the_same(pattern: str, text: str) -> None:
    assert Regex(pattern).fullmatch(text) == bool(re.fullmatch(pattern, text, re.ASCII))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40), st.text(max_size=10))
def test_any_pattern_compiles_or_is_refused(pattern: str, text: str) -> None:
    try:
        regex = Regex(pattern)
    except RegexError:
        return
    assert regex.fullmatch(text) in (True, False)


def test_time_is_linear_where_a_backtracking_matcher_never_ends() -> None:
    started = time.perf_counter()
    assert not Regex("(a*)*b").fullmatch("a" * 20_000)
    assert not Regex("(a|a)*(a|aa)+x").fullmatch("a" * 20_000)
    assert time.perf_counter() - started < 5


def test_states_are_kept_up_to_a_bound() -> None:
    regex = Regex("(?s).*x.{8}")
    for number in range(3_000):
        regex.fullmatch(chr(number) * 3 + "x" + bin(number).replace("1", "x"))
    assert regex.fullmatch("aax12345678")
    assert len(regex._steps) <= 1_000


def test_equal_patterns_are_equal_and_compiled_once() -> None:
    assert compile_regex("a+") is compile_regex("a+")
    assert Regex("a+") == Regex("a+") != Regex("a")
    assert len({Regex("a+"), Regex("a+")}) == 1
    assert repr(Regex("a")) == "Regex('a')"


def test_what_is_remembered_of_a_large_pattern_is_bounded() -> None:
    """Each of the 300 steps leads to a state of its own, of a thousand places."""
    regex = Regex("(a?){1000}")
    assert regex.fullmatch("a" * 300)
    assert sum(map(len, regex._steps.values())) < 250_000
