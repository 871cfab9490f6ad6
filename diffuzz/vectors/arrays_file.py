"""Files of named arrays with metadata, .safetensors, without a library.

A file is a u64 with the number of bytes of the header, the header (JSON), and the bytes of the arrays. The header has
the dtype, the shape and the place of each array, and metadata, which are strings. The bytes that are written depend on
names, arrays and metadata alone. What is read may come from anywhere, and nothing in it is believed.

Source: the README of the package safetensors ("Format").
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from diffuzz.models.arrays_file import replace

METADATA = "__metadata__"
TYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn), "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in TYPES.items()}
# Bytes of a file that is read: results of vectors of at most a megabyte, in any type, are far below.
LARGEST = 2**28
_U64 = struct.Struct("<Q")


class ArraysFileError(ValueError):
    """A file that is no .safetensors file, or too large; one line, without its name."""


def packed(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a file of these arrays, whose dtypes are among TYPES: the widest first, so that all are aligned."""
    header: dict[str, object] = {METADATA: dict(metadata)}
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    at = 0
    for name in order:
        array = arrays[name]
        place = [at, at + array.nbytes]
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": place}
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([_U64.pack(len(text)), text, *(np.ascontiguousarray(arrays[name]).tobytes() for name in order)])


def write(path: Path, content: bytes) -> None:
    """Write a file, all of it or nothing. Raises OSError."""
    replace(path, (content,))


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of a file. Raises ArraysFileError, OSError."""
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ArraysFileError(f"it has more than {LARGEST} bytes")
    return unpacked(content)


def unpacked(content: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of the bytes of a file. Raises ArraysFileError."""
    if len(content) < _U64.size:
        raise ArraysFileError(f"it has {len(content)} bytes, and a .safetensors file begins with 8 bytes of length")
    length: int = _U64.unpack_from(content)[0]
    start = _U64.size + length
    if start > len(content):
        raise ArraysFileError(
            f"it is no .safetensors file, or cut short: its header takes {length} bytes, "
            f"where {len(content) - _U64.size} are left"
        )
    try:
        header = json.loads(content[_U64.size : start])
    except (ValueError, RecursionError) as error:
        raise ArraysFileError("its header is no JSON") from error
    if not isinstance(header, dict):
        raise ArraysFileError("its header is no JSON object")
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ArraysFileError(f"its {METADATA} is no object of strings")
    return {name: _array(name, entry, content, start) for name, entry in header.items()}, metadata


def _array(name: str, entry: object, content: bytes, start: int) -> np.ndarray:
    found = entry if isinstance(entry, dict) else {}
    dtype = TYPES.get(str(found.get("dtype")))
    shape, offsets = _sizes(found.get("shape")), _sizes(found.get("data_offsets"))
    if dtype is None:
        raise ArraysFileError(f"array {name} has the dtype {found.get('dtype')}, which is not known")
    if shape is None or offsets is None or len(offsets) != 2 or len(shape) > 8:
        raise ArraysFileError(f"array {name} has no shape, or no data_offsets, that an array can have")
    begin, end = offsets
    # Python's integers, because sizes from outside may be any.
    if end - begin != math.prod(shape) * dtype.itemsize or start + end > len(content):
        raise ArraysFileError(f"array {name} is not in the file as its dtype and shape say")
    return np.frombuffer(content, np.uint8, end - begin, start + begin).copy().view(dtype).reshape(shape)


def _sizes(numbers: object) -> list[int] | None:
    """A list of sizes or places, or None."""
    fitting = isinstance(numbers, list) and all(type(one) is int and one >= 0 for one in numbers)
    return list(numbers) if fitting and isinstance(numbers, list) else None
