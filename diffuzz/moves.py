"""Moves: small changes of the cases of a batch, by the kind of tensor.

Each move is a function ``(move: Move) -> array`` that returns a changed copy of one tensor for every row. Those that
know quantisers read from the tensor's declaration which format its kernel quantises it to, and which weights it meets:
a quantiser errs most halfway between two codes, and errors add up where they have the sign of the weight.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np

from diffuzz import formats, sampling
from diffuzz.sampling import Batch
from diffuzz.space import Space, TensorSpec


@attrs.frozen
class Move:
    """What a move works on: a tensor of a batch, its declaration, the space, and a partner batch to borrow from."""

    spec: TensorSpec
    space: Space
    batch: Batch
    partner: Batch
    rng: np.random.Generator

    @property
    def flat(self) -> np.ndarray:
        """The tensor as a fresh array [rows, elements]; float64 for floats."""
        array = self.batch[self.spec.name]
        wide = np.float64 if array.dtype == np.float32 else array.dtype
        return array.reshape(len(array), -1).astype(wide)

    def subset(self) -> np.ndarray:
        """bool[rows, elements]: one element, a run, a random share, a residue class, or all elements, by row."""
        rows, n = len(self.batch[self.spec.name]), int(np.prod(self.batch[self.spec.name].shape[1:]))
        family = self.rng.choice(len(_SUBSETS), rows, p=_SUBSET_SHARES)
        mask = np.empty((rows, n), bool)
        for number, draw in enumerate(_SUBSETS):
            chosen = np.flatnonzero(family == number)
            if chosen.size:
                mask[chosen] = draw(self.rng, chosen.size, np.arange(n)[None, :])
        return mask


def _one(rng: np.random.Generator, rows: int, index: np.ndarray) -> np.ndarray:
    return np.asarray(index == rng.integers(0, index.size, (rows, 1)))


def _run(rng: np.random.Generator, rows: int, index: np.ndarray) -> np.ndarray:
    start, end = np.sort(rng.integers(0, index.size + 1, (2, rows, 1)), axis=0)
    return np.asarray((index >= start) & (index < end))


def _share(rng: np.random.Generator, rows: int, index: np.ndarray) -> np.ndarray:
    return np.asarray(rng.random((rows, index.size)) < rng.random((rows, 1)) ** 3)


def _residue_class(rng: np.random.Generator, rows: int, index: np.ndarray) -> np.ndarray:
    return np.asarray(index % rng.integers(2, 9, (rows, 1)) == 0)


def _all(rng: np.random.Generator, rows: int, index: np.ndarray) -> np.ndarray:
    return np.ones((rows, index.size), bool)


_SUBSETS = (_one, _run, _share, _residue_class, _all)
_SUBSET_SHARES = (0.3, 0.25, 0.2, 0.1, 0.15)


def _level(move: Move) -> np.ndarray:
    """A subset to one new level."""
    x = move.flat
    return np.where(move.subset(), sampling.magnitudes(move.spec, move.rng, (len(x), 1)), x)


def _copy_level(move: Move) -> np.ndarray:
    """A subset to the value of another element: ties."""
    x = move.flat
    source = np.take_along_axis(x, move.rng.integers(0, x.shape[1], (len(x), 1)), axis=1)
    return np.where(move.subset(), source, x)


def _near_level(move: Move) -> np.ndarray:
    """A subset to nearly the value of another element: ties that are a little off."""
    x = move.flat
    source = np.take_along_axis(x, move.rng.integers(0, x.shape[1], (len(x), 1)), axis=1)
    return np.where(move.subset(), source * (1 + _small(move, (len(x), 1))), x)


def _stretch(move: Move) -> np.ndarray:
    """A subset times a power of two, or a number near one."""
    x = move.flat
    factor = np.where(
        move.rng.random((len(x), 1)) < 0.5, 2.0 ** move.rng.integers(-3, 4, (len(x), 1)), 1 + _small(move, (len(x), 1))
    )
    return np.where(move.subset(), x * factor, x)


def _jitter(move: Move) -> np.ndarray:
    """Independent small relative changes of a subset."""
    x = move.flat
    return np.where(move.subset(), x * (1 + _small(move, (len(x), 1)) * move.rng.standard_normal(x.shape)), x)


def _shift(move: Move) -> np.ndarray:
    """The same small amount, relative to the range, added to a subset."""
    x = move.flat
    return np.where(move.subset(), x + _small(move, (len(x), 1)) * move.spec.high, x)


def _negate(move: Move) -> np.ndarray:
    """The other sign for a subset."""
    x = move.flat
    return np.where(move.subset(), -x, x)


def _ulp(move: Move) -> np.ndarray:
    """A subset to the next float32, up or down."""
    x = move.flat.astype(np.float32)
    towards = np.where(move.rng.random((len(x), 1)) < 0.5, np.float32(np.inf), np.float32(-np.inf))
    return np.where(move.subset(), np.nextafter(x, towards), x).astype(np.float64)


def _swap(move: Move) -> np.ndarray:
    """Two elements exchanged."""
    x = move.flat
    rows = np.arange(len(x))
    i, j = move.rng.integers(0, x.shape[1], (2, len(x)))
    x[rows, i], x[rows, j] = x[rows, j].copy(), x[rows, i].copy()
    return x


def _cross(move: Move) -> np.ndarray:
    """A subset from the partner."""
    other = move.partner[move.spec.name].reshape(len(move.flat), -1)
    return np.where(move.subset(), other, move.flat)


def _weights(move: Move) -> np.ndarray:
    """The weights that a tensor meets, dequantised: float64[rows, elements]."""
    spec = move.space[move.spec.against or ""]
    fmt = formats.get(spec.format or "")
    blocks = move.batch[spec.name]
    values = fmt.dequantize(blocks.reshape(-1, fmt.type_size)).astype(np.float64)
    # Several rows of weights: the first one decides.
    return values.reshape(len(blocks), -1)[:, : move.flat.shape[1]]


def _midpoints(move: Move) -> np.ndarray:
    """Elements a few ULP beside a midpoint between two codes, where the error has the sign of the weight."""
    x, rng = move.flat, move.rng
    size = formats.get(move.spec.quantiser or "").block_size
    blocks = x.reshape(len(x), -1, size)
    peak = np.abs(blocks).max(axis=2, keepdims=True)
    step = np.broadcast_to(peak / 127, blocks.shape).reshape(x.shape)
    safe = np.where(step > 0, step, 1.0)
    nearest = np.clip(np.floor(np.abs(x) / safe), 0, 126)
    chosen = np.where(rng.random((len(x), 1)) < 0.4, nearest, rng.choice([0, 0, 1, 2, 63, 125, 126], (len(x), 1)))
    hurts = np.where(_weights(move) >= 0, 1.0, -1.0) * np.where(rng.random((len(x), 1)) < 0.5, 1.0, -1.0)
    sign = np.where(rng.random((len(x), 1)) < 0.5, hurts, np.where(x >= 0, 1.0, -1.0))
    # Below the midpoint the code is too small in magnitude and the error has the sign of x; above, the other sign.
    ulps = rng.integers(0, 4, (len(x), 1)) * np.where(sign == hurts, -1.0, 1.0)
    beside = sign * (chosen + 0.5) * step * (1 + ulps * 2.0**-24)
    keep = (np.abs(x).reshape(blocks.shape) == peak).reshape(x.shape)
    return np.where(keep | ~move.subset(), x, beside)


def _outlier(move: Move) -> np.ndarray:
    """The largest element of each block exchanged with the one that meets the smallest weight, perhaps made larger."""
    x = move.flat
    size = formats.get(move.spec.quantiser or "").block_size
    blocks = x.reshape(-1, size).copy()
    weights = np.abs(_weights(move)).reshape(-1, size)
    rows = np.arange(len(blocks))
    peak, idle = np.abs(blocks).argmax(axis=1), weights.argmin(axis=1)
    blocks[rows, peak], blocks[rows, idle] = blocks[rows, idle].copy(), blocks[rows, peak].copy()
    grown = move.rng.random(len(blocks)) < 0.5
    blocks[rows[grown], idle[grown]] = move.spec.high
    return blocks.reshape(x.shape)


def _copy_weight_sign(move: Move) -> np.ndarray:
    """The sign of the weight for a subset."""
    return np.where(move.subset(), np.copysign(move.flat, _weights(move)), move.flat)


def _copy_block(move: Move) -> np.ndarray:
    """Every block like one of them."""
    x = move.flat
    size = formats.get(move.spec.quantiser or "").block_size
    blocks = x.reshape(len(x), -1, size)
    chosen = move.rng.integers(0, blocks.shape[1], len(x))
    return np.broadcast_to(blocks[np.arange(len(x)), chosen][:, None], blocks.shape).reshape(x.shape)


def _fields(move: Move) -> np.ndarray:
    """One field of a row's blocks set to one of its numbers, to the end of its range, or, for a scale, to a new one."""
    array = move.batch[move.spec.name]
    fmt = formats.get(move.spec.format or "")
    blocks = array.reshape(-1, fmt.type_size)
    rng, rows = move.rng, len(array)
    per_row = len(blocks) // rows
    fields = fmt.unpack(blocks)
    name = list(fields)[rng.integers(0, len(fields))]
    wide = fields[name].reshape(rows, -1)
    if np.issubdtype(wide.dtype, np.floating):
        new = sampling.random_scales(move.spec, rng, (rows, 1)) * rng.integers(0, 4, (rows, 1)).clip(0, 1)
        with np.errstate(all="ignore"):
            nudged = wide * (1 + 2.0**-10 * rng.integers(-2, 3, wide.shape))
        new = np.where(rng.random((rows, 1)) < 0.6, new, nudged)
    else:
        source = np.take_along_axis(wide, rng.integers(0, wide.shape[1], (rows, 1)), axis=1)
        ends = np.where(rng.random((rows, 1)) < 0.5, wide.max(), wide.min())
        new = np.where(rng.random((rows, 1)) < 0.5, source, ends)
    touched = rng.random((rows, wide.shape[1])) < np.where(rng.random((rows, 1)) < 0.5, 1.0, rng.random((rows, 1)))
    with np.errstate(over="ignore"):
        fields[name] = np.where(touched, new, wide).astype(wide.dtype).reshape(fields[name].shape)
    return fmt.pack(fields).reshape(rows, per_row * fmt.type_size)


