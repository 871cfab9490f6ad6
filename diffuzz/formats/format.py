"""What a block format is: a layout, a decoding into arithmetic parts, and a quantiser where it has one.

A row of weights is cut into blocks of ``block_size`` numbers; each is stored in ``type_size`` bytes as small integer
codes that share a scale, and in some formats a minimum. The K formats divide a super-block of 256 into sub-blocks with
a small integer scale each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import attrs
import numpy as np

from diffuzz.formats import bits

Fields = dict[str, np.ndarray]


@attrs.frozen
class Parts:
    """A decoded batch of blocks, expanded to one entry per element: value = f32(f32(scale * code) - minimum).

    scale        float32[b, n]           f32(d * sub_scale)
    code         int32[b, n]             signed: the format's offset is already taken off
    minimum      float32[b, n] or None   f32(dmin * sub_minimum); q4_1 and q5_1 add their m, so theirs is -m
    d, dmin      float32[b] (or None)    the block's floating-point scales; for q4_1 and q5_1 dmin = -m
    sub_scale    int32[b, n]             1 where a format has no sub-blocks
    sub_minimum  int32[b, n] or None
    """

    scale: Any
    code: Any
    minimum: Any
    d: Any
    dmin: Any
    sub_scale: Any
    sub_minimum: Any


@attrs.frozen(eq=False)
class Format:
    """One block format. ``decode``, ``unpack`` and ``pack`` are inverse views of the same bytes.

    ``activation`` names the format that ggml quantises activations to before it multiplies them with these weights.
    ``half_fields`` names the f16 scale fields; without any, ``d`` is float32 (q8_K) or a power of two in a byte
    (mxfp4). ``decode(blocks, xp)`` works in NumPy and, traced, in jax.numpy.
    """

    name: str
    block_size: int
    layout: np.dtype[Any]
    activation: str | None
    half_fields: tuple[str, ...]
    _decode: Callable[[Any, Any], Parts]
    _unpack: Callable[[np.ndarray], Fields]
    _pack: Callable[[Fields], np.ndarray]
    _quantise: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def type_size(self) -> int:
        """Bytes of one block."""
        return int(self.layout.itemsize)

    @property
    def scale_fields(self) -> tuple[str, ...]:
        """Names of the floating-point scale fields, of whatever width."""
        return self.half_fields or ("d",)

    def scales(self, blocks: np.ndarray) -> Fields:
        """The scale fields of ``blocks`` uint8[b, type_size], float32[b] by name."""
        records = np.ascontiguousarray(blocks).view(self.layout).reshape(-1)
        return {name: _scale(records[name]) for name in self.scale_fields}

    def with_scales(self, blocks: np.ndarray, scales: Fields) -> np.ndarray:
        """``blocks`` with other numbers (float[b] by name) in these scale fields, as ``stored_scale`` has them."""
        records = np.ascontiguousarray(blocks).view(self.layout).reshape(-1).copy()
        for name, values in scales.items():
            records[name] = bits.e8m0_below(values) if records[name].dtype.kind == "u" else values
        return records.view(np.uint8).reshape(blocks.shape)

    def stored_scale(self, values: np.ndarray) -> np.ndarray:
        """What scale fields hold of ``values``: f16 or float32 numbers, or powers of two (rounded down, as float32)."""
        kind = self.layout["d"]
        return bits.e8m0_to_float(bits.e8m0_below(values)) if kind.kind == "u" else values.astype(kind)

    def decode(self, blocks: Any, xp: Any = np) -> Parts:
        """Parts of ``blocks`` uint8[b, type_size]; ``xp`` is numpy or jax.numpy.

        The same bits in both, except that XLA on a CPU flushes float32 subnormals, which only the d of q8_K and mxfp4
        can be. Raises ValueError for another shape or dtype.
        """
        blocks = self._checked(np.ascontiguousarray(blocks) if xp is np else blocks)
        with np.errstate(all="ignore"):
            return self._decode(blocks, xp)

    def dequantize(self, blocks: np.ndarray) -> np.ndarray:
        """The numbers that ``blocks`` uint8[b, type_size] stand for, float32[b, block_size], bit-exact with ggml.

        Every product and the subtraction are rounded separately. Raises ValueError for another shape or dtype.
        """
        parts = self.decode(blocks)
        with np.errstate(all="ignore"):
            scaled = parts.scale * parts.code.astype(np.float32)
            return np.asarray(scaled if parts.minimum is None else scaled - parts.minimum)

    @property
    def quantize(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """``float32[b, block_size] -> uint8[b, type_size]``, or None; see the format's module for the rule."""
        quantise = self._quantise
        if quantise is None:
            return None

        def checked(values: np.ndarray) -> np.ndarray:
            values = np.ascontiguousarray(values)
            if values.dtype != np.float32 or values.ndim != 2 or values.shape[1] != self.block_size:
                raise ValueError(
                    f"values: {values.dtype}{list(values.shape)}, where float32[b, {self.block_size}] is needed"
                )
            if not len(values):
                return np.empty((0, self.type_size), np.uint8)
            with np.errstate(all="ignore"):
                return quantise(values)

        return checked

    def unpack(self, blocks: np.ndarray) -> Fields:
        """The logical fields of ``blocks``: f16 scales with their bits, sub-block scales and codes as integers."""
        return self._unpack(self._checked(np.ascontiguousarray(blocks)).view(self.layout).reshape(-1))

    def pack(self, fields: Fields) -> np.ndarray:
        """``uint8[b, type_size]`` from the fields that ``unpack`` gives.

        Raises ValueError for a missing or unknown field, and for one that the bytes cannot hold: of another shape, a
        code or a sub-block scale out of its range, a d that is no f16 number.
        """
        extremes = _extremes(self)
        if set(fields) != set(extremes):
            raise ValueError(f"fields {sorted(fields)}: {self.name} has {sorted(extremes)}")
        rows = len(fields["d"])
        for name, extreme in extremes.items():
            _check_field(f"field {name} of {self.name}", fields[name], rows, extreme)
        records = np.ascontiguousarray(self._pack(fields))
        return records.view(np.uint8).reshape(len(records), self.type_size)

    def field_at(self, byte: int) -> str:
        """What a byte of a block belongs to: ``d``, or ``qs[3]`` in a field of several numbers."""
        for name, (dtype, offset) in ((name, field[:2]) for name, field in (self.layout.fields or {}).items()):
            if offset <= byte < offset + dtype.itemsize:
                return name if dtype.shape == () else f"{name}[{(byte - offset) // dtype.base.itemsize}]"
        raise ValueError(f"byte {byte}: a block of {self.name} has bytes 0..{self.type_size - 1}")

    def _checked(self, blocks: Any) -> Any:
        if blocks.dtype != np.uint8 or blocks.ndim != 2 or blocks.shape[1] != self.type_size:
            raise ValueError(f"blocks: {blocks.dtype}{list(blocks.shape)}, where uint8[b, {self.type_size}] is needed")
        return blocks


