"""nvfp4 with both levels of scales, as TensorRT, vLLM and others have it: 16 weights, an e4m3 and a float32 scale.

    field  width    meaning
    d      f32      scale of the tensor: the same number in all blocks of a tensor
    scale  e4m3     scale of the block; bit 7 is its sign, which quantisers do not set
    qs     8 bytes  byte i: code of element 2 i in the low nibble, of element 2 i + 1 in the high one

value = f32(f32(d scale) E2M1[code]); an implementation may multiply in another order

A tensor of such weights has three arrays: packed codes uint8[m, k/2], scales float8_e4m3fn[m, k/16] and one float32.
The blocks of a row are made of them by putting the float32 in front of each: 13 bytes, of which a kernel reads 9.
(Formats that store the reciprocal of the tensor's scale, as compressed-tensors does, take 1 / d.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table
from diffuzz.formats.small_floats import E2M1, E4M3, SIGN, float8, nearest

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

LAYOUT = table(13, d="<f4", scale="u1", qs=("u1", 8))
LEVELS = np.concatenate([E2M1, -E2M1])
SCALES = float8(E4M3)


def decode(blocks: UInt8[AnyArray, "b 13"], xp: ArrayModule) -> Parts:
    """Codes are the e2m1 numbers, the sub-block scale the e4m3 number."""
    d = bits.single_at(blocks, 0, xp)
    codes = xp.asarray(LEVELS)[bits.nibbles(blocks[:, 5:13], 1, xp)]
    scale = xp.asarray(SCALES)[bits.integers(blocks[:, 4:5], xp)] * xp.ones_like(codes)
    return Parts(d[:, None] * scale, codes, None, d, None, scale, None)


def unpack(records: Records) -> Fields:
    """d float32[b]; scales int32[b, 1], the bytes; codes int32[b, 16] in 0..15."""
    return {
        "d": records["d"].copy(),
        "scales": bits.integers(records["scale"], np)[:, None],
        "codes": bits.nibbles(records["qs"], 1, np),
    }


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"], records["scale"] = fields["d"], fields["scales"][:, 0]
    records["qs"] = bits.pack_nibbles(fields["codes"], 1)
    return records


def canonical(records: Records) -> Records:
    """Scales without a sign that are numbers."""
    records["scale"] = np.minimum(records["scale"] & (SIGN - 1), len(E4M3) - 1)
    return records


def quantise(values: Float32[np.ndarray, "b 16"]) -> UInt8[np.ndarray, "b 13"]:
    """Each block by itself, as if it were the tensor: d = f32(max|x| / 2688), 2688 = 6 448; scale and codes are
    nearest, ties to even. A block of zeros has d = 0.
    """
    peak = np.abs(values).max(axis=1)
    d = (peak.astype(np.float64) / (6 * float(E4M3[-1]))).astype(np.float32)
    scale = nearest(np.divide(peak / 6, d, out=np.zeros(len(d)), where=d > 0), E4M3)
    step = (d.astype(np.float64) * E4M3[scale])[:, None]
    scaled = np.divide(values, step, out=np.zeros(values.shape), where=step > 0)
    codes = nearest(scaled, E2M1) | (np.signbit(scaled) * 8).astype(np.uint8)
    fields = {"d": d, "scales": scale[:, None], "codes": codes}
    return pack(fields).view(np.uint8).reshape(len(values), -1)


FORMAT = Format(
    "nvfp4_two_level", 16, LAYOUT, "f16", (), decode, unpack, pack, quantise, canonical=canonical, of_ggml=False
)
