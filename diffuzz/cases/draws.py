"""Random batches of a space: ``uniform`` numbers are the baseline, ``structured`` ones are where searches should start.

Structure matters more than the optimiser, because kernels have their extremes at few distinct levels, ties, one spike,
short patterns, and bytes whose fields are all alike. Batches are arrays by name, of the largest shapes with a leading
axis of rows. Their rows are admissible by construction, or nearly always so (an objective drops the others).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.cases.ranges import clip
from diffuzz.cases.space import Space, TensorSpec

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64, Int32, UInt8

# Arrays by name, each with a leading axis of rows.
Batch: TypeAlias = dict[str, np.ndarray]

# A range reaches far down if it has numbers below _FAR_DOWN times its end. Then a share of the rows is scaled down as a
# whole: half of them by up to 2^-_NEAR, where f16 numbers end, half by up to 2^-_FAR, where products of float32 numbers
# underflow.
_FAR_DOWN, _FAR_DOWN_SHARE = 2.0**-21, 0.3
_NEAR, _FAR = 48.0, 140.0
# A row of ``scattered`` draws from a part of the range, which ends at most so many powers of two below the range's end.
# It is less for logits, because most of a few hundred logits that are hundreds apart have no weight in a softmax.
_SCATTERED = {"activations": 24.0, "logits": 6.0}
LARGEST_HALF = 65504.0
# How far the other numbers of ``loud_ends`` are below the last: a quarter of a million of them count for little.
_LOUDER, _LOUDER_LOGITS, _LOWEST_END = 2.0**-12, 16.0, 2.0**-8
# Share of the rows in which an array is absent that may be.
_ABSENT = 0.875


def uniform(space: Space, rng: np.random.Generator, rows: int) -> Batch:
    """Every element uniform in its range; of blocks the bytes, and the scales by ``random_scales``."""
    batch = {}
    for spec in space.tensors:
        shape = (rows, *spec.array_shape())
        if spec.among is not None:
            batch[spec.name] = spec.among.drawn(rng, rows)
        elif spec.kind == "blocks":
            batch[spec.name] = _random_blocks(spec, rng, shape)
        elif spec.kind in ("positions", "tokens"):
            batch[spec.name] = _tokens(spec, rng, shape)
        else:
            batch[spec.name] = clip(spec, rng.uniform(spec.low, spec.high, shape))
    return batch


def structured(space: Space, rng: np.random.Generator, rows: int) -> Batch:
    """Each row of each tensor from a family that is picked at random; the private functions below are the families."""
    batch = {}
    for spec in space.tensors:
        shape = (rows, *spec.array_shape())
        if spec.among is not None:
            batch[spec.name] = spec.among.drawn(rng, rows)
        elif spec.kind == "blocks":
            batch[spec.name] = _structured_blocks(spec, rng, shape)
        elif spec.kind == "positions":
            batch[spec.name] = _positions(spec, rng, shape)
        elif spec.kind == "tokens":
            batch[spec.name] = _tokens(spec, rng, shape)
        elif spec.kind == "direction":
            batch[spec.name] = _directions(spec, rng, shape)
        else:
            batch[spec.name] = _vectors(spec, rng, shape)
        if spec.absent is not None:
            batch[spec.name][rng.random(rows) < _ABSENT] = spec.absent
    return batch


def scattered(space: Space, rng: np.random.Generator, rows: int) -> Batch:
    """As ``uniform``, every element drawn by itself, so that narrow regions of a single element are found.

    Where a range reaches far down, two rows in three draw from a part of it, whose end is log-uniform. Half of the
    positions are drawn as in ``structured``.
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


