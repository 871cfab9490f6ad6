"""ggml's CPU library as compiled for x86-64 with AVX2, FMA and F16C, with or without AVX512: the same bits, in NumPy.

Checked bit for bit against ggml 0.15.3 (GCC 12, no llamafile, no repack). Besides the source, the bits depend on:

    vec_dot            how the compiler fused the last, odd block of iq4_nl and mxfp4. (With AVX-VNNI-INT8 the one
                       product described in ``_int8`` differs; without AVX2 other code runs.)
    rms_norm           nothing.
    soft_max, silu,    AVX512 or not. With it a polynomial takes 16 elements at a time and expf the last n mod 16, so
    swiglu             the bits of a value depend on its place. AVX2 takes 8, and rounds the polynomial differently.
    rope               the C library's powf, cosf and sinf, and how the compiler fused multiplications and additions.

What GCC fuses depends on the processor that it tunes for; for AMD's Zen it avoids chains of FMA and has wider loops.
``Build`` describes a build; the functions of this module have AVX512 and are tuned for Intel unless a build is given.
There are two variants: ``zen``, a native build on an AMD processor (Zen 5, which GCC 12 takes for a Zen 3), and
``avx2``, a portable build. ``model_of`` finds the build that matches a library.

NaN and infinities are as in the library, except for the payload of a NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.formats import Parts, q8_0, q8_1, q8_k
from diffuzz.kernels import arguments, fused, lanes, libm
from diffuzz.kernels.apr import dot_fold, folds
from diffuzz.kernels.fma import fma
from diffuzz.kernels.names import Implementation

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64, Int, UInt8

    from diffuzz.kernels.lanes import BlockDot, Blocks, Dots

__all__ = ["BUILD_DEPENDENT", "MODELLED", "Build", "avx2", "built", "exp", "model_of", "rms_norm", "rope", "silu",
           "soft_max", "swiglu", "vec_dot", "vec_dot_rows", "zen"]  # fmt: skip

_ONE, _ZERO = np.float32(1), np.float32(0)
# Formats whose dot products depend on the build.
BUILD_DEPENDENT = ("iq4_nl", "mxfp4")


@attrs.frozen
class Build:
    """What the bits depend on besides the source: the instruction set, and how the compiler arranged two loops.

    avx512   whether exp uses AVX512 or AVX2
    fused    whether the last block of an odd number of blocks is added by an FMA
    pairs    how many pairs one iteration of the loop of ``rope`` in mode norm takes
    """

    avx512: bool = True
    fused: bool = True
    pairs: int = 2

    @property
    def width(self) -> int:
        """Elements that exp takes at a time."""
        return 16 if self.avx512 else 8


_INTEL = Build()


def vec_dot(
    format: str, weights: UInt8[np.ndarray, "m row_bytes"], x: Float32[np.ndarray, "b k"], *, build: Build = _INTEL
) -> Float32[np.ndarray, "m b"]:
    """Every row with every x, which is quantised to the activation format of the weights.

    Integer products are summed in eight lanes L (:func:`diffuzz.kernels.lanes.by_fours`); over the blocks, in order:

        q4_0 q5_0 q8_0    acc = fma(f32(d y.d), L, acc)
        iq4_nl mxfp4      the same in two sums, of blocks 0, 2, .. and 1, 3, .., acc = f32(acc0 + acc1); the last of an
                          odd number of blocks, S its whole sum: fma(f32(d y.d), S, crosswise(acc)), or, unless
                          fused, f32(f32(f32(d y.d) S) + crosswise(acc))
        q4_1 q5_1         the same; s = fma(m, y.s, s)
        q2_K              acc = fma(f32(-y.d dmin), M8, acc), then acc = fma(f32(y.d d), L, acc)
        q3_K q6_K         acc = fma(f32(y.d d), L, acc)
        q4_K              the same; four lanes t = fma(f32(-y.d dmin), M4, t), s = f32(f32(t0 + t2) + f32(t1 + t3))
        q5_K              the same; s = fma(f32(-y.d dmin), M1, s)

    and the result is crosswise(acc), or f32(crosswise(acc) + s). M8, M4 and M1 are the sums of minimums times codes in
    8, 4 and 1 lanes. Of a format whose dot product in ggml is not modelled to the bit, or that ggml does not have, in
    one lane: f32(acc + t), acc = fma(f32(y.d d), L, acc), t = fma(f32(-y.d dmin), M1, t). If x is rounded to f16 or
    bf16, a left fold of the products of the restored weights. Raises ValueError for wrong arguments.
    """
    return lanes.batched(_dot(format, build), format, weights, x, paired=False)


def vec_dot_rows(
    format: str, weights: UInt8[np.ndarray, "b row_bytes"], x: Float32[np.ndarray, "b k"], *, build: Build = _INTEL
) -> Float32[np.ndarray, " b"]:
    """Row i with x i, as ``vec_dot``. Raises ValueError for wrong arguments."""
    return lanes.batched(_dot(format, build), format, weights, x, paired=True)


def dequantize(format: str, blocks: UInt8[np.ndarray, "b type_size"]) -> Float32[np.ndarray, "b block_size"]:
    """:meth:`diffuzz.formats.Format.dequantize`. Raises ValueError for wrong arguments."""
    return formats.get(format).dequantize(blocks)


def quantize(format: str, values: Float32[np.ndarray, "b block_size"]) -> UInt8[np.ndarray, "b type_size"]:
    """:attr:`diffuzz.formats.Format.quantize`.

    Raises ValueError for wrong arguments and for a format without a quantiser.
    """
    quantise = formats.get(format).quantize
    if quantise is None:
        raise ValueError(f"format={format!r}: it has no quantiser")
    return quantise(values)


def rms_norm(
    x: Float32[np.ndarray, "... n"], eps: float, weight: Float32[np.ndarray, "... n"] | None = None
) -> Float32[np.ndarray, "... n"]:
    """``f32(f32(x * r) * weight)``, r = f32(1 / sqrt(f32(f32(S / n) + eps))), S a left fold in float64 of f32(x x).

    Raises ValueError for wrong arguments.
    """
    array, gain = arguments.norm(x, eps, weight)
    with np.errstate(all="ignore"):
        square = np.add.accumulate((array * array).astype(np.float64), axis=-1)[..., -1:]
        mean = (square / array.shape[-1]).astype(np.float32)
        y = array * (_ONE / np.sqrt(mean + np.float32(eps)))
        return np.asarray(y if gain is None else y * gain)


def soft_max(x: Float32[np.ndarray, "... n"], *, build: Build = _INTEL) -> Float32[np.ndarray, "... n"]:
    """``f32(e * f32(1 / S))``, e = exp(f32(x - max)).

    S is a left fold in float64 of the float32 sums of 16 elements (8 with AVX2), and then of the rest one by one.
    Raises ValueError for wrong arguments.
    """
    array = arguments.vector("x", x)
    whole = array.shape[-1] - array.shape[-1] % build.width
    with np.errstate(all="ignore"):
        e = _exp_along(array - array.max(axis=-1, keepdims=True), build)
        chunks = e[..., :whole].reshape(*e.shape[:-1], -1, build.width)
        terms = np.concatenate((lanes.halving(chunks), e[..., whole:]), axis=-1).astype(np.float64)
        total = np.add.accumulate(terms, axis=-1)[..., -1:]
        return np.asarray(e * (1.0 / total).astype(np.float32))


def silu(x: Float32[np.ndarray, " ..."], *, build: Build = _INTEL) -> Float32[np.ndarray, " ..."]:
    """``f32(x / f32(1 + exp(f32(0 - x))))``; NaN at minus infinity. Raises ValueError for wrong arguments."""
    array = arguments.real("x", x)
    with np.errstate(all="ignore"):
        return np.asarray(array / (_ONE + _exp_along(_ZERO - array, build)))


def swiglu(
    gate: Float32[np.ndarray, " ..."], up: Float32[np.ndarray, " ..."], *, build: Build = _INTEL
) -> Float32[np.ndarray, " ..."]:
    """``f32(silu(gate) * up)``. Raises ValueError for wrong arguments."""
    one, other = arguments.pair(gate, up)
    with np.errstate(all="ignore"):
        return np.asarray(silu(one, build=build) * other)


def rope(
    x: Float32[np.ndarray, "b heads d"],
    positions: Int[np.ndarray, " b"],
    base: float,
    mode: str,
    *,
    build: Build = _INTEL,
) -> Float32[np.ndarray, "b heads d"]:
    """Pair i rotated by theta_i, theta_0 = f32(position), theta_{i+1} = f32(theta_i * powf(base, f32(-2 / d))).

    d0 = fma(x0, cosf, -f32(x1 sinf)), d1 = fma(x0, sinf, f32(x1 cosf)), as GCC contracts it. In mode norm its loop
    takes ``build.pairs`` pairs at a time; the last d/2 mod ``build.pairs`` pairs are outside the loop, and their
    products are rounded separately. Raises ValueError for wrong arguments.
    """
    array, where = arguments.rope(x, positions, base, mode)
    d = array.shape[2]
    with np.errstate(all="ignore"):
        steps = np.full((len(array), d // 2), libm.powf(base, np.array([-2], np.float32) / np.float32(d)), np.float32)
        steps[:, 0] = where
        theta = np.multiply.accumulate(steps, axis=1)[:, None, :]
        cos, sin = libm.cosf(theta), libm.sinf(theta)
        first, second = arguments.halves(array, mode)
        turned = fma(first, cos, -(second * sin)), fma(first, sin, second * cos)
        if mode == "norm":
            rest = slice(d // 2 - d // 2 % build.pairs, None)
            turned[0][..., rest] = (first * cos - second * sin)[..., rest]
            turned[1][..., rest] = (first * sin + second * cos)[..., rest]
        return arguments.joined(*turned, mode)


def exp(x: Float32[np.ndarray, " ..."], *, build: Build = _INTEL) -> Float32[np.ndarray, " ..."]:
    """ggml_v_expf: a polynomial of degree 5 in b = x - n ln 2, n = round(x / ln 2), times 2^n.

    AVX512 rounds once at the end, so subnormal results are kept; beyond |n| = 192 the result is 0 or infinity. It is at
    most 2.25 ULP off, measured over 2^24 arguments (its source says 1.95). AVX2 adds the 1 of the polynomial together
    with the scaling, fma(j, 2^n, 2^n), and scales in two steps beyond |n| = 126.
    """
    with np.errstate(all="ignore"):
        n = fma(x, _INVERSE_LN2, _SHIFT) - _SHIFT
        b = fma(-n, _LN2_LOW, fma(-n, _LN2_HIGH, x))
        u = b * b
        high = fma(fma(_C5, b, _C4), u, fma(_C3, b, _C2))
        beyond = np.abs(n) > 192
        exponent = np.where(beyond | np.isnan(n), 0, n).astype(np.int32)
        if build.avx512:
            j = fma(high, u, fma(_C1, b, _ONE))
            scaled = np.ldexp(j.astype(np.float64), exponent).astype(np.float32)
        else:
            j = fma(high, u, _C1 * b)
            last = np.where(np.abs(exponent) > 126, np.where(exponent > 0, 127, -125), 0)
            first = np.ldexp(_ONE, exponent - last)
            scaled = fma(first, j, first) * np.ldexp(_ONE, last)
        return np.where(beyond, np.where(n <= 0, _ZERO, np.float32(np.inf)), scaled)


def _hex(text: str) -> np.float32:
    return np.float32(float.fromhex(text))


_INVERSE_LN2, _SHIFT = _hex("0x1.715476p+0"), _hex("0x1.8p23")
_LN2_HIGH, _LN2_LOW = _hex("0x1.62e4p-1"), _hex("0x1.7f7d1cp-20")
_C1, _C2, _C3 = _hex("0x1.ffffecp-1"), _hex("0x1.fffdb6p-2"), _hex("0x1.555e66p-3")
_C4, _C5 = _hex("0x1.573e2ep-5"), _hex("0x1.0e4020p-7")


def _exp_along(x: Float32[np.ndarray, " ..."], build: Build) -> Float32[np.ndarray, " ..."]:
    """``exp`` of the elements of the last axis, but the C library's expf of the last n mod 16 (8 with AVX2)."""
    n = x.shape[-1] if x.ndim else 1
    line = x.reshape(*x.shape[:-1], n)
    whole = n - n % build.width
    return np.concatenate((exp(line[..., :whole], build=build), libm.expf(line[..., whole:])), axis=-1).reshape(x.shape)


