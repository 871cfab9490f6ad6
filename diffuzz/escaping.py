r"""Text of others, such as a path or the message of an exception, made fit to be printed.

What could control a terminal, or pass for something else, is shown as an escape: ``\x1b`` of a colour, ``\n`` of a line
break in the name of a file, ``\xa0`` of a no-break space, ``\u202e`` of what turns the direction of text, ``\udcff`` of
a byte that is no UTF-8. All that diffuzz prints or writes goes through here.
"""

from __future__ import annotations

import re

_BREAKS = re.compile(r"[ \t\n\r\f\v]+")


def escaped(text: str) -> str:
    """``text`` with the escape of Python for every character that is not printable; it is one line, and valid UTF-8.

    A backslash stays as it is, so that names of files can be read.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def unwrapped(text: str) -> str:
    """The same of a text of several lines, such as a message: line breaks and indents are one space each."""
    return escaped(_BREAKS.sub(" ", text).strip(" "))
