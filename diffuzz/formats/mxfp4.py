"""mxfp4: 32 weights in 17 bytes, 4.25 bits a weight: 4-bit floats (e2m1) with a shared exponent, OCP microscaling.

    field  width     meaning
    d      e8m0      scale 2^(byte - 128), half of that in the OCP standard, so that the levels are integers
    qs     16 bytes  byte i: code of element i in the low nibble, of element i + 16 in the high one

value = d LEVELS[code]; byte 255 is a power of two too (in the OCP standard it is NaN), and from byte 253 on large
levels overflow
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

LAYOUT = table(17, d="u1", qs=("u1", 16))
NAN = 255
LEVELS = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def decode(blocks: UInt8[AnyArray, "b 17"], xp: ArrayModule) -> Parts:
    """Integer codes are the levels."""
    codes = bits.nibbles(blocks[:, 1:17], 16, xp)
    return parts.of_block(bits.e8m0_to_float(blocks[:, 0], xp), None, xp.asarray(LEVELS, xp.int32)[codes], xp)


def unpack(records: Records) -> Fields:
    """d float32[b], powers of two; codes int32[b, 32] in 0..15."""
    return {"d": bits.e8m0_to_float(records["d"]), "codes": bits.nibbles(records["qs"], 16, np)}


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``; a d that is no power of two is stored as |d| rounded down to one."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"], records["qs"] = bits.e8m0_below(fields["d"]), bits.pack_nibbles(fields["codes"], 16)
    return records


def quantise(values: Float32[np.ndarray, "b 32"]) -> UInt8[np.ndarray, "b 17"]:
    """d = 2^(floor(log2 max|x|) - 3), the logarithm in float32; the code of the nearest level, the first of two equally
    near ones. The same bits as ggml's reference quantiser where max|x| is finite and at least 2^-125.

    The error is at most 2 d, and 4 d where |x| > 12 d. Below max|x| = 2^-125 d is 2^-128; there the scale byte of ggml
    wraps round and the block becomes zero.
    """
    peak = np.abs(values.astype(np.float64)).max(axis=1)
    exponent = np.floor(np.log2(np.where(peak > 0, peak, 1.0)).astype(np.float32)) - 3
    d = np.ldexp(np.float32(1), np.where(peak > 0, np.clip(exponent, -128, 127), -128).astype(np.int32))
    distance = np.abs(np.array(LEVELS, np.float32) * d[:, None, None] - values[:, :, None])
    codes = distance.argmin(axis=2).astype(np.int32)
    return pack({"d": d, "codes": codes}).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("mxfp4", 32, LAYOUT, "q8_0", (), decode, unpack, pack, quantise)