def loud_ends(space: Space, rng: np.random.Generator, batch: Batch) -> Batch:
    """``batch`` with the largest numbers of each row in its last 1 to 64 elements, and the others far below: then it
    shows if the end of a row is left out of a sum, a maximum or the result. Arrays that may be absent are, because a
    shift of all logits costs digits.
    """
    loud = dict(batch)
    for spec in space.tensors:
        x = batch[spec.name]
        if spec.absent is not None:
            loud[spec.name] = np.full_like(x, spec.absent)
        if spec.kind not in _SCATTERED or x.shape[-1] == 1:
            continue
        shape = (len(x), *[1] * (x.ndim - 1))
        width = np.minimum(2 ** rng.integers(0, 7, shape), x.shape[-1] // 2)
        last = np.arange(x.shape[-1]) >= x.shape[-1] - width
        if spec.kind == "logits":
            loud[spec.name] = clip(spec, np.where(last, spec.high, x - _LOUDER_LOGITS))
        else:
            most = max(spec.high, -spec.low)
            lowest = max(most * _LOWEST_END, spec.smallest_peak)
            top = np.copysign(most * (lowest / most) ** rng.random(shape), x)
            loud[spec.name] = clip(spec, np.where(last, top, x * _LOUDER))
    return loud


def reach(spec: TensorSpec) -> float:
    """log2 of the range's end over the smallest admissible peak, at most 140, or down to the least float32 number where
    the end is beyond 2^24; 0 if it is 21 or less.

    It is 0 in the spaces of relative measures, whose smallest peak is not small.
    """
    if spec.smallest_peak >= spec.high * _FAR_DOWN:
        return 0.0
    farthest = _FAR if spec.high <= 2.0**24 else float(np.log2(spec.high)) + 149
    return min(farthest, float(np.log2(spec.high / spec.smallest_peak))) if spec.smallest_peak else farthest


def far_down(spec: TensorSpec, rng: np.random.Generator, rows: int) -> Float64[np.ndarray, "rows 1"]:
    """Exponents e by which to scale rows, 2^-e, in a range that reaches far down; e is uniform."""
    end = np.where(rng.random((rows, 1)) < 0.5, min(_NEAR, reach(spec)), reach(spec))
    return end * rng.random((rows, 1))


def magnitudes(spec: TensorSpec, rng: np.random.Generator, shape: tuple[int, ...]) -> Float64[np.ndarray, " ..."]:
    """Numbers in the range of ``spec``: each an end, a power of two below an end, log-uniform, uniform, or zero; a gain
    is log-uniform or an end.
    """
    low, high = spec.low, spec.high
    if spec.kind == "gain":
        log = np.exp(rng.uniform(np.log(low), np.log(high), shape))
        gains: Float64[np.ndarray, " ..."] = np.choose(
            rng.integers(0, 3, shape), [log, np.full(shape, low), np.full(shape, high)]
        )
        return gains
    # The magnitude is high * 2^-e. An element is of one kind, so all kinds can share its random number.
    r = rng.random(shape)
    with np.errstate(divide="ignore"):
        exponents = [np.zeros(()), np.floor(16 * r), 12 * r, -np.log2(r), np.full((), np.inf)]
    size = high * np.exp2(-np.choose(rng.integers(0, len(exponents), shape), exponents))
    signed: Float64[np.ndarray, " ..."] = np.where(rng.random(shape) < 0.5, size, -size)
    return signed


def _vectors(spec: TensorSpec, rng: np.random.Generator, shape: tuple[int, ...]) -> Float32[np.ndarray, "rows ..."]:
    rows, n = shape[0], int(np.prod(shape[1:]))
    families: list[Callable[[int], Float64[np.ndarray, "r n"]]] = [
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


def _levels(spec: TensorSpec, rng: np.random.Generator, rows: int, n: int) -> Float64[np.ndarray, "rows n"]:
    """Two to four levels, in runs or scattered, in random proportions."""
    levels = magnitudes(spec, rng, (rows, 4))
    count = rng.integers(2, 5, (rows, 1))
    share = rng.random((rows, 1)) ** 3
    pick = np.where(rng.random((rows, n)) < share, rng.integers(0, 4, (rows, n)) % count, 0)
    pick = np.where(rng.random((rows, 1)) < 0.5, np.sort(pick, axis=1), pick)
    picked: Float64[np.ndarray, "rows n"] = np.take_along_axis(levels, pick, axis=1)
    return picked


def _pattern(spec: TensorSpec, rng: np.random.Generator, rows: int, n: int) -> Float64[np.ndarray, "rows n"]:
    """A pattern of one to eight numbers, repeated."""
    pattern = magnitudes(spec, rng, (rows, 8))
    period = rng.integers(1, 9, (rows, 1))
    repeated: Float64[np.ndarray, "rows n"] = np.take_along_axis(pattern, np.arange(n)[None, :] % period, axis=1)
    return repeated


def _spike(spec: TensorSpec, rng: np.random.Generator, rows: int, n: int) -> Float64[np.ndarray, "rows n"]:
    """One number everywhere, another at a single place."""
    base, spike = magnitudes(spec, rng, (rows, 1)), magnitudes(spec, rng, (rows, 1))
    # A quarter each at the first and the last place, because loops go wrong at their ends most often.
    place = np.choose(rng.integers(0, 4, (rows, 1)), [rng.integers(0, n, (rows, 1))] * 2 + [0, n - 1])
    return np.where(np.arange(n)[None, :] == place, spike, base)


def _bell(spec: TensorSpec, rng: np.random.Generator, rows: int, n: int) -> Float64[np.ndarray, "rows n"]:
    """Gaussian around the middle of the range, with a log-uniform scale."""
    middle = (spec.low + spec.high) / 2
    scale = (spec.high - middle) * 2.0 ** -rng.uniform(1, 10, (rows, 1))
    bell: Float64[np.ndarray, "rows n"] = middle + scale * rng.standard_normal((rows, n))
    return bell


def _directions(spec: TensorSpec, rng: np.random.Generator, shape: tuple[int, ...]) -> Float32[np.ndarray, "rows ..."]:
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
    chosen = np.stack(options)[family, np.arange(rows)].reshape(shape)
    return np.asarray(chosen, np.float32)


def _positions(spec: TensorSpec, rng: np.random.Generator, shape: tuple[int, ...]) -> Int32[np.ndarray, "rows ..."]:
    """The two least, the greatest, powers of two and their neighbours, uniform, log-uniform; a third of them negative
    where there are negative ones.
    """
    if spec.low < 0 < spec.high:
        # In int64, because the least int32 has no opposite.
        end = min(max(-spec.low, spec.high), 2.0**31 - 1)
        size = _positions(attrs.evolve(spec, low=0, high=end), rng, shape).astype(np.int64)
        negative = rng.random(shape) < 1 / 3
        signed = np.where(negative, -np.minimum(size, int(-spec.low)), np.minimum(size, int(spec.high)))
        return np.asarray(signed, np.int32)
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
    chosen = np.clip(np.choose(rng.integers(0, len(options), shape), options), low, high)
    return np.asarray(chosen, np.int32)


def _tokens(spec: TensorSpec, rng: np.random.Generator, shape: tuple[int, ...]) -> Int32[np.ndarray, "rows ..."]:
    """Integers, all of them alike."""
    return rng.integers(int(spec.low), int(spec.high) + 1, shape).astype(np.int32)


def random_scales(spec: TensorSpec, rng: np.random.Generator, shape: tuple[int, ...]) -> Float64[np.ndarray, " ..."]:
    """Block scales of either sign: 1, powers of two, log-uniform over the f16 range, zero, the largest.

    If ``spec`` has a smallest scale, they are at least that, and positive.
    """
    if spec.largest_scale > LARGEST_HALF:
        return _wide_scales(spec, rng, shape)
    top = spec.largest_scale
    powers = 2.0 ** rng.integers(-24, 16, shape)
    log = 2.0 ** rng.uniform(-14, np.log2(top), shape)
    options = [np.ones(shape), powers, log, log, np.zeros(shape), np.full(shape, top)]
    sign = np.where(rng.random(shape) < 0.75, 1.0, -1.0)
    scales = np.clip(sign * np.choose(rng.choice(6, shape, p=[0.3, 0.2, 0.2, 0.2, 0.05, 0.05]), options), -top, top)
    return np.asarray(np.maximum(np.abs(scales), spec.smallest_scale) if spec.smallest_scale else scales)


def _wide_scales(spec: TensorSpec, rng: np.random.Generator, shape: tuple[int, ...]) -> Float64[np.ndarray, " ..."]:
    """Block scales not stored as f16: 1, powers of two, log-uniform over all of float32, zero, the largest."""
    exponents = rng.uniform(-149, np.log2(spec.largest_scale), shape)
    options = [np.ones(shape), 2.0 ** np.floor(exponents), 2.0**exponents, np.zeros(shape)]
    options.append(np.full(shape, spec.largest_scale))
    sign = np.where(rng.random(shape) < 0.75, 1.0, -1.0)
    return np.asarray(sign * np.choose(rng.choice(5, shape, p=[0.2, 0.4, 0.3, 0.05, 0.05]), options))


def with_scales(
    spec: TensorSpec, blocks: UInt8[np.ndarray, "b type_size"], scales: dict[str, Float[np.ndarray, " b"]]
) -> UInt8[np.ndarray, "b type_size"]:
    """``blocks`` with these numbers, by name, in their scale fields."""
    return formats.get(spec.format or "").with_scales(blocks, scales)


def _random_blocks(spec: TensorSpec, rng: np.random.Generator, shape: tuple[int, ...]) -> UInt8[np.ndarray, " ..."]:
    fmt = formats.get(spec.format or "")
    blocks = rng.integers(0, 256, (int(np.prod(shape)) // fmt.type_size, fmt.type_size), dtype=np.uint8)
    blocks = fmt.canonical(blocks)
    scales = {field: random_scales(spec, rng, (len(blocks),)) for field in fmt.scale_fields}
    return with_scales(spec, blocks, scales).reshape(shape)


def _structured_blocks(spec: TensorSpec, rng: np.random.Generator, shape: tuple[int, ...]) -> UInt8[np.ndarray, " ..."]:
    """Each field of a block is constant, at an end of its range, or random; scales are equal within a row or not."""
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
    return fmt.canonical(fmt.pack(fields)).reshape(shape)
