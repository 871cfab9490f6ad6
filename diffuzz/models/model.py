"""A model file as an engine sees it: an architecture, numbers by key, and tensors by name.

    model = open("SmolLM2-135M-Instruct.Q4_1.gguf")
    model.number("attention.head_count")                   # 9, of the key llama.attention.head_count
    model.tensors["blk.0.ffn_down.weight"].values()        # float32[576, 1536]

Names and keys are those of GGUF, whatever the file. Opening maps the file: a tensor is read when its bytes are looked
at, an array of the metadata (the vocabulary) when it is asked for.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.formats.tensor_types import BY_NAME

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

# Tensors whose elements NumPy has types for, little-endian as in the file; bf16 is the upper half of an f32.
NUMBERS: Mapping[str, str] = {
    "f32": "<f4", "f16": "<f2", "f64": "<f8", "bf16": "<u2",
    "i8": "i1", "u8": "u1", "i16": "<i2", "i32": "<i4", "i64": "<i8",
}  # fmt: skip
# Elements that are dequantised at a time, so that what it takes beside the result stays in the cache of a core: all of
# SmolLM2 takes 1.0 s so, and 4.2 s with 2^20.
_AT_ONCE = 2**16
_HASHED_AT_ONCE = 2**22


class ModelError(ValueError):
    """A model or a dump that is not what it should be; the message is one line, without the path."""


@attrs.frozen(eq=False)
class Tensor:
    """A tensor of a model.

    ``name`` is GGUF's, also in an .apr file; ``format`` a name of diffuzz.formats, or f32, f64, i32 and so on;
    ``shape`` in C order: [rows (outputs), columns (inputs)], and [n] for a vector; ``data`` the bytes, read-only,
    uint8[nbytes], which are read from the file where they are looked at.

    A tensor of more dimensions, such as a stack of experts, is its rows one after another. In an .apr file the last
    block of a row may be padded; the padding belongs to no column.
    """

    name: str
    format: str
    shape: tuple[int, ...]
    data: UInt8[np.ndarray, " nbytes"] = attrs.field(repr=False)

    @property
    def columns(self) -> int:
        return self.shape[-1] if self.shape else 1

    @property
    def rows(self) -> int:
        """All dimensions but the last, multiplied; 1 of a vector."""
        count = 1
        for size in self.shape[:-1]:
            count *= size
        return count

    @property
    def row_bytes(self) -> int:
        """Bytes of one row: of whole blocks."""
        elements, nbytes = block_of(self.format)
        return -(-self.columns // elements) * nbytes

    def blocks(self) -> UInt8[np.ndarray, "rows row_bytes"]:
        """The bytes, one row of the tensor each. Raises ModelError where rows end with a padded block, of which these
        bytes do not say where it ends.
        """
        elements, _ = block_of(self.format)
        if self.columns % elements:
            raise ModelError(
                f"tensor {self.name!a} has rows of {self.columns}, padded to whole blocks of {elements}: "
                f"products with its {self.format} blocks are not supported"
            )
        return self._rows()

    def _rows(self) -> UInt8[np.ndarray, "rows row_bytes"]:
        return self.data.reshape(self.rows, self.row_bytes)

    def values(self, rows: slice = slice(None)) -> Float32[np.ndarray, "rows columns"]:
        """The numbers of some rows as float32[rows, columns]; a vector gives float32[n].

        Blocks have ggml's bits; f64 and integers are rounded. Raises ModelError for a format that diffuzz.formats does
        not have.
        """
        chosen = self._rows()[rows]
        if self.format in NUMBERS:
            values = _numbers(chosen, self.format, self.columns)
        elif formats.REGISTRY.is_built_in(self.format):
            values = _dequantised(chosen, self.format, self.columns)
        else:
            raise ModelError(f"tensor {self.name!a} is {self.format}, a format that diffuzz.formats does not have")
        return values.reshape(-1) if len(self.shape) < 2 else values


def block_of(format: str) -> tuple[int, int]:
    """The elements and the bytes of a block of a tensor's format."""
    if format in NUMBERS:
        return 1, np.dtype(NUMBERS[format]).itemsize
    return BY_NAME[format].elements, BY_NAME[format].nbytes


def _numbers(
    blocks: UInt8[np.ndarray, "rows row_bytes"], name: str, columns: int
) -> Float32[np.ndarray, "rows columns"]:
    numbers = blocks.reshape(-1).view(NUMBERS[name]).reshape(len(blocks), columns)
    if name == "bf16":
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(all="ignore"):
        return numbers.astype(np.float32)


def _dequantised(
    blocks: UInt8[np.ndarray, "rows row_bytes"], name: str, columns: int
) -> Float32[np.ndarray, "rows columns"]:
    format = formats.get(name)
    values = np.empty((len(blocks), columns), np.float32)
    step = max(1, _AT_ONCE // max(columns, 1))
    for start in range(0, len(blocks) if columns else 0, step):
        some = blocks[start : start + step]
        decoded = format.dequantize(some.reshape(-1, format.type_size)).reshape(len(some), -1)
        values[start : start + step] = decoded[:, :columns]
    return values


@attrs.frozen(eq=False, slots=False)  # a cached property needs a place of its own
class Model:
    """A model that was opened.

    ``metadata`` is by GGUF's keys: numbers, bool and str are there, arrays are parsed when they are asked for: numbers
    as NumPy arrays, strings as tuples of str. ``tensors`` is in the file's order. ``_files`` are the mapped files: one,
    or all shards in their order.
    """

    path: Path
    architecture: str
    metadata: Mapping[str, object] = attrs.field(repr=False)
    tensors: Mapping[str, Tensor] = attrs.field(repr=False)
    _files: tuple[mmap.mmap, ...] = attrs.field(repr=False)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file, in hexadecimal; of several shards, of their digests (32 bytes each) in their order."""
        digests = [_digest(file) for file in self._files]
        return (digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(digests)).digest()).hex()

    def number(self, key: str, default: float | None = None) -> int | float:
        """The number that ``metadata`` has under the architecture's name, a dot and ``key``, or ``default``.

        Raises ModelError if there is none, or something that is no number. That it is finite and makes sense is for
        whoever uses it to see.
        """
        whole = f"{self.architecture}.{key}"
        if whole not in self.metadata:
            if default is None:
                raise ModelError(f"it has no {whole}, which a model of the architecture {self.architecture} needs")
            return default
        found = self.metadata[whole]
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise ModelError(f"{whole} is no number: {_kind_of(found)}")
        return found


def _kind_of(found: object) -> str:
    if isinstance(found, bool):
        return "true or false"
    return "a string" if isinstance(found, str) else "an array"


def _digest(file: mmap.mmap) -> bytes:
    hasher = hashlib.sha256()
    with memoryview(file) as view:
        for start in range(0, len(view), _HASHED_AT_ONCE):
            hasher.update(view[start : start + _HASHED_AT_ONCE])
    return hasher.digest()


def open(path: Path | str) -> Model:
    """The model in a file: a GGUF file (all shards of a split one) or an .apr file, by its first bytes.

    Raises ModelError for one that is neither, or not as it should be, and OSError for one that cannot be opened.
    """
    from diffuzz.models import apr, gguf
    from diffuzz.models.mapped import mapped

    path = Path(path)
    file = mapped(path)
    if file[:4] == gguf.MAGIC:
        return gguf.parse(path, file)
    if file[:3] == apr.MAGIC[:3]:
        return apr.parse(path, file)
    raise ModelError(f"it begins with {file[:4]!r}: a GGUF file (b'GGUF') or an .apr file (b'APR\\x00') is needed")
