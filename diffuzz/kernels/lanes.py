"""Dot products in SIMD lanes: exact integer sums of codes, and the orders in which lanes are added up.

A vectorised kernel cuts a block into lanes, sums integer products in each, and adds the lanes at the end. The integer
sums are exact in any order, here in float64; the float32 steps that follow are not, so their order is part of a kernel.

Arrays of weights and activations have a leading axis of rows. ``paired`` says which rows are multiplied: row i of the
weights with row i of the activations (result [rows, ...]), or every row with every row (result [m, b, ...]).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from diffuzz.kernels import arguments

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, Int, UInt8

    Blocks: TypeAlias = UInt8[np.ndarray, "rows blocks type_size"]
    # float32[rows, b], or float32[rows] if rows are paired.
    Dots: TypeAlias = Float32[np.ndarray, " ..."]
    # (blocks, x float32[b, k], paired) to the dot products.
    BlockDot: TypeAlias = Callable[[Blocks, Float32[np.ndarray, "b k"], bool], Dots]

# Elements held at a time for a batch of dot products.
_CHUNK = 1 << 22


def batched(
    dot: BlockDot,
    format: str,
    weights: UInt8[np.ndarray, "m row_bytes"],
    x: Float32[np.ndarray, "b k"],
    *,
    paired: bool,
) -> Dots:
    """``dot`` of checked arguments, for so many rows at a time that its arrays stay small: float32[m, b], or float32[b]
    if ``paired`` (see the module's docstring).

    Raises ValueError for wrong arguments.
    """
    rows, array = arguments.dot(format, weights, x, paired=paired)
    step = max(1, _CHUNK // max(1, array.shape[1] if paired else array.size))
    if not (len(rows) and len(array)):
        return np.zeros(len(rows) if paired else (len(rows), len(array)), np.float32)
    with np.errstate(all="ignore"):
        if len(rows) <= step:
            return dot(rows, array, paired)
        starts = range(0, len(rows), step)
        chunks = (dot(rows[i : i + step], array[i : i + step] if paired else array, paired) for i in starts)
        return np.concatenate(list(chunks))


def met(w: np.ndarray, y: np.ndarray, paired: bool) -> tuple[np.ndarray, np.ndarray]:
    """``w`` [m, ...] and ``y`` [b, ...] with axes added so that they broadcast as ``paired`` says."""
    return (w, y) if paired else (w[:, None], y[None])


def sums(
    w: Int[np.ndarray, "m blocks lanes terms"], y: Int[np.ndarray, "b blocks lanes terms"], paired: bool
) -> Float64[np.ndarray, "... blocks lanes"]:
    """``sum_t w[..., t] y[..., t]``, exact for sums below 2^53: [b, blocks, lanes] if ``paired``, else [m, b, blocks,
    lanes].
    """
    w, y = np.ascontiguousarray(w, np.float64), np.ascontiguousarray(y, np.float64)
    # Not matmul: its threads may wait for each other far longer than these short sums take.
    total: Float64[np.ndarray, "... blocks lanes"] = np.einsum("rnlt,rnlt->rnl" if paired else "mnlt,bnlt->mbnl", w, y)
    # An integer zero has no sign, and -0 + 0 is +0.
    positive: Float64[np.ndarray, "... blocks lanes"] = np.add(total, 0.0, order="C")
    return positive


def by_fours(codes: Int[np.ndarray, "rows blocks 32*g"]) -> Int[np.ndarray, "rows blocks 8 4*g"]:
    """The codes of each block in eight lanes: lane l of AVX2's byte products holds elements 32 j + 4 l + (0..3)."""
    split = codes.reshape(*codes.shape[:2], -1, 8, 4)
    return np.ascontiguousarray(split.swapaxes(2, 3)).reshape(*codes.shape[:2], 8, -1)


def crosswise(lanes: Float32[np.ndarray, "... 8"]) -> Float32[np.ndarray, " ..."]:
    """Eight lanes to one: r_i = f32(v_i + v_{i+4}), then f32(f32(r0 + r2) + f32(r1 + r3)) (movehl, movehdup)."""
    r = lanes[..., 4:] + lanes[..., :4]
    return np.asarray((r[..., 0] + r[..., 2]) + (r[..., 1] + r[..., 3]))


def neighbours(lanes: Float32[np.ndarray, "... 8"]) -> Float32[np.ndarray, " ..."]:
    """Eight lanes to one: r_i = f32(v_i + v_{i+4}), then f32(f32(r0 + r1) + f32(r2 + r3)) (hadd, hadd)."""
    r = lanes[..., :4] + lanes[..., 4:]
    return np.asarray((r[..., 0] + r[..., 1]) + (r[..., 2] + r[..., 3]))


def halving(lanes: Float32[np.ndarray, "... lanes"]) -> Float32[np.ndarray, " ..."]:
    """Lanes to one: the upper half is added to the lower until one lane is left (AVX512's reduce_add)."""
    while lanes.shape[-1] > 1:
        middle = lanes.shape[-1] // 2
        lanes = lanes[..., middle:] + lanes[..., :middle]
    return lanes[..., 0]
