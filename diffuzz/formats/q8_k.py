"""q8_K: 256 activations in 292 bytes, for weights of the K formats.

    field  width     meaning
    d      f32       scale, signed: the element of largest magnitude has code -127
    qs     256 int8  codes
    bsums  16 int16  sums of 16 codes each, the factors of the weights' minimums

value = d code

aprender quantises to the same codes up to sign and ties, but with the unsigned scale max|x| / 127.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table
from diffuzz.formats.q8_0 import quantise_realizar as _realizar
from diffuzz.formats.rounding import first_largest, quotient, words

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, UInt8

LAYOUT = table(292, d="<f4", qs=("i1", 256), bsums=("<i2", 16))


def decode(blocks: UInt8[AnyArray, "b 292"], xp: ArrayModule) -> Parts:
    """Codes as stored."""
    d: Float32[AnyArray, " b"]
    if xp is np:
        d = np.ascontiguousarray(blocks[:, :4]).view("<f4")[:, 0].astype(np.float32)
    else:
        from jax import lax

        d = lax.bitcast_convert_type(blocks[:, :4], xp.float32)
    codes = blocks[:, 4:260].astype(xp.int32)
    return parts.of_block(d, None, xp.where(codes > 127, codes - 256, codes), xp)


def unpack(records: Records) -> Fields:
    """d float32[b], codes int32[b, 256], bsums int32[b, 16]."""
    return {
        "d": records["d"].astype(np.float32),
        "codes": records["qs"].astype(np.int32),
        "bsums": records["bsums"].astype(np.int32),
    }


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"], records["qs"], records["bsums"] = fields["d"], fields["codes"], fields["bsums"]
    return records


def quantise_ggml(
    values: Float32[AnyArray, "b 256"], xp: ArrayModule = np, *, levels: int = 127
) -> tuple[Float32[AnyArray, " b"], Int32[AnyArray, "b 256"]]:
    """ggml's quantiser, the same on x86 and in portable C: (d, codes).

    m is the first element of largest magnitude, with its sign; iscale = f32(-127 / m); code = min(127,
    round-half-even(f32(iscale x))); d = f32(1 / iscale). An all-zero block has d = 0 and codes 0. A NaN is never m; its
    code is min(127, its low 22 bits), so that of the default NaN is 0.

    Releases before 2024 had ``levels`` = 128 in the place of 127: m has the code -128, and what would be 128 is 127.
    """
    peak = first_largest(values, xp)
    empty = peak == 0
    inverse = quotient(xp.float32(-levels), xp.where(empty, xp.float32(1), peak), xp)
    product = values * inverse[:, None]
    finite = xp.isfinite(product)
    # ggml converts by adding a magic constant, which keeps the low bits of NaN: 0 unless the NaN has a payload.
    whole = xp.where(finite, xp.round(xp.where(finite, product, 0)), 0).astype(xp.int32)
    codes = xp.minimum(xp.where(finite, whole, words(product, xp) & 0x3FFFFF), 127)
    d = quotient(xp.float32(1), inverse, xp)
    return xp.where(empty, xp.float32(0), d), xp.where(empty[:, None], 0, codes)


def quantise_realizar(
    values: Float32[AnyArray, "b 256"], xp: ArrayModule = np
) -> tuple[Float32[AnyArray, " b"], Int32[AnyArray, "b 256"]]:
    """aprender's quantiser: (d, codes), as that of q8_0 (``diffuzz.formats.q8_0.quantise_realizar``)."""
    return _realizar(values, xp)


def quantise(values: Float32[np.ndarray, "b 256"], *, levels: int = 127) -> UInt8[np.ndarray, "b 292"]:
    """ggml's quantiser, bit-exact for NaN and infinities too; ``levels`` as in ``quantise_ggml``.

    ggml does not write the bsums of an all-zero block, so they hold what was in memory before; here they are 0.
    """
    d, codes = quantise_ggml(values, levels=levels)
    fields = {"d": d, "codes": codes, "bsums": codes.reshape(len(values), 16, 16).sum(axis=2)}
    return pack(fields).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("q8_K", 256, LAYOUT, None, (), decode, unpack, pack, quantise)
