"""Dot products in SIMD lanes: exact integer sums of codes, and the orders in which lanes are added up.

A vectorised kernel cuts a block into lanes, sums integer products in each, and adds the lanes at the end. The integer
sums are exact, so their order is nobody's business (here: float64, which holds them all); the float32 steps that follow
are not.

Arrays of weights and activations have a leading axis of rows. ``paired`` says how they meet: row i with row i (result
[rows, ...]), or every row of weights with every row of activations (result [m, b, ...]).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from diffuzz.kernels import arguments

# Elements held at a time for a batch of dot products.
_CHUNK = 1 << 22


def batched(
    dot: Callable[[np.ndarray, np.ndarray, bool], np.ndarray],
    format: str,
    weights: np.ndarray,
    x: np.ndarray,
    *,
    paired: bool,
) -> np.ndarray:
    """Check the arguments of a dot product, and take as many rows at a time as memory should hold.

    Args:
        dot: ``(blocks uint8[rows, blocks, type_size], x float32[b, k], paired)`` to float32[rows, b], or [rows].
        format, weights, x: as of ``vec_dot``.
        paired: as above.
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
    """The two with axes that broadcast as ``paired`` says."""
    return (w, y) if paired else (w[:, None], y[None])


def sums(w: np.ndarray, y: np.ndarray, paired: bool) -> np.ndarray:
    """``sum_t w[..., t] y[..., t]`` of integers below 2^53 in all, exact: float64 [rows or (m, b), blocks, lanes].

    Args:
        w, y: integers [rows, blocks, lanes, terms].
    """
    w, y = np.ascontiguousarray(w, np.float64), np.ascontiguousarray(y, np.float64)
    # Not matmul, whose threads may wait for each other far longer than these short sums take.
    total = np.einsum("rnlt,rnlt->rnl" if paired else "mnlt,bnlt->mbnl", w, y)
    return np.add(total, 0.0, order="C")  # an integer zero has no sign


def by_fours(codes: np.ndarray) -> np.ndarray:
    """Integers [rows, blocks, 32 g] to [rows, blocks, 8, 4 g]: lane l of AVX2's byte products holds elements 32 j + 4 l
    + (0..3).
    """
    split = codes.reshape(*codes.shape[:2], -1, 8, 4)
    return np.ascontiguousarray(split.swapaxes(2, 3)).reshape(*codes.shape[:2], 8, -1)


def crosswise(lanes: np.ndarray) -> np.ndarray:
    """Eight lanes to one: r_i = f32(v_i + v_{i+4}), then f32(f32(r0 + r2) + f32(r1 + r3)) (movehl, movehdup)."""
    r = lanes[..., 4:] + lanes[..., :4]
    return np.asarray((r[..., 0] + r[..., 2]) + (r[..., 1] + r[..., 3]))


def neighbours(lanes: np.ndarray) -> np.ndarray:
    """Eight lanes to one: r_i = f32(v_i + v_{i+4}), then f32(f32(r0 + r1) + f32(r2 + r3)) (hadd, hadd)."""
    r = lanes[..., :4] + lanes[..., 4:]
    return np.asarray((r[..., 0] + r[..., 1]) + (r[..., 2] + r[..., 3]))


def halving(lanes: np.ndarray) -> np.ndarray:
    """Lanes to one by adding the upper half to the lower until one is left (AVX512's reduce_add)."""
    while lanes.shape[-1] > 1:
        middle = lanes.shape[-1] // 2
        lanes = lanes[..., middle:] + lanes[..., :middle]
    return lanes[..., 0]
