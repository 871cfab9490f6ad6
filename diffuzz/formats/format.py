"""What a block format is: a layout, a decoding into arithmetic parts, and a quantiser where it has one.

A row of weights is cut into blocks of ``block_size`` numbers; each is stored in ``type_size`` bytes as small integer
codes that share a scale, and in some formats a minimum. The K formats divide a super-block of 256 into sub-blocks with
a small integer scale each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np

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
    ``half_fields`` names the f16 scale fields. ``decode(blocks, xp)`` works in NumPy and, traced, in jax.numpy.
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

    def decode(self, blocks: Any, xp: Any = np) -> Parts:
        """Parts of ``blocks`` uint8[b, type_size]; ``xp`` is numpy or jax.numpy."""
        if xp is np:
            blocks = self._checked(blocks)
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
        return self._unpack(self._checked(blocks).view(self.layout).reshape(-1))

    def pack(self, fields: Fields) -> np.ndarray:
        """``uint8[b, type_size]`` from the fields that ``unpack`` gives. Raises ValueError for a missing or unknown
        field.
        """
        wanted = set(self._unpack(np.zeros(1, self.layout)))
        if set(fields) != wanted:
            raise ValueError(f"fields {sorted(fields)}: {self.name} has {sorted(wanted)}")
        records = np.ascontiguousarray(self._pack(fields))
        return records.view(np.uint8).reshape(len(records), self.type_size)

    def _checked(self, blocks: np.ndarray) -> np.ndarray:
        blocks = np.ascontiguousarray(blocks)
        if blocks.dtype != np.uint8 or blocks.ndim != 2 or blocks.shape[1] != self.type_size:
            raise ValueError(f"blocks: {blocks.dtype}{list(blocks.shape)}, where uint8[b, {self.type_size}] is needed")
        return blocks


def table(size: int, **fields: Any) -> np.dtype[Any]:
    """A packed little-endian layout from field types in order; raises TypeError unless it has ``size`` bytes."""
    layout = np.dtype(list(fields.items()))
    if layout.itemsize != size:
        raise TypeError(f"layout of {layout.itemsize} bytes, where {size} are specified")
    return layout
