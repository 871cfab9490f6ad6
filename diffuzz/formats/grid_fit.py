"""Quantisers of weights for formats whose codes are points of a grid: a scale is tried at several sizes, and the
nearest points are taken.

They are vectorised and simple, and make blocks out of drawn weights. ggml's search more, and give other bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats.fit import finite

if TYPE_CHECKING:
    from jaxtyping import Float64, Int32

# Shares of the scale at which the largest weight of a group is the largest coordinate.
_SHARES = (0.55, 0.7, 0.85, 1.0, 1.2)
# Vectors times points at a time.
_CHUNK = 1 << 23


def nearest(
    vectors: Float64[np.ndarray, "... width"], points: Float64[np.ndarray, "points width"]
) -> Int32[np.ndarray, " ..."]:
    """The number of the point nearest to each vector, or of one that float32 cannot tell from it."""
    flat = vectors.reshape(-1, points.shape[1]).astype(np.float32)
    # |v - p|^2 / 2 without |v|^2 is a product, too: of (v, 1) with (-p, |p|^2 / 2).
    ones, half = np.ones((len(flat), 1), np.float32), (points**2).sum(axis=1, keepdims=True) / 2
    longer, table = np.concatenate([flat, ones], axis=1), np.concatenate([-points, half], axis=1).astype(np.float32)
    step = max(1, _CHUNK // len(points))
    parts = [(longer[i : i + step] @ table.T).argmin(axis=1) for i in range(0, len(flat), step)]
    return np.concatenate(parts).astype(np.int32).reshape(vectors.shape[:-1])


def even_signs(
    x: Float64[np.ndarray, "... 8"],
) -> tuple[Float64[np.ndarray, "... 8"], Int32[np.ndarray, " ..."]]:
    """(magnitudes, signs) with an even number of minus signs in each eight; where it is odd, the smallest element gets
    the other sign, and a negative magnitude.
    """
    minus = np.signbit(x)
    least = np.abs(x).argmin(axis=-1)[..., None]
    odd = minus.sum(axis=-1, keepdims=True) % 2 == 1
    flipped = (np.arange(8) == least) & odd
    minus = minus ^ flipped
    return np.where(minus, -x, x), (minus << np.arange(8)).sum(axis=-1).astype(np.int32)


def scales_of_groups(
    x: Float64[np.ndarray, "b groups vectors width"], points: Float64[np.ndarray, "points width"]
) -> Float64[np.ndarray, "b groups"]:
    """The scale of each group, of those tried, with the least squared error, each improved once: sum x p / sum p p."""
    peak = np.abs(x).max(axis=(2, 3))
    best, least = np.zeros(peak.shape), np.full(peak.shape, np.inf)
    for share in _SHARES:
        scale = share * peak / np.abs(points).max()
        safe = np.where(scale > 0, scale, 1.0)[:, :, None, None]
        chosen = points[nearest(x / safe, points)]
        power = (chosen**2).sum(axis=(2, 3))
        fitted = np.maximum((x * chosen).sum(axis=(2, 3)) / np.where(power > 0, power, 1.0), 0)
        error = ((x - fitted[:, :, None, None] * chosen) ** 2).sum(axis=(2, 3))
        best, least = np.where(error < least, fitted, best), np.minimum(error, least)
    return best


def odd_scales(
    wanted: Float64[np.ndarray, "b groups"], levels: int, divisor: int
) -> tuple[Float64[np.ndarray, " b"], Int32[np.ndarray, "b groups"], Float64[np.ndarray, "b groups"]]:
    """(d, scales, steps): steps = d / divisor (2 scale + 1) near those wanted, scales 0..levels - 1, d an f16 number.

    The largest step of a super-block gets the largest scale. A d beyond 65504 is 65504.
    """
    half = (wanted.max(axis=1) * divisor / (2 * levels - 1)).astype(np.float16)
    d = np.where(np.isfinite(half), half, np.float16(65504)).astype(np.float64)
    unit = d[:, None] / divisor
    ratio = np.divide(wanted, unit, out=np.ones_like(wanted), where=unit > 0)
    scales = np.clip(np.rint((ratio - 1) / 2), 0, levels - 1)
    return d, scales.astype(np.int32), unit * (2 * scales + 1)


def magnitudes(
    values: np.ndarray, points: Int32[np.ndarray, "points width"], groups: int, divisor: int, *, even: bool
) -> dict[str, np.ndarray]:
    """Fields d, scales 0..15, grid and signs (a byte for each eight weights) of super-blocks with a grid of magnitudes.

    Raises ValueError for NaN and infinities.
    """
    x = finite(values)
    eight = x.reshape(len(x), 32, 8)
    if even:
        size, signs = even_signs(eight)
    else:
        size, signs = np.abs(eight), (np.signbit(eight) << np.arange(8)).sum(axis=2).astype(np.int32)
    wide = points.astype(np.float64)
    grouped = size.reshape(len(x), groups, -1, points.shape[1])
    d, scales, step = odd_scales(scales_of_groups(grouped, wide), 16, divisor)
    safe = np.where(step > 0, step, 1.0)[:, :, None, None]
    grid = nearest(grouped / safe, wide).reshape(len(x), -1)
    return {"d": d.astype(np.float16), "scales": scales, "grid": grid, "signs": signs}


def shifted(
    values: np.ndarray, points: Int32[np.ndarray, "points 8"], groups: int, shifts: int
) -> dict[str, np.ndarray]:
    """Fields d, scales 0..7, grid and shifts of super-blocks of iq1, with one shift for each of ``shifts`` parts.

    Raises ValueError for NaN and infinities.
    """
    x = finite(values).reshape(len(values), 32, 8)
    both = [8 * points.astype(np.float64) + move for move in (1, -1)]
    grouped = x.reshape(len(x), groups, -1, 8)
    # The scale by the points that are not moved: half as many.
    d, scales, step = odd_scales(scales_of_groups(grouped, 8 * points.astype(np.float64)), 8, 8)
    each = np.repeat(step, 32 // groups, axis=1)[:, :, None]
    scaled = x / np.where(each > 0, each, 1.0)
    grids = np.stack([nearest(scaled, moved) for moved in both])
    error = np.stack([((scaled - moved[grid]) ** 2).sum(axis=2) for moved, grid in zip(both, grids, strict=True)])
    chosen = error.reshape(2, len(x), shifts, -1).sum(axis=3).argmin(axis=0).astype(np.int32)
    grid = np.where(np.repeat(chosen, 32 // shifts, axis=1) == 0, grids[0], grids[1])
    return {"d": d.astype(np.float16), "scales": scales, "shifts": chosen, "grid": grid}