def _dot(format: str, build: Build) -> BlockDot:
    if formats.get(format).name in BUILD_DEPENDENT:
        return partial(_in_pairs, format, fused=build.fused)
    if format in _DOTS:
        return partial(_DOTS[format], format)
    activation = formats.get(format).activation
    if activation is None:
        raise ValueError(f"format={format!r}: activations come in it, and a format of weights is needed")
    return partial(_of_floats if activation in fused.ROUNDED else _of_another, format)


def _parts(format: str, rows: Blocks) -> Parts:
    return formats.get(format).decode(rows.reshape(-1, rows.shape[2]))


def _folded(
    scale: Float32[np.ndarray, "... blocks"], products: Float[np.ndarray, "... blocks lanes"]
) -> Float32[np.ndarray, "... lanes"]:
    """acc = fma(scale, product, acc) over the blocks, in each lane."""
    values = products.astype(np.float32)
    total: Float32[np.ndarray, "... lanes"] = np.zeros(values.shape[:-2] + values.shape[-1:], np.float32)
    for block in range(values.shape[-2]):
        total = fma(scale[..., block, None], values[..., block, :], total)
    return total


def _int8(
    w: Int[np.ndarray, "m blocks 32"], y: Int[np.ndarray, "b blocks 32"], paired: bool
) -> Float64[np.ndarray, "... blocks 8"]:
    """Sums of signed products in lanes, where a product is |w| times the int8 y with the sign of w.

    -128 has no negative in int8, so for w < 0 the factor of y = -128 is +128 instead of -128.
    """
    w, y = lanes.by_fours(w), lanes.by_fours(y)
    products = lanes.sums(w, y, paired)
    if (y == -128).any():
        products += lanes.sums(np.minimum(w, 0), 256 * (y == -128), paired)
    return products


