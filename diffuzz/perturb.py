"""Perturbation models: how an input may move, given the shape of the move (its *direction*) and a budget delta.

A case stores the direction t (float32, elements in [-1, 1]); the model turns it into a move dx. Every direction is thus
admissible by construction, stays readable ("+1 x 3, -1 x 253") and can be minimised like any other array.

    componentwise   dx_i = delta |x_i| s_i,  s_i = +1 if t_i >= 0 else -1     drift = max_i |dx_i| / |x_i|
    normwise        dx = delta ||x||_2 t / max(1, ||t||_2)                    drift = ||dx||_2 / ||x||_2
    l1              dx = delta ||x||_1 t / max(1, ||t||_1)                    drift = ||dx||_1 / ||x||_1
    ulp             x_i to the next float32 up (t_i > 0), down (t_i < 0)      drift = max_i |dx_i| / max_i |x_i|

The drift is measured on the move that was made, not assumed: a direction shorter than 1 makes a smaller step.
All functions take arrays of shape [b, ...] and an array module (numpy or jax.numpy), and compute in float64 there (in
JAX: in the widest float that is enabled). ``delta`` is not used by ``ulp``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

MODELS = ("componentwise", "normwise", "l1", "ulp")
# The p of the norm in which each model measures a move; componentwise is the maximum norm of dx_i / |x_i|.
NORM: dict[str, float] = {"componentwise": np.inf, "normwise": 2, "l1": 1, "ulp": np.inf}


def norm(x: Any, p: float, xp: Any = np) -> Any:
    """``||x||_p`` (p = 1, 2 or inf) over all axes but the first: float[b]."""
    magnitude = xp.abs(x.reshape(x.shape[0], -1))
    if p == 1:
        return magnitude.sum(axis=1)
    if p == 2:
        # Scaled by the largest element, so that squares neither overflow nor vanish.
        peak = magnitude.max(axis=1)
        safe = xp.where(peak > 0, peak, 1.0)
        return safe * xp.sqrt(((magnitude / safe[:, None]) ** 2).sum(axis=1))
    return magnitude.max(axis=1)


def apply(model: str, x: Any, direction: Any, delta: float, xp: Any = np) -> Any:
    """The moved input ``x + dx``, float64[b, ...]; for ``ulp`` its elements are float32 numbers.

    Args:
        model: one of MODELS.
        x: float32[b, ...], the input.
        direction: float32[b, ...], the shape t of the move.
        delta: budget; the drift is at most delta (componentwise: exactly delta).
        xp: numpy or jax.numpy.
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


def drift(model: str, x: Any, moved: Any, xp: Any = np) -> Any:
    """Relative input drift of ``x -> moved`` in the measure of the model: float64[b]; 0 for a zero vector."""
    wide = x.astype(float)
    move = moved.astype(float) - wide
    if model == "componentwise":
        size = xp.abs(wide)
        return norm(xp.where(size > 0, move / xp.where(size > 0, size, 1.0), 0.0), np.inf, xp)
    p = NORM[model]
    whole = norm(wide, p, xp)
    return xp.where(whole > 0, norm(move, p, xp) / xp.where(whole > 0, whole, 1.0), 0.0)
