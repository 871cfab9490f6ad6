"""Text of others: whatever it holds, it is one line that controls nothing, and what it held can be read."""

from __future__ import annotations

import pytest

from diffuzz.escaping import escaped, unwrapped
from diffuzz.registry import one_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("k.py", "k.py"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("two\nlines", r"two\nlines"),
        ("no\xa0break", r"no\xa0break"),
        ("\u202eyp.k", r"\u202eyp.k"),
        ("byte\udcff", r"byte\udcff"),
        ("\u2028\u200b\ufeff\ue000\U0010ffff", r"\u2028\u200b\ufeff\ue000\U0010ffff"),
        ("Größe ≤ 漢字 [/bold] C:\\new", "Größe ≤ 漢字 [/bold] C:\\new"),
    ],
)
def test_escaped(text: str, shown: str) -> None:
    """What is no printable character is an escape; everything else stays as it is."""
    assert shown == escaped(text)
    assert shown == escaped(shown)
    assert shown.encode("utf-8").decode("utf-8").isprintable()


def test_unwrapped() -> None:
    """Line breaks of a message are spaces, what else is not printable an escape."""
    assert r"a b \x1b[2J c\xa0d" == unwrapped(" a\n\t b \x1b[2J\r\nc\xa0d\n")


class _MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("x is\n  large"), "ValueError: x is large"),
        (ValueError(), "ValueError"),
        (RuntimeError("\x1b[31mred\x1b[0m"), r"RuntimeError: \x1b[31mred\x1b[0m"),
        (type("\x1b[2J", (Exception,), {})("x"), r"\x1b[2J: x"),
        (_MuteError(), "_MuteError: (its message cannot be had: RuntimeError)"),
        (ValueError("begin" + "x" * 10**7 + "end"), "ValueError: begin" + "x" * 395 + " ..."),
    ],
)
def test_an_exception_is_one_line(error: Exception, line: str) -> None:
    """Type and message first, cut at its end only, whatever the exception holds or does."""
    assert line == one_line(error)
