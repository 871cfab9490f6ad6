"""q2_K: 256 weights in 84 bytes, 2.625 bits each: 16 sub-blocks of 16 with a 4-bit scale and minimum.

    field   width     meaning
    scales  16 bytes  low nibble: scale of a sub-block, high nibble: its minimum
    qs      64 bytes  codes: of each 32 bytes the lowest pairs of bits are 32 elements, the next pairs the next 32, ...
    d       f16       scale of the sub-block scales
    dmin    f16       scale of the sub-block minimums

value = f32(d scale) code - f32(dmin minimum)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, fit, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

LAYOUT = table(84, scales=("u1", 16), qs=("u1", 64), d="<f2", dmin="<f2")


def decode(blocks: UInt8[AnyArray, "b 84"], xp: ArrayModule) -> Parts:
    """Codes as stored."""
    packed = bits.integers(blocks[:, :16], xp)
    codes = bits.pairs_of_bits(blocks[:, 16:80], xp)
    d, dmin = bits.half_at(blocks, 80, xp), bits.half_at(blocks, 82, xp)
    return parts.of_super_block(d, dmin, packed & 15, packed >> 4, codes, xp)


def unpack(records: Records) -> Fields:
    """d, dmin float16[b]; scales, minimums int32[b, 16] in 0..15; codes int32[b, 256] in 0..3."""
    packed = records["scales"].astype(np.int32)
    codes = bits.pairs_of_bits(records["qs"], np)
    return {
        "d": records["d"].copy(),
        "dmin": records["dmin"].copy(),
        "scales": packed & 15,
        "minimums": packed >> 4,
        "codes": codes,
    }


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"], records["dmin"] = fields["d"], fields["dmin"]
    records["scales"] = (fields["scales"] & 15) | ((fields["minimums"] & 15) << 4)
    records["qs"] = bits.pack_pairs_of_bits(fields["codes"])
    return records


def quantise(values: Float32[np.ndarray, "b 256"]) -> UInt8[np.ndarray, "b 84"]:
    """Scales and minimums of 4 bits and codes of 2 bits by ``diffuzz.formats.fit.with_minimums``."""
    return pack(fit.with_minimums(values, groups=16, top=3, levels=15)).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("q2_K", 256, LAYOUT, "q8_K", ("d", "dmin"), decode, unpack, pack, quantise)
