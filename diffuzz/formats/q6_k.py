"""q6_K: super-blocks of 256 weights in 210 bytes, 6.5625 bits a weight: 16 sub-blocks of 16 with an 8-bit scale each.

    field   width      meaning
    ql      128 bytes  low four bits: of each 64 bytes the low nibbles are elements 0-63 of a half, the high ones 64-127
    qh      64 bytes   upper two bits: of each 32 bytes the lowest pairs are elements 0-31 of a half, then 32-63, ...
    scales  16 int8    sub-block scales
    d       f16        scale of the sub-block scales

value = f32(d scale) (code - 32)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, fit, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, UInt8

LAYOUT = table(210, ql=("u1", 128), qh=("u1", 64), scales=("i1", 16), d="<f2")


def _codes(ql: UInt8[AnyArray, "b 128"], qh: UInt8[AnyArray, "b 64"], xp: ArrayModule) -> Int32[AnyArray, "b 256"]:
    return bits.nibbles(ql, 64, xp) | (bits.pairs_of_bits(qh, xp) << 4)


def decode(blocks: UInt8[AnyArray, "b 210"], xp: ArrayModule) -> Parts:
    """Codes minus 32."""
    codes = _codes(blocks[:, :128], blocks[:, 128:192], xp) - 32
    scales = bits.signed(blocks[:, 192:208], xp)
    return parts.of_super_block(bits.half_at(blocks, 208, xp), None, scales, None, codes, xp)


def unpack(records: Records) -> Fields:
    """d float16[b]; scales int32[b, 16] in -128..127; codes int32[b, 256] in 0..63."""
    codes = _codes(records["ql"], records["qh"], np)
    return {"d": records["d"].copy(), "scales": records["scales"].astype(np.int32), "codes": codes}


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"], records["scales"] = fields["d"], fields["scales"]
    records["ql"] = bits.pack_nibbles(fields["codes"] & 15, 64)
    records["qh"] = bits.pack_pairs_of_bits(fields["codes"] >> 4)
    return records


def quantise(values: Float32[np.ndarray, "b 256"]) -> UInt8[np.ndarray, "b 210"]:
    """Scales up to 127 and codes -32..31 by ``diffuzz.formats.fit.symmetric``; stored codes are 32 larger."""
    fields = fit.symmetric(values, groups=16, lowest=-32, levels=127)
    return pack(fields | {"codes": fields["codes"] + 32}).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("q6_K", 256, LAYOUT, "q8_K", ("d",), decode, unpack, pack, quantise)
