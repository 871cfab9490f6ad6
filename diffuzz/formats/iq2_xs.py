"""iq2_xs: 256 weights in 74 bytes, 2.3125 bits each: 16 sub-blocks of 16, each of two points of a grid of 512.

    field   width     meaning
    d       f16       scale of the sub-block scales
    qs      32 words  of 16 bits, one for each eight weights: number of a point of IQ2_XS in the lower 9, index of
                      signs in the upper 7
    scales  8 bytes   scales 2 i (low nibble) and 2 i + 1

value = f32(d / 8 (2 scale + 1)) point, with an even number of minus signs in each eight
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, grid_fit, grids, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

LAYOUT = table(74, d="<f2", qs=("u1", 64), scales=("u1", 8))


def decode(blocks: UInt8[AnyArray, "b 74"], xp: ArrayModule) -> Parts:
    """Codes are coordinates with their signs, scales odd numbers, d an eighth of the stored one."""
    words, scales = grids.words(blocks[:, 2:66], xp), bits.nibbles(blocks[:, 66:74], 1, xp)
    codes = grids.signed(grids.IQ2_XS, words & 511, xp.asarray(grids.EVEN)[words >> 9], xp)
    d = bits.half_at(blocks, 0, xp) * xp.float32(0.125)
    return parts.of_super_block(d, None, 2 * scales + 1, None, codes, xp)


def unpack(records: Records) -> Fields:
    """d float16[b]; scales int32[b, 16] in 0..15; grid int32[b, 32] in 0..511; signs int32[b, 32] in 0..127."""
    words = grids.words(records["qs"], np)
    scales = bits.nibbles(records["scales"], 1, np)
    return {"d": records["d"].copy(), "scales": scales, "grid": words & 511, "signs": words >> 9}


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"], records["scales"] = fields["d"], bits.pack_nibbles(fields["scales"], 1)
    records["qs"] = grids.raw_words(fields["grid"] | (fields["signs"] << 9))
    return records


def quantise(values: Float32[np.ndarray, "b 256"]) -> UInt8[np.ndarray, "b 74"]:
    """Scales, points and signs by ``diffuzz.formats.grid_fit.magnitudes``."""
    fields = grid_fit.magnitudes(values, grids.IQ2_XS, 16, 8, even=True)
    return pack(fields | {"signs": fields["signs"] & 127}).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("iq2_xs", 256, LAYOUT, "q8_K", ("d",), decode, unpack, pack, quantise)
