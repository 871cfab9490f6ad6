"""iq2_xxs: 256 weights in 66 bytes, 2.0625 bits each: 8 sub-blocks of 32, each of four points of a grid of 256.

    field  width     meaning
    d      f16       scale of the sub-block scales
    qs     64 bytes  8 for each sub-block: four numbers of points of IQ2_XXS, then a word of 32 bits: four indices of
                     signs of 7 bits, the first one lowest, and the scale in the upper 4 bits

value = f32(d / 8 (2 scale + 1)) point, with an even number of minus signs in each eight
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, grid_fit, grids, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, UInt8

LAYOUT = table(66, d="<f2", qs=("u1", 64))


def _fields(
    qs: UInt8[AnyArray, "b 64"], xp: ArrayModule
) -> tuple[Int32[AnyArray, "b 8"], Int32[AnyArray, "b 32"], Int32[AnyArray, "b 32"]]:
    """(scales, numbers of points, indices of signs)."""
    each = bits.integers(qs, xp).reshape(len(qs), 8, 8)
    low, high = each[:, :, 4] | (each[:, :, 5] << 8), each[:, :, 6] | (each[:, :, 7] << 8)
    # 32 bits in two halves, because an int32 has no room for the sign.
    signs = [low & 127, (low >> 7) & 127, (low >> 14) | ((high & 31) << 2), (high >> 5) & 127]
    return high >> 12, each[:, :, :4].reshape(len(qs), 32), xp.stack(signs, axis=2).reshape(len(qs), 32)


def decode(blocks: UInt8[AnyArray, "b 66"], xp: ArrayModule) -> Parts:
    """Codes are coordinates with their signs, scales odd numbers, d an eighth of the stored one."""
    scales, grid, signs = _fields(blocks[:, 2:66], xp)
    codes = grids.signed(grids.IQ2_XXS, grid, xp.asarray(grids.EVEN)[signs], xp)
    d = bits.half_at(blocks, 0, xp) * xp.float32(0.125)
    return parts.of_super_block(d, None, 2 * scales + 1, None, codes, xp)


def unpack(records: Records) -> Fields:
    """d float16[b]; scales int32[b, 8] in 0..15; grid int32[b, 32] in 0..255; signs int32[b, 32] in 0..127."""
    scales, grid, signs = _fields(records["qs"], np)
    return {"d": records["d"].copy(), "scales": scales, "grid": grid, "signs": signs}


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    signs = fields["signs"].reshape(-1, 8, 4).astype(np.uint32) << np.array([0, 7, 14, 21], np.uint32)
    word = np.bitwise_or.reduce(signs, axis=2) | (fields["scales"].astype(np.uint32) << np.uint32(28))
    qs = np.empty((len(records), 8, 8), np.uint8)
    qs[:, :, :4] = fields["grid"].reshape(-1, 8, 4)
    qs[:, :, 4:] = word.astype("<u4")[:, :, None].view(np.uint8)
    records["d"], records["qs"] = fields["d"], qs.reshape(len(records), 64)
    return records


def quantise(values: Float32[np.ndarray, "b 256"]) -> UInt8[np.ndarray, "b 66"]:
    """Scales, points and signs by ``diffuzz.formats.grid_fit.magnitudes``."""
    fields = grid_fit.magnitudes(values, grids.IQ2_XXS, 8, 8, even=True)
    return pack(fields | {"signs": fields["signs"] & 127}).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("iq2_xxs", 256, LAYOUT, "q8_K", ("d",), decode, unpack, pack, quantise)
