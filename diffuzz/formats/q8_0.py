"""q8_0: 32 numbers in 34 bytes: weights, and the activations that q4_0, q5_0 and q8_0 weights are multiplied with.

    field  width     meaning
    d      f16       scale
    qs     32 int8   codes

value = d code

There are three quantisers of activations. They differ in how the scale is inverted and stored, and in how ties are
rounded (a = max|x|):

    x86        d = f32(a / 127), id = f32(127 / a), code = round-half-even(f32(x id)), stored d = f16(d)
    generic    id = f32(1 / d),                     code = round-half-away(f32(x id)), stored d = f16(d)
    realizar   d = f32(a / 127), or f32(1 / 127) where a <= 1e-10,
               code = round-half-away(f32(x f32(1 / d))), d stays float32
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table
from diffuzz.formats.rounding import quotient, round_half_away, through_half, to_int8, to_int32

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, UInt8

LAYOUT = table(34, d="<f2", qs=("i1", 32))


def decode(blocks: UInt8[AnyArray, "b 34"], xp: ArrayModule) -> Parts:
    """Codes as stored."""
    return parts.of_block(bits.half_at(blocks, 0, xp), None, bits.signed(blocks[:, 2:34], xp), xp)


def unpack(records: Records) -> Fields:
    """d float16[b], codes int32[b, 32] in -128..127."""
    return {"d": records["d"].copy(), "codes": records["qs"].astype(np.int32)}


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"], records["qs"] = fields["d"], fields["codes"]
    return records


def _peak_x86(values: Float32[AnyArray, "b 32"], xp: ArrayModule) -> Float32[AnyArray, " b"]:
    """max|x| of each block in the order of AVX2's lanes.

    maxps(a, b) is b unless a > b. So a NaN replaces the maximum of its lane so far, and is replaced by the next number.
    """

    def maxps(a: AnyArray, b: AnyArray) -> AnyArray:
        return xp.where(a > b, a, b)

    v = xp.abs(values).reshape(-1, 4, 8)
    lanes = maxps(maxps(maxps(v[:, 0], v[:, 1]), v[:, 2]), v[:, 3])
    four = maxps(lanes[:, 4:], lanes[:, :4])
    two = maxps(four[:, :2], four[:, 2:])
    return maxps(two[:, 0], two[:, 1])


def _peak_generic(values: Float32[AnyArray, "b 32"], xp: ArrayModule) -> Float32[AnyArray, " b"]:
    """max|x| as a loop over ``MAX(peak, fabsf(x))`` finds it: of what follows the last NaN, or NaN if nothing does."""
    nan = xp.isnan(values)
    later = xp.flip(xp.cumsum(xp.flip(nan, axis=1), axis=1), axis=1)
    peak = xp.max(xp.where(later == 0, xp.abs(values), xp.float32(0)), axis=1)
    return xp.where(nan[:, -1], xp.float32(np.nan), peak)


def _inverse(numerator: float, x: Float32[AnyArray, " b"], xp: ArrayModule) -> Float32[AnyArray, " b"]:
    """f32(numerator / x), and 0 where x = 0."""
    return xp.where(x != 0, quotient(xp.float32(numerator), xp.where(x != 0, x, xp.float32(1)), xp), xp.float32(0))


def integers_x86(
    values: Float32[AnyArray, "b 32"], xp: ArrayModule = np
) -> tuple[Float32[AnyArray, " b"], Int32[AnyArray, "b 32"]]:
    """ggml's AVX2 quantiser before it saturates codes to int8: (d, codes); a code is -2^31 for NaN and on overflow."""
    peak = _peak_x86(values, xp)
    inverse = _inverse(127, peak, xp)
    return quotient(peak, xp.float32(127), xp), to_int32(xp.round(values * inverse[:, None]), xp)


def quantise_x86(
    values: Float32[AnyArray, "b 32"], xp: ArrayModule = np
) -> tuple[Float32[AnyArray, " b"], Float32[AnyArray, " b"], Int32[AnyArray, "b 32"]]:
    """ggml's AVX2 quantiser: (d before it is rounded to f16, d as stored, codes).

    A block with max|x| = 0 has codes 0. A NaN has code -128. The d of its block is finite unless the NaN is element 27,
    and may be too small for the elements before the NaN in its lane (index mod 8).
    """
    d, integers = integers_x86(values, xp)
    return d, through_half(d, xp), xp.clip(integers, -128, 127)


def quantise_generic(
    values: Float32[AnyArray, "b 32"], xp: ArrayModule = np
) -> tuple[Float32[AnyArray, " b"], Float32[AnyArray, " b"], Int32[AnyArray, "b 32"]]:
    """ggml's portable C quantiser: (d before it is rounded to f16, d as stored, codes).

    NaN and codes outside int8 are cast as x86 compilers cast them (``rounding.to_int8``).
    """
    d = quotient(_peak_generic(values, xp), xp.float32(127), xp)
    rounded = round_half_away(values * _inverse(1, d, xp)[:, None], xp)
    return d, through_half(d, xp), to_int8(rounded, xp)


def quantise_realizar(
    values: Float32[AnyArray, "b n"], xp: ArrayModule = np
) -> tuple[Float32[AnyArray, " b"], Int32[AnyArray, "b n"]]:
    """aprender's quantiser: (d, codes).

    d = max|x| / 127 where max|x| > 1e-10, else 1/127. Codes are clamped to -128..127; that of NaN is 0, as a Rust cast
    has it.
    """
    peak = xp.max(xp.where(xp.isnan(values), xp.float32(0), xp.abs(values)), axis=1)
    d = quotient(xp.where(peak > xp.float32(1e-10), peak, xp.float32(1)), xp.float32(127), xp)
    rounded = round_half_away(values * quotient(xp.float32(1), d, xp)[:, None], xp)
    return d, xp.where(xp.isnan(rounded), 0, xp.clip(rounded, -128, 127)).astype(xp.int32)


def quantise(values: Float32[np.ndarray, "b 32"]) -> UInt8[np.ndarray, "b 34"]:
    """ggml's x86 quantiser, bit-exact for NaN and infinities too, but for the payload of a d that is NaN.

    The error of finite values is at most d / 2 plus the f16 rounding of d.
    """
    _, stored, codes = quantise_x86(values)
    return pack({"d": stored.astype(np.float16), "codes": codes}).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("q8_0", 32, LAYOUT, "q8_0", ("d",), decode, unpack, pack, quantise)
