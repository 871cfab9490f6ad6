"""nf4: 64 weights in 36 bytes, 4.5 bits each: codes are 16 quantiles of a normal distribution (QLoRA, bitsandbytes).

    field  width     meaning
    d      f32       the largest magnitude of the block (absmax)
    qs     32 bytes  byte i: code of element 2 i in the high nibble, of element 2 i + 1 in the low one

value = f32(d LEVELS[code]), one rounding; the levels are float32 numbers from -1 to 1

bitsandbytes keeps a tensor as packed codes uint8[n / 2] and absmax float32[n / 64], its weights in row-major order.
Block i here is absmax[i] in front of bytes 32 i to 32 i + 31. With double quantisation d is the restored absmax. Rows
of k weights are whole blocks where 64 divides k. Source: QLoRA (arXiv 2305.14314, appendix E), bitsandbytes/backends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, UInt8

LAYOUT = table(36, d="<f4", qs=("u1", 32))
LEVELS = np.array(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0],
    np.float32,
)  # fmt: skip
ZERO = 7


def _codes(qs: UInt8[AnyArray, "b 32"], xp: ArrayModule) -> Int32[AnyArray, "b 64"]:
    low_first = bits.nibbles(qs, 1, xp).reshape(len(qs), 32, 2)
    return low_first[:, :, ::-1].reshape(len(qs), 64)


def decode(blocks: UInt8[AnyArray, "b 36"], xp: ArrayModule) -> Parts:
    """Codes are the levels, float32."""
    codes = xp.asarray(LEVELS)[_codes(blocks[:, 4:36], xp)]
    return parts.of_block(bits.single_at(blocks, 0, xp), None, codes, xp)


def unpack(records: Records) -> Fields:
    """d float32[b]; codes int32[b, 64] in 0..15."""
    return {"d": records["d"].copy(), "codes": _codes(records["qs"], np)}


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    swapped = fields["codes"].reshape(-1, 32, 2)[:, :, ::-1].reshape(-1, 64)
    records["d"], records["qs"] = fields["d"], bits.pack_nibbles(swapped, 1)
    return records


def quantise(values: Float32[np.ndarray, "b 64"]) -> UInt8[np.ndarray, "b 36"]:
    """d = max|x|; the code of the level nearest to x / d, that of 0 in a block of zeros.

    The error is at most half the distance of the two levels around x / d, times d.
    """
    d = np.abs(values).max(axis=1)
    wide = d.astype(np.float64)[:, None]
    scaled = np.divide(values, wide, out=np.zeros(values.shape), where=wide > 0)
    codes = np.searchsorted((LEVELS[1:].astype(np.float64) + LEVELS[:-1]) / 2, scaled).astype(np.int32)
    return pack({"d": d, "codes": codes}).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("nf4", 64, LAYOUT, "f16", (), decode, unpack, pack, quantise, of_ggml=False)
