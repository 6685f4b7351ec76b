"""RE2 patterns: the same answers as `re` where both mean the same, and a refusal of the rest."""

from __future__ import annotations

import re
import threading
import time
from random import Random

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
    # An edge of the text may be passed over at that edge alone, however often it is tried.
    ("(^a|b)*", "abb", True),
    ("(^a|b)*", "aab", False),
    ("(a$|b)*", "bba", True),
    ("(a$|b)*", "ab", False),
    ("(^$)*", "", True),
    ("(^|$)+", "", True),
    ("a(^|$)", "a", True),
    ("(^|a){3}$", "aa", True),
    ("(a{0}|b){2}", "b", True),
    ("((a{0})+b){2}", "bb", True),
    ("((a?){2,}){3}", "aaaaaaa", True),
    ("((a{0,2}){1,2})?", "aaaa", True),
    ("((a{0,2}){1,2})?", "aaaaa", False),
    ("(a{100}){10}", "a" * 1000, True),
    ("(a{2,}){500}", "a" * 999, False),
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
    ("((a{1000}){1000}){1000}", "bad repetition"),
    ("(((){1000}){1000}){1000}", "bad repetition"),  # RE2 multiplies nested repetitions
    ("((a|b{501}){0,2})?", "bad repetition"),
    ("((a{10}){0}){101}", "bad repetition"),
    ("(abcde){1000}", "more than 4096 states"),
    ("(()()()()()()()()()()()()()()()()()()()()a){1000}", "more than 20000 steps"),
    (f"{'(' * 20}{'|'.join('a' * 1000)}{')*b?' * 20}", "more than 20000 steps"),
    ("(aa?){1000}", "2000 states that branch in 999 ways are too complex"),
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


_PIECES = st.sampled_from(
    ["a", "b", ".", "[ab]", "[^a]", r"\d", r"\w", "-", r"\x61", "(?i:A)", "", "^", r"\z"]
)
_REPETITIONS = st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,3}", "{2,}", "{0}", "*?"])
_PATTERNS = st.recursive(
    _PIECES,
    lambda inner: st.one_of(
        st.builds(str.__add__, inner, inner),
        st.builds("(?:{}|{})".format, inner, inner),
        st.builds("({})".format, inner),
        st.builds("(?:{}){}".format, inner, _REPETITIONS),
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(_PATTERNS, st.text("abA1-\n", max_size=6))
def test_agrees_with_re_where_both_mean_the_same(pattern: str, text: str) -> None:
    theirs = pattern.replace(r"\z", r"\Z")
    assert Regex(pattern).fullmatch(text) == bool(re.fullmatch(theirs, text, re.ASCII))


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


# As much as a pattern may be, over texts that lead to a state of its own with every character.
HARDEST = ["(a?){1000}", ".*a.{999}", "(?:.*)(.?.?a){64}.*", "(.*a.{30}){30}", "(.?[ab]{1,30}){28}"]


@pytest.mark.parametrize("pattern", HARDEST)
def test_no_pattern_that_is_accepted_takes_long(pattern: str) -> None:
    """Some 5 ms without any of its states; what was refused took 500 and more."""
    rnd = Random(3)
    text = "".join(rnd.choice("ab") for _ in range(1000))
    regex = Regex(pattern)
    times = []
    for _ in range(5):
        regex._forget()
        started = time.thread_time()
        regex.fullmatch(text)
        times.append(time.thread_time() - started)
    assert min(times) < 0.1


def test_the_usual_patterns_are_far_from_too_complex() -> None:
    groups = "([0-9a-f]{1,4}:){1,%d}(:[0-9a-f]{1,4}){1,%d}"
    ipv6 = "|".join(groups % (n, 7 - n) for n in range(1, 7))
    assert Regex(ipv6).fullmatch("fe80:0:1::2:34")
    assert not Regex(ipv6).fullmatch("fe80:0:1::2:34567")
    services = "|".join(f"(v{n}/)?svc{n}s?" for n in range(200))
    assert Regex(f"/({services})/[^/]+").fullmatch("/v150/svc150s/Method")


def test_states_are_kept_up_to_a_bound() -> None:
    regex = Regex("(?s).*x.{11}")
    rnd = Random(5)
    for _ in range(60):
        regex.fullmatch("".join(rnd.choice("xy") for _ in range(100)))
        assert len(regex._states) <= 2_000
    for number in range(12_000):
        regex.fullmatch(chr(number))
        assert len(regex._start.steps) <= 10_000
    assert regex.fullmatch("aax12345678901")


def test_texts_that_are_matched_while_states_are_dropped_match_alike() -> None:
    regex = Regex("(?s).*x.{3}")
    wrong: list[str] = []

    def match(seed: int) -> None:
        rnd = Random(seed)
        for _ in range(300):
            text = "".join(rnd.choice("xy") for _ in range(20))
            if regex.fullmatch(text) is not (text[-4] == "x"):
                wrong.append(text)
            regex._forget()

    threads = [threading.Thread(target=match, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_equal_patterns_are_equal_and_compiled_once() -> None:
    assert compile_regex("a+") is compile_regex("a+")
    assert Regex("a+") == Regex("a+") != Regex("a")
    assert len({Regex("a+"), Regex("a+")}) == 1
    assert repr(Regex("a")) == "Regex('a')"
