"""iq4_nl: 32 weights in 18 bytes, 4.5 bits a weight; codes stand for 16 levels, which are closer together near zero.

    field  width     meaning
    d      f16       scale
    qs     16 bytes  byte i: code of element i in the low nibble, of element i + 16 in the high one

value = d LEVELS[code]; no level is 0
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table
from diffuzz.formats.rounding import first_largest

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

LAYOUT = table(18, d="<f2", qs=("u1", 16))
LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def decode(blocks: UInt8[AnyArray, "b 18"], xp: ArrayModule) -> Parts:
    """Integer codes are the levels."""
    codes = bits.nibbles(blocks[:, 2:18], 16, xp)
    return parts.of_block(bits.half_at(blocks, 0, xp), None, xp.asarray(LEVELS, xp.int32)[codes], xp)


def unpack(records: Records) -> Fields:
    """d as float16[b], codes int32[b, 32] in 0..15."""
    return {"d": records["d"].copy(), "codes": bits.nibbles(records["qs"], 16, np)}


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"], records["qs"] = fields["d"], bits.pack_nibbles(fields["codes"], 16)
    return records


def quantise(values: Float32[np.ndarray, "b 32"]) -> UInt8[np.ndarray, "b 18"]:
    """The value of largest magnitude, m with its sign, becomes level -127. (ggml searches for a better d.)

    d = f16(m / -127); the code is that of the level nearest to x / d. The error is at most 14 |d| (where x / d is
    beyond the last level) plus 127 times the f16 rounding of d.
    """
    d = (first_largest(values, np) / np.float32(-127)).astype(np.float16)
    wide = d.astype(np.float64)[:, None]
    scaled = np.divide(values, wide, out=np.zeros(values.shape), where=wide != 0)
    edges = (np.array(LEVELS[1:]) + np.array(LEVELS[:-1])) / 2
    codes = np.searchsorted(edges, scaled).astype(np.int32)
    return pack({"d": d, "codes": codes}).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("iq4_nl", 32, LAYOUT, "q8_0", ("d",), decode, unpack, pack, quantise)
