"""aprender's GGUF path (realizar): integer kernels with quantised activations for some formats, float32 for the others.

    weights            activation                      accumulation
    q4_K               q8_K, scale max|x| / 127, f32   integer sums of each sub-block, one float32 combination for each
    q4_0, q8_0         q8_0, scale kept as f32         8 lanes of an integer sum, acc = fma(f32(d s), lane, acc)
    q5_K, q6_K         float32                         AVX2: chains of fma in 8 lanes
    q4_1, q5_0         float32                         dequantised, 8-lane dot
    q2_K, q3_K, q5_1   float32                         dequantised, left fold

Codes round half away from zero. ``rms_norm`` and ``soft_max`` multiply by a float32 reciprocal where the APR path
divides; ``silu``, ``swiglu`` and ``rope`` have the same formulas on both paths.

Source: paiml/aprender, crates/aprender-serve/src/quantize, which was read and not run. q4_K is its portable kernel;
this module reproduces the bits published for it (FFN-GGUF-008). Two things are assumed to be as in the APR path: the
summation order of q4_1 and q5_0, and that the SIMD rotation of NEOX pairs is not fused. Two things are not modelled:
the float32 fallback for blocks with one outlier ("crushed blocks"), and the polynomial exp of the fused SwiGLU, whose
bits depend on the vendor of the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.formats import q8_0, q8_k
from diffuzz.kernels import apr, arguments, lanes
from diffuzz.kernels.apr import rope, silu, swiglu
from diffuzz.kernels.fma import fma

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

    from diffuzz.kernels.lanes import BlockDot, Blocks, Dots

__all__ = [
    "FORMATS",
    "SubBlocks",
    "fused",
    "rms_norm",
    "rope",
    "silu",
    "soft_max",
    "sub_blocks",
    "swiglu",
    "vec_dot",
    "vec_dot_rows",
]

# Up to this number of multiplications OpenBLAS computes a product of matrices in one thread.
_LEAST_THREADED = 2**18


def vec_dot(
    format: str, weights: UInt8[np.ndarray, "m row_bytes"], x: Float32[np.ndarray, "b k"]
) -> Float32[np.ndarray, "m b"]:
    """Every row with every x. Raises ValueError for wrong arguments."""
    return lanes.batched(_dot(format), format, weights, x, paired=False)


def vec_dot_rows(
    format: str, weights: UInt8[np.ndarray, "b row_bytes"], x: Float32[np.ndarray, "b k"]
) -> Float32[np.ndarray, " b"]:
    """Row i with x i. Raises ValueError for wrong arguments."""
    return lanes.batched(_dot(format), format, weights, x, paired=True)


def rms_norm(
    x: Float32[np.ndarray, "... n"], eps: float, weight: Float32[np.ndarray, "... n"] | None = None
) -> Float32[np.ndarray, "... n"]:
    """``f32(f32(x * inv) * weight)``, inv = f32(1 / sqrt(f32(f32(S / n) + eps))).

    S is the sum of squares in the order of the AVX512 backend: 16 lanes of fma, added by halves, plus a separate left
    fold of the squares of the last n mod 16 elements. Raises ValueError for wrong arguments.
    """
    array, gain = arguments.norm(x, eps, weight)
    whole = array.shape[-1] - array.shape[-1] % 16
    acc = np.zeros((*array.shape[:-1], 16), np.float32)
    for start in range(0, whole, 16):
        part = array[..., start : start + 16]
        acc = fma(part, part, acc)
    with np.errstate(all="ignore"):
        square = lanes.halving(acc)
        if whole < array.shape[-1]:
            square = square + apr.dot_fold(array[..., whole:], array[..., whole:])
        mean = square[..., None] / np.float32(array.shape[-1])
        y = array * (np.float32(1) / np.sqrt(mean + np.float32(eps)))
        return np.asarray(y if gain is None else y * gain)


def soft_max(x: Float32[np.ndarray, "... n"]) -> Float32[np.ndarray, "... n"]:
    """``f32(e * f32(1 / sum e))``, e and the sum as on the APR path. Raises ValueError for wrong arguments."""
    e, total = apr.exponentials(arguments.vector("x", x))
    with np.errstate(all="ignore"):
        return np.asarray(e * (np.float32(1) / total))


def _dot(format: str) -> BlockDot:
    if formats.get(format).name not in _DOTS:
        raise ValueError(f"format={format!r}: realizar multiplies weights of {', '.join(FORMATS)}")
    return partial(_DOTS[format], format)


def _q8_k(format: str, rows: Blocks, x: Float32[np.ndarray, "b k"], paired: bool) -> Dots:
    return fused(sub_blocks(format, rows), x, paired=paired)


@attrs.frozen(eq=False)
class SubBlocks:
    """Rows of q4_K weights as ``fused`` takes them; s counts the sub-blocks of a row."""

    code: Float32[np.ndarray, "s rows 32"]
    scale: Float32[np.ndarray, "s rows"]
    minimum: Float32[np.ndarray, "s rows"]


def sub_blocks(format: str, rows: Blocks) -> SubBlocks:
    """Codes, scales and minimums of the sub-blocks of ``rows``."""
    parts = formats.get(format).decode(rows.reshape(-1, rows.shape[2]))
    code = parts.code.reshape(len(rows), -1, 32).astype(np.float32).swapaxes(0, 1)
    scale, minimum = (np.ascontiguousarray(p[:, ::32].reshape(len(rows), -1).T) for p in (parts.scale, parts.minimum))
    return SubBlocks(np.ascontiguousarray(code), scale, minimum)


def fused(w: SubBlocks, x: Float32[np.ndarray, "b k"], *, paired: bool) -> Dots:
    """A left fold over the sub-blocks: float32[m, b], or float32[b] if ``paired``.

    total += f32(f32(f32(d sc) s) * sum q x) - f32(f32(f32(dmin m) s) * sum x)        every operation rounded
    """
    with np.errstate(all="ignore"):
        d, codes = q8_k.quantise_realizar(x.reshape(-1, 256))
        y = codes.reshape(len(x), -1, 32).swapaxes(0, 1).astype(np.float32, order="C")
        step = np.repeat(d.reshape(len(x), -1).T, 8, axis=0)
        totals = y.sum(axis=2)
        if paired:
            dots = np.einsum("srt,srt->sr", w.code, y)
            scale, minimum = w.scale, w.minimum
        else:
            dots = _meet(w.code, y)
            step, totals = step[:, None], totals[:, None]
            scale, minimum = w.scale[:, :, None], w.minimum[:, :, None]
        terms = (scale * step) * dots - (minimum * step) * totals
        # A left fold from +0 over the sub-blocks.
        total = np.zeros(terms.shape[1:], np.float32)
        for term in terms:
            total += term
        return total


def _meet(w: Float32[np.ndarray, "s m t"], y: Float32[np.ndarray, "s b t"]) -> Float32[np.ndarray, "s m b"]:
    """``sum_t w[s, m, t] y[s, b, t]`` of codes; sums are below 2^24, so they are exact in any order."""
    dots = np.empty((len(w), w.shape[1], y.shape[1]), np.float32)
    # In steps so small that BLAS starts no threads, which may wait for each other far longer than this takes.
    step = max(1, _LEAST_THREADED // (w.shape[1] * w.shape[2]))
    for start in range(0, y.shape[1], step):
        np.matmul(w, y[:, start : start + step].swapaxes(1, 2), out=dots[:, :, start : start + step])
    return dots


def _q8_0(format: str, rows: Blocks, x: Float32[np.ndarray, "b k"], paired: bool) -> Dots:
    """acc = fma(f32(d s), lane, acc) over the blocks; at the end neighbouring lanes are added first."""
    parts = formats.get(format).decode(rows.reshape(-1, rows.shape[2]))
    step, codes = q8_0.quantise_realizar(x.reshape(-1, 32))
    w, y = parts.code.reshape(len(rows), -1, 32), codes.reshape(len(x), -1, 32)
    products = lanes.sums(lanes.by_fours(w), lanes.by_fours(y), paired).astype(np.float32)
    d, s = lanes.met(parts.d.reshape(len(rows), -1), step.reshape(len(x), -1), paired)
    scale = (d * s)[..., None]
    acc = np.zeros((*products.shape[:-2], 8), np.float32)
    for block in range(products.shape[-2]):
        acc = fma(scale[..., block, :], products[..., block, :], acc)
    return lanes.neighbours(acc)


def _q5_k(format: str, rows: Blocks, x: Float32[np.ndarray, "b k"], paired: bool) -> Dots:
    """For each sub-block: chain = fma over its four groups of 8, then acc = fma(d sc, chain, acc), acc = fma(-dmin m,
    sum x, acc).
    """
    parts = formats.get(format).decode(rows.reshape(-1, rows.shape[2]))
    w, y = lanes.met(parts.code.reshape(len(rows), -1, 4, 8).astype(np.float32), x.reshape(len(x), -1, 4, 8), paired)
    scale, minimum = (part[:, ::32].reshape(len(rows), -1, 1) for part in (parts.scale, parts.minimum))
    if not paired:
        scale, minimum = scale[:, None], minimum[:, None]
    acc = np.zeros((*np.broadcast_shapes(w.shape[:-3], y.shape[:-3]), 8), np.float32)
    for sub in range(w.shape[-3]):
        chain, total = np.zeros_like(acc), np.zeros((*y.shape[:-3], 8), np.float32)
        for group in range(4):
            chain = fma(w[..., sub, group, :], y[..., sub, group, :], chain)
            total = total + y[..., sub, group, :]
        acc = fma(scale[..., sub, :], chain, acc)
        acc = fma(-minimum[..., sub, :], total, acc)
    return lanes.crosswise(acc)


def _q6_k(format: str, rows: Blocks, x: Float32[np.ndarray, "b k"], paired: bool) -> Dots:
    """Four accumulators of 8 lanes, one for each quarter of 128 elements: acc = fma(f32(f32(d sc) q), x, acc); (a0 +
    a1) + (a2 + a3).
    """
    weights = formats.get(format).dequantize(rows.reshape(-1, rows.shape[2]))
    split = (-1, 4, 4, 8)
    w, y = lanes.met(weights.reshape(len(rows), *split), x.reshape(len(x), *split), paired)
    acc = np.zeros((*np.broadcast_shapes(w.shape[:-4], y.shape[:-4]), 4, 8), np.float32)
    for half in range(w.shape[-4]):
        for group in range(4):
            acc = fma(w[..., half, :, group, :], y[..., half, :, group, :], acc)
    both = acc[..., 0::2, :] + acc[..., 1::2, :]
    return lanes.crosswise(both[..., 0, :] + both[..., 1, :])


def _float(order: str, format: str, rows: Blocks, x: Float32[np.ndarray, "b k"], paired: bool) -> Dots:
    weights = formats.get(format).dequantize(rows.reshape(-1, rows.shape[2])).reshape(len(rows), -1)
    w, y = lanes.met(weights, x, paired)
    return apr.dot_fold(w, y) if order == "fold" else apr.dot_lanes(w, y)


_DOTS: dict[str, Callable[[str, Blocks, Float32[np.ndarray, "b k"], bool], Dots]] = {
    "q4_K": _q8_k,
    "q4_0": _q8_0,
    "q8_0": _q8_0,
    "q5_K": _q5_k,
    "q6_K": _q6_k,
    "q4_1": partial(_float, "simd"),
    "q5_0": partial(_float, "simd"),
    "q5_1": partial(_float, "fold"),
    "q2_K": partial(_float, "fold"),
    "q3_K": partial(_float, "fold"),
}

# Formats of weights that this path has dot products for.
FORMATS = tuple(_DOTS)
