"""Cases as files of named arrays, ``.npz`` and ``.safetensors``, which may come from anywhere.

An archive may be a thousand times smaller than what is in it. So the name, type and shape of each array are read first,
and held against the space that the case has to be in; then as many bytes are unpacked as such an array has.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, BinaryIO

import attrs
import numpy as np
from numpy.lib import format as npy

from diffuzz.cases.case import DTYPES, Case
from diffuzz.cases.encoding import LARGEST_ELEMENTS
from diffuzz.cases.space import InadmissibleError, Space
from diffuzz.corpus.files import CorpusError, open_regular, reason

# Bytes of all arrays of a file.
LARGEST_ARRAYS = 2**27
# Arrays of a case; and bytes of the header of a .safetensors file.
MOST_ARRAYS, LONGEST_HEADER = 64, 2**20
_SAFETENSORS_TYPES = {"F32": "float32", "I32": "int32", "U8": "uint8"}


@attrs.frozen
class _Declared:
    """What a file says of one of its arrays."""

    dtype: str
    shape: tuple[int, ...]


def load_arrays(path: Path, space: Space | None = None) -> Case:
    """The case in a ``.npz`` or ``.safetensors`` file of named arrays.

    None of them is read unless each is float32, int32 or uint8 of at most LARGEST_ELEMENTS elements, all together have
    at most LARGEST_ARRAYS bytes and, if ``space`` is given, they are the arrays of the space, in shapes that it admits.
    Raises CorpusError, InadmissibleError, or ImportError without safetensors.
    """
    readers: dict[str, Callable[[Path, BinaryIO, Space | None], dict[str, np.ndarray]]] = {
        ".npz": _npz,
        ".safetensors": _safetensors,
    }
    if path.suffix not in readers:
        raise CorpusError(f"{path}: a case is a .json corpus entry, a .npz or a .safetensors file")
    try:
        with open_regular(path) as file:
            return Case(readers[path.suffix](path, file, space))
    except (ImportError, CorpusError, InadmissibleError):
        raise
    except FileNotFoundError as error:
        raise CorpusError(f"{path}: {error.strerror}") from error
    except Exception as error:  # a damaged archive raises whatever its reader stumbles over
        raise CorpusError(
            f"{path}: not a readable {path.suffix} file of float32, int32 or uint8 arrays: {reason(error)}"
        ) from error


def _check(path: Path, declared: Mapping[str, _Declared], space: Space | None) -> None:
    """Raise ValueError for arrays of another type, CorpusError for those that are too large, InadmissibleError for
    those that are not of the space.
    """
    for name, array in declared.items():
        if array.dtype not in DTYPES:
            raise ValueError(f"array {name} is {array.dtype}: convert it")
        # Sizes may be any integers: their product is no product of NumPy.
        if len(array.shape) > 4 or math.prod(array.shape) > LARGEST_ELEMENTS:
            raise CorpusError(
                f"{path}: array {name} has the shape {list(array.shape)}, where {LARGEST_ELEMENTS} elements in four "
                "dimensions may be loaded; choose smaller shapes"
            )
    size = sum(map(_bytes, declared.values()))
    if size > LARGEST_ARRAYS:
        raise CorpusError(
            f"{path}: {size} bytes of arrays, where {LARGEST_ARRAYS} may be loaded; choose smaller shapes"
        )
    if space is not None:
        space.check_shapes({name: array.shape for name, array in declared.items()})


def _bytes(array: _Declared) -> int:
    return math.prod(array.shape) * np.dtype(array.dtype).itemsize


def _npz(path: Path, file: BinaryIO, space: Space | None) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) > MOST_ARRAYS:
            raise CorpusError(f"{path}: {len(members)} arrays, where a case has at most {MOST_ARRAYS}")
        declared = {}
        for member in members:
            with archive.open(member) as stream:
                declared[member.filename.removesuffix(".npy")] = _header(stream)[0]
        _check(path, declared, space)
        arrays = {}
        for member, (name, array) in zip(members, declared.items(), strict=True):
            with archive.open(member) as stream:
                _, columns = _header(stream)
                size = _bytes(array)
                raw = stream.read(size)
                # One byte more ends the stream, and its checksum is looked at.
                if len(raw) != size or stream.read(1):
                    raise ValueError(f"array {name} has not the {size} bytes that it declares")
                little = np.frombuffer(raw, np.dtype(array.dtype).newbyteorder("<"))
                arrays[name] = little.astype(array.dtype).reshape(array.shape, order="F" if columns else "C")
        return arrays


def _header(stream: IO[bytes]) -> tuple[_Declared, bool]:
    """What a .npy file declares, and whether its first index runs fastest."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"a .npy file of version {version[0]}.{version[1]}")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, columns, dtype = read(stream)
    # Numbers of the other byte order are not read as if they were of this one.
    name = str(dtype) if dtype.kind == "O" or dtype == dtype.newbyteorder("<") else f"big-endian {dtype.name}"
    return _Declared(name, tuple(int(size) for size in shape)), bool(columns)


def _safetensors(path: Path, file: BinaryIO, space: Space | None) -> dict[str, np.ndarray]:
    try:
        from safetensors.numpy import load
    except ModuleNotFoundError as error:
        raise ImportError("reading .safetensors needs the package safetensors: pip install safetensors") from error
    import json

    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > LONGEST_HEADER:
        raise ValueError(f"a header of {length} bytes")
    header = file.read(length)
    tensors = {name: tensor for name, tensor in json.loads(header).items() if name != "__metadata__"}
    declared = {
        name: _Declared(_SAFETENSORS_TYPES.get(tensor["dtype"], str(tensor["dtype"])), tuple(map(int, tensor["shape"])))
        for name, tensor in tensors.items()
    }
    if len(declared) > MOST_ARRAYS:
        raise CorpusError(f"{path}: {len(declared)} arrays, where a case has at most {MOST_ARRAYS}")
    _check(path, declared, space)
    size = sum(map(_bytes, declared.values()))
    # One byte more than there should be, so that the library sees it.
    loaded: dict[str, np.ndarray] = load(start + header + file.read(size + 1))
    return loaded
