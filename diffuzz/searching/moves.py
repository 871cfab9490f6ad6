"""Moves: small changes of the cases of a batch, by the kind of tensor.

Each move is a function ``(move: Move) -> None`` that changes one tensor of some rows in place. Those that know
quantisers read from the tensor's declaration which format its kernel quantises it to, and which weights it meets: a
quantiser errs most halfway between two codes, and errors add up where they have the sign of the weight.

Moves are what a search does beside its arithmetic, so they are counted in passes over the rows: float32 where its
rounding does not matter, few random numbers for each row, and one family of subsets for all rows of a call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.cases import draws, ranges
from diffuzz.cases.draws import Batch
from diffuzz.cases.space import Space, TensorSpec


@attrs.frozen
class Move:
    """What a move works on: a tensor's declaration, the space, a batch of rows of its own to change, and ``partner``,
    which gives an array of as many other rows to borrow from, by name.
    """

    spec: TensorSpec
    space: Space
    batch: Batch
    partner: Callable[[str], np.ndarray]
    rng: np.random.Generator

    @property
    def flat(self) -> np.ndarray:
        """The tensor as [rows, elements]: to write to it is to change the batch."""
        array = self.batch[self.spec.name]
        return array.reshape(len(array), -1)

    def subset(self) -> np.ndarray:
        """bool[rows, elements]: one element, a run, a random share, a residue class, or all elements of each row."""
        rows, n = self.flat.shape
        return _SUBSETS[self.rng.integers(len(_SUBSETS))](self.rng, rows, n)


def _one(rng: np.random.Generator, rows: int, n: int) -> np.ndarray:
    mask = np.zeros((rows, n), bool)
    mask[np.arange(rows), rng.integers(0, n, rows)] = True
    return mask


def _run(rng: np.random.Generator, rows: int, n: int) -> np.ndarray:
    ends = rng.integers(0, n + 1, (2, rows, 1), dtype=np.int32)
    index = np.arange(n, dtype=np.int32)
    return np.asarray((index >= ends.min(axis=0)) & (index < ends.max(axis=0)))


def _share(rng: np.random.Generator, rows: int, n: int) -> np.ndarray:
    # Two bytes for each element, half the time of a float32.
    below = (rng.random((rows, 1)) ** 3 * 2**16).astype(np.uint16)
    return np.asarray(rng.integers(0, 2**16, (rows, n), dtype=np.uint16) <= below)


def _residue_class(rng: np.random.Generator, rows: int, n: int) -> np.ndarray:
    return _classes(n)[rng.integers(0, 7, rows)]


@cache
def _classes(n: int) -> np.ndarray:
    """bool[7, n]: the multiples of 2 to 8."""
    return np.asarray(np.arange(n) % np.arange(2, 9)[:, None] == 0)


def _all(rng: np.random.Generator, rows: int, n: int) -> np.ndarray:
    return np.ones((rows, n), bool)


# Their shares: 30, 25, 20, 10 and 15 per cent.
_SUBSETS = (*[_one] * 6, *[_run] * 5, *[_share] * 4, *[_residue_class] * 2, *[_all] * 3)


def _level(move: Move) -> None:
    """A subset to one new level."""
    x = move.flat
    np.copyto(x, draws.magnitudes(move.spec, move.rng, (len(x), 1)), where=move.subset(), casting="same_kind")


def _another(move: Move) -> np.ndarray:
    """The value of one element of each row, [rows, 1]."""
    x = move.flat
    return x[np.arange(len(x)), move.rng.integers(0, x.shape[1], len(x))][:, None]


def _copy_level(move: Move) -> None:
    """A subset to the value of another element: ties."""
    np.copyto(move.flat, _another(move), where=move.subset())


def _near_level(move: Move) -> None:
    """A subset to nearly the value of another element: ties that are a little off."""
    near = _another(move) * (1 + _small(move))
    np.copyto(move.flat, near, where=move.subset(), casting="same_kind")


def _stretch(move: Move) -> None:
    """A subset times a power of two, or a number near one; where a range reaches far down, also by so much."""
    x, rng = move.flat, move.rng
    powers = np.exp2(rng.integers(-3, 4, (len(x), 1)))
    if draws.reach(move.spec):
        far = rng.choice([-1.0, 0.0, 1.0], (len(x), 1), p=[0.2, 0.6, 0.2])
        # Up by less: a float32 power of two.
        powers = powers * np.exp2(np.minimum(np.rint(far * draws.far_down(move.spec, rng, len(x))), 120.0))
    factor = np.where(rng.random((len(x), 1)) < 0.5, powers, 1 + _small(move))
    np.copyto(x, x * factor.astype(np.float32), where=move.subset())


def _jitter(move: Move) -> None:
    """Independent small relative changes of a subset."""
    x = move.flat
    change = move.rng.random(x.shape, dtype=np.float32)
    change -= np.float32(0.5)
    change *= (4 * _small(move)).astype(np.float32)
    change *= x
    change += x
    np.copyto(x, change, where=move.subset())


def _shift(move: Move) -> None:
    """The same small amount, relative to the range, added to a subset."""
    x = move.flat
    amount = (_small(move) * move.spec.high).astype(np.float32)
    np.copyto(x, x + amount, where=move.subset())


def _negate(move: Move) -> None:
    """The other sign for a subset."""
    np.copyto(move.flat, -move.flat, where=move.subset())


def _ulp(move: Move) -> None:
    """A subset to the next float32, up or down."""
    x = move.flat
    towards = np.where(move.rng.random((len(x), 1)) < 0.5, np.float32(np.inf), np.float32(-np.inf))
    np.copyto(x, np.nextafter(x, towards), where=move.subset())


def _swap(move: Move) -> None:
    """Two elements exchanged."""
    x = move.flat
    rows = np.arange(len(x))
    i, j = move.rng.integers(0, x.shape[1], (2, len(x)))
    x[rows, i], x[rows, j] = x[rows, j], x[rows, i]


def _cross(move: Move) -> None:
    """A subset from the partner."""
    x = move.flat
    np.copyto(x, move.partner(move.spec.name).reshape(x.shape), where=move.subset())


def _weights(move: Move) -> np.ndarray:
    """The weights that a tensor meets, dequantised: float32[rows, elements]."""
    spec = move.space[move.spec.against or ""]
    fmt = formats.get(spec.format or "")
    blocks = move.batch[spec.name]
    # Several rows of weights: the first one decides.
    return fmt.dequantize(blocks.reshape(-1, fmt.type_size)).reshape(len(blocks), -1)[:, : move.flat.shape[1]]


def _midpoints(move: Move) -> None:
    """Elements a few ULP beside a midpoint between two codes, where the error has the sign of the weight."""
    x, rng = move.flat, move.rng
    size = formats.get(move.spec.quantiser or "").block_size
    blocks = x.reshape(len(x), -1, size)
    magnitude = np.abs(blocks)
    peak = magnitude.max(axis=2, keepdims=True)
    keep = (magnitude == peak).reshape(x.shape)
    # In float64: the steps beside a midpoint are single ULPs.
    step = peak.astype(np.float64) / 127
    if rng.random() < 0.4:
        code = np.clip(np.floor(magnitude / np.where(step > 0, step, 1.0)), 0, 126)
    else:
        code = np.array([0, 0, 1, 2, 63, 125, 126])[rng.integers(0, 7, (len(x), 1, 1))]
    middle, ulps = (code + 0.5) * step, rng.integers(0, 4, (len(x), 1, 1)) * 2.0**-24
    # Below the midpoint the code is too small in magnitude and the error has the sign of x; above, the other sign.
    below, above = (middle * (1 - ulps)).astype(np.float32), (middle * (1 + ulps)).astype(np.float32)
    hurts = ((_weights(move) >= 0) == (rng.random((len(x), 1)) < 0.5)).reshape(blocks.shape)
    if rng.random() < 0.5:
        beside = np.where(hurts, below, -below)
    else:
        beside = np.copysign(np.where(hurts == (blocks >= 0), below, above), blocks)
    np.copyto(x, beside.reshape(x.shape), where=move.subset() & ~keep)


def _outlier(move: Move) -> None:
    """The largest element of each block exchanged with the one that meets the smallest weight, perhaps made larger."""
    x = move.flat
    size = formats.get(move.spec.quantiser or "").block_size
    blocks = x.reshape(-1, size)
    rows = np.arange(len(blocks))
    peak, idle = np.abs(blocks).argmax(axis=1), np.abs(_weights(move)).reshape(-1, size).argmin(axis=1)
    largest = blocks[rows, peak]
    blocks[rows, peak] = blocks[rows, idle]
    blocks[rows, idle] = np.where(move.rng.random(len(blocks)) < 0.5, move.spec.high, largest)


def _copy_weight_sign(move: Move) -> None:
    """The sign of the weight for a subset."""
    np.copyto(move.flat, np.copysign(move.flat, _weights(move)), where=move.subset())


def _copy_block(move: Move) -> None:
    """Every block like one of them."""
    x = move.flat
    size = formats.get(move.spec.quantiser or "").block_size
    blocks = x.reshape(len(x), -1, size)
    chosen = move.rng.integers(0, blocks.shape[1], len(x))
    blocks[:] = blocks[np.arange(len(x)), chosen][:, None]


def _fields(move: Move) -> None:
    """One field of a row's blocks set to one of its numbers, to the end of its range, or, for a scale, to a new one."""
    raw, rng = move.flat, move.rng
    fmt = formats.get(move.spec.format or "")
    rows = len(raw)
    fields = fmt.unpack(raw.reshape(-1, fmt.type_size))
    name = list(fields)[rng.integers(0, len(fields))]
    wide = fields[name].reshape(rows, -1)
    if np.issubdtype(wide.dtype, np.floating):
        new = draws.random_scales(move.spec, rng, (rows, 1)) * rng.integers(0, 4, (rows, 1)).clip(0, 1)
        with np.errstate(all="ignore"):
            nudged = wide * (1 + 2.0**-10 * rng.integers(-2, 3, wide.shape))
        new = np.where(rng.random((rows, 1)) < 0.6, new, nudged)
        if move.spec.smallest_scale:
            new = np.maximum(new, move.spec.smallest_scale)
    else:
        source = wide[np.arange(rows), rng.integers(0, wide.shape[1], rows)][:, None]
        ends = np.where(rng.random((rows, 1)) < 0.5, wide.max(), wide.min())
        new = np.where(rng.random((rows, 1)) < 0.5, source, ends)
    share = np.where(rng.random((rows, 1)) < 0.5, 1.0, rng.random((rows, 1)))
    touched = rng.random(wide.shape, dtype=np.float32) < share
    with np.errstate(over="ignore"):
        fields[name] = np.where(touched, new, wide).astype(wide.dtype).reshape(fields[name].shape)
    raw[:] = fmt.pack(fields).reshape(raw.shape)


