"""q8_K: 256 activations in 292 bytes, for the K formats.

    field  width     meaning
    d      f32       scale, signed: the element of largest magnitude has code -127
    qs     256 int8  codes
    bsums  16 int16  sums of 16 codes each, which minimums are multiplied with

value = d code

aprender quantises to the same codes up to sign and ties, but with the unsigned scale max|x| / 127.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from diffuzz.formats import parts
from diffuzz.formats.format import Fields, Format, Parts, table
from diffuzz.formats.q8_0 import quantise_realizar as _realizar
from diffuzz.formats.rounding import first_largest, quotient, words

LAYOUT = table(292, d="<f4", qs=("i1", 256), bsums=("<i2", 16))


def decode(blocks: Any, xp: Any) -> Parts:
    """Codes as stored."""
    d: Any
    if xp is np:
        d = np.ascontiguousarray(blocks[:, :4]).view("<f4")[:, 0].astype(np.float32)
    else:
        from jax import lax

        d = lax.bitcast_convert_type(blocks[:, :4], xp.float32)
    codes = blocks[:, 4:260].astype(xp.int32)
    return parts.of_block(d, None, xp.where(codes > 127, codes - 256, codes), xp)


def unpack(records: np.ndarray) -> Fields:
    """d float32[b], codes int32[b, 256], bsums int32[b, 16]."""
    return {
        "d": records["d"].astype(np.float32),
        "codes": records["qs"].astype(np.int32),
        "bsums": records["bsums"].astype(np.int32),
    }


def pack(fields: Fields) -> np.ndarray:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"], records["qs"], records["bsums"] = fields["d"], fields["codes"], fields["bsums"]
    return records


def quantise_ggml(values: Any, xp: Any = np) -> tuple[Any, Any]:
    """ggml's quantiser (x86 and portable C alike): (d float32[b], codes int32[b, 256]).

    m the first element of largest magnitude, with its sign; iscale = f32(-127 / m); code = min(127,
    round-half-even(f32(iscale x))); d = f32(1 / iscale). An all-zero block has d = 0 and codes 0. A NaN is never m; its
    code is min(127, its low 22 bits), so 0 for the usual one.
    """
    peak = first_largest(values, xp)
    empty = peak == 0
    inverse = quotient(xp.float32(-127), xp.where(empty, xp.float32(1), peak), xp)
    product = values * inverse[:, None]
    finite = xp.isfinite(product)
    # The conversion by a magic constant leaves the low bits of what is no number: 0, but for a NaN with a payload.
    whole = xp.where(finite, xp.round(xp.where(finite, product, 0)), 0).astype(xp.int32)
    codes = xp.minimum(xp.where(finite, whole, words(product, xp) & 0x3FFFFF), 127)
    d = quotient(xp.float32(1), inverse, xp)
    return xp.where(empty, xp.float32(0), d), xp.where(empty[:, None], 0, codes)


def quantise_realizar(values: Any, xp: Any = np) -> tuple[Any, Any]:
    """aprender's quantiser: (d = max|x| / 127, or 1/127 up to 1e-10; codes int32[b, 256], half away from zero)."""
    return _realizar(values, xp)


def quantise(values: np.ndarray) -> np.ndarray:
    """ggml's quantiser, bit-exact, NaN and infinities included.

    Of an all-zero block ggml leaves the bsums unwritten, so they hold what the memory held; here they are 0.
    """
    d, codes = quantise_ggml(values)
    fields = {"d": d, "codes": codes, "bsums": codes.reshape(len(values), 16, 16).sum(axis=2)}
    return pack(fields).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("q8_K", 256, LAYOUT, None, (), decode, unpack, pack, quantise)
