"""Quantisers of weights for the K formats: one rule for formats with minimums, one for those without.

They are simple and vectorised, and make blocks out of drawn weights. ggml searches for better scales, so it gives other
bytes for the same weights; both are valid blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats.rounding import round_half_away

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, Int32


def with_minimums(values: Float32[np.ndarray, "b 256"], groups: int, top: int, levels: int) -> dict[str, np.ndarray]:
    """Fields d, dmin, scales, minimums and codes of super-blocks with ``groups`` sub-blocks and codes 0..top.

    A sub-block with values from least (at most 0) to most wants the minimum -least and the scale (most - least) / top.
    The f16 numbers dmin and d are chosen so that the largest minimum and the largest scale of a super-block become
    ``levels``; in units of d, scales are rounded up, and in units of dmin, minimums to nearest. Then code =
    clip(rint((x + dmin minimum) / (d scale)), 0, top).

    The error is at most d scale / 2 inside the range, and up to dmin / 2 more at its ends, where a rounded minimum
    clips, provided that no f16 overflows (max|x| < 9e5 is enough). Raises ValueError for NaN and infinities.
    """
    x = finite(values).reshape(len(values), groups, -1)
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


def symmetric(values: Float32[np.ndarray, "b 256"], groups: int, lowest: int, levels: int) -> dict[str, np.ndarray]:
    """Fields d, scales and codes of super-blocks with ``groups`` sub-blocks and codes from lowest to -lowest - 1.

    A sub-block wants the scale max|x| / (-lowest - 1). The f16 d is chosen so that the largest scale of a super-block
    becomes ``levels``; in units of d, scales are rounded up. The codes are without the format's offset. The error is at
    most d scale / 2, provided that d does not overflow (max|x| < 6e6 is enough). Raises ValueError for NaN and
    infinities.
    """
    x = finite(values).reshape(len(values), groups, -1)
    d, scales = _shared(np.abs(x).max(axis=2) / (-lowest - 1), levels, np.ceil)
    step = (d[:, None] * scales)[:, :, None]
    codes = np.clip(np.rint(np.divide(x, step, out=np.zeros_like(x), where=step > 0)), lowest, -lowest - 1)
    return {
        "d": d.astype(np.float16),
        "scales": scales.astype(np.int32),
        "codes": codes.astype(np.int32).reshape(values.shape),
    }


def ternary(values: Float32[np.ndarray, "b 256"]) -> dict[str, np.ndarray]:
    """Fields d and codes 0..2 of blocks of ternary weights, by the float32 arithmetic of ggml's reference quantisers.

    d = f16(max|x|), code = round-half-away(f32(x f32(1 / max|x|))) + 1, and 1 in a block of zeros; so an error is at
    most max|x| / 2 plus the rounding of d. Raises ValueError for NaN and infinities.
    """
    finite(values)
    peak = np.abs(values).max(axis=1, keepdims=True)
    inverse = np.where(peak != 0, np.float32(1) / peak, np.float32(0)).astype(np.float32)
    codes = np.clip(round_half_away(values * inverse, np), -1, 1).astype(np.int32) + 1
    return {"d": peak[:, 0].astype(np.float16), "codes": codes}


def nearest_levels(
    values: Float32[np.ndarray, "b n"], levels: Float64[np.ndarray, " count"], groups: int, top: int, reach: float
) -> tuple[Float64[np.ndarray, " b"], Int32[np.ndarray, "b groups"], Int32[np.ndarray, "b n"]]:
    """(d, scales, codes) of super-blocks whose codes stand for ``levels``, which ascend.

    A sub-block wants the scale max|x| / reach; d and scales 0..top are chosen as in ``symmetric``; the code is that of
    the level nearest to x / (d scale), and of the level nearest to 0 where that is 0. Raises ValueError for NaN and
    infinities.
    """
    x = finite(values).reshape(len(values), groups, -1)
    d, scales = _shared(np.abs(x).max(axis=2) / reach, top, np.ceil)
    step = (d[:, None] * scales)[:, :, None]
    scaled = np.divide(x, step, out=np.zeros_like(x), where=step > 0)
    codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, scaled)
    return d, scales.astype(np.int32), codes.astype(np.int32).reshape(values.shape)


def finite(values: np.ndarray) -> Float64[np.ndarray, "b n"]:
    """``values`` in float64. Raises ValueError unless all are finite."""
    if not np.isfinite(values).all():
        raise ValueError(f"values: {values[~np.isfinite(values)][0]}, where finite weights are needed")
    return values.astype(np.float64)


def _shared(
    wanted: Float64[np.ndarray, "b groups"], levels: int, rounding: np.ufunc
) -> tuple[Float64[np.ndarray, " b"], Float64[np.ndarray, "b groups"]]:
    """An f16 number for each row, and whole numbers up to ``levels``, whose products are close to ``wanted``."""
    exact = wanted.max(axis=1) / levels
    half = exact.astype(np.float16)
    # Never below the exact scale, so that the largest sub-block still fits.
    half = np.where(half < exact, np.nextafter(half, np.float16(np.inf)), half)
    half = np.where(np.isfinite(half), half, np.float16(65504)).astype(np.float64)
    ratio = np.divide(wanted, half[:, None], out=np.zeros_like(wanted), where=half[:, None] > 0)
    return half, np.clip(rounding(ratio), 0, levels)