def _legacy(format: str, rows: Blocks, x: Float32[np.ndarray, "b k"], paired: bool) -> Dots:
    parts = _parts(format, rows)
    _, step, codes = q8_0.quantise_x86(x.reshape(-1, 32))
    products = _int8(parts.code.reshape(len(rows), -1, 32), codes.reshape(len(x), -1, 32), paired)
    d, s = lanes.met(parts.d.reshape(len(rows), -1), step.reshape(len(x), -1), paired)
    return lanes.crosswise(_folded(d * s, products))


def _in_pairs(format: str, rows: Blocks, x: Float32[np.ndarray, "b k"], paired: bool, *, fused: bool) -> Dots:
    parts = _parts(format, rows)
    _, step, codes = q8_0.quantise_x86(x.reshape(-1, 32))
    w, y = parts.code.reshape(len(rows), -1, 32), codes.reshape(len(x), -1, 32)
    d, s = lanes.met(parts.d.reshape(len(rows), -1), step.reshape(len(x), -1), paired)
    scale, pairs = d * s, w.shape[1] // 2 * 2
    products = _int8(w, y, paired)
    even, odd = (_folded(scale[..., i:pairs:2], products[..., i:pairs:2, :]) for i in (0, 1))
    total = lanes.crosswise(even + odd)
    if pairs == w.shape[1]:
        return total
    last = lanes.sums(w[:, pairs:, None], y[:, pairs:, None], paired)[..., 0, 0].astype(np.float32)
    return fma(scale[..., -1], last, total) if fused else scale[..., -1] * last + total


