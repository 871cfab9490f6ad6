"""GGUF files: what tensors a model file has, and where they are in it.

    file = gguf_file.read("model.gguf")
    tensor = file.tensors["blk.0.ffn_down.weight"]
    tensor.kind, tensor.sizes, file.data(tensor)      # "q4_K", (8960, 1536), uint8[nbytes]

A file is, in little-endian numbers (a string is a u64 of bytes and the bytes):

    "GGUF", u32 version, u64 tensors, u64 entries
    entries    string key, u32 type, value            an array is u32 type, u64 count, and the values one after another
    tensors    string name, u32 dimensions, u64 each (the innermost first), u32 kind, u64 offset
    padding    to a multiple of the alignment: 32, or the entry general.alignment
    data       each tensor at its offset from here, a multiple of the alignment

A file is somebody else's, and nothing in it is believed: every count and length is held against what is left of the
file before it is used, so that reading takes time and memory for what is there and not for what is said to be. The
file is mapped and not read; values of entries and data of tensors are passed over without a look. A file must not be
cut short by somebody else while it is read.

Source: docs/gguf.md of ggml, versions 2 and 3, and ggml's gguf.cpp for the sizes of the kinds.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import UInt8

VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
# Dimensions of a tensor of ggml.
MOST_DIMENSIONS = 4
# Bytes of a key, by the specification; of a tensor's name there are fewer.
LONGEST_NAME = 2**16 - 1
# Arrays within arrays: models have none.
DEEPEST = 4
# Strings of arrays, and whatever else there can be several of (entries, tensors, arrays within arrays): as many as can
# be passed over in less than a second. The largest vocabularies with their merges have less than 2^20 strings, the
# largest models a few thousand tensors.
MOST_STRINGS, MOST_OTHERS = 2**21, 2**15


class GGUFError(ValueError):
    """A file that is no GGUF file, is cut short or contradicts itself; the message is one line, without the path."""


@attrs.frozen
class Kind:
    """A type of tensors: its number in a file, its name, and the elements and bytes of one block."""

    number: int
    name: str
    elements: int
    nbytes: int


# enum ggml_type. Numbers that are missing are of types that are gone from ggml.
_KINDS = (
    Kind(0, "f32", 1, 4), Kind(1, "f16", 1, 2), Kind(2, "q4_0", 32, 18), Kind(3, "q4_1", 32, 20),
    Kind(6, "q5_0", 32, 22), Kind(7, "q5_1", 32, 24), Kind(8, "q8_0", 32, 34), Kind(9, "q8_1", 32, 36),
    Kind(10, "q2_K", 256, 84), Kind(11, "q3_K", 256, 110), Kind(12, "q4_K", 256, 144), Kind(13, "q5_K", 256, 176),
    Kind(14, "q6_K", 256, 210), Kind(15, "q8_K", 256, 292), Kind(16, "iq2_xxs", 256, 66), Kind(17, "iq2_xs", 256, 74),
    Kind(18, "iq3_xxs", 256, 98), Kind(19, "iq1_s", 256, 50), Kind(20, "iq4_nl", 32, 18), Kind(21, "iq3_s", 256, 110),
    Kind(22, "iq2_s", 256, 82), Kind(23, "iq4_xs", 256, 136), Kind(24, "i8", 1, 1), Kind(25, "i16", 1, 2),
    Kind(26, "i32", 1, 4), Kind(27, "i64", 1, 8), Kind(28, "f64", 1, 8), Kind(29, "iq1_m", 256, 56),
    Kind(30, "bf16", 1, 2), Kind(34, "tq1_0", 256, 54), Kind(35, "tq2_0", 256, 66), Kind(39, "mxfp4", 32, 17),
    Kind(40, "nvfp4", 64, 36), Kind(41, "q1_0", 128, 18),
)  # fmt: skip
KINDS: Mapping[int, Kind] = MappingProxyType({kind.number: kind for kind in _KINDS})

# Bytes of the values of entries by their type; strings and arrays have lengths of their own.
_VALUES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_U32_VALUE, _STRING, _ARRAY = 4, 8, 9
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
# The least that an entry and a tensor take: one letter of name, and what else they must have.
_LEAST_ENTRY, _LEAST_TENSOR = 8 + 1 + 4 + 1, 8 + 1 + 4 + 4 + 8


@attrs.frozen
class Tensor:
    """A tensor of a file: ``sizes`` with the innermost dimension first, ``offset`` in bytes from the file's start."""

    name: str
    kind: str
    sizes: tuple[int, ...]
    offset: int
    nbytes: int


