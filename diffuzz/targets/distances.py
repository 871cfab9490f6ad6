"""Measures: how far apart two results are. They are pure functions, whose first argument is the reference.

Vectors lie along the last axis and every other axis is a batch: [..., n] and [..., n] give [...]. Two arrays of
different shapes raise ValueError, because statistics are compared only over the same tensor, the same tokens and the
same sample count. (The published 18.23x came from pooling 7 tokens on one side and taking the last one on the other;
like for like it is 1.22x to 1.25x.)

Everything is computed in float64 (in JAX: in the widest float that is enabled); ``xp`` is numpy or jax.numpy. An array
compared with itself has distance 0, cosine 1 and ratio 1, even if it is zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats.arrays import AnyArray, ArrayModule

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64, Int64


def relative_l2(
    reference: Float[AnyArray, "... n"], other: Float[AnyArray, "... n"], xp: ArrayModule = np
) -> Float64[AnyArray, " ..."]:
    """``||reference - other||_2 / ||reference||_2``; 0 where both are zero, inf where only the reference is."""
    a, b = _alike(reference, other)
    return _ratio(_length(a - b, xp), _length(a, xp), xp)


def symmetric_l2(
    a: Float[AnyArray, "... n"], b: Float[AnyArray, "... n"], xp: ArrayModule = np
) -> Float64[AnyArray, " ..."]:
    """``||a - b||_2 / max(||a||_2, ||b||_2)``, at most 2; ``relative_l2`` where the norms are equal; 0 where both are
    zero.
    """
    a, b = _alike(a, b)
    return _ratio(_length(a - b, xp), xp.maximum(_length(a, xp), _length(b, xp)), xp)


def rel_diff(
    reference: Float[AnyArray, " ..."], other: Float[AnyArray, " ..."], xp: ArrayModule = np
) -> Float64[AnyArray, " ..."]:
    """``|A - B| / max(|A|, 1e-9)``, element by element: the measure of FFN-GGUF-008 and 010.

    It is unbounded for a signed sum, whose terms may cancel, so it is never the objective of a search.
    """
    a, b = _alike(reference, other)
    return xp.abs(a - b) / xp.maximum(xp.abs(a), 1e-9)


def nmse(
    reference: Float[AnyArray, "... n"], other: Float[AnyArray, "... n"], xp: ArrayModule = np
) -> Float64[AnyArray, " ..."]:
    """``mse(reference, other) / mse(reference, 0)``: the measure of ggml's test-backend-ops."""
    return relative_l2(reference, other, xp) ** 2


def l1(
    reference: Float[AnyArray, "... n"], other: Float[AnyArray, "... n"], xp: ArrayModule = np
) -> Float64[AnyArray, " ..."]:
    """``||reference - other||_1``; for distributions, twice the total variation."""
    a, b = _alike(reference, other)
    return xp.abs(a - b).sum(axis=-1)


def relative_l1(
    reference: Float[AnyArray, "... n"], other: Float[AnyArray, "... n"], xp: ArrayModule = np
) -> Float64[AnyArray, " ..."]:
    """``||reference - other||_1 / ||reference||_1``; 0 where both are zero, inf where only the reference is."""
    a, b = _alike(reference, other)
    return _ratio(xp.abs(a - b).sum(axis=-1), xp.abs(a).sum(axis=-1), xp)


def cosine(
    reference: Float[AnyArray, "... n"], other: Float[AnyArray, "... n"], xp: ArrayModule = np
) -> Float64[AnyArray, " ..."]:
    """``a.b / (||a||_2 ||b||_2)``; 1 where both are zero, 0 where only one of them is."""
    a, b = _alike(reference, other)
    a, b = _scaled(a, xp), _scaled(b, xp)
    product = _length(a, xp) * _length(b, xp)
    both_zero = (_length(a, xp) == 0) & (_length(b, xp) == 0)
    return xp.where(
        product > 0, (a * b).sum(axis=-1) / xp.where(product > 0, product, 1.0), xp.where(both_zero, 1.0, 0.0)
    )


