"""The arrays of an .npz file: a zip archive of .npy files, of which each is checked before anything of it is unpacked.

    members(mapped("dump.npz"))       # {"tokens": Member, ...}; Member.array() is the array

Arrays that are stored as they are (numpy.savez) are mapped; compressed ones (numpy.savez_compressed) are unpacked each
time that they are asked for, into no more bytes than the archive declares. A pickle is never loaded.

Source: PKWARE's APPNOTE.TXT, sections 4.3 to 4.5, and numpy.lib.format for .npy.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
import zlib

import attrs
import numpy as np

from diffuzz.models.mapped import shown
from diffuzz.models.model import ModelError

MAGIC = b"PK\3\4"
# An archive without files begins with its directory's end.
MAGICS = (MAGIC, b"PK\5\6")
MOST_MEMBERS = 2**14
# Bytes by which a compressed array may be larger than the whole file: numbers hardly compress, so more is a bomb.
MOST_EXPANSION = 2**25
_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_LONGEST_COMMENT = 2**16 - 1
_STORED, _DEFLATED = 0, 8
_AT_ONCE = 2**16
_ENCRYPTED = 1
_LONGEST_HEADER = 2**12
_HEADER = re.compile(
    r"\{\s*'descr':\s*'(?P<descr>[<>|=]?[a-zA-Z]\d{0,9})',\s*'fortran_order':\s*(?P<fortran>True|False),"
    r"\s*'shape':\s*\((?P<shape>[\d, ]*)\),?\s*\}\s*",
    re.ASCII,
)


@attrs.frozen(eq=False)
class Member:
    """An array of the archive: its dtype as .npy has it, its shape, and where its bytes are."""

    name: str
    descr: str
    shape: tuple[int, ...]
    _file: mmap.mmap
    _entry: _Entry
    _start: int

    @property
    def nbytes(self) -> int:
        return self._entry.size - self._start

    def data(self) -> np.ndarray:
        """Its bytes, uint8[nbytes], read-only; checked against the archive's checksum if they had to be unpacked."""
        if self._entry.method == _STORED:
            return np.frombuffer(self._file, np.uint8, self.nbytes, self._entry.at + self._start)
        return np.frombuffer(_unpacked(self._file, self._entry), np.uint8, self.nbytes, self._start)


@attrs.frozen
class _Entry:
    """A file in the archive: ``packed`` bytes at ``at``, which are ``size`` bytes when they are unpacked."""

    name: str
    method: int
    checksum: int
    packed: int
    size: int
    at: int


def members(file: mmap.mmap) -> dict[str, Member]:
    """The arrays by name, without ".npy". Raises ModelError."""
    found: dict[str, Member] = {}
    last = 0
    entries = _entries(file)
    for entry in sorted(entries, key=lambda one: one.at):
        if entry.at < last:
            raise ModelError(f"its arrays overlap at {shown(entry.name)}")
        last = entry.at + entry.packed
    for entry in entries:
        name = entry.name.removesuffix(".npy")
        if name == entry.name:
            raise ModelError(f"it has a file {shown(entry.name)}, which is no .npy array")
        if name in found:
            raise ModelError(f"it has two arrays {shown(name)}")
        found[name] = _member(file, entry, name)
    return found


def _entries(file: mmap.mmap) -> list[_Entry]:
    count, start, end = _directory(file)
    entries, at = [], start
    for index in range(count):
        if end - at < _ENTRY.size:
            raise ModelError(f"its directory ends before file {index} of {count}")
        (magic, _, _, flags, method, _, _, checksum, packed, size, named, extra, comment, _, _, _, local) = (
            _ENTRY.unpack_from(file, at)
        )
        stop = at + _ENTRY.size + named + extra + comment
        if magic != b"PK\1\2" or stop > end:
            raise ModelError(f"its directory is broken at file {index} of {count} (byte {at})")
        try:
            name = file[at + _ENTRY.size : at + _ENTRY.size + named].decode()
        except UnicodeDecodeError:
            raise ModelError(f"the name of file {index} in it is not UTF-8") from None
        extras = file[at + _ENTRY.size + named : at + _ENTRY.size + named + extra]
        size, packed, local = _large(extras, size, packed, local)
        entries.append(_located(file, _Entry(name, method, checksum, packed, size, local), flags, start))
        at = stop
    if at != end:
        raise ModelError(f"its directory has {end - at} bytes more than its {count} files need")
    return entries


def _directory(file: mmap.mmap) -> tuple[int, int, int]:
    """How many files the directory has, where it begins and where it ends."""
    at = file.rfind(b"PK\5\6", max(0, len(file) - _END.size - _LONGEST_COMMENT))
    if at < 0 or len(file) - at < _END.size:
        raise ModelError("it is cut short: a zip archive has its directory at its end")
    _, disk, other, here, count, size, start, comment = _END.unpack_from(file, at)
    stop = at
    if at + _END.size + comment != len(file):
        raise ModelError("the comment of the zip archive does not end where the file ends")
    if 0xFFFF in (here, count) or 0xFFFFFFFF in (size, start):
        before = at - _LOCATOR.size
        if before < 0 or file[before : before + 4] != b"PK\6\7":
            raise ModelError("the large directory of the zip archive is not where it should be")
        stop = int(_LOCATOR.unpack_from(file, before)[2])
        if stop > before - _END64.size or file[stop : stop + 4] != b"PK\6\6":
            raise ModelError("the large directory of the zip archive is not where it should be")
        _, _, _, _, disk, other, here, count, size, start = _END64.unpack_from(file, stop)
    if disk or other or here != count:
        raise ModelError("it is one of several files of a zip archive")
    if count > MOST_MEMBERS:
        raise ModelError(f"it has {count} arrays: at most {MOST_MEMBERS} can be read")
    if start + size != stop:
        raise ModelError(f"the directory of the zip archive ends at byte {start + size}, where {stop} is needed")
    return count, start, stop


