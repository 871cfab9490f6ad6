"""Arrays as readable JSON, exact to the bit.

    sparse   {"dtype": "float32", "shape": [256], "fill": "0x0p+0", "elements": {"0": "0x1.4p+3", "5:9": "0x1p+0"}}
    hex      {"dtype": "uint8", "shape": [1, 144], "hex": ["003c00b4...", ...]}      rows of the last axis
    dense    {"dtype": "float32", "shape": [256], "base64": "..."}                   little-endian bytes

Elements are named by their index in C order, or by a half-open run of indices. Floats are hexadecimal strings, integers
are JSON integers. ``encode`` chooses sparse where that is short, rows of hex for other bytes, and base64 for the rest.
``decode`` accepts untrusted input and checks everything.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable
from typing import TypeAlias, TypeGuard

import numpy as np

from diffuzz.cases.case import DTYPES

# The largest number of runs that is written sparsely. A run takes about 25 characters, where base64 takes 16 for three
# float32 numbers, but people can read it.
READABLE_RUNS = 64
# The largest number of elements of one array (64 MiB of float32). Without a limit a few characters could name any.
LARGEST_ELEMENTS = 2**24

# A JSON object whose fields have not been checked.
Json: TypeAlias = dict[str, object]

_INDEX = re.compile(r"(0|[1-9][0-9]{0,9})(?::([1-9][0-9]{0,9}))?")
_HEX_FLOAT = re.compile(r"-?0x[0-9a-f](?:\.[0-9a-f]{1,13})?p[+-][0-9]{1,4}")


class EncodingError(ValueError):
    """What is wrong with an encoded array, one line; the caller adds the name of the array."""


def hex_float(value: float) -> str:
    """The shortest hexadecimal form of a number, such as ``0x1.4p+3``."""
    text = float(value).hex()
    mantissa, exponent = text.split("p")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}p{exponent}"


def parse_hex_float(text: object) -> float:
    """Inverse of ``hex_float`` for finite numbers. Raises EncodingError for anything else."""
    if not isinstance(text, str) or not _HEX_FLOAT.fullmatch(text):
        raise EncodingError(f"{text!r} is not a hexadecimal float such as 0x1.8p+1")
    try:
        return float.fromhex(text)
    except OverflowError:
        raise EncodingError(f"{text} is not a finite number") from None


def encode(array: np.ndarray) -> Json:
    """The JSON object of a float32, int32 or uint8 array."""
    flat = array.reshape(-1)
    head: Json = {"dtype": str(array.dtype), "shape": list(array.shape)}
    # Runs of equal bits, so that -0.0 and 0.0 are different.
    raw = flat.view(np.uint32) if flat.dtype.itemsize == 4 else flat
    edges = np.flatnonzero(raw[1:] != raw[:-1]) + 1
    starts, ends = np.concatenate([[0], edges]), np.concatenate([edges, [flat.size]])
    if flat.size and len(starts) <= READABLE_RUNS and not (flat.dtype == np.uint8 and len(starts) > 8):
        return head | _sparse(flat, raw, starts, ends)
    if flat.dtype == np.uint8:
        return head | {"hex": [bytes(row).hex() for row in array.reshape(-1, array.shape[-1])]}
    little = array.astype(array.dtype.newbyteorder("<"))
    return head | {"base64": base64.b64encode(little.tobytes()).decode("ascii")}


def _sparse(flat: np.ndarray, raw: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> Json:
    write: Callable[[float], str | int] = hex_float if flat.dtype == np.float32 else int
    covered: dict[int, int] = {}
    for start, end in zip(starts, ends, strict=True):
        covered[int(raw[start])] = covered.get(int(raw[start]), 0) + int(end - start)
    fill = max(covered, key=lambda bits: (covered[bits], -bits))
    elements = {
        (str(start) if end == start + 1 else f"{start}:{end}"): write(flat[start])
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        if int(raw[start]) != fill
    }
    return {"fill": write(flat[starts[[int(raw[s]) == fill for s in starts]][0]]), "elements": elements}


def decode(stored: object) -> np.ndarray:
    """Inverse of ``encode``: a float32, int32 or uint8 array of one to eight dimensions.

    Raises EncodingError for anything that does not give every element exactly once. Sizes are checked before anything
    of that size is allocated; runs must be in order and must not overlap; numbers must be finite and representable.
    """
    if not isinstance(stored, dict):
        raise EncodingError("an object with dtype and shape is needed")
    dtype, shape = stored.get("dtype"), decoded_shape(stored)
    if dtype not in DTYPES:
        raise EncodingError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    body = set(stored) - {"dtype", "shape"}
    readers: dict[frozenset[str], Callable[[Json, np.dtype, tuple[int, ...]], np.ndarray]] = {
        frozenset({"fill", "elements"}): _from_sparse,
        frozenset({"hex"}): _from_hex,
        frozenset({"base64"}): _from_base64,
    }
    reader = readers.get(frozenset(body))
    if reader is None:
        raise EncodingError(f"fields {sorted(body)}: fill and elements, or hex, or base64 are needed")
    array = reader(stored, np.dtype(dtype), shape)
    if array.dtype == np.float32 and not np.isfinite(array).all():
        raise EncodingError("a number is not finite")
    return array.reshape(shape)


def decoded_shape(stored: object) -> tuple[int, ...]:
    """The shape of the array that ``stored`` describes. Raises EncodingError if it gives no admissible shape."""
    shape = stored.get("shape") if isinstance(stored, dict) else None
    if not isinstance(shape, list) or not 1 <= len(shape) <= 8:
        raise EncodingError("shape is not a list of one to eight sizes")
    if not all(_is_integer(size) and 1 <= size <= LARGEST_ELEMENTS for size in shape):
        raise EncodingError(f"shape has a size that is not an integer from 1 to {LARGEST_ELEMENTS}")
    if math.prod(shape) > LARGEST_ELEMENTS:
        raise EncodingError(f"shape {shape} has {math.prod(shape)} elements, more than {LARGEST_ELEMENTS}")
    return tuple(shape)


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _from_sparse(stored: Json, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    size, elements = math.prod(shape), stored["elements"]
    flat = np.full(size, _element(stored["fill"], dtype), dtype)
    if not isinstance(elements, dict):
        raise EncodingError("elements is not an object")
    end = 0
    for key, value in elements.items():
        match = _INDEX.fullmatch(key)
        if match is None:
            raise EncodingError(f"element {key!r} is not an index or a run such as 3 or 5:9")
        start = int(match[1])
        if start < end:
            raise EncodingError(f"element {key!r} overlaps or precedes the one before")
        end = int(match[2]) if match[2] else start + 1
        if not start < end <= size:
            raise EncodingError(f"element {key!r} is outside 0:{size}")
        flat[start:end] = _element(value, dtype)
    return flat


def _element(value: object, dtype: np.dtype) -> np.float32 | int:
    if dtype == np.float32:
        number = parse_hex_float(value)
        with np.errstate(over="ignore"):
            narrow = np.float32(number)
        if float(narrow) != number:
            raise EncodingError(f"{value} is not a float32 number")
        return narrow
    limits = np.iinfo(dtype)
    if not _is_integer(value) or not limits.min <= value <= limits.max:
        raise EncodingError(f"{value!r} is not an integer from {limits.min} to {limits.max}")
    return value


def _from_hex(stored: Json, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    rows = stored["hex"]
    if dtype != np.uint8:
        raise EncodingError("hex is for uint8 arrays only")
    count = math.prod(shape[:-1])
    wanted = 2 * shape[-1]
    if not isinstance(rows, list) or len(rows) != count:
        raise EncodingError(f"hex needs {count} rows")
    for row in rows:
        if not isinstance(row, str) or len(row) != wanted or not re.fullmatch(r"[0-9a-f]*", row):
            raise EncodingError(f"a row of hex needs {wanted} digits 0-9 a-f")
    return np.frombuffer(bytes.fromhex("".join(rows)), np.uint8)


def _from_base64(stored: Json, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    wanted = math.prod(shape) * dtype.itemsize
    text = stored["base64"]
    if not isinstance(text, str) or len(text) != 4 * ((wanted + 2) // 3):
        raise EncodingError(f"base64 needs {4 * ((wanted + 2) // 3)} characters for {wanted} bytes")
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise EncodingError("base64 has invalid characters or padding") from None
    if len(raw) != wanted:
        raise EncodingError(f"base64 has {len(raw)} bytes, where {wanted} are needed")
    return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype)
