"""Files of named arrays with metadata: .safetensors, read and written here, and .npz, read by zipped. Dumps, patches
and conformance vectors are such files, and what an engine or an implementation wrote. Nothing in them is believed: see
json_text for the header of the one, and zipped for the other.

A .safetensors file is a u64 with the bytes of the header, the header (JSON), and the bytes of the arrays, which cover
the rest of the file without holes. The header has the dtype, the shape and the place of each array, and the metadata.

Source: the README of the package safetensors ("Format"), and its tensor.rs for what is refused.
"""

from __future__ import annotations

import itertools
import json
import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import ml_dtypes
import numpy as np

from diffuzz.models import json_text, zipped
from diffuzz.models.mapped import shown
from diffuzz.models.model import ModelError
from diffuzz.replacing import replace

METADATA = "__metadata__"
# Types of safetensors files. A tap has one of those that are floating-point, tokens and their like are I32.
TYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"), "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn), "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in TYPES.items()}
# Arrays of a dump: a hundred for each of a hundred layers. Dimensions of one, and elements: fewer than NumPy can have.
MOST_ARRAYS = 2**14
_MOST_DIMENSIONS, _MOST_ELEMENTS = 8, 2**60
# Bytes of the metadata in an .npz, of four each in a string array.
_LONGEST_METADATA = 2**22
_U64 = struct.Struct("<Q")


@attrs.frozen(eq=False)
class Array:
    """An array of a file that is not looked at before it is asked for; of an .npz, ``member`` may have to unpack it."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    _bytes: np.ndarray | zipped.Member

    def get(self) -> np.ndarray:
        raw = self._bytes if isinstance(self._bytes, np.ndarray) else self._bytes.data()
        if raw.ctypes.data % self.dtype.itemsize:
            # Libraries may read whole words.
            raw = raw.copy()
        array = raw.view(self.dtype).reshape(self.shape)
        array.flags.writeable = False
        return array


def read(file: mmap.mmap) -> tuple[dict[str, str], dict[str, Array]]:
    """The metadata and the arrays of a mapped file, by its first bytes. Raises ModelError."""
    return _npz(file) if file[:4] in zipped.MAGICS else _safetensors(file)


def _safetensors(file: mmap.mmap | bytes) -> tuple[dict[str, str], dict[str, Array]]:
    if len(file) < _U64.size:
        raise ModelError(f"it has {len(file)} bytes, and a .safetensors file begins with 8 bytes of length")
    length = _U64.unpack_from(file)[0]
    if length > len(file) - _U64.size:
        raise ModelError(
            f"it is no .safetensors or .npz file, or cut short: its header takes {length} bytes, "
            f"where {len(file) - _U64.size} are left"
        )
    if length > json_text.LONGEST:
        raise ModelError(f"its header has {length} bytes: at most {json_text.LONGEST} can be read")
    start = _U64.size + length
    header = json_text.parsed(file[_U64.size : start], "its header")
    metadata = strings(header.pop(METADATA, {}))
    if len(header) > MOST_ARRAYS:
        raise ModelError(f"it has {len(header)} arrays: at most {MOST_ARRAYS} can be read")
    placed = {name: _placed(entry, f"array {shown(_name(name))}") for name, entry in header.items()}
    last, before = 0, "the header"
    for name, (_, _, begin, end) in sorted(placed.items(), key=lambda one: one[1][2:]):
        if begin != last:
            wrong = "overlaps with" if begin < last else "leaves a hole after"
            raise ModelError(f"array {shown(name)} begins at byte {begin} of the data and {wrong} {before}")
        last, before = end, f"array {shown(name)}"
    if last != len(file) - start:
        raise ModelError(f"its arrays have {last} bytes, where the file has {len(file) - start} after its header")
    return metadata, {
        name: Array(dtype, shape, np.frombuffer(file, np.uint8, end - begin, start + begin))
        for name, (dtype, shape, begin, end) in placed.items()
    }


def _placed(entry: object, what: str) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """The dtype, the shape and the place of an array, whose number of bytes is theirs."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ModelError(f"{what} needs a dtype, a shape and data_offsets, and nothing else")
    name, sizes, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(name, str) or name not in TYPES:
        raise ModelError(f"{what} has the dtype {shown(str(name))}, which is not known")
    if not _whole(sizes) or len(sizes) > _MOST_DIMENSIONS or math.prod(max(one, 1) for one in sizes) >= _MOST_ELEMENTS:
        raise ModelError(f"{what} has a shape that is no list of sizes that an array can have")
    if not _whole(offsets) or len(offsets) != 2:
        raise ModelError(f"{what} has data_offsets that are no pair of whole numbers")
    dtype, shape, (begin, end) = TYPES[name], tuple(sizes), offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ModelError(
            f"{what} is {name}{list(shape)}, {math.prod(shape) * dtype.itemsize} bytes, and has {end - begin}"
        )
    return dtype, shape, begin, end


