"""Batches drawn straight from a space: uniform numbers (the baseline), and structured ones (where searches should
start).

Structure beats the optimiser: extremes of kernels sit at few distinct levels, ties, one spike, short patterns, and
bytes whose fields are all alike. Both functions return a batch ``name -> array[rows, ...]`` of the largest shapes; its
rows are admissible by construction, or nearly always so (an objective drops the others).
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.space import Space, TensorSpec

Batch = dict[str, np.ndarray]

# Where a tensor's range goes below this share of its end, some rows are scaled down as a whole: half of them to where
# f16 numbers end, half as far as there are products of float32 numbers to lose.
_FAR_DOWN, _FAR_DOWN_SHARE = 2.0**-21, 0.3
_NEAR, _FAR = 48.0, 140.0
# How many powers of two below the end of a range the part of it ends at most that a row of scattered numbers is from.
# Of a few hundred logits that are hundreds apart, most have no weight.
_SCATTERED = {"activations": 24.0, "logits": 6.0}
LARGEST_HALF = 65504.0


def uniform(space: Space, rng: np.random.Generator, rows: int) -> Batch:
    """Every element uniform in its range; directions uniform in [-1, 1]; blocks with uniform bytes and log-uniform
    scales.
    """
    batch = {}
    for spec in space.tensors:
        shape = (rows, *spec.array_shape())
        if spec.kind == "blocks":
            batch[spec.name] = _random_blocks(spec, rng, shape)
        elif spec.kind == "positions":
            batch[spec.name] = rng.integers(int(spec.low), int(spec.high) + 1, shape).astype(np.int32)
        else:
            batch[spec.name] = clip(spec, rng.uniform(spec.low, spec.high, shape))
    return batch


def structured(space: Space, rng: np.random.Generator, rows: int) -> Batch:
    """Each row of each tensor from a family picked at random; see the private functions below for the families."""
    batch = {}
    for spec in space.tensors:
        shape = (rows, *spec.array_shape())
        if spec.kind == "blocks":
            batch[spec.name] = _structured_blocks(spec, rng, shape)
        elif spec.kind == "positions":
            batch[spec.name] = _positions(spec, rng, shape)
        elif spec.kind == "direction":
            batch[spec.name] = _directions(spec, rng, shape)
        else:
            batch[spec.name] = _vectors(spec, rng, shape)
    return batch


def scattered(space: Space, rng: np.random.Generator, rows: int) -> Batch:
    """As ``uniform``, every element a number of its own, but where a range reaches far down two rows in three draw
    from a part of it, whose end is log-uniform: what is narrow is found nowhere else than among many numbers.
    """
    batch = uniform(space, rng, rows)
    for spec in space.tensors:
        if reach(spec) and spec.kind in _SCATTERED:
            x = batch[spec.name]
            exponents = rng.uniform(0, min(_SCATTERED[spec.kind], reach(spec)), rows) * (rng.random(rows) < 2 / 3)
            batch[spec.name] = clip(spec, x * np.exp2(-exponents).reshape(rows, *[1] * (x.ndim - 1)))
        elif spec.kind == "positions":
            half = rng.random(batch[spec.name].shape) < 0.5
            batch[spec.name] = np.where(half, _positions(spec, rng, half.shape), batch[spec.name])
    return batch


def reach(spec: TensorSpec) -> float:
    """How many powers of two below the end of its range rows of a tensor may lie, at most 140; 0 where that is no more
    than some twenty, as in the spaces of relative measures.
    """
    if spec.smallest_peak >= spec.high * _FAR_DOWN:
        return 0.0
    return min(_FAR, float(np.log2(spec.high / spec.smallest_peak))) if spec.smallest_peak else _FAR


def far_down(spec: TensorSpec, rng: np.random.Generator, rows: int) -> np.ndarray:
    """Powers of two below the end of a range that reaches far down, log-uniform: float64[rows, 1]."""
    end = np.where(rng.random((rows, 1)) < 0.5, min(_NEAR, reach(spec)), reach(spec))
    return end * rng.random((rows, 1))


def clip(spec: TensorSpec, values: np.ndarray) -> np.ndarray:
    """``values`` [rows, ...] as float32 within the range of ``spec``; a row below its smallest peak is lifted by one
    element.
    """
    low, high = float32_range(spec)
    clipped = np.clip(values, low, high).astype(np.float32)
    missing = np.isnan(clipped)
    if missing.any():
        clipped[missing] = np.clip(np.float32(0), low, high)
    if spec.smallest_peak:
        flat = clipped.reshape(len(clipped), -1)
        small = np.abs(flat).max(axis=1) < np.float64(spec.smallest_peak)
        flat[small, 0] = high
    return clipped


def float32_range(spec: TensorSpec) -> tuple[np.float32, np.float32]:
    """The largest interval of float32 numbers within [low, high]."""
    low, high = np.float32(spec.low), np.float32(spec.high)
    if float(low) < spec.low:
        low = np.nextafter(low, np.float32(np.inf))
    if float(high) > spec.high:
        high = np.nextafter(high, np.float32(-np.inf))
    return low, high


def magnitudes(spec: TensorSpec, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in the range of ``spec``: the ends, powers of two below them, log-uniform, uniform or zero, a quarter of
    each or so.
    """
    low, high = spec.low, spec.high
    if spec.kind == "gain":
        log = np.exp(rng.uniform(np.log(low), np.log(high), shape))
        return np.choose(rng.integers(0, 3, shape), [log, np.full(shape, low), np.full(shape, high)])
    # The magnitude is high 2^-e; all families share one random number, of which each element uses one.
    r = rng.random(shape)
    with np.errstate(divide="ignore"):
        exponents = [np.zeros(()), np.floor(16 * r), 12 * r, -np.log2(r), np.full((), np.inf)]
    size = high * np.exp2(-np.choose(rng.integers(0, len(exponents), shape), exponents))
    return np.where(rng.random(shape) < 0.5, size, -size)


