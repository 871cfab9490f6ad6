"""iq4_xs: 256 weights in 136 bytes, 4.25 bits each: 8 sub-blocks of 32 with a 6-bit signed scale, and iq4_nl's levels.

    field     width      meaning
    d         f16        scale of the sub-block scales
    scales_h  u16        bits 2 j and 2 j + 1: the upper two bits of scale j
    scales_l  4 bytes    the lower four bits of scales 2 i (low nibble) and 2 i + 1
    qs        128 bytes  codes: of each 16 bytes the low nibbles are the first half of a sub-block, the high ones the
                         second

value = f32(d (scale - 32)) LEVELS[code]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, fit, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table
from diffuzz.formats.iq4_nl import LEVELS

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, UInt8

LAYOUT = table(136, d="<f2", scales_h=("u1", 2), scales_l=("u1", 4), qs=("u1", 128))


def _scales(high: UInt8[AnyArray, "b 2"], low: UInt8[AnyArray, "b 4"], xp: ArrayModule) -> Int32[AnyArray, "b 8"]:
    pairs = (bits.integers(high, xp)[:, :, None] >> (2 * xp.arange(4, dtype=xp.int32))) & 3
    return (bits.nibbles(low, 1, xp) | (pairs.reshape(len(high), 8) << 4)) - 32


def decode(blocks: UInt8[AnyArray, "b 136"], xp: ArrayModule) -> Parts:
    """Integer codes are the levels."""
    scales = _scales(blocks[:, 2:4], blocks[:, 4:8], xp)
    codes = xp.asarray(LEVELS, xp.int32)[bits.nibbles(blocks[:, 8:136], 16, xp)]
    return parts.of_super_block(bits.half_at(blocks, 0, xp), None, scales, None, codes, xp)


def unpack(records: Records) -> Fields:
    """d float16[b]; scales int32[b, 8] in -32..31; codes int32[b, 256] in 0..15."""
    return {
        "d": records["d"].copy(),
        "scales": _scales(records["scales_h"], records["scales_l"], np),
        "codes": bits.nibbles(records["qs"], 16, np),
    }


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    stored = (fields["scales"] + 32).astype(np.uint8)
    records["d"], records["qs"] = fields["d"], bits.pack_nibbles(fields["codes"], 16)
    records["scales_l"] = bits.pack_nibbles(stored & 15, 1)
    pairs = (stored >> 4).reshape(len(stored), 2, 4) << (2 * np.arange(4, dtype=np.uint8))
    records["scales_h"] = np.bitwise_or.reduce(pairs, axis=2)
    return records


def quantise(values: Float32[np.ndarray, "b 256"]) -> UInt8[np.ndarray, "b 136"]:
    """A sub-block wants the scale max|x| / 113; scales up to 31 by ``diffuzz.formats.fit.nearest_levels``. (ggml
    searches for better scales, of either sign.)
    """
    d, scales, codes = fit.nearest_levels(values, np.array(LEVELS, np.float64), 8, 31, 113.0)
    fields = {"d": d.astype(np.float16), "scales": scales, "codes": codes}
    return pack(fields).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("iq4_xs", 256, LAYOUT, "q8_K", ("d",), decode, unpack, pack, quantise)
