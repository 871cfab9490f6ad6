"""iq3_s: 256 weights in 110 bytes, 3.4375 bits each: 8 sub-blocks of 32, each of eight points of a grid of 512.

    field   width     meaning
    d       f16       scale of the sub-block scales
    qs      64 bytes  lower 8 bits of the number of a point of IQ3_S, one for each four weights
    qh      8 bytes   bit j of byte i: the ninth bit of the number of point 8 i + j
    signs   32 bytes  bit j of byte i: sign of element 8 i + j
    scales  4 bytes   scales 2 i (low nibble) and 2 i + 1

value = f32(d (2 scale + 1)) point
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, grid_fit, grids, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, UInt8

LAYOUT = table(110, d="<f2", qs=("u1", 64), qh=("u1", 8), signs=("u1", 32), scales=("u1", 4))


def _grid(low: UInt8[AnyArray, "b 64"], high: UInt8[AnyArray, "b 8"], xp: ArrayModule) -> Int32[AnyArray, "b 64"]:
    ninth = (bits.integers(high, xp)[:, :, None] >> xp.arange(8, dtype=xp.int32)) & 1
    return bits.integers(low, xp) | (ninth.reshape(len(low), 64) << 8)


def decode(blocks: UInt8[AnyArray, "b 110"], xp: ArrayModule) -> Parts:
    """Codes are coordinates with their signs, scales odd numbers."""
    grid, scales = _grid(blocks[:, 2:66], blocks[:, 66:74], xp), bits.nibbles(blocks[:, 106:110], 1, xp)
    codes = grids.signed(grids.IQ3_S, grid, bits.integers(blocks[:, 74:106], xp), xp)
    return parts.of_super_block(bits.half_at(blocks, 0, xp), None, 2 * scales + 1, None, codes, xp)


def unpack(records: Records) -> Fields:
    """d float16[b]; scales int32[b, 8] in 0..15; grid int32[b, 64] in 0..511; signs int32[b, 32] in 0..255."""
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
    ninth = (fields["grid"] >> 8).astype(np.uint8).reshape(-1, 8, 8) << np.arange(8, dtype=np.uint8)
    records["qh"] = np.bitwise_or.reduce(ninth, axis=2)
    return records


def quantise(values: Float32[np.ndarray, "b 256"]) -> UInt8[np.ndarray, "b 110"]:
    """Scales, points and signs by ``diffuzz.formats.grid_fit.magnitudes``."""
    return pack(grid_fit.magnitudes(values, grids.IQ3_S, 8, 1, even=False)).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("iq3_s", 256, LAYOUT, "q8_K", ("d",), decode, unpack, pack, quantise)
