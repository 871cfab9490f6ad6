"""q4_1: 32 weights in 20 bytes, 5 bits a weight.

    field  width     meaning
    d      f16       scale
    m      f16       minimum
    qs     16 bytes  byte i: code of element i in the low nibble, of element i + 16 in the high one

value = d code + m
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table
from diffuzz.formats.rounding import least_and_most, to_int8

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

LAYOUT = table(20, d="<f2", m="<f2", qs=("u1", 16))


def decode(blocks: UInt8[AnyArray, "b 20"], xp: ArrayModule) -> Parts:
    """Codes as stored; the minimum is -m."""
    codes = bits.nibbles(blocks[:, 4:20], 16, xp)
    return parts.of_block(bits.half_at(blocks, 0, xp), -bits.half_at(blocks, 2, xp), codes, xp)


def unpack(records: Records) -> Fields:
    """d and m as float16[b], codes int32[b, 32] in 0..15."""
    return {"d": records["d"].copy(), "m": records["m"].copy(), "codes": bits.nibbles(records["qs"], 16, np)}


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"], records["m"] = fields["d"], fields["m"]
    records["qs"] = bits.pack_nibbles(fields["codes"], 16)
    return records


def quantise(values: Float32[np.ndarray, "b 32"]) -> UInt8[np.ndarray, "b 20"]:
    """Codes span the range from the least value m to the greatest; the same bits as ggml's reference quantiser.

    d = (max - m) / 15; code = min(15, trunc((x - m) f32(1 / d) + 0.5)); d and m rounded to f16. The error is at most
    d / 2 plus the f16 rounding of d and m.
    """
    least, most = least_and_most(values)
    d = (most - least) / np.float32(15)
    inverse = np.where(d != 0, np.float32(1) / d, np.float32(0)).astype(np.float32)
    steps = np.trunc((values - least) * inverse + np.float32(0.5))
    codes = np.minimum(to_int8(steps, np), 15)
    fields = {"d": d[:, 0].astype(np.float16), "m": least[:, 0].astype(np.float16), "codes": codes}
    return pack(fields).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("q4_1", 32, LAYOUT, "q8_1", ("d", "m"), decode, unpack, pack, quantise)
