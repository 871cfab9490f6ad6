"""iq3_xxs: 256 weights in 98 bytes, 3.0625 bits each: 8 sub-blocks of 32, each of eight points of a grid of 256.

    field  width     meaning
    d      f16       scale of the sub-block scales
    qs     64 bytes  number of a point of IQ3_XXS, one for each four weights
    signs  8 words   of 32 bits, one for each sub-block: four indices of signs of 7 bits, the first one lowest, and the
                     scale in the upper 4 bits

value = f32(d / 4 (2 scale + 1)) point, with an even number of minus signs in each eight
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, grid_fit, grids, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, UInt8

LAYOUT = table(98, d="<f2", qs=("u1", 64), signs=("u1", 32))


def _scales_and_signs(
    raw: UInt8[AnyArray, "b 32"], xp: ArrayModule
) -> tuple[Int32[AnyArray, "b 8"], Int32[AnyArray, "b 32"]]:
    halves = grids.words(raw, xp).reshape(len(raw), 8, 2)
    # 32 bits in two halves, because an int32 has no room for the sign.
    low, high = halves[:, :, 0], halves[:, :, 1]
    signs = [low & 127, (low >> 7) & 127, (low >> 14) | ((high & 31) << 2), (high >> 5) & 127]
    return high >> 12, xp.stack(signs, axis=2).reshape(len(raw), 32)


def decode(blocks: UInt8[AnyArray, "b 98"], xp: ArrayModule) -> Parts:
    """Codes are coordinates with their signs, scales odd numbers, d a quarter of the stored one."""
    scales, signs = _scales_and_signs(blocks[:, 66:98], xp)
    codes = grids.signed(grids.IQ3_XXS, bits.integers(blocks[:, 2:66], xp), xp.asarray(grids.EVEN)[signs], xp)
    d = bits.half_at(blocks, 0, xp) * xp.float32(0.25)
    return parts.of_super_block(d, None, 2 * scales + 1, None, codes, xp)


def unpack(records: Records) -> Fields:
    """d float16[b]; scales int32[b, 8] in 0..15; grid int32[b, 64] in 0..255; signs int32[b, 32] in 0..127."""
    scales, signs = _scales_and_signs(records["signs"], np)
    return {"d": records["d"].copy(), "scales": scales, "grid": bits.integers(records["qs"], np), "signs": signs}


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    signs = fields["signs"].reshape(-1, 8, 4).astype(np.uint32) << np.array([0, 7, 14, 21], np.uint32)
    word = np.bitwise_or.reduce(signs, axis=2) | (fields["scales"].astype(np.uint32) << np.uint32(28))
    records["d"], records["qs"] = fields["d"], fields["grid"]
    records["signs"] = np.ascontiguousarray(word.astype("<u4")).view(np.uint8)
    return records


def quantise(values: Float32[np.ndarray, "b 256"]) -> UInt8[np.ndarray, "b 98"]:
    """Scales, points and signs by ``diffuzz.formats.grid_fit.magnitudes``."""
    fields = grid_fit.magnitudes(values, grids.IQ3_XXS, 8, 4, even=True)
    return pack(fields | {"signs": fields["signs"] & 127}).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("iq3_xxs", 256, LAYOUT, "q8_K", ("d",), decode, unpack, pack, quantise)
