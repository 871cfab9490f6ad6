"""A file that is mapped and not read, and a place in it.

What is looked at is read from the disk then. A file is somebody else's and nothing in it is believed: a Cursor holds
every length against what is left of the file. A file must not be cut short by somebody else while it is mapped: the
system ends a process that looks beyond the end.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from pathlib import Path

import attrs

from diffuzz.models.model import ModelError

_U8, _U16, _U32, _U64 = (struct.Struct(f"<{letter}") for letter in "BHIQ")


def mapped(path: Path | str) -> mmap.mmap:
    """The file at ``path``, read-only. Raises ModelError for what is no file or empty, OSError for what cannot be
    opened.
    """
    # Without waiting for somebody to write to it, if it is a pipe.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ModelError("it is no regular file")
        if not status.st_size:
            raise ModelError("it is empty")
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)


@attrs.define
class Cursor:
    """A place in a file. What is read there is there, or ModelError is raised with ``what`` it was to be."""

    data: mmap.mmap
    at: int = 0
    end: int = attrs.field(default=attrs.Factory(lambda self: len(self.data), takes_self=True))

    @property
    def left(self) -> int:
        return self.end - self.at

    def skip(self, count: int, what: str) -> int:
        """The place of the next ``count`` bytes, which are passed over."""
        if count > self.left:
            raise ModelError(
                f"it is cut short: {what} takes {count} bytes at byte {self.at}, where {self.left} are left"
            )
        start, self.at = self.at, self.at + count
        return start

    def u8(self, what: str) -> int:
        return int(_U8.unpack_from(self.data, self.skip(1, what))[0])

    def u16(self, what: str) -> int:
        return int(_U16.unpack_from(self.data, self.skip(2, what))[0])

    def u32(self, what: str) -> int:
        return int(_U32.unpack_from(self.data, self.skip(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack_from(self.data, self.skip(8, what))[0])

    def text(self, length: int, what: str) -> str:
        """The next ``length`` bytes, which have to be UTF-8."""
        start = self.skip(length, what)
        try:
            return self.data[start : self.at].decode()
        except UnicodeDecodeError:
            raise ModelError(f"{what} is not UTF-8 (byte {start})") from None


def shown(name: str) -> str:
    """A name of a file as it is printed: escaped, and not all of a long one."""
    return ascii(name if len(name) <= 64 else f"{name[:61]}...")
