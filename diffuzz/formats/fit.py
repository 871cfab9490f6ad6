"""Quantisers of weights for the K formats: one rule for those with minimums, one for those without.

They are ours, plain and vectorised, so that a distribution of weights can be drawn and quantised; ggml's own search for
better scales gives other bytes for the same weights, and decoding does not care.
"""

from __future__ import annotations

import numpy as np


def with_minimums(values: np.ndarray, groups: int, top: int, levels: int) -> dict[str, np.ndarray]:
    """Fields d, dmin, scales, minimums, codes of super-blocks float32[b, 256] with ``groups`` sub-blocks.

    Of each sub-block [least, most], least <= 0: minimum = -least and scale = (most - least) / top, divided by the f16
    dmin and d that give the largest of them ``levels``, the scale rounded up, the minimum to nearest; code =
    clip(rint((x + dmin minimum) / (d scale)), 0, top). The error is at most d scale / 2 inside the range, and up to
    dmin / 2 more at its ends, where a rounded minimum clips, as long as no f16 overflows (max|x| < 9e5 at least).
    Raises ValueError for NaN and infinities.
    """
    x = _finite(values).reshape(len(values), groups, -1)
    least = np.minimum(x.min(axis=2), 0)
    steps = (np.maximum(x.max(axis=2), 0) - least) / top
    d, scales = _shared(steps, levels, np.ceil)
    dmin, minimums = _shared(-least, levels, np.rint)
    step = (d[:, None] * scales)[:, :, None]
    shifted = x + (dmin[:, None] * minimums)[:, :, None]
    codes = np.clip(np.rint(np.divide(shifted, step, out=np.zeros_like(x), where=step > 0)), 0, top)
    return {
        "d": d.astype(np.float16),
        "dmin": dmin.astype(np.float16),
        "scales": scales.astype(np.int32),
        "minimums": minimums.astype(np.int32),
        "codes": codes.astype(np.int32).reshape(values.shape),
    }


def symmetric(values: np.ndarray, groups: int, lowest: int, levels: int) -> dict[str, np.ndarray]:
    """Fields d, scales, codes of super-blocks float32[b, 256]; codes from ``lowest`` to -lowest - 1, scales up to
    ``levels``.

    scale = max|x| / (-lowest - 1), divided by the f16 d that gives the largest of them ``levels`` and rounded up; the
    error is at most d scale / 2, as long as d does not overflow (max|x| < 6e6 at least). The codes come without the
    format's offset. Raises ValueError for NaN and infinities.
    """
    x = _finite(values).reshape(len(values), groups, -1)
    d, scales = _shared(np.abs(x).max(axis=2) / (-lowest - 1), levels, np.ceil)
    step = (d[:, None] * scales)[:, :, None]
    codes = np.clip(np.rint(np.divide(x, step, out=np.zeros_like(x), where=step > 0)), lowest, -lowest - 1)
    return {
        "d": d.astype(np.float16),
        "scales": scales.astype(np.int32),
        "codes": codes.astype(np.int32).reshape(values.shape),
    }


def _finite(values: np.ndarray) -> np.ndarray:
    """float64 of ``values``."""
    if not np.isfinite(values).all():
        raise ValueError(f"values: {values[~np.isfinite(values)][0]}, where finite weights are needed")
    return values.astype(np.float64)


def _shared(wanted: np.ndarray, levels: int, rounding: np.ufunc) -> tuple[np.ndarray, np.ndarray]:
    """A float64 that is an f16 for each row, and integers up to ``levels`` that times it come close to ``wanted``."""
    exact = wanted.max(axis=1) / levels
    half = exact.astype(np.float16)
    # Never below the exact scale, so that the largest sub-block still fits.
    half = np.where(half < exact, np.nextafter(half, np.float16(np.inf)), half)
    half = np.where(np.isfinite(half), half, np.float16(65504)).astype(np.float64)
    ratio = np.divide(wanted, half[:, None], out=np.zeros_like(wanted), where=half[:, None] > 0)
    return half, np.clip(rounding(ratio), 0, levels)