def _bytes(move: Move) -> np.ndarray:
    """A few bytes at random, or one bit flipped."""
    raw, rng = move.flat, move.rng
    rows, n = raw.shape
    picked = rng.random((rows, n)) < (rng.random((rows, 1)) ** 3 + 1 / n)
    flipped = raw ^ (np.uint8(1) << rng.integers(0, 8, (rows, n)).astype(np.uint8))
    random = rng.integers(0, 256, (rows, n), dtype=np.uint8)
    return np.where(picked, np.where(rng.random((rows, 1)) < 0.5, flipped, random), raw)


def _position_step(move: Move) -> np.ndarray:
    """Positions moved by one, doubled, or drawn anew."""
    p, rng = move.flat.astype(np.int64), move.rng
    options = [p + 1, p - 1, p * 2, p // 2, rng.integers(int(move.spec.low), int(move.spec.high) + 1, p.shape)]
    return np.choose(rng.integers(0, len(options), p.shape), options)


def _one_coordinate(move: Move) -> np.ndarray:
    """Only one coordinate moves."""
    t = move.flat
    return (np.arange(t.shape[1])[None, :] == move.rng.integers(0, t.shape[1], (len(t), 1))) * 1.0


def _sign_of_input(move: Move) -> np.ndarray:
    """The direction of the input itself, or the opposite."""
    x = move.batch[move.spec.name.removesuffix("_direction")].reshape(move.flat.shape)
    return np.where(x >= 0, 1.0, -1.0) * np.where(move.rng.random((len(x), 1)) < 0.5, 1.0, -1.0)


def _small(move: Move, shape: tuple[int, ...]) -> np.ndarray:
    return np.where(move.rng.random(shape) < 0.5, 1.0, -1.0) * 2.0 ** -move.rng.uniform(1, 24, shape)


_VALUES = (_level, _copy_level, _near_level, _stretch, _jitter, _shift, _negate, _ulp, _swap, _cross)
_GAINS = (_level, _copy_level, _near_level, _stretch, _jitter, _swap, _cross)
_QUANTISED = (_midpoints, _midpoints, _outlier, _copy_weight_sign, _copy_block)
_BY_KIND: dict[str, tuple[Callable[[Move], np.ndarray], ...]] = {
    "activations": _VALUES,
    "logits": _VALUES,
    "gain": _GAINS,
    "direction": (_negate, _cross, _one_coordinate, _sign_of_input),
    "positions": (_position_step, _cross),
    "blocks": (_fields, _fields, _bytes, _cross),
}


def moves(space: Space) -> list[tuple[TensorSpec, Callable[[Move], np.ndarray]]]:
    """All moves that a space has: pairs of a tensor and a function, in a fixed order."""
    pairs = []
    for spec in space.tensors:
        functions = _BY_KIND[spec.kind]
        if spec.quantiser and spec.against:
            functions += _QUANTISED
        pairs += [(spec, function) for function in functions]
    return pairs


def apply(function: Callable[[Move], np.ndarray], move: Move) -> Batch:
    """The batch with one tensor changed, clipped to its range."""
    spec, old = move.spec, move.batch[move.spec.name]
    new = function(move).reshape(old.shape)
    if spec.kind == "blocks":
        changed = new.astype(np.uint8)
    elif spec.kind == "positions":
        changed = np.clip(new, int(spec.low), int(spec.high)).astype(np.int32)
    else:
        changed = sampling.clip(spec, new)
    return move.batch | {spec.name: changed}
