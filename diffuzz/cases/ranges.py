"""The numbers within the range of a tensor, and how other numbers are brought into it.

An array of a case is float32, and a tensor may hold fewer numbers than that: those of bfloat16, float16 or a float8.
Then its elements are such numbers, and a function can be called with an array of that dtype without any rounding.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Float32

    from diffuzz.cases.space import TensorSpec

# Numbers that fit in float32, which cases are written in.
HELD = ("float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "float64")


def clip(spec: TensorSpec, values: Float[np.ndarray, "b ..."]) -> Float32[np.ndarray, "b ..."]:
    """``values`` as float32 within the range of ``spec``, rounded to what it holds; NaN becomes the number of the range
    that is nearest to 0.

    Where ``spec`` has a smallest peak, the first element of a row below it becomes the upper end of the range.
    """
    low, high = float32_range(spec)
    clipped: Float32[np.ndarray, "b ..."] = held(spec.holds, np.clip(values, low, high).astype(np.float32))
    missing = np.isnan(clipped)
    if missing.any():
        clipped[missing] = np.clip(np.float32(0), low, high)
    if spec.smallest_peak:
        flat = clipped.reshape(len(clipped), -1)
        small = np.abs(flat).max(axis=1) < np.float64(spec.smallest_peak)
        flat[small, 0] = high
    return clipped


def dtype_of(name: str) -> np.dtype:
    """The NumPy dtype of that name; bfloat16 and float8 are those of ml_dtypes."""
    if name in ("float32", "float64", "float16"):
        return np.dtype(name)
    import ml_dtypes

    found: np.dtype = np.dtype(getattr(ml_dtypes, name))
    return found


def held(name: str, values: Float32[np.ndarray, " ..."]) -> Float32[np.ndarray, " ..."]:
    """The numbers of the dtype ``name`` that are nearest to ``values``, as float32; beyond its largest the largest."""
    if name in ("float32", "float64"):
        return values
    dtype, largest = dtype_of(name), largest_of(name)
    return np.asarray(np.clip(values, -largest, largest).astype(dtype).astype(np.float32))


@cache
def largest_of(name: str) -> float:
    """The largest finite number of a dtype; at most that of float32, which cases are written in."""
    if name in ("float32", "float64", "float16"):
        return float(min(np.finfo(name).max, np.finfo(np.float32).max))
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype_of(name)).max)  # type: ignore[no-untyped-call]  # it has no types


def has_infinity(name: str) -> bool:
    """Whether a dtype holds an infinity; in float8_e4m3fn what is beyond its largest number is NaN."""
    return name != "float8_e4m3fn"


def float32_range(spec: TensorSpec) -> tuple[np.float32, np.float32]:
    """The least and the largest number within [low, high] of ``spec`` that it holds."""
    return _ends(spec.low, spec.high, spec.holds)


@lru_cache(maxsize=1024)
def _ends(low: float, high: float, holds: str) -> tuple[np.float32, np.float32]:
    name = "float32" if holds == "float64" else holds
    dtype, most = dtype_of(name), largest_of(name)
    ends = []
    for end, inwards in ((low, most), (high, -most)):
        # A conversion rounds to nearest, which may lie outside.
        number = np.asarray(np.clip(end, -most, most)).astype(dtype)
        outside = float(number) < low if inwards > 0 else float(number) > high
        ends.append(np.float32(np.nextafter(number, np.asarray(inwards).astype(dtype)) if outside else number))
    return ends[0], ends[1]