def _another_choice(move: Move) -> None:
    """Another one of the arrays that a tensor may be, or that of the partner, for half of the rows."""
    assert move.spec.among is not None
    array = move.batch[move.spec.name]
    other = move.spec.among.drawn(move.rng, len(array))
    borrowed, kept = move.rng.random((2, len(array))) < 0.5
    other[borrowed] = move.partner(move.spec.name)[borrowed]
    array[~kept] = other[~kept]


def _bytes(move: Move) -> None:
    """A few bytes at random, or one bit of each flipped."""
    raw, rng = move.flat, move.rng
    rows, n = raw.shape
    share = np.minimum(rng.random((rows, 1)) ** 3 + 1 / n, 1 - 2.0**-16)
    picked = rng.integers(0, 2**16, (rows, n), dtype=np.uint16) < (share * 2**16).astype(np.uint16)
    random = rng.integers(0, 256, (rows, n), dtype=np.uint8)
    flipped = raw ^ (np.uint8(1) << (random & np.uint8(7)))
    np.copyto(raw, np.where(rng.random((rows, 1)) < 0.5, flipped, random), where=picked)


def _position_step(move: Move) -> None:
    """Positions moved by one, doubled, or drawn anew."""
    p, rng = move.flat.astype(np.int64), move.rng
    low, high = int(move.spec.low), int(move.spec.high)
    options = [p + 1, p - 1, p * 2, p // 2, rng.integers(low, high + 1, p.shape)]
    move.flat[:] = np.clip(np.choose(rng.integers(0, len(options), p.shape), options), low, high)


def _one_coordinate(move: Move) -> None:
    """Only one coordinate moves."""
    t = move.flat
    t[:] = 0
    t[np.arange(len(t)), move.rng.integers(0, t.shape[1], len(t))] = 1


def _sign_of_input(move: Move) -> None:
    """The direction of the input itself, or the opposite."""
    t = move.flat
    x = move.batch[move.spec.name.removesuffix("_direction")].reshape(t.shape)
    t[:] = np.where((x >= 0) == (move.rng.random((len(x), 1)) < 0.5), np.float32(1), np.float32(-1))


def _other_token(move: Move) -> None:
    """One token becomes any other."""
    tokens, rows = move.flat, np.arange(len(move.flat))
    low, high = int(move.spec.low), int(move.spec.high)
    tokens[rows, move.rng.integers(0, tokens.shape[1], len(rows))] = move.rng.integers(low, high + 1, len(rows))


def _small(move: Move) -> np.ndarray:
    """+-2^-1 to 2^-24, float64[rows, 1]."""
    rows = len(move.flat)
    size = np.exp2(-move.rng.uniform(1, 24, (rows, 1)))
    return np.where(move.rng.random((rows, 1)) < 0.5, size, -size)


_VALUES = (_level, _copy_level, _near_level, _stretch, _jitter, _shift, _negate, _ulp, _swap, _cross)
_GAINS = (_level, _copy_level, _near_level, _stretch, _jitter, _swap, _cross)
_QUANTISED = (_midpoints, _midpoints, _outlier, _copy_weight_sign, _copy_block)
_BY_KIND: dict[str, tuple[Callable[[Move], None], ...]] = {
    "activations": _VALUES,
    "logits": _VALUES,
    "gain": _GAINS,
    "direction": (_negate, _cross, _one_coordinate, _sign_of_input),
    "positions": (_position_step, _cross),
    "tokens": (_other_token, _swap, _cross),
    "blocks": (_fields, _fields, _bytes, _cross),
}


def moves(space: Space) -> list[tuple[TensorSpec, Callable[[Move], None]]]:
    """All moves that a space has: pairs of a tensor and a function, in a fixed order."""
    pairs = []
    for spec in space.tensors:
        functions = _BY_KIND[spec.kind]
        if spec.among is not None:
            functions = (_another_choice,) if len(spec.among.arrays) > 1 else ()
        if spec.quantiser and spec.against:
            functions += _QUANTISED
        pairs += [(spec, function) for function in functions]
    return pairs


def apply(function: Callable[[Move], None], move: Move) -> None:
    """Make the move, and take what left the range of its tensor back to the end of the range.

    NaN goes to the low end. A vector that falls below its smallest peak stays, one in a hundred or so: such rows are
    not admissible, and to look for them would cost more than they do.
    """
    # What overflows is taken back to the end of the range.
    with np.errstate(over="ignore", invalid="ignore"):
        function(move)
    if move.spec.format is not None:
        raw, fmt = move.flat, formats.get(move.spec.format)
        blocks = raw.reshape(-1, fmt.type_size)
        if (canonical := fmt.canonical(blocks)) is not blocks:
            raw[:] = canonical.reshape(raw.shape)
    if move.spec.dtype == "float32":
        x = move.flat
        low, high = ranges.float32_range(move.spec)
        np.fmin(x, high, out=x)
        np.fmax(x, low, out=x)
        if move.spec.holds not in ("float32", "float64"):
            x[...] = ranges.held(move.spec.holds, x)
