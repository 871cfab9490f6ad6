"""GGUF files, of one piece or several.

    model = gguf.read("model.gguf")                     # or "model-00001-of-00003.gguf": any shard opens all
    model.metadata["tokenizer.ggml.tokens"][1780]       # parsed when it is asked for
    model.tensors["blk.0.ffn_down.weight"].values()

A file is, in little-endian numbers (a string is a u64 of bytes and the bytes):

    "GGUF", u32 version, u64 tensors, u64 entries
    entries    string key, u32 type, value            an array is u32 type, u64 count, and the values one after another
    tensors    string name, u32 dimensions, u64 each (the innermost first), u32 kind, u64 offset
    padding    to a multiple of the alignment: 32, or the entry general.alignment
    data       each tensor at its offset from here, a multiple of the alignment

A file is somebody else's, and nothing in it is believed: every count and length is held against what is left of the
file before it is used, so that reading takes time and memory for what is there and not for what is said to be. The
file is mapped and not read; arrays and data of tensors are passed over without a look.

A split model has split.no, split.count and split.tensors.count in each of its files, whose names end with
-00001-of-00003.gguf and so on. Its metadata is that of the first.

Source: docs/gguf.md of ggml, versions 2 and 3, ggml's gguf.cpp for the sizes of the kinds, and llama.cpp's
llama-model-loader.cpp for split models.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import attrs
import numpy as np

from diffuzz.formats.tensor_types import KINDS
from diffuzz.models.mapped import Cursor, mapped, shown
from diffuzz.models.model import Model, ModelError, Tensor

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
# Dimensions of a tensor of ggml.
MOST_DIMENSIONS = 4
# Elements of a tensor: fewer than this, so that its shape is one that NumPy can have.
MOST_ELEMENTS = 2**60
# Bytes of a key, by the specification; of a tensor's name there are fewer.
LONGEST_NAME = 2**16 - 1
# Arrays within arrays: models have none.
DEEPEST = 4
# Strings of arrays, and whatever else there can be several of (entries, tensors, arrays within arrays): as many as can
# be passed over in less than a second. The largest vocabularies with their merges have less than 2^20 strings, the
# largest models a few thousand tensors.
MOST_STRINGS, MOST_OTHERS = 2**20, 2**15
# A split model has some files of some gigabytes each.
MOST_SHARDS = 2**10
# Bytes of strings that are decoded when the file is opened; those beyond wait until they are asked for, as arrays do.
_DECODED_AT_ONCE = 2**20

# NumPy's types for the values of entries, by their type.
_VALUES: Mapping[int, np.dtype[np.generic]] = {
    number: np.dtype(name)
    for number, name in {
        0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
    }.items()
}  # fmt: skip
_BOOL, _STRING, _ARRAY = 7, 8, 9
_U64 = struct.Struct("<Q")
# The least that an entry and a tensor take: one letter of name, and what else they must have.
_LEAST_ENTRY, _LEAST_TENSOR = 8 + 1 + 4 + 1, 8 + 1 + 4 + 4 + 8
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.gguf)", re.ASCII | re.DOTALL)


def read(path: Path | str) -> Model:
    """The model in the GGUF file at ``path``, checked: see the module's docstring.

    Raises ModelError for a file that is not what it should be, and OSError for one that cannot be opened.
    """
    path = Path(path)
    return parse(path, mapped(path))


def parse(path: Path, file: mmap.mmap) -> Model:
    """The same of a file that is mapped already; other shards are opened beside it."""
    first = _parsed(file)
    count = first.integer("split.count", 1)
    if count > 1:
        return _joined(path, first, count)
    return _model(path, first, first.tensors, (file,))


@attrs.frozen(eq=False)
class _Shard:
    """What one file has."""

    file: mmap.mmap
    metadata: Mapping[str, object]
    tensors: dict[str, Tensor]

    def integer(self, key: str, default: int) -> int:
        found = self.metadata.get(key, default)
        if isinstance(found, bool) or not isinstance(found, int):
            raise ModelError(f"its {key} is no whole number")
        return found


def _model(path: Path, first: _Shard, tensors: dict[str, Tensor], files: tuple[mmap.mmap, ...]) -> Model:
    architecture = first.metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise ModelError("it has no general.architecture, a string, which every model needs")
    return Model(path, architecture, first.metadata, MappingProxyType(tensors), files)


def _joined(path: Path, opened: _Shard, count: int) -> Model:
    """The model of which one of several files is opened."""
    parts = _SHARD.fullmatch(path.name)
    if count > MOST_SHARDS:
        raise ModelError(f"its split.count is {count}: at most {MOST_SHARDS} files can be read")
    if parts is None or int(parts["count"]) != count or not 1 <= int(parts["number"]) <= count:
        raise ModelError(f"it is one of {count} files, so its name has to end with -00001-of-{count:05}.gguf or so on")
    here, shards = int(parts["number"]) - 1, []
    for number in range(count):
        name = f"{parts['stem']}-{number + 1:05}-of-{count:05}{parts['suffix']}"
        shard = opened if number == here else _sibling(path.with_name(name))
        if (shard.integer("split.no", 0), shard.integer("split.count", 1)) != (number, count):
            raise ModelError(
                f"its file {shown(name)} is number {shard.integer('split.no', 0)} of {shard.integer('split.count', 1)}"
                f" by its metadata, where {number} of {count} is needed"
            )
        shards.append(shard)
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        if twice := tensors.keys() & shard.tensors.keys():
            raise ModelError(f"two of its {count} files have a tensor {shown(min(twice))}")
        tensors |= shard.tensors
    total = shards[0].integer("split.tensors.count", len(tensors))
    if total != len(tensors):
        raise ModelError(f"its {count} files have {len(tensors)} tensors, where split.tensors.count is {total}")
    return _model(path, shards[0], tensors, tuple(shard.file for shard in shards))


def _sibling(path: Path) -> _Shard:
    try:
        return _parsed(mapped(path))
    except FileNotFoundError:
        raise ModelError(f"its file {shown(path.name)} is missing, which has to lie beside it") from None
    except OSError as error:
        raise ModelError(f"its file {shown(path.name)} cannot be opened: {error.strerror}") from error
    except ModelError as error:
        raise ModelError(f"its file {shown(path.name)} is not as it should be: {error}") from error


@attrs.define
class _Budget:
    """How many strings, and how many other things, have been announced so far."""

    strings: int = 0
    others: int = 0

    def count(self, cursor: Cursor, number: int, least: int, what: str) -> int:
        """``number``, if so many things of ``least`` bytes each can still come, and not too many have come before."""
        self.others += _possible(cursor, number, least, what)
        if self.others > MOST_OTHERS:
            raise ModelError(f"it has {number} {what}: more than {MOST_OTHERS} entries, tensors and arrays in all")
        return number

    def count_strings(self, cursor: Cursor, number: int, what: str) -> int:
        self.strings += _possible(cursor, number, 8, f"strings in {what}")
        if self.strings > MOST_STRINGS:
            raise ModelError(f"it has {number} strings in {what}: more than {MOST_STRINGS} in all")
        return number


def _possible(cursor: Cursor, number: int, least: int, what: str) -> int:
    if number * least > cursor.left:
        raise ModelError(
            f"it has {number} {what}, of at least {least} bytes each, at byte {cursor.at}, where {cursor.left} are left"
        )
    return number


def _name(cursor: Cursor, what: str) -> str:
    length = cursor.u64(f"the length of {what}")
    if not 0 < length <= LONGEST_NAME:
        raise ModelError(f"{what} has {length} bytes: 1 to {LONGEST_NAME} are needed (byte {cursor.at - 8})")
    return cursor.text(length, what)


def _pass_strings(cursor: Cursor, number: int, what: str) -> None:
    """Pass over so many strings. There are hundreds of thousands, so this loop calls nothing of its own."""
    data, at, end, u64 = cursor.data, cursor.at, cursor.end, _U64.unpack_from
    for _ in range(number):
        if at + 8 > end:
            raise ModelError(f"it is cut short: {what} has {number} strings, and one of them begins at byte {at}")
        at += 8 + u64(data, at)[0]
    if at > end:
        raise ModelError(f"it is cut short: the last string of {what} ends at byte {at}, where the file has {end}")
    cursor.at = at


def _pass_values(cursor: Cursor, budget: _Budget, kind: int, count: int, what: str, depth: int = 0) -> None:
    """Pass over values of an entry, or of an array."""
    if kind in _VALUES:
        cursor.skip(count * _VALUES[kind].itemsize, what)
    elif kind == _STRING:
        _pass_strings(cursor, budget.count_strings(cursor, count, what), what)
    elif kind != _ARRAY:
        raise ModelError(f"{what} is of type {kind}, which there is not (byte {cursor.at})")
    elif depth == DEEPEST:
        raise ModelError(f"{what} has more than {DEEPEST} arrays within each other (byte {cursor.at})")
    else:
        for _ in range(budget.count(cursor, count, 12, f"arrays in {what}")):
            inner, number = cursor.u32(f"an array's type in {what}"), cursor.u64(f"an array's length in {what}")
            _pass_values(cursor, budget, inner, number, what, depth + 1)


@attrs.frozen(eq=False)
class _Metadata(Mapping[str, object]):
    """The entries of a file by key: those that are known, and where to find the others, which were passed over."""

    _file: mmap.mmap
    _known: dict[str, object]
    _places: dict[str, tuple[int, int]]

    def __getitem__(self, key: str) -> object:
        if key not in self._known:
            kind, start = self._places[key]
            self._known[key] = _value(Cursor(self._file, start), kind, f"entry {shown(key)}")
        return self._known[key]

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _value(cursor: Cursor, kind: int, what: str) -> object:
    """The value of an entry that was passed over before, so that all of it is there."""
    if kind == _STRING:
        return cursor.text(cursor.u64(what), what)
    if kind == _ARRAY:
        inner, count = cursor.u32(what), cursor.u64(what)
        if inner == _STRING:
            return _strings(cursor, count)
        if inner == _ARRAY:
            return tuple(_value(cursor, _ARRAY, what) for _ in range(count))
        return _plain(cursor, inner, count, what)
    return _plain(cursor, kind, 1, what)[0].item()


def _plain(cursor: Cursor, kind: int, count: int, what: str) -> np.ndarray:
    start = cursor.skip(count * _VALUES[kind].itemsize, what)
    if kind == _BOOL and np.any(np.frombuffer(cursor.data, np.uint8, count, start) > 1):
        raise ModelError(f"{what} has a truth value that is neither 0 nor 1")
    return np.frombuffer(cursor.data, _VALUES[kind], count, start)


def _strings(cursor: Cursor, count: int) -> tuple[str, ...]:
    """Strings of an array. Some vocabularies have words that are no UTF-8: such bytes are lone surrogates, as in
    names of files.
    """
    data, at, found = cursor.data, cursor.at, []
    for _ in range(count):
        start = at + 8
        at = start + _U64.unpack_from(data, at)[0]
        found.append(data[start:at].decode(errors="surrogateescape"))
    cursor.at = at
    return tuple(found)


def _parsed(file: mmap.mmap) -> _Shard:
    cursor, budget = Cursor(file), _Budget()
    magic = file[:4]
    if magic != MAGIC:
        raise ModelError(f"it begins with {magic!r}, where {MAGIC!r} is needed")
    cursor.skip(4, "the magic")
    version = cursor.u32("the version")
    if not version & 0xFFFF:
        raise ModelError("it is big-endian: only little-endian files can be read")
    if version not in VERSIONS:
        raise ModelError(f"it is of version {version}: {' or '.join(map(str, VERSIONS))} is needed")
    tensors, entries = cursor.u64("the number of tensors"), cursor.u64("the number of entries")
    metadata = _entries(cursor, budget, budget.count(cursor, entries, _LEAST_ENTRY, "entries"))
    alignment = _alignment(metadata)
    infos = _infos(cursor, budget.count(cursor, tensors, _LEAST_TENSOR, "tensors"), alignment)
    start = -(-cursor.at // alignment) * alignment
    return _Shard(file, metadata, _placed(infos, start, file))


def _entries(cursor: Cursor, budget: _Budget, count: int) -> _Metadata:
    known: dict[str, object] = {}
    places: dict[str, tuple[int, int]] = {}
    decoded = 0
    for index in range(count):
        key = _name(cursor, f"the key of entry {index}")
        if key in places:
            raise ModelError(f"it has two entries {shown(key)}")
        kind, what = cursor.u32(f"the type of entry {index}"), f"entry {shown(key)}"
        start = cursor.at
        _pass_values(cursor, budget, kind, 1, what)
        places[key] = (kind, start)
        decoded += cursor.at - start if kind == _STRING else 0
        if kind in _VALUES or (kind == _STRING and decoded <= _DECODED_AT_ONCE):
            known[key] = _value(Cursor(cursor.data, start), kind, what)
    return _Metadata(cursor.data, known, places)


def _alignment(metadata: _Metadata) -> int:
    found = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if isinstance(found, bool) or not isinstance(found, int):
        raise ModelError("entry 'general.alignment' is no whole number")
    if found <= 0 or found & (found - 1):
        raise ModelError(f"entry 'general.alignment' is {found}: a power of two is needed")
    return found


@attrs.frozen
class _Info:
    """What the header says of a tensor; ``offset`` from the beginning of the data."""

    name: str
    format: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def _infos(cursor: Cursor, count: int, alignment: int) -> list[_Info]:
    infos: dict[str, _Info] = {}
    for index in range(count):
        name = _name(cursor, f"the name of tensor {index}")
        what = f"tensor {shown(name)}"
        if name in infos:
            raise ModelError(f"it has two tensors {shown(name)}")
        dimensions = cursor.u32(f"the number of dimensions of {what}")
        if dimensions > MOST_DIMENSIONS:
            raise ModelError(f"{what} has {dimensions} dimensions: at most {MOST_DIMENSIONS} are possible")
        fields = struct.Struct(f"<{dimensions}QIQ")
        start = cursor.skip(fields.size, f"{what}, its dimensions, kind and offset,")
        *sizes, number, offset = fields.unpack_from(cursor.data, start)
        if number not in KINDS:
            raise ModelError(f"{what} is of kind {number}, which is not known")
        kind = KINDS[number]
        row = sizes[0] if sizes else 1
        if row % kind.elements:
            raise ModelError(f"{what} has rows of {row}: {kind.name} has blocks of {kind.elements}")
        if offset % alignment:
            raise ModelError(f"{what} has offset {offset}: a multiple of {alignment} is needed")
        elements, most = 1, 1
        for size in sizes:
            elements, most = elements * size, most * max(size, 1)
        if most >= MOST_ELEMENTS:
            raise ModelError(f"{what} has the dimensions {'x'.join(map(str, sizes))}, which no tensor can have")
        shape = tuple(reversed(sizes))
        infos[name] = _Info(name, kind.name, shape, offset, elements // kind.elements * kind.nbytes)
    return list(infos.values())


def _placed(infos: list[_Info], start: int, file: mmap.mmap) -> dict[str, Tensor]:
    """The tensors in their order, each within the file and clear of the others."""
    end, last = len(file), None
    for info in sorted(infos, key=lambda one: one.offset):
        stop = start + info.offset + info.nbytes
        if stop > end:
            raise ModelError(
                f"it is cut short: tensor {shown(info.name)} ends at byte {stop}, where the file has {end}"
            )
        if last is not None and info.nbytes and info.offset < last.offset + last.nbytes:
            raise ModelError(f"tensors {shown(last.name)} and {shown(info.name)} overlap")
        last = info if info.nbytes else last
    return {
        one.name: Tensor(one.name, one.format, one.shape, np.frombuffer(file, np.uint8, one.nbytes, start + one.offset))
        for one in infos
    }
