"""Is a file a corpus entry? By its name and its first field, before anything of it is read.

It imports nothing heavy: pytest asks about every file of everyone who has diffuzz installed.
"""

from __future__ import annotations

import re
from pathlib import Path

_NAME = re.compile(r"[0-9a-f]{12}\.json")
# Every entry begins with this field.
_BEGINS = re.compile(rb'\s*\{\s*"diffuzz"')


def named_like_an_entry(path: Path) -> bool:
    """Whether the name is that of an entry, 12 hexadecimal digits and ``.json``."""
    return _NAME.fullmatch(path.name) is not None


def begins_like_an_entry(path: Path) -> bool:
    """Whether it is a regular file that begins as an entry does; a pipe, which reading would empty, is none."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return _BEGINS.match(file.read(64)) is not None
    except OSError:
        return False
