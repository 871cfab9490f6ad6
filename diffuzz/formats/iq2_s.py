"""iq2_s: 256 weights in 82 bytes, 2.5625 bits each: 16 sub-blocks of 16, each of two points of a grid of 1024.

    field   width     meaning
    d       f16       scale of the sub-block scales
    qs      32 bytes  lower 8 bits of the number of a point of IQ2_S, one for each eight weights
    signs   32 bytes  their signs, bit j that of element j
    qh      8 bytes   upper two bits of the numbers, those of four points in a byte, the first one lowest
    scales  8 bytes   scales 2 i (low nibble) and 2 i + 1

value = f32(d / 8 (2 scale + 1)) point
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, grid_fit, grids, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, UInt8

LAYOUT = table(82, d="<f2", qs=("u1", 32), signs=("u1", 32), qh=("u1", 8), scales=("u1", 8))


def _grid(low: UInt8[AnyArray, "b 32"], high: UInt8[AnyArray, "b 8"], xp: ArrayModule) -> Int32[AnyArray, "b 32"]:
    pairs = (bits.integers(high, xp)[:, :, None] >> (2 * xp.arange(4, dtype=xp.int32))) & 3
    return bits.integers(low, xp) | (pairs.reshape(len(low), 32) << 8)


def decode(blocks: UInt8[AnyArray, "b 82"], xp: ArrayModule) -> Parts:
    """Codes are coordinates with their signs, scales odd numbers, d an eighth of the stored one."""
    grid, scales = _grid(blocks[:, 2:34], blocks[:, 66:74], xp), bits.nibbles(blocks[:, 74:82], 1, xp)
    codes = grids.signed(grids.IQ2_S, grid, bits.integers(blocks[:, 34:66], xp), xp)
    d = bits.half_at(blocks, 0, xp) * xp.float32(0.125)
    return parts.of_super_block(d, None, 2 * scales + 1, None, codes, xp)


def unpack(records: Records) -> Fields:
    """d float16[b]; scales int32[b, 16] in 0..15; grid int32[b, 32] in 0..1023; signs int32[b, 32] in 0..255."""
    return {
        "d": records["d"].copy(),
        "scales": bits.nibbles(records["scales"], 1, np),
        "grid": _grid(records["qs"], records["qh"], np),
        "signs": bits.integers(records["signs"], np),
    }


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"], records["scales"] = fields["d"], bits.pack_nibbles(fields["scales"], 1)
    records["qs"], records["signs"] = fields["grid"] & 255, fields["signs"]
    pairs = (fields["grid"] >> 8).astype(np.uint8).reshape(-1, 8, 4) << (2 * np.arange(4, dtype=np.uint8))
    records["qh"] = np.bitwise_or.reduce(pairs, axis=2)
    return records


def quantise(values: Float32[np.ndarray, "b 256"]) -> UInt8[np.ndarray, "b 82"]:
    """Scales, points and signs by ``diffuzz.formats.grid_fit.magnitudes``."""
    return pack(grid_fit.magnitudes(values, grids.IQ2_S, 16, 8, even=False)).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("iq2_s", 256, LAYOUT, "q8_K", ("d",), decode, unpack, pack, quantise)