def _large(extras: bytes, size: int, packed: int, local: int) -> tuple[int, int, int]:
    """The numbers of an entry, of which those that take 64 bits are in its extra field 1."""
    numbers = [size, packed, local]
    missing = [index for index, number in enumerate(numbers) if number == 0xFFFFFFFF]
    at = 0
    while missing and at + 4 <= len(extras):
        kind, length = struct.unpack_from("<2H", extras, at)
        if kind == 1 and length >= 8 * len(missing) and at + 4 + length <= len(extras):
            for index, number in zip(missing, struct.unpack_from(f"<{len(missing)}Q", extras, at + 4), strict=True):
                numbers[index] = number
            break
        at += 4 + length
    return numbers[0], numbers[1], numbers[2]


def _located(file: mmap.mmap, entry: _Entry, flags: int, end: int) -> _Entry:
    """The entry with the place of its bytes, where it had that of its header; they end before ``end``."""
    what = f"file {shown(entry.name)} in it"
    if flags & _ENCRYPTED:
        raise ModelError(f"{what} is encrypted")
    if entry.method not in (_STORED, _DEFLATED):
        raise ModelError(f"{what} is compressed by method {entry.method}: numpy.savez writes 0 or 8")
    if entry.at > end - _LOCAL.size or file[entry.at : entry.at + 4] != MAGIC:
        raise ModelError(f"{what} is not where the directory says (byte {entry.at})")
    *_, named, extra = _LOCAL.unpack_from(file, entry.at)
    at = entry.at + _LOCAL.size + named + extra
    if at + entry.packed > end:
        raise ModelError(f"it is cut short: {what} ends at byte {at + entry.packed}, where {end} is the end")
    if entry.method == _STORED and entry.packed != entry.size:
        raise ModelError(f"{what} is stored in {entry.packed} bytes and has {entry.size}")
    if entry.size > len(file) + MOST_EXPANSION:
        raise ModelError(f"{what} has {entry.size} bytes in an archive of {len(file)}: that is no dump")
    return attrs.evolve(entry, at=at)


def _unpacked(file: mmap.mmap, entry: _Entry) -> bytearray:
    """All bytes of a compressed file."""
    raw, ended = _inflated(file, entry, entry.size)
    if not ended or len(raw) != entry.size or zlib.crc32(raw) != entry.checksum:
        raise ModelError(f"file {shown(entry.name)} in it does not have the bytes that it should (its checksum)")
    return raw


def _inflated(file: mmap.mmap, entry: _Entry, most: int) -> tuple[bytearray, bool]:
    """The first bytes of a compressed file, at most so many, and whether these are all."""
    unpacker, raw = zlib.decompressobj(-zlib.MAX_WBITS), bytearray()
    try:
        for at in range(entry.at, entry.at + entry.packed, _AT_ONCE):
            packed = file[at : min(at + _AT_ONCE, entry.at + entry.packed)]
            while packed and not unpacker.eof:
                # One more byte than there should be, since 0 is no limit.
                raw += unpacker.decompress(packed, min(_AT_ONCE, most - len(raw) + 1))
                if len(raw) > most:
                    return raw, False
                packed = unpacker.unconsumed_tail
    except zlib.error:
        raise ModelError(f"file {shown(entry.name)} in it cannot be unpacked") from None
    return raw, unpacker.eof


def _member(file: mmap.mmap, entry: _Entry, name: str) -> Member:
    what = f"array {shown(name)}"
    if entry.method == _STORED:
        head = file[entry.at : entry.at + min(entry.size, _LONGEST_HEADER)]
        with memoryview(file) as view:
            if zlib.crc32(view[entry.at : entry.at + entry.size]) != entry.checksum:
                raise ModelError(f"{what} does not have the bytes that it should (its checksum)")
    else:
        head = bytes(_inflated(file, entry, _LONGEST_HEADER)[0])
    if head[:6] != b"\x93NUMPY" or len(head) < 12 or head[6] not in (1, 2):
        raise ModelError(f"{what} is no .npy array of version 1 or 2")
    width = 2 if head[6] == 1 else 4
    start = 8 + width + int.from_bytes(head[8 : 8 + width], "little")
    found = _HEADER.fullmatch(head[8 + width : start].decode("latin-1")) if start <= len(head) else None
    if found is None:
        raise ModelError(f"{what} has a header that is none of a plain array")
    shape = _shape(found["shape"], what)
    if found["fortran"] == "True" and len(shape) > 1:
        raise ModelError(f"{what} is in Fortran order, where C order is needed")
    return Member(name, found["descr"], shape, file, entry, start)


def _shape(text: str, what: str) -> tuple[int, ...]:
    sizes = [size.strip() for size in text.split(",") if size.strip()]
    if len(sizes) > 8 or any(not size.isdecimal() or len(size) > 18 for size in sizes):
        raise ModelError(f"{what} has the shape ({text.strip()}), which cannot be")
    shape = tuple(map(int, sizes))
    if math.prod(max(size, 1) for size in shape) >= 2**60:
        raise ModelError(f"{what} has the shape {list(shape)}, which cannot be")
    return shape
