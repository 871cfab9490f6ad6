"""Perturbation models: how an input may move, given a *direction* and a budget delta.

A case stores the direction t (float32, elements in [-1, 1]); the model turns it into a move dx. So every direction is
admissible, is readable ("+1 x 3, -1 x 253") and can be minimised like any other array.

    componentwise   dx_i = delta |x_i| s_i,  s_i = +1 if t_i >= 0 else -1     drift = max_i |dx_i| / |x_i|
    normwise        dx = delta ||x||_2 t / max(1, ||t||_2)                    drift = ||dx||_2 / ||x||_2
    l1              dx = delta ||x||_1 t / max(1, ||t||_1)                    drift = ||dx||_1 / ||x||_1
    ulp             x_i to the next float32 up (t_i > 0), down (t_i < 0)      drift = max_i |dx_i| / max_i |x_i|

The drift is measured from the move, not assumed: a direction shorter than 1 makes a smaller step. All functions take
arrays of shape [b, ...] and an array module ``xp`` (numpy or jax.numpy), and compute in float64 (in JAX: in the widest
float that is enabled). ``ulp`` does not use ``delta``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats.arrays import AnyArray, ArrayModule

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64

MODELS = ("componentwise", "normwise", "l1", "ulp")
# p of the norm in which each model measures a move; componentwise uses the maximum norm of dx_i / |x_i|.
NORM: dict[str, float] = {"componentwise": np.inf, "normwise": 2, "l1": 1, "ulp": np.inf}


def norm(x: Float[AnyArray, "b ..."], p: float, xp: ArrayModule = np) -> Float[AnyArray, " b"]:
    """``||x||_p`` (p = 1, 2 or inf) over all axes but the first."""
    magnitude = xp.abs(x.reshape(x.shape[0], -1))
    if p == 1:
        return magnitude.sum(axis=1)
    if p == 2:
        # Scaled by the largest element, so that squares neither overflow nor vanish.
        peak = magnitude.max(axis=1)
        safe = xp.where(peak > 0, peak, 1.0)
        return safe * xp.sqrt(((magnitude / safe[:, None]) ** 2).sum(axis=1))
    return magnitude.max(axis=1)


def apply(
    model: str,
    x: Float32[AnyArray, "b ..."],
    direction: Float32[AnyArray, "b ..."],
    delta: float,
    xp: ArrayModule = np,
) -> Float64[AnyArray, "b ..."]:
    """The moved input ``x + dx``, in float64; for ``ulp`` its elements are float32 numbers.

    ``model`` is one of MODELS. The drift is at most the budget ``delta``; for ``componentwise`` it is exactly delta.
    """
    if model == "ulp":
        x = x.astype(xp.float32)
        target = xp.where(direction > 0, xp.float32(xp.inf), xp.float32(-xp.inf))
        return xp.where(direction == 0, x, xp.nextafter(x, target)).astype(float)
    wide, t = x.astype(float), direction.astype(float)
    if model == "componentwise":
        return wide + delta * xp.abs(wide) * xp.where(t >= 0, 1.0, -1.0)
    p = NORM[model]
    length = norm(wide, p, xp) * delta / xp.maximum(1.0, norm(t, p, xp))
    return wide + length.reshape(-1, *[1] * (wide.ndim - 1)) * t


def drift(
    model: str, x: Float32[AnyArray, "b ..."], moved: Float64[AnyArray, "b ..."], xp: ArrayModule = np
) -> Float64[AnyArray, " b"]:
    """Relative input drift of ``x -> moved`` in the measure of the model; 0 for a zero vector."""
    wide = x.astype(float)
    move = moved.astype(float) - wide
    if model == "componentwise":
        size = xp.abs(wide)
        return norm(xp.where(size > 0, move / xp.where(size > 0, size, 1.0), 0.0), np.inf, xp)
    p = NORM[model]
    whole = norm(wide, p, xp)
    return xp.where(whole > 0, norm(move, p, xp) / xp.where(whole > 0, whole, 1.0), 0.0)
