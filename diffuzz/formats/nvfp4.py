"""nvfp4, as ggml has it: 64 weights in 36 bytes, 4.5 bits each: e2m1 codes, and an e4m3 scale for each 16.

    field   width     meaning
    scales  4 bytes   e4m3 scales of the four sub-blocks, without a sign: bit 7 is not looked at, but 127 stands for 0
                      and 255 for 480
    qs      32 bytes  of each 8 bytes the low nibbles are the first half of a sub-block, the high ones the rest

value = scale LEVELS[code] / 2 with the levels of mxfp4, which are e2m1 numbers doubled. The scales are whole multiples
of 2^-9, so d is 2^-10 in every block, and sub-block scales are integers. ggml has the second scale, that of the tensor,
as another tensor; nvfp4_two_level is the format with both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table
from diffuzz.formats.mxfp4 import LEVELS
from diffuzz.formats.small_floats import E4M3

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

LAYOUT = table(36, scales=("u1", 4), qs=("u1", 32))
NAN, LARGEST = 127, 126
D = np.float32(2.0**-10)
# Scales of all 256 bytes in units of 2^-9.
_NUMBERS = tuple(int(scale * 512) for scale in E4M3)
_WHOLE = (*_NUMBERS, 0, *_NUMBERS, 480 * 512)


def decode(blocks: UInt8[AnyArray, "b 36"], xp: ArrayModule) -> Parts:
    """Integer codes are the levels, integer sub-block scales the e4m3 numbers times 512."""
    scales = xp.asarray(_WHOLE, xp.int32)[bits.integers(blocks[:, :4], xp)]
    codes = xp.asarray(LEVELS, xp.int32)[bits.nibbles(blocks[:, 4:36], 8, xp)]
    return parts.of_super_block(xp.full(len(blocks), D, xp.float32), None, scales, None, codes, xp)


def unpack(records: Records) -> Fields:
    """scales int32[b, 4], their bytes; codes int32[b, 64] in 0..15."""
    return {"scales": bits.integers(records["scales"], np), "codes": bits.nibbles(records["qs"], 8, np)}


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["scales"]), LAYOUT)
    records["scales"], records["qs"] = fields["scales"], bits.pack_nibbles(fields["codes"], 8)
    return records


def canonical(records: Records) -> Records:
    """Scales without a sign, and none that is NaN in other engines."""
    records["scales"] = np.minimum(records["scales"] & NAN, LARGEST)
    return records


def _unsigned_e4m3(x: Float32[np.ndarray, "b 4"]) -> UInt8[np.ndarray, "b 4"]:
    """The byte of |x|, as ggml rounds it: halves away from zero, and all from 256 on to 448."""
    wide = np.minimum(np.abs(x.astype(np.float64)), 448.0)
    step = np.ldexp(1.0, np.maximum(np.frexp(wide)[1] - 1, -6) - 3)
    rounded = np.floor(wide / step + 0.5) * step
    return np.where(rounded >= 256, LARGEST, np.searchsorted(E4M3, rounded)).astype(np.uint8)


def quantise(values: Float32[np.ndarray, "b 64"]) -> UInt8[np.ndarray, "b 36"]:
    """The scale of a sub-block is f32(max|x| / 6) rounded to e4m3, or 448 if that is 256 or more; the code is that of
    the nearest level, the first of two equally near ones. The same bits as ggml's reference quantiser, for finite
    numbers.

    The error is at most half the distance of two levels and, at the end, 6/16 of a scale that is rounded down. From
    max|x| = 2688 on the largest level is too small, and below 6 2^-6 scales are subnormal, 0 below 6 2^-10.
    """
    x = values.reshape(len(values), 4, 16)
    scales = _unsigned_e4m3(np.abs(x).max(axis=2) / np.float32(6))
    d = D * np.array(_WHOLE, np.float32)[scales]
    distance = np.abs(np.array(LEVELS, np.float32) * d[:, :, None, None] - x[..., None])
    codes = distance.argmin(axis=3).astype(np.int32).reshape(values.shape)
    return pack({"scales": scales, "codes": codes}).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("nvfp4", 64, LAYOUT, "q8_0", (), decode, unpack, pack, quantise, canonical=canonical)