def _vectors(spec: TensorSpec, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    rows, n = shape[0], int(np.prod(shape[1:]))
    families: list[Callable[[int], np.ndarray]] = [
        lambda r: _levels(spec, rng, r, n),
        lambda r: _pattern(spec, rng, r, n),
        lambda r: _spike(spec, rng, r, n),
        lambda r: _bell(spec, rng, r, n),
        lambda r: rng.uniform(spec.low, spec.high, (r, n)),
    ]
    out = np.empty((rows, n))
    family = rng.integers(0, len(families), rows)
    for index, draw in enumerate(families):
        chosen = family == index
        out[chosen] = draw(int(chosen.sum()))
    if reach(spec) and spec.kind == "activations":
        out *= 2.0 ** -np.where(rng.random((rows, 1)) < _FAR_DOWN_SHARE, far_down(spec, rng, rows), 0)
    return clip(spec, out.reshape(shape))


def _levels(spec: TensorSpec, rng: np.random.Generator, rows: int, n: int) -> np.ndarray:
    """Two to four levels, in runs or scattered, in random proportions."""
    levels = magnitudes(spec, rng, (rows, 4))
    count = rng.integers(2, 5, (rows, 1))
    share = rng.random((rows, 1)) ** 3
    pick = np.where(rng.random((rows, n)) < share, rng.integers(0, 4, (rows, n)) % count, 0)
    pick = np.where(rng.random((rows, 1)) < 0.5, np.sort(pick, axis=1), pick)
    return np.take_along_axis(levels, pick, axis=1)


def _pattern(spec: TensorSpec, rng: np.random.Generator, rows: int, n: int) -> np.ndarray:
    """A pattern of one to eight numbers, repeated."""
    pattern = magnitudes(spec, rng, (rows, 8))
    period = rng.integers(1, 9, (rows, 1))
    return np.take_along_axis(pattern, np.arange(n)[None, :] % period, axis=1)


def _spike(spec: TensorSpec, rng: np.random.Generator, rows: int, n: int) -> np.ndarray:
    """One number everywhere, another at a single place."""
    base, spike = magnitudes(spec, rng, (rows, 1)), magnitudes(spec, rng, (rows, 1))
    # Loops go wrong at their ends more often than anywhere else.
    place = np.choose(rng.integers(0, 4, (rows, 1)), [rng.integers(0, n, (rows, 1))] * 2 + [0, n - 1])
    return np.where(np.arange(n)[None, :] == place, spike, base)


def _bell(spec: TensorSpec, rng: np.random.Generator, rows: int, n: int) -> np.ndarray:
    """Gaussian around the middle of the range, with a log-uniform scale."""
    middle = (spec.low + spec.high) / 2
    return middle + (spec.high - middle) * 2.0 ** -rng.uniform(1, 10, (rows, 1)) * rng.standard_normal((rows, n))


def _directions(spec: TensorSpec, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """All alike, alternating, random signs, half and half, or one coordinate."""
    rows, n = shape[0], int(np.prod(shape[1:]))
    index = np.arange(n)[None, :]
    place = rng.integers(0, n, (rows, 1))
    options = [
        np.ones((rows, n)),
        np.where(index % 2 == 0, 1.0, -1.0) * np.ones((rows, 1)),
        np.where(rng.random((rows, n)) < 0.5, 1.0, -1.0),
        np.where(index < place, 1.0, -1.0),
        (index == place) * 1.0,
    ]
    family = rng.integers(0, len(options), rows)
    return np.stack(options)[family, np.arange(rows)].reshape(shape).astype(np.float32)


def _positions(spec: TensorSpec, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """0, 1, the end, powers of two and their neighbours, uniform, log-uniform; a third of them negative, where there
    are such.
    """
    if spec.low < 0 < spec.high:
        size = _positions(attrs.evolve(spec, low=0, high=max(-spec.low, spec.high)), rng, shape)
        return np.where(rng.random(shape) < 1 / 3, -np.minimum(size, int(-spec.low)), np.minimum(size, int(spec.high)))
    low, high = int(spec.low), int(spec.high)
    powers = 2 ** rng.integers(0, 31, shape) + rng.integers(-1, 2, shape)
    options = [
        np.full(shape, low),
        np.full(shape, low + 1),
        np.full(shape, high),
        powers,
        rng.integers(low, high + 1, shape),
        (low + np.exp(rng.uniform(0, np.log(high - low + 1), shape))).astype(np.int64),
    ]
    return np.clip(np.choose(rng.integers(0, len(options), shape), options), low, high).astype(np.int32)


def random_scales(spec: TensorSpec, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Block scales: powers of two, log-uniform over the f16 range, zero or the largest; either sign. float64.

    With a smallest scale, at least that, and positive.
    """
    if spec.largest_scale > LARGEST_HALF:
        return _wide_scales(spec, rng, shape)
    top = spec.largest_scale
    powers = 2.0 ** rng.integers(-24, 16, shape)
    log = 2.0 ** rng.uniform(-14, np.log2(top), shape)
    options = [np.ones(shape), powers, log, log, np.zeros(shape), np.full(shape, top)]
    sign = np.where(rng.random(shape) < 0.75, 1.0, -1.0)
    scales = np.clip(sign * np.choose(rng.choice(6, shape, p=[0.3, 0.2, 0.2, 0.2, 0.05, 0.05]), options), -top, top)
    return np.maximum(np.abs(scales), spec.smallest_scale) if spec.smallest_scale else scales


def _wide_scales(spec: TensorSpec, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Block scales that are no f16 numbers: 1, powers of two and log-uniform over all of float32, zero, the largest."""
    exponents = rng.uniform(-149, np.log2(spec.largest_scale), shape)
    options = [np.ones(shape), 2.0 ** np.floor(exponents), 2.0**exponents, np.zeros(shape)]
    options.append(np.full(shape, spec.largest_scale))
    sign = np.where(rng.random(shape) < 0.75, 1.0, -1.0)
    return np.asarray(sign * np.choose(rng.choice(5, shape, p=[0.2, 0.4, 0.3, 0.05, 0.05]), options))


def with_scales(spec: TensorSpec, blocks: np.ndarray, scales: dict[str, np.ndarray]) -> np.ndarray:
    """Blocks uint8[b, type_size] with the given scale fields (float, [b]) written over."""
    return formats.get(spec.format or "").with_scales(blocks, scales)


def _random_blocks(spec: TensorSpec, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    fmt = formats.get(spec.format or "")
    blocks = rng.integers(0, 256, (int(np.prod(shape)) // fmt.type_size, fmt.type_size), dtype=np.uint8)
    scales = {field: random_scales(spec, rng, (len(blocks),)) for field in fmt.scale_fields}
    return with_scales(spec, blocks, scales).reshape(shape)


def _structured_blocks(spec: TensorSpec, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Fields constant, at an end of their range, or random, block by block; scales alike within a row or not."""
    fmt = formats.get(spec.format or "")
    rows, count = shape[0], int(np.prod(shape)) // fmt.type_size
    per_row = count // rows
    fields = fmt.unpack(_random_blocks(spec, rng, (count, fmt.type_size)))
    alike = np.repeat(rng.random(rows) < 0.5, per_row)
    for name, values in fields.items():
        wide = values.reshape(count, -1)
        if name in fmt.scale_fields:
            first = np.repeat(np.arange(rows) * per_row, per_row)
            minimum = name != "d" and rng.random() < 0.5
            wide = np.where(alike[:, None], wide[first], wide) * (0 if minimum else 1)
        else:
            low, high = wide.min(), wide.max()
            level = np.choose(
                rng.integers(0, 3, (count, 1)), [np.full((count, 1), low), np.full((count, 1), high), wide[:, :1]]
            )
            wide = np.where(rng.random((count, 1)) < 0.6, level, wide)
        fields[name] = wide.reshape(values.shape).astype(values.dtype)
    return fmt.pack(fields).reshape(shape)
