"""q8_1: 32 activations in 36 bytes, for q4_1 and q5_1 weights.

    field  width     meaning
    d      f16       scale
    s      f16       f16(f32(d * sum of codes)), d before its rounding to f16: the factor of a weight's minimum
    qs     32 int8   codes, those of q8_0

value = d code
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, parts, q8_0
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table
from diffuzz.formats.rounding import through_half

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, UInt8

LAYOUT = table(36, d="<f2", s="<f2", qs=("i1", 32))


def decode(blocks: UInt8[AnyArray, "b 36"], xp: ArrayModule) -> Parts:
    """Codes as stored; the values do not depend on s."""
    return parts.of_block(bits.half_at(blocks, 0, xp), None, bits.signed(blocks[:, 4:36], xp), xp)


def unpack(records: Records) -> Fields:
    """d and s float16[b], codes int32[b, 32] in -128..127."""
    return {"d": records["d"].copy(), "s": records["s"].copy(), "codes": records["qs"].astype(np.int32)}


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"], records["s"], records["qs"] = fields["d"], fields["s"], fields["codes"]
    return records


def quantise_x86(
    values: Float32[AnyArray, "b 32"], xp: ArrayModule = np
) -> tuple[Float32[AnyArray, " b"], Float32[AnyArray, " b"], Int32[AnyArray, "b 32"]]:
    """ggml's AVX2 quantiser: (d as stored, s as stored, codes).

    The sum is taken in int32 over the codes before they saturate, so it wraps where a block holds a NaN or has
    max|x| < 3.7e-37.
    """
    d, integers = q8_0.integers_x86(values, xp)
    total = integers.sum(axis=1, dtype=xp.int32).astype(xp.float32)
    return through_half(d, xp), through_half(d * total, xp), xp.clip(integers, -128, 127)


def quantise(values: Float32[np.ndarray, "b 32"]) -> UInt8[np.ndarray, "b 36"]:
    """ggml's x86 quantiser, bit-exact for NaN and infinities too, but for the payload of a d or s that is NaN."""
    d, s, codes = quantise_x86(values)
    fields = {"d": d.astype(np.float16), "s": s.astype(np.float16), "codes": codes}
    return pack(fields).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("q8_1", 32, LAYOUT, None, ("d", "s"), decode, unpack, pack, quantise)