def _scale(stored: np.ndarray) -> np.ndarray:
    return np.asarray(bits.e8m0_to_float(stored) if stored.dtype.kind == "u" else stored.astype(np.float32))


@cache
def _extremes(fmt: Format) -> Fields:
    """Fields of blocks among which every integer field takes its least and its largest value."""
    # All bits clear or set for unsigned fields, 0x80 and 0x7F for int8, 0x8000 and 0x7FFF for int16.
    words = np.array([[0, 0], [255, 255], [128, 128], [127, 127], [0, 128], [255, 127]], np.uint8)
    return fmt.unpack(np.ascontiguousarray(np.tile(words, (fmt.type_size + 1) // 2)[:, : fmt.type_size]))


def _check_field(what: str, given: np.ndarray, rows: int, extreme: np.ndarray) -> None:
    """Raise ValueError unless ``given`` can be stored as a field that has the shape and range of ``extreme``."""
    shape = (rows, *extreme.shape[1:])
    if given.shape != shape:
        raise ValueError(f"{what}: shape {list(given.shape)}, where {list(shape)} is needed")
    if extreme.dtype.kind == "f":
        if given.dtype != extreme.dtype:
            with np.errstate(over="ignore", invalid="ignore"):
                kept = (given.astype(extreme.dtype) == given) | np.isnan(given)
            if not kept.all():
                raise ValueError(f"{what}: {given[~kept][0]}, which is no {extreme.dtype} number")
        return
    if given.dtype.kind not in "iu":
        raise ValueError(f"{what}: {given.dtype}, where integers are needed")
    low, high = extreme.min(), extreme.max()
    if given.size and (given.min() < low or given.max() > high):
        raise ValueError(f"{what}: {given[(given < low) | (given > high)][0]}, where {low}..{high} are stored")


def table(size: int, **fields: Any) -> np.dtype[Any]:
    """A packed little-endian layout from field types in order; raises TypeError unless it has ``size`` bytes."""
    layout = np.dtype(list(fields.items()))
    if layout.itemsize != size:
        raise TypeError(f"layout of {layout.itemsize} bytes, where {size} are specified")
    return layout
