"""The float32 numbers within the range of a tensor, and how other numbers are brought into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Float32

    from diffuzz.cases.space import TensorSpec


def clip(spec: TensorSpec, values: Float[np.ndarray, "b ..."]) -> Float32[np.ndarray, "b ..."]:
    """``values`` as float32 within the range of ``spec``; NaN becomes the number of the range that is nearest to 0.

    Where ``spec`` has a smallest peak, the first element of a row below it becomes the upper end of the range.
    """
    low, high = float32_range(spec)
    clipped: Float32[np.ndarray, "b ..."] = np.clip(values, low, high).astype(np.float32)
    missing = np.isnan(clipped)
    if missing.any():
        clipped[missing] = np.clip(np.float32(0), low, high)
    if spec.smallest_peak:
        flat = clipped.reshape(len(clipped), -1)
        small = np.abs(flat).max(axis=1) < np.float64(spec.smallest_peak)
        flat[small, 0] = high
    return clipped


def float32_range(spec: TensorSpec) -> tuple[np.float32, np.float32]:
    """The least and the largest float32 number within [low, high] of ``spec``."""
    low, high = np.float32(spec.low), np.float32(spec.high)
    # A conversion rounds to nearest, which may lie outside.
    if float(low) < spec.low:
        low = np.nextafter(low, np.float32(np.inf))
    if float(high) > spec.high:
        high = np.nextafter(high, np.float32(-np.inf))
    return low, high
