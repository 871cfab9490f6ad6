"""What the formats fp8_e4m3 and fp8_e5m2 are written with: 128 numbers in 132 bytes, 8-bit floats with a shared scale.

    field  width      meaning
    d      f32        scale
    qs     128 bytes  byte i: element i, a float8

value = f32(d VALUES[byte]), one rounding

Weights in tiles of 128 x 128 with a scale each (DeepSeek's weight_scale_inv) are rows of such blocks: the blocks of 128
rows that lie in one tile have the same d. Activations have one for each 128 of a row. A scale for a whole row, or for a
whole tensor, is the same number in all of its blocks. d is what a code is multiplied with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table
from diffuzz.formats.small_floats import SIGN, float8, signed

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

LAYOUT = table(132, d="<f4", qs=("u1", 128))


def unpack(records: Records) -> Fields:
    """d float32[b]; codes int32[b, 128], the bytes."""
    return {"d": records["d"].copy(), "codes": bits.integers(records["qs"], np)}


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"], records["qs"] = fields["d"], fields["codes"]
    return records


def made(name: str, magnitudes: Float32[np.ndarray, " finite"]) -> Format:
    """The format of a kind of float8: E4M3 or E5M2 of diffuzz.formats.small_floats."""
    values, largest = float8(magnitudes), len(magnitudes) - 1

    def decode(blocks: UInt8[AnyArray, "b 132"], xp: ArrayModule) -> Parts:
        codes = xp.asarray(values)[bits.integers(blocks[:, 4:132], xp)]
        return parts.of_block(bits.single_at(blocks, 0, xp), None, codes, xp)

    def canonical(records: Records) -> Records:
        """NaN and infinities become the largest number of their sign."""
        size = np.minimum(records["qs"] & (SIGN - 1), largest)
        records["qs"] = size | records["qs"] & SIGN
        return records

    def quantise(x: Float32[np.ndarray, "b 128"]) -> UInt8[np.ndarray, "b 132"]:
        """d = f32(max|x| / largest), codes nearest to x / d, ties to even; a block of zeros has d = 0 and codes 0."""
        d = np.abs(x).max(axis=1) / magnitudes[-1]
        wide = d.astype(np.float64)[:, None]
        codes = signed(np.divide(x, wide, out=np.zeros(x.shape), where=wide > 0), magnitudes)
        return pack({"d": d, "codes": codes}).view(np.uint8).reshape(len(x), -1)

    return Format(name, 128, LAYOUT, "f16", (), decode, unpack, pack, quantise, canonical=canonical, of_ggml=False)
