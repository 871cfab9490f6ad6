"""mxfp4: 32 weights in 17 bytes, 4.25 bits a weight; OCP microscaling, a float of 4 bits (e2m1) and a shared exponent.

    field  width     meaning
    d      e8m0      scale 2^(byte - 128), half of what OCP says, so that the levels are integers
    qs     16 bytes  byte i: code of element i in the low nibble, of element i + 16 in the high one

value = d LEVELS[code]; byte 255 is a power of two as well (in OCP it is NaN), and from 253 on large levels overflow
"""

from __future__ import annotations

from typing import Any

import numpy as np

from diffuzz.formats import bits, parts
from diffuzz.formats.format import Fields, Format, Parts, table

LAYOUT = table(17, d="u1", qs=("u1", 16))
NAN = 255
LEVELS = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def decode(blocks: Any, xp: Any) -> Parts:
    """The levels of the codes."""
    codes = bits.nibbles(blocks[:, 1:17], 16, xp)
    return parts.of_block(bits.e8m0_to_float(blocks[:, 0], xp), None, xp.asarray(LEVELS, xp.int32)[codes], xp)


def unpack(records: np.ndarray) -> Fields:
    """d as float32[b], a power of two, codes int32[b, 32] in 0..15."""
    return {"d": bits.e8m0_to_float(records["d"]), "codes": bits.nibbles(records["qs"], 16, np)}


def pack(fields: Fields) -> np.ndarray:
    """Inverse of ``unpack``; of another d its magnitude, rounded down to a power of two."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"], records["qs"] = bits.e8m0_below(fields["d"]), bits.pack_nibbles(fields["codes"], 16)
    return records


def quantise(values: np.ndarray) -> np.ndarray:
    """d = 2^(floor(log2 max|x|) - 3), the logarithm in float32; the code of the nearest level, of two equally near the
    first (ggml's reference quantiser, bit for bit where max|x| >= 2^-125 is finite).

    The error is at most 2 d, and 4 d where |x| > 12 d. Below 2^-125, where the byte of ggml's scale wraps round and the
    block vanishes, d is 2^-128.
    """
    peak = np.abs(values.astype(np.float64)).max(axis=1)
    exponent = np.floor(np.log2(np.where(peak > 0, peak, 1.0)).astype(np.float32)) - 3
    d = np.ldexp(np.float32(1), np.where(peak > 0, np.clip(exponent, -128, 127), -128).astype(np.int32))
    distance = np.abs(np.array(LEVELS, np.float32) * d[:, None, None] - values[:, :, None])
    codes = distance.argmin(axis=2).astype(np.int32)
    return pack({"d": d, "codes": codes}).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("mxfp4", 32, LAYOUT, "q8_0", (), decode, unpack, pack, quantise)
