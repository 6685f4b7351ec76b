"""Standard output: what is never printed, and what happens when nobody reads it."""

from __future__ import annotations

import contextlib
import os
import re
import sys

# A password in a target: not a form that any resolver of ours takes, but one that people write.
_PASSWORD = re.compile(r"(//[^/@\s:]*:)[^/@\s]+@")
# What moves a terminal's cursor or worse, and may come from a stranger's server. Colours are ours.
_CONTROL = re.compile(r"(\033\[\d+m)|[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def redacted(text: str) -> str:
    """`text` without passwords, and without what a terminal would obey."""
    shown = _CONTROL.sub(lambda found: found[1] or repr(found[0])[1:-1], text)
    return _PASSWORD.sub(r"\1***@", shown)


def say(line: str) -> None:
    """One line on standard output, at once.

    Raises BrokenPipeError when the reader has gone, and SystemExit(1), with a word on standard
    error, when it cannot be written otherwise.
    """
    text = redacted(line)
    try:
        try:
            print(text, file=sys.stdout, flush=True)
        except UnicodeEncodeError:  # a terminal of another age
            print(text.encode("ascii", "backslashreplace").decode(), file=sys.stdout, flush=True)
    except BrokenPipeError:
        _silence()
        raise
    except OSError as error:
        _silence()
        complain(f"the output cannot be written: {error.strerror}")
        raise SystemExit(1) from None


def complain(text: str) -> None:
    """One line on standard error."""
    print(redacted(f"grpclb: {text}"), file=sys.stderr)


def is_terminal() -> bool:
    """Whether people read this as it comes, and want colours (no-color.org)."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and sys.stdout is not None and sys.stdout.isatty()


def _silence() -> None:
    """Nothing that the interpreter flushes at exit shall meet the same error again."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        descriptor = sys.stdout.fileno()
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, descriptor)
        os.close(devnull)