def kl_divergence(
    reference: Float[AnyArray, "... n"], other: Float[AnyArray, "... n"], xp: ArrayModule = np
) -> Float64[AnyArray, " ..."]:
    """``sum_i p_i log(p_i / q_i)`` in nats, with 0 log 0 = 0; inf where q_i = 0 < p_i.

    The arguments are not normalised. Raises ValueError for negative numbers, in NumPy only.
    """
    p, q = _alike(reference, other)
    if xp is np and (np.any(p < 0) or np.any(q < 0)):
        raise ValueError("a distribution has a negative element: probabilities are needed")
    held, missing = p > 0, (p > 0) & (q <= 0)
    logs = xp.log(xp.where(held, p, 1.0)) - xp.log(xp.where(held & ~missing, q, 1.0))
    terms = xp.where(missing, xp.inf, xp.where(held, p * xp.where(held, logs, 0.0), 0.0))
    return terms.sum(axis=-1)


def spread(tokens: Float[AnyArray, "... tokens n"], xp: ArrayModule = np) -> Float64[AnyArray, " ..."]:
    """Population standard deviation over the tokens, averaged over the n components."""
    wide = tokens.astype(float)
    centred = wide - wide.mean(axis=-2, keepdims=True)
    return xp.sqrt((centred * centred).mean(axis=-2)).mean(axis=-1)


def std_ratio(
    reference: Float[AnyArray, "... tokens n"],
    other: Float[AnyArray, "... tokens n"],
    floor: float = 0.0,
    xp: ArrayModule = np,
) -> Float64[AnyArray, " ..."]:
    """``max(spread(reference), floor) / max(spread(other), floor)``, over the same tokens; 1 where both are zero.

    FFN-GGUF-013 prints this minus 1.
    """
    a, b = _alike(reference, other)
    top, bottom = xp.maximum(spread(a, xp), floor), xp.maximum(spread(b, xp), floor)
    return xp.where((top == 0) & (bottom == 0), 1.0, _ratio(top, bottom, xp))


def ulp_distance(a: Float32[np.ndarray, " ..."], b: Float32[np.ndarray, " ..."]) -> Int64[np.ndarray, " ..."]:
    """Number of float32 steps between a and b, element by element (NumPy only).

    -0 and +0 are the same number; two NaNs have distance 0, a NaN and a number 2^32, which is more than any two
    numbers. Raises ValueError unless both are float32.
    """
    for name, array in (("a", a), ("b", b)):
        if np.asarray(array).dtype != np.float32:
            raise ValueError(f"{name} is {np.asarray(array).dtype}: float32 is needed")
    _same_shape(a, b)
    nan_a, nan_b = np.isnan(a), np.isnan(b)
    steps = np.abs(_ordinal(a) - _ordinal(b))
    return np.where(nan_a & nan_b, 0, np.where(nan_a | nan_b, 2**32, steps))


def _ordinal(x: Float32[np.ndarray, " ..."]) -> Int64[np.ndarray, " ..."]:
    """Ranks of float32 numbers: consecutive numbers have consecutive ranks, and both zeros have rank 0."""
    bits = np.ascontiguousarray(x).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits + 2**31), bits)


def _alike(a: AnyArray, b: AnyArray) -> tuple[Float64[AnyArray, " ..."], Float64[AnyArray, " ..."]]:
    _same_shape(a, b)
    return a.astype(float), b.astype(float)


def _same_shape(a: AnyArray, b: AnyArray) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes {tuple(a.shape)} and {tuple(b.shape)} differ: only like is compared with like")


def _peak(x: Float[AnyArray, "... n"], xp: ArrayModule) -> Float[AnyArray, "... 1"]:
    peak = xp.abs(x).max(axis=-1, keepdims=True)
    return xp.where((peak > 0) & xp.isfinite(peak), peak, 1.0)


def _scaled(x: Float[AnyArray, "... n"], xp: ArrayModule) -> Float[AnyArray, "... n"]:
    """x divided by its largest magnitude, so that squares neither overflow nor vanish."""
    return x / _peak(x, xp)


def _length(x: Float[AnyArray, "... n"], xp: ArrayModule) -> Float[AnyArray, " ..."]:
    """``||x||_2``, by ``_scaled``."""
    peak = _peak(x, xp)
    return peak[..., 0] * xp.sqrt(((x / peak) ** 2).sum(axis=-1))


def _ratio(top: Float[AnyArray, " ..."], bottom: Float[AnyArray, " ..."], xp: ArrayModule) -> Float[AnyArray, " ..."]:
    """top / bottom, with 0 / 0 = 0 and x / 0 = inf."""
    safe = xp.where(bottom == 0, 1.0, bottom)
    return xp.where(bottom == 0, xp.where(top == 0, 0.0, xp.inf), top / safe)
