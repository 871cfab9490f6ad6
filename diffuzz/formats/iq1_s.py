"""iq1_s: 256 weights in 50 bytes, 1.5625 bits each: 8 sub-blocks of 32, each of four points of a grid of 2048.

    field  width     meaning
    d      f16       scale of the sub-block scales
    qs     32 bytes  lower 8 bits of the number of a point of IQ1, one for each eight weights
    qh     8 words   of 16 bits, one for each sub-block: the upper three bits of its four numbers, the first ones
                     lowest, the scale in bits 12-14, and in bit 15 whether the points are moved by -1/8 and not by
                     +1/8

value = f32(d (2 scale + 1)) (point +- 1/8)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, grid_fit, grids, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, UInt8

LAYOUT = table(50, d="<f2", qs=("u1", 32), qh=("u1", 16))


def _grid(low: UInt8[AnyArray, "b 32"], words: Int32[AnyArray, "b 8"], xp: ArrayModule) -> Int32[AnyArray, "b 32"]:
    high = (words[:, :, None] >> (3 * xp.arange(4, dtype=xp.int32))) & 7
    return bits.integers(low, xp) | (high.reshape(len(low), 32) << 8)


def decode(blocks: UInt8[AnyArray, "b 50"], xp: ArrayModule) -> Parts:
    """Codes are eight times the moved coordinates, scales odd numbers, d an eighth of the stored one."""
    words = grids.words(blocks[:, 34:50], xp)
    codes = grids.shifted(_grid(blocks[:, 2:34], words, xp), words >> 15, xp)
    d = bits.half_at(blocks, 0, xp) * xp.float32(0.125)
    return parts.of_super_block(d, None, 2 * ((words >> 12) & 7) + 1, None, codes, xp)


def unpack(records: Records) -> Fields:
    """d float16[b]; scales int32[b, 8] in 0..7; shifts int32[b, 8], 0 or 1; grid int32[b, 32] in 0..2047."""
    words = grids.words(records["qh"], np)
    fields = {"d": records["d"].copy(), "scales": (words >> 12) & 7, "shifts": words >> 15}
    return fields | {"grid": _grid(records["qs"], words, np)}


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"], records["qs"] = fields["d"], fields["grid"] & 255
    high = np.bitwise_or.reduce((fields["grid"] >> 8).reshape(-1, 8, 4) << (3 * np.arange(4)), axis=2)
    records["qh"] = grids.raw_words(high | (fields["scales"] << 12) | (fields["shifts"] << 15))
    return records


def quantise(values: Float32[np.ndarray, "b 256"]) -> UInt8[np.ndarray, "b 50"]:
    """Scales, points and moves by ``diffuzz.formats.grid_fit.shifted``."""
    return pack(grid_fit.shifted(values, grids.IQ1, 8, 8)).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("iq1_s", 256, LAYOUT, "q8_K", ("d",), decode, unpack, pack, quantise)
