"""q5_K: 256 weights in 176 bytes, 5.5 bits each: 8 sub-blocks of 32 with a 6-bit scale and minimum.

    field   width      meaning
    d       f16        scale of the sub-block scales
    dmin    f16        scale of the sub-block minimums
    scales  12 bytes   8 scales and 8 minimums of 6 bits (see diffuzz.formats.bits.six_bit_pairs)
    qh      32 bytes   bit j of byte l: fifth bit of element l of sub-block j
    qs      128 bytes  low bits: of each 32 bytes the low nibbles are one sub-block, the high ones the next

value = f32(d scale) code - f32(dmin minimum)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, fit, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, UInt8

LAYOUT = table(176, d="<f2", dmin="<f2", scales=("u1", 12), qh=("u1", 32), qs=("u1", 128))


def _codes(qh: UInt8[AnyArray, "b 32"], qs: UInt8[AnyArray, "b 128"], xp: ArrayModule) -> Int32[AnyArray, "b 256"]:
    return bits.nibbles(qs, 32, xp) | (bits.planes(qh, xp) << 4)


def decode(blocks: UInt8[AnyArray, "b 176"], xp: ArrayModule) -> Parts:
    """Codes as stored."""
    scales, minimums = bits.six_bit_pairs(blocks[:, 4:16], xp)
    codes = _codes(blocks[:, 16:48], blocks[:, 48:176], xp)
    return parts.of_super_block(bits.half_at(blocks, 0, xp), bits.half_at(blocks, 2, xp), scales, minimums, codes, xp)


def unpack(records: Records) -> Fields:
    """d, dmin float16[b]; scales, minimums int32[b, 8] in 0..63; codes int32[b, 256] in 0..31."""
    scales, minimums = bits.six_bit_pairs(records["scales"], np)
    codes = _codes(records["qh"], records["qs"], np)
    return {
        "d": records["d"].copy(),
        "dmin": records["dmin"].copy(),
        "scales": scales,
        "minimums": minimums,
        "codes": codes,
    }


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"], records["dmin"] = fields["d"], fields["dmin"]
    records["scales"] = bits.pack_six_bit_pairs(fields["scales"], fields["minimums"])
    records["qh"] = bits.pack_planes(fields["codes"] >> 4)
    records["qs"] = bits.pack_nibbles(fields["codes"] & 15, 32)
    return records


def quantise(values: Float32[np.ndarray, "b 256"]) -> UInt8[np.ndarray, "b 176"]:
    """Scales and minimums of 6 bits and codes of 5 bits by ``diffuzz.formats.fit.with_minimums``."""
    return pack(fit.with_minimums(values, groups=8, top=31, levels=63)).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("q5_K", 256, LAYOUT, "q8_K", ("d", "dmin"), decode, unpack, pack, quantise)