@attrs.frozen(eq=False)
class GGUFFile:
    """The tensors of a file by name, in its order, and the file itself, which is mapped as long as anything of it is
    in use.
    """

    version: int
    alignment: int
    tensors: Mapping[str, Tensor]
    _mapped: mmap.mmap

    def data(self, tensor: Tensor) -> UInt8[np.ndarray, " nbytes"]:
        """The bytes of one of the tensors, read-only; they are read from the file where they are looked at."""
        return np.frombuffer(self._mapped, np.uint8, tensor.nbytes, tensor.offset)


def read(path: Path | str) -> GGUFFile:
    """The header of the file at ``path``, checked: see the module's docstring.

    Raises GGUFError for a file that is not what it should be, and OSError for one that cannot be opened.
    """
    # Without waiting for somebody to write to it, if it is a pipe.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise GGUFError("it is no regular file")
        if not status.st_size:
            raise GGUFError("it is empty")
        mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)
    return _parsed(mapped)


@attrs.define
class _Cursor:
    """A place in the file. What is read from it is there, or GGUFError is raised with ``what`` it was to be."""

    data: mmap.mmap
    at: int = 0
    strings: int = 0
    others: int = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def skip(self, count: int, what: str) -> int:
        """The place of the next ``count`` bytes, which are passed over."""
        if count > self.left:
            raise GGUFError(
                f"it is cut short: {what} takes {count} bytes at byte {self.at}, where {self.left} are left"
            )
        start, self.at = self.at, self.at + count
        return start

    def u32(self, what: str) -> int:
        return int(_U32.unpack_from(self.data, self.skip(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack_from(self.data, self.skip(8, what))[0])

    def name(self, what: str) -> str:
        length = self.u64(f"the length of {what}")
        if not 0 < length <= LONGEST_NAME:
            raise GGUFError(f"{what} has {length} bytes: 1 to {LONGEST_NAME} are needed (byte {self.at - 8})")
        start = self.skip(length, what)
        try:
            return self.data[start : self.at].decode()
        except UnicodeDecodeError:
            raise GGUFError(f"{what} is not UTF-8 (byte {start})") from None

    def count(self, number: int, least: int, what: str) -> int:
        """``number``, if so many things of ``least`` bytes each can still come, and not too many have come before."""
        self.others += self._possible(number, least, what)
        if self.others > MOST_OTHERS:
            raise GGUFError(f"it has {number} {what}: more than {MOST_OTHERS} entries, tensors and arrays in all")
        return number

    def _possible(self, number: int, least: int, what: str) -> int:
        if number * least > self.left:
            raise GGUFError(
                f"it has {number} {what}, of at least {least} bytes each, at byte {self.at}, where {self.left} are left"
            )
        return number

    def pass_strings(self, number: int, what: str) -> None:
        """Pass over so many strings. There are hundreds of thousands, so this loop calls nothing of its own."""
        self.strings += self._possible(number, 8, f"strings in {what}")
        if self.strings > MOST_STRINGS:
            raise GGUFError(f"it has {number} strings in {what}: more than {MOST_STRINGS} in all")
        data, at, end, u64 = self.data, self.at, len(self.data), _U64.unpack_from
        for _ in range(number):
            if at + 8 > end:
                raise GGUFError(f"it is cut short: {what} has {number} strings, and one of them begins at byte {at}")
            at += 8 + u64(data, at)[0]
        if at > end:
            raise GGUFError(f"it is cut short: the last string of {what} ends at byte {at}, where the file has {end}")
        self.at = at

    def value(self, kind: int, what: str) -> None:
        """Pass over the value of an entry."""
        self._values(kind, 1, what, 0)

    def _values(self, kind: int, count: int, what: str, depth: int) -> None:
        if kind in _VALUES:
            self.skip(count * _VALUES[kind], what)
        elif kind == _STRING:
            self.pass_strings(count, what)
        elif kind != _ARRAY:
            raise GGUFError(f"{what} is of type {kind}, which there is not (byte {self.at})")
        elif depth == DEEPEST:
            raise GGUFError(f"{what} has more than {DEEPEST} arrays within each other (byte {self.at})")
        else:
            for _ in range(self.count(count, 12, f"arrays in {what}")):
                inner, number = self.u32(f"an array's type in {what}"), self.u64(f"an array's length in {what}")
                self._values(inner, number, what, depth + 1)


def _parsed(data: mmap.mmap) -> GGUFFile:
    cursor = _Cursor(data)
    magic = data[:4]
    if magic != b"GGUF":
        raise GGUFError(f"it begins with {magic!r}, where b'GGUF' is needed")
    cursor.skip(4, "the magic")
    version = cursor.u32("the version")
    if not version & 0xFFFF:
        raise GGUFError("it is big-endian: only little-endian files can be read")
    if version not in VERSIONS:
        raise GGUFError(f"it is of version {version}: {' or '.join(map(str, VERSIONS))} is needed")
    tensors, entries = cursor.u64("the number of tensors"), cursor.u64("the number of entries")
    alignment = _alignment(cursor, cursor.count(entries, _LEAST_ENTRY, "entries"))
    infos = _infos(cursor, cursor.count(tensors, _LEAST_TENSOR, "tensors"), alignment)
    start = -(-cursor.at // alignment) * alignment
    return GGUFFile(version, alignment, MappingProxyType(_placed(infos, start, len(data))), data)


def _alignment(cursor: _Cursor, entries: int) -> int:
    """Pass over the entries; the alignment that they give."""
    keys, alignment = set(), DEFAULT_ALIGNMENT
    for index in range(entries):
        key = cursor.name(f"the key of entry {index}")
        if key in keys:
            raise GGUFError(f"it has two entries {_shown(key)}")
        keys.add(key)
        kind, what = cursor.u32(f"the type of entry {index}"), f"entry {_shown(key)}"
        start = cursor.at
        cursor.value(kind, what)
        if key != "general.alignment":
            continue
        if kind != _U32_VALUE:
            raise GGUFError(f"{what} is of type {kind}, where {_U32_VALUE} (u32) is needed")
        alignment = int(_U32.unpack_from(cursor.data, start)[0])
        if alignment == 0 or alignment & (alignment - 1):
            raise GGUFError(f"{what} is {alignment}: a power of two is needed")
    return alignment


def _infos(cursor: _Cursor, count: int, alignment: int) -> dict[str, Tensor]:
    """The tensors by name, with offsets from the beginning of the data."""
    infos: dict[str, Tensor] = {}
    for index in range(count):
        name = cursor.name(f"the name of tensor {index}")
        what = f"tensor {_shown(name)}"
        if name in infos:
            raise GGUFError(f"it has two tensors {_shown(name)}")
        dimensions = cursor.u32(f"the number of dimensions of {what}")
        if dimensions > MOST_DIMENSIONS:
            raise GGUFError(f"{what} has {dimensions} dimensions: at most {MOST_DIMENSIONS} are possible")
        fields = struct.Struct(f"<{dimensions}QIQ")
        start = cursor.skip(fields.size, f"{what}, its dimensions, kind and offset,")
        *sizes, number, offset = fields.unpack_from(cursor.data, start)
        if number not in KINDS:
            raise GGUFError(f"{what} is of kind {number}, which is not known")
        kind = KINDS[number]
        row = sizes[0] if sizes else 1
        if row % kind.elements:
            raise GGUFError(f"{what} has rows of {row}: {kind.name} has blocks of {kind.elements}")
        if offset % alignment:
            raise GGUFError(f"{what} has offset {offset}: a multiple of {alignment} is needed")
        elements = 1
        for size in sizes:
            elements *= size
        infos[name] = Tensor(name, kind.name, tuple(sizes), offset, elements // kind.elements * kind.nbytes)
    return infos


def _placed(infos: dict[str, Tensor], start: int, end: int) -> dict[str, Tensor]:
    """The tensors with offsets from the beginning of the file, each within it and clear of the others."""
    placed = {name: attrs.evolve(tensor, offset=start + tensor.offset) for name, tensor in infos.items()}
    last: Tensor | None = None
    for tensor in sorted(placed.values(), key=lambda one: one.offset):
        stop = tensor.offset + tensor.nbytes
        if stop > end:
            raise GGUFError(
                f"it is cut short: tensor {_shown(tensor.name)} ends at byte {stop}, where the file has {end}"
            )
        if last is not None and tensor.nbytes and tensor.offset < last.offset + last.nbytes:
            raise GGUFError(f"tensors {_shown(last.name)} and {_shown(tensor.name)} overlap")
        last = tensor if tensor.nbytes else last
    return placed


def _shown(name: str) -> str:
    """A name of a file as it is printed: escaped, and not all of a long one."""
    return ascii(name if len(name) <= 64 else f"{name[:61]}...")
