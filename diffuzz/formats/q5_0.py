"""q5_0: 32 weights in 22 bytes, 5.5 bits a weight.

    field  width     meaning
    d      f16       scale
    qh     u32       bit j: fifth bit of element j
    qs     16 bytes  byte i: low bits of element i in the low nibble, of element i + 16 in the high one

value = d (code - 16)
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

LAYOUT = table(22, d="<f2", qh="<u4", qs=("u1", 16))


def decode(blocks: UInt8[AnyArray, "b 22"], xp: ArrayModule) -> Parts:
    """Codes minus 16."""
    qh = bits.integers(blocks[:, 2:6], xp)
    high = ((qh[:, :, None] >> xp.arange(8, dtype=xp.int32)) & 1).reshape(len(blocks), 32)
    codes = bits.nibbles(blocks[:, 6:22], 16, xp) | (high << 4)
    return parts.of_block(bits.half_at(blocks, 0, xp), None, codes - 16, xp)


def unpack(records: Records) -> Fields:
    """d as float16[b], codes int32[b, 32] in 0..31."""
    high = (records["qh"][:, None] >> np.arange(32, dtype=np.uint32)) & 1
    codes = bits.nibbles(records["qs"], 16, np) | (high.astype(np.int32) << 4)
    return {"d": records["d"].copy(), "codes": codes}


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"], records["qs"] = fields["d"], bits.pack_nibbles(fields["codes"] & 15, 16)
    high = (fields["codes"] >> 4).astype(np.uint32)
    records["qh"] = (high << np.arange(32, dtype=np.uint32)).sum(axis=1, dtype=np.uint32)
    return records


def quantise(values: Float32[np.ndarray, "b 32"]) -> UInt8[np.ndarray, "b 22"]:
    """The value of largest magnitude, m with its sign, becomes code 0; the same bits as ggml's reference quantiser.

    d = m / -16; code = min(31, trunc(x f32(1 / d) + 16.5)); stored d rounded to f16. The error is at most |d| / 2 (one
    d at the far end, where code 31 stands in for 32), plus the f16 rounding of d.
    """
    d = first_largest(values, np)[:, None] / np.float32(-16)
    inverse = np.where(d != 0, np.float32(1) / d, np.float32(0)).astype(np.float32)
    codes = np.minimum(to_int8(np.trunc(values * inverse + np.float32(16.5)), np), 31)
    return pack({"d": d[:, 0].astype(np.float16), "codes": codes}).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("q5_0", 32, LAYOUT, "q8_0", ("d",), decode, unpack, pack, quantise)