def _whole(numbers: object) -> bool:
    return isinstance(numbers, list) and all(
        isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in numbers
    )


def _name(name: str) -> str:
    """A name of the file, which can be written again."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ModelError(f"the name {shown(name)} is no text") from None
    return name


def strings(found: object) -> dict[str, str]:
    """The metadata, if it is strings by key that can be written. Raises ModelError."""
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ModelError(f"its {METADATA} is no object of strings")
    for key, value in found.items():
        _name(key)
        _name(value)
    return found


def _npz(file: mmap.mmap) -> tuple[dict[str, str], dict[str, Array]]:
    found = zipped.members(file)
    if METADATA not in found:
        raise ModelError(f"it has no {METADATA}, a string array that holds format, version, engine and arch as JSON")
    metadata = strings(json_text.parsed(_text(found.pop(METADATA)), f"its {METADATA}"))
    return metadata, {name: _member(member) for name, member in found.items()}


def _text(member: zipped.Member) -> bytes:
    """The text of a 0-d array of str or bytes."""
    letter, width = member.descr[-len(member.descr.lstrip("<>|=")) :][0], member.descr.lstrip("<>|=")[1:]
    nbytes = int(width or 0) * (4 if letter == "U" else 1)
    if letter not in "US" or member.descr[0] == ">" or member.shape != () or nbytes != member.nbytes:
        raise ModelError(f"its {METADATA} is no 0-d array of a string")
    if nbytes > _LONGEST_METADATA:
        raise ModelError(f"its {METADATA} has {nbytes} bytes: at most {_LONGEST_METADATA} can be read")
    raw = member.data().tobytes()
    if letter == "S":
        return raw.rstrip(b"\0")
    try:
        return raw.decode("utf-32-le").rstrip("\0").encode()
    except UnicodeError:
        raise ModelError(f"its {METADATA} is no text") from None


# bfloat16 is no type of NumPy's own, and is written as bytes of two.
_DESCRS = {dtype.str: dtype for dtype in TYPES.values() if dtype.str[1] != "V"}
_DESCRS |= {"<V2": TYPES["BF16"], "|V2": TYPES["BF16"]}


def _member(member: zipped.Member) -> Array:
    what = f"array {shown(_name(member.name))}"
    if member.descr not in _DESCRS:
        raise ModelError(f"{what} has the dtype {member.descr}, which is not known")
    dtype = _DESCRS[member.descr]
    if math.prod(member.shape) * dtype.itemsize != member.nbytes:
        raise ModelError(
            f"{what} is {dtype}{list(member.shape)}, {math.prod(member.shape) * dtype.itemsize} bytes, "
            f"and has {member.nbytes}"
        )
    return Array(dtype, member.shape, member)


def write(path: Path, metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a .safetensors file of arrays of TYPES, all of it or nothing.

    Raises ModelError for metadata that cannot be written, and OSError where the file cannot be (no space left).
    """
    replace(path, _parts(metadata, arrays))


def packed(metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of that file, which depend on names, arrays and metadata alone. Raises ModelError."""
    return b"".join(_parts(metadata, arrays))


def unpacked(content: bytes) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The metadata and the arrays of the bytes of a .safetensors file. Raises ModelError."""
    metadata, arrays = _safetensors(content)
    return metadata, {name: array.get().copy() for name, array in arrays.items()}


def _parts(metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> Iterator[bytes | memoryview]:
    """The bytes of a file, piece by piece."""
    header: dict[str, Any] = {METADATA: strings(dict(metadata))}
    # The widest types first, so that all arrays are aligned.
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    at = 0
    for name in order:
        array = arrays[name]
        header[name] = {
            "dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]
        }  # fmt: skip
        at += array.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    bodies = (np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data for name in order)
    yield from itertools.chain((_U64.pack(len(text)) + text,), bodies)