def _legacy_minimum(format: str, rows: Blocks, x: Float32[np.ndarray, "b k"], paired: bool) -> Dots:
    parts = _parts(format, rows)
    step, total, codes = q8_1.quantise_x86(x.reshape(-1, 32))
    w, y = parts.code.reshape(len(rows), -1, 32), codes.reshape(len(x), -1, 32)
    products = lanes.sums(lanes.by_fours(w), lanes.by_fours(y), paired)
    d, s = lanes.met(parts.d.reshape(len(rows), -1), step.reshape(len(x), -1), paired)
    m, block_sum = lanes.met(-parts.dmin.reshape(len(rows), -1), total.reshape(len(x), -1), paired)
    dots: Dots = lanes.crosswise(_folded(d * s, products)) + _folded(m, block_sum[..., None])[..., 0]
    return dots


def _k(format: str, rows: Blocks, x: Float32[np.ndarray, "b k"], paired: bool) -> Dots:
    parts = _parts(format, rows)
    step, codes = q8_k.quantise_ggml(x.reshape(-1, 256))
    y = codes.reshape(len(x), -1, 256)
    block_sums = y.reshape(*y.shape[:2], 16, 16).sum(axis=3)

    def by_sixteens(sub: np.ndarray, count: int) -> np.ndarray:
        """Sums in ``count`` lanes over the sub-blocks: the number ``sub`` of each times the sum of its codes."""
        w = sub[:, ::16].reshape(len(rows), -1, count, 16 // count)
        return lanes.sums(w, block_sums.reshape(*y.shape[:2], count, 16 // count), paired)

    # q6_K is summed with its codes as stored, 0..63, and 32 times the scales is subtracted: the same integers, but in
    # other lanes.
    offset = 32 if format == "q6_K" else 0
    w = (parts.sub_scale * (parts.code + offset)).reshape(len(rows), -1, 256)
    products = lanes.sums(lanes.by_fours(w), lanes.by_fours(y), paired)
    if offset:
        products -= offset * by_sixteens(parts.sub_scale, 8)
    d, s = lanes.met(parts.d.reshape(len(rows), -1), step.reshape(len(x), -1), paired)
    if parts.dmin is None:
        return lanes.crosswise(_folded(s * d, products))
    dmin, s = lanes.met(parts.dmin.reshape(len(rows), -1), step.reshape(len(x), -1), paired)
    below = -s * dmin
    if format == "q2_K":
        both = np.stack((by_sixteens(parts.sub_minimum, 8), products), axis=-2)
        scales = np.stack((below, s * d), axis=-1)
        flat = (*both.shape[:-3], -1)
        return lanes.crosswise(_folded(scales.reshape(flat), both.reshape(*flat, 8)))
    if format == "q4_K":
        m = _folded(below, by_sixteens(parts.sub_minimum, 4))
        minimum = (m[..., 0] + m[..., 2]) + (m[..., 1] + m[..., 3])
    else:
        minimum = _folded(below, by_sixteens(parts.sub_minimum, 1))[..., 0]
    dots: Dots = lanes.crosswise(_folded(s * d, products)) + minimum
    return dots


def _of_floats(format: str, rows: Blocks, x: Float32[np.ndarray, "b k"], paired: bool) -> Dots:
    """Weights as float32 numbers, times x rounded to f16 or bf16."""
    fmt = formats.get(format)
    weights = fmt.dequantize(rows.reshape(-1, rows.shape[2])).reshape(len(rows), -1)
    rounded = fused.ROUNDED[fmt.activation or ""](x, np)
    return dot_fold(weights, rounded) if paired else folds(weights, rounded)


def _of_another(format: str, rows: Blocks, x: Float32[np.ndarray, "b k"], paired: bool) -> Dots:
    """In the way of the others, one lane, over what is a block of both the weights and the activations."""
    fmt, parts = formats.get(format), _parts(format, rows)
    partner = formats.get(fmt.activation or "")
    blocks = x.reshape(-1, partner.block_size)
    if partner.name == "q8_K":
        step, codes = q8_k.quantise_ggml(blocks)
    elif partner.name == "q8_0":
        _, step, codes = q8_0.quantise_x86(blocks)
    elif partner.name == "q8_1":
        step, _, codes = q8_1.quantise_x86(blocks)
    else:
        raise ValueError(f"format={format!r}: activations in {partner.name}, where q8_0, q8_1 or q8_K is needed")
    size = math.gcd(fmt.block_size, partner.block_size)

    def met(of_block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wide = np.repeat(of_block, fmt.block_size // size).reshape(len(rows), -1)
        return lanes.met(wide, np.repeat(step, partner.block_size // size).reshape(len(x), -1), paired)

    def products(whole: np.ndarray) -> np.ndarray:
        w, y = whole.reshape(len(rows), -1, 1, size), codes.reshape(len(x), -1, 1, size)
        return lanes.sums(w, y, paired)

    d, s = met(parts.d)
    total = _folded(s * d, products(parts.sub_scale * parts.code))[..., 0]
    if parts.dmin is None:
        return np.asarray(total)
    dmin, s = met(parts.dmin)
    return np.asarray(total + _folded(-s * dmin, products(parts.sub_minimum))[..., 0])


_DOTS: dict[str, Callable[[str, Blocks, Float32[np.ndarray, "b k"], bool], Dots]] = {
    **dict.fromkeys(("q4_0", "q5_0", "q8_0"), _legacy),
    **dict.fromkeys(("q4_1", "q5_1"), _legacy_minimum),
    **dict.fromkeys(("q2_K", "q3_K", "q4_K", "q5_K", "q6_K"), _k),
}


# Formats whose dot products have the library's bits.
MODELLED = (*_DOTS, *BUILD_DEPENDENT)


def built(build: Build) -> SimpleNamespace:
    """The operations of this module as ``build`` computes them, by name."""
    dependent = {f.__name__: partial(f, build=build) for f in (vec_dot, vec_dot_rows, soft_max, silu, swiglu, rope)}
    return SimpleNamespace(dequantize=dequantize, quantize=quantize, rms_norm=rms_norm, **dependent)


# The variants "ggml:zen" and "ggml:avx2" of diffuzz.kernels.get.
zen, avx2 = built(Build(fused=False, pairs=4)), built(Build(avx512=False))


def model_of(library: Implementation) -> SimpleNamespace | None:
    """The operations (``built``) of the build whose bits ``library`` has wherever builds differ; None if none has."""
    rng = np.random.default_rng(0)
    x, positions = rng.uniform(-1, 1, (64, 1, 14)).astype(np.float32), np.arange(64, dtype=np.int32)
    blocks = formats.get("iq4_nl").pack(
        {"d": rng.uniform(0.5, 1, 192).astype(np.float16), "codes": rng.integers(0, 16, (192, 32), dtype=np.uint8)}
    )
    rows, values = blocks.reshape(64, -1), rng.uniform(-1, 1, (64, 96)).astype(np.float32)

    def results(kernels: Implementation) -> tuple[np.ndarray, ...]:
        turned = kernels.rope(x, positions, 1e4, "norm")
        return turned, kernels.vec_dot_rows("iq4_nl", rows, values), kernels.soft_max(values)

    expected = results(library)
    for choice in product((True, False), (True, False), (2, 4)):
        model = built(Build(*choice))
        if all(np.array_equal(one, other) for one, other in zip(results(model), expected, strict=True)):
            return model
    return None
