"""q3_K: 256 weights in 110 bytes, 3.4375 bits each: 16 sub-blocks of 16 with a 6-bit signed scale.

    field   width     meaning
    hmask   32 bytes  bit j of byte l: third bit of element 32 j + l
    qs      64 bytes  low bits: of each 32 bytes the lowest pairs are 32 elements, the next pairs the next 32, and so on
    scales  12 bytes  16 scales, each plus 32. Their low four bits: scales 0-7 the low nibbles of bytes 0-7, scales 8-15
                      the high ones. Their upper two: the four pairs of bits of bytes 8-11 belong to scales 0-3, 4-7,
                      8-11 and 12-15
    d       f16       scale of the sub-block scales

value = f32(d scale) (code - 4)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, fit, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, UInt8

LAYOUT = table(110, hmask=("u1", 32), qs=("u1", 64), scales=("u1", 12), d="<f2")


def _codes(hmask: UInt8[AnyArray, "b 32"], qs: UInt8[AnyArray, "b 64"], xp: ArrayModule) -> Int32[AnyArray, "b 256"]:
    return bits.pairs_of_bits(qs, xp) | (bits.planes(hmask, xp) << 2)


def _scales(packed: UInt8[AnyArray, "b 12"], xp: ArrayModule) -> Int32[AnyArray, "b 16"]:
    value = bits.integers(packed, xp)
    low = xp.concatenate([value[:, :8] & 15, value[:, :8] >> 4], axis=1)
    high = xp.concatenate([(value[:, 8:] >> (2 * j)) & 3 for j in range(4)], axis=1)
    return (low | (high << 4)) - 32


def decode(blocks: UInt8[AnyArray, "b 110"], xp: ArrayModule) -> Parts:
    """Codes minus 4."""
    codes = _codes(blocks[:, :32], blocks[:, 32:96], xp) - 4
    return parts.of_super_block(bits.half_at(blocks, 108, xp), None, _scales(blocks[:, 96:108], xp), None, codes, xp)


def unpack(records: Records) -> Fields:
    """d float16[b]; scales int32[b, 16] in -32..31; codes int32[b, 256] in 0..7."""
    return {
        "d": records["d"].copy(),
        "scales": _scales(records["scales"], np),
        "codes": _codes(records["hmask"], records["qs"], np),
    }


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"] = fields["d"]
    records["hmask"] = bits.pack_planes(fields["codes"] >> 2)
    records["qs"] = bits.pack_pairs_of_bits(fields["codes"] & 3)
    stored = (fields["scales"] + 32).astype(np.uint8)
    records["scales"][:, :8] = (stored[:, :8] & 15) | ((stored[:, 8:] & 15) << 4)
    high = (stored >> 4).reshape(len(stored), 4, 4) << (2 * np.arange(4, dtype=np.uint8))[None, :, None]
    records["scales"][:, 8:] = np.bitwise_or.reduce(high, axis=1)
    return records


def quantise(values: Float32[np.ndarray, "b 256"]) -> UInt8[np.ndarray, "b 110"]:
    """Scales up to 31 and codes -4..3 by ``diffuzz.formats.fit.symmetric``; stored codes are 4 larger."""
    fields = fit.symmetric(values, groups=16, lowest=-4, levels=31)
    return pack(fields | {"codes": fields["codes"] + 4}).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("q3_K", 256, LAYOUT, "q8_K", ("d",), decode, unpack, pack, quantise)
