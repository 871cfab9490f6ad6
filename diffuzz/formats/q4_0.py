"""q4_0: 32 weights in 18 bytes, 4.5 bits a weight.

    field  width     meaning
    d      f16       scale
    qs     16 bytes  byte i: code of element i in the low nibble, of element i + 16 in the high one

value = d (code - 8)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table
from diffuzz.formats.rounding import first_largest, to_int8

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

LAYOUT = table(18, d="<f2", qs=("u1", 16))


def decode(blocks: UInt8[AnyArray, "b 18"], xp: ArrayModule) -> Parts:
    """Codes minus 8."""
    codes = bits.nibbles(blocks[:, 2:18], 16, xp)
    return parts.of_block(bits.half_at(blocks, 0, xp), None, codes - 8, xp)


def unpack(records: Records) -> Fields:
    """d as float16[b], codes int32[b, 32] in 0..15."""
    return {"d": records["d"].copy(), "codes": bits.nibbles(records["qs"], 16, np)}


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"], records["qs"] = fields["d"], bits.pack_nibbles(fields["codes"], 16)
    return records


def quantise(values: Float32[np.ndarray, "b 32"]) -> UInt8[np.ndarray, "b 18"]:
    """The value of largest magnitude, m with its sign, becomes code 0; the same bits as ggml's reference quantiser.

    d = m / -8; code = min(15, trunc(x f32(1 / d) + 8.5)); stored d rounded to f16. The error is at most |d| / 2 (one d
    at the far end, where code 15 stands in for 16), plus the f16 rounding of d.
    """
    d = first_largest(values, np)[:, None] / np.float32(-8)
    inverse = np.where(d != 0, np.float32(1) / d, np.float32(0)).astype(np.float32)
    codes = np.minimum(to_int8(np.trunc(values * inverse + np.float32(8.5)), np), 15)
    return pack({"d": d[:, 0].astype(np.float16), "codes": codes}).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("q4_0", 32, LAYOUT, "q8_0", ("d",), decode, unpack, pack, quantise)
