"""q8_1: 32 activations in 36 bytes, for q4_1 and q5_1 weights.

    field  width     meaning
    d      f16       scale
    s      f16       f16(f32(d sum of codes)), with the d before its rounding: what a minimum is multiplied with
    qs     32 int8   codes, those of q8_0

value = d code
"""

from __future__ import annotations

from typing import Any

import numpy as np

from diffuzz.formats import bits, parts, q8_0
from diffuzz.formats.format import Fields, Format, Parts, table
from diffuzz.formats.rounding import through_half

LAYOUT = table(36, d="<f2", s="<f2", qs=("i1", 32))


def decode(blocks: Any, xp: Any) -> Parts:
    """Codes as stored; s takes no part in the values."""
    return parts.of_block(bits.half_at(blocks, 0, xp), None, bits.signed(blocks[:, 4:36], xp), xp)


def unpack(records: np.ndarray) -> Fields:
    """d and s float16[b], codes int32[b, 32] in -128..127."""
    return {"d": records["d"].copy(), "s": records["s"].copy(), "codes": records["qs"].astype(np.int32)}


def pack(fields: Fields) -> np.ndarray:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"], records["s"], records["qs"] = fields["d"], fields["s"], fields["codes"]
    return records


def quantise_x86(values: Any, xp: Any = np) -> tuple[Any, Any, Any]:
    """ggml's AVX2 quantiser: (d float32[b] as stored, s float32[b] as stored, codes int32[b, 32]).

    The sum is an int32 one of the codes before they saturate, so beside a NaN or at max|x| < 3.7e-37 it wraps.
    """
    d, integers = q8_0.integers_x86(values, xp)
    total = integers.sum(axis=1, dtype=xp.int32).astype(xp.float32)
    return through_half(d, xp), through_half(d * total, xp), xp.clip(integers, -128, 127)


def quantise(values: np.ndarray) -> np.ndarray:
    """ggml's x86 quantiser, bit-exact, NaN and infinities included (of a NaN d or s not the payload)."""
    d, s, codes = quantise_x86(values)
    fields = {"d": d.astype(np.float16), "s": s.astype(np.float16), "codes": codes}
    return pack(fields).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("q8_1", 32, LAYOUT, None, ("d", "s"), decode, unpack, pack, quantise)
