r"""Requantise: how far does the GGUF path move when its input moves by one ULP?

The quantiser of the activations is a step function, so in real arithmetic the amplification has no bound. It has one
because float32 inputs have a spacing. The measure is the amplification of relative moves, in which max|x| cancels:

    (|B(x') - B(x)| / (||w||_1 max|x|)) / (max|x' - x| / max|x|) = |B(x') - B(x)| / (||w||_1 max|x' - x|)

x' is x with each element moved to the next float32 up or down, or not at all (perturbation model ``ulp``). B has the
codes and scales of ggml's quantiser to the bit, and its sum in float64 (:mod:`diffuzz.kernels.fused`). So every step is
one of the quantiser: a float32 sum has steps of its own, which would be measured instead in a block much smaller than
its neighbours.

**Bound.** B(x') - B(x) = sum_i w_i (x^'_i - x^_i), so it suffices to bound |x^'_i - x^_i| in one block by the largest
move in it. A float32 x moves by at least 2^-24 |x|. Let d be the block's scale before it is stored, s as stored.

(i) The largest |x| of the block does not move. Then x^_i changes only if its code changes, by one code, that is by s.
This happens at a midpoint x = (k + 1/2) d. Let 2^b be the first power of two that is not below x, so that x moves by
2^(b-24). For k = 0, d = 2 x <= 2^(b+1), and s <= 2^(b+1): rounding to f16 is monotone and keeps powers of two (the
smallest, 2^-24, is rounded to only from above 2^-25). So |x^'_i - x^_i| / |x'_i - x_i| <= 2^(b+1) / 2^(b-24) = 2^25.
For k >= 1, d <= 2 x / 3 < 2^b, so s <= 2^b and the ratio is at most 2^24.

(ii) The largest |x| of the block moves, by at least 2^-24 * 127 d. Then d moves by at most 2^-22 d, s by at most that
and twice the error of its rounding, codes by at most one: |x^'_i - x^_i| <= 127 |s' - s| + s', which is at most 2^25 e
+ 2^18 (1 + e) + 4 moves, where e <= 1 is the relative error of the stored scale: no more than 2^25 while e < 0.98. For
larger e, d is just above 2^-25 or just below, s and s' are 0 or 2^-24, and 127 * 2^-24 over 2^-24 * 127 * 2^-25 is 2^25
again.

So the bound is 2^25 = 33 554 432. It is reached by a block whose scale is just below a power of two, with all elements
except the largest at the first midpoint and moving outwards by the sign of their weights. The float32 rounding of
scales and midpoints moves it by a few u = 2^-24; 2^-20 is allowed for it.

**q8_1** also has a block sum s = f16(d sum q_i), by which the minimum m is multiplied; its terms have norm 32 |m| in a
block. k codes that change move d sum q_i by k d, and f16 rounding adds the spacing at s: at most 2^-10 |s|, or 2^-24 if
s is subnormal. While d >= 2^-14 and k <= 31 (the largest element does not move) that is at most (k + 2^-10 (127 (32 -
k) + k)) d <= 31.2 d, which over 32 moves of 2^-25 d is less than 2^25. Blocks with a smaller scale (a row may have some
beside a larger one) jump by 2^-24 while the move is at least 2^(j-24), 2^j <= d < 2^(j+1): the ratio is 2^(-5-j) for d
< 2^-24 / 31, and at most 31.2/32 2^25 + 2^(-5-j) above. A jump needs d |sum q_i| > 2^-25, and |sum q_i| <= 3938, so d >
2^-37 and the bound is 2^32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.cases.space import Space, TensorSpec
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.kernels import fused, ggml
from diffuzz.targets import matvec, perturbations
from diffuzz.targets.drift import Drift
from diffuzz.targets.outcome import Arrays, Bound, Outcome
from diffuzz.targets.parameter import Params
from diffuzz.targets.target import Target

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, UInt8

PARAMETERS = (matvec.WITH_CODES, matvec.LENGTH, matvec.MAX_ABS)
# The bounds that the docstring derives: for formats without block sums, and for q8_1.
BOUND = 2.0**25
BOUND_WITH_BLOCK_SUMS = 2.0**32


def space(p: Params) -> Space:
    """One row of weights, an activation, and the direction of each element's move: up, down or none."""
    rows = matvec.row_space(p, matvec.length(p))
    n = rows["x"].shape[0]
    direction = TensorSpec("x_direction", kind="direction", shape=(n,), low=-1.0, high=1.0, smallest_peak=2.0**-10)
    return Space((*rows.tensors, direction))


@attrs.frozen
class _Row:
    """What does not depend on the moves.

    A weight is ``code + constant``, ``size`` is the norm of the terms of a row, and ``before`` are the quantised
    activation and the factors of minimums without a move (see diffuzz.kernels.fused).
    """

    code: Float64[AnyArray, "b n"]
    constant: Float64[AnyArray, "b n"]
    size: Float64[AnyArray, " b"]
    x: Float32[AnyArray, "b n"]
    before: tuple[Float64[AnyArray, "b n"], Float64[AnyArray, "b n"]]

    @classmethod
    def of(cls, p: Params, arrays: Arrays, xp: ArrayModule) -> _Row:
        """The rows of a batch."""
        weights, x = arrays["weights"][:, 0], arrays["x"]
        code, constant = fused.split(p["format"], weights, xp)
        size = fused.terms(p["format"], weights, xp).sum(axis=1)
        return cls(code, constant, size, x, fused.seen(matvec.partner(p), x, xp))


def _value(
    p: Params, row: _Row, moved: Float32[AnyArray, "b n"], xp: ArrayModule
) -> tuple[Float64[AnyArray, " b"], Float64[AnyArray, " b"], Float64[AnyArray, " b"]]:
    """(value, |B(x') - B(x)| / ||w||_1, max|x' - x|) for the moved activations x'."""
    before, after = row.before, fused.seen(matvec.partner(p), moved, xp)
    # The differences are taken element by element, so that only the changes cancel and not the sums.
    change = xp.abs((row.code * (after[0] - before[0]) + row.constant * (after[1] - before[1])).sum(axis=1))
    step = xp.abs(moved.astype(float) - row.x.astype(float)).max(axis=1)
    usable = (row.size > 0) & (step > 0)
    out = xp.where(usable, change / xp.where(usable, row.size, 1.0), 0.0)
    return out / xp.where(usable, step, 1.0), out, step


def _moved(
    x: Float32[AnyArray, "b n"], direction: Float32[AnyArray, "b n"], xp: ArrayModule
) -> Float32[AnyArray, "b n"]:
    """x with each element moved by one ULP as its direction says."""
    return perturbations.apply("ulp", x, direction, 0.0, xp).astype(xp.float32)


def evaluate(p: Params, arrays: Arrays) -> Outcome:
    """The amplification of a move by one ULP. The noise is the float64 rounding of the sum."""
    moved = _moved(arrays["x"], arrays["x_direction"], np)
    value, _, _ = _value(p, _Row.of(p, arrays, np), moved, np)
    return Outcome(value, value * arrays["x"].shape[1] * 2.0**-52)


def explain(p: Params, arrays: Arrays) -> dict[str, Float64[np.ndarray, " b"]]:
    """The relative drifts of output and input, and how far the result of ggml's own kernel moves."""
    moved = _moved(arrays["x"], arrays["x_direction"], np)
    _, out, step = _value(p, _Row.of(p, arrays, np), moved, np)
    weights, peak = arrays["weights"][:, 0], np.abs(arrays["x"].astype(np.float64)).max(axis=1)
    bits = [ggml.vec_dot_rows(p["format"], weights, x).astype(np.float64) for x in (arrays["x"], moved)]
    return {"output drift": out / peak, "input drift": step / peak, "move of ggml's result": np.abs(bits[1] - bits[0])}


def screen(p: Params) -> Callable[[Arrays], Float64[AnyArray, " b"]]:
    """The same value, as a function that JAX can trace."""
    from diffuzz.kernels import xla

    def value(arrays: Arrays) -> Float64[AnyArray, " b"]:
        moved = _moved(arrays["x"], arrays["x_direction"], xla.xp)
        return _value(p, _Row.of(p, arrays, xla.xp), moved, xla.xp)[0]

    return value


def solve(p: Params, arrays: Arrays) -> dict[str, np.ndarray]:
    """The batch with the worst directions among those that do not move the largest element of a block.

    A row keeps its direction if that has a larger value. Moving one element up or down changes B by a known gain. So
    for either sign of the sum, and for each size of a ULP, the best choice is every move with a gain of that sign and
    no larger ULP.
    """
    x, row = arrays["x"], _Row.of(p, arrays, np)
    rows = np.arange(len(x))
    activation = matvec.partner(p)
    weights, size = row.code + row.constant, formats.get(activation).block_size
    peaks = np.repeat(np.abs(x).reshape(len(x), -1, size).max(axis=2), size, axis=1)
    gains, steps = [], []
    for towards in (np.float32(np.inf), np.float32(-np.inf)):
        moved = np.nextafter(x, towards)
        moved = np.asarray(np.where((np.abs(x) == peaks) | (np.abs(moved) >= peaks), x, moved))
        gains.append(weights * (fused.seen(activation, moved)[0] - row.before[0]))
        steps.append(np.abs(moved.astype(np.float64) - x))
    best = arrays["x_direction"]
    found = _value(p, row, _moved(x, best, np), np)[0]
    for sign in (1.0, -1.0):
        up = sign * gains[0] >= sign * gains[1]
        gain = np.maximum(np.where(up, sign * gains[0], sign * gains[1]), 0.0)
        step = np.where(gain > 0, np.where(up, steps[0], steps[1]), np.inf)
        order = np.argsort(step, axis=1)
        ordered = np.take_along_axis(step, order, axis=1)
        ratio = np.cumsum(np.take_along_axis(gain, order, axis=1), axis=1) / ordered
        largest = ordered[rows, ratio.argmax(axis=1)][:, None]
        direction = np.where((gain > 0) & (step <= largest), np.where(up, 1.0, -1.0), 0.0).astype(np.float32)
        value = _value(p, row, _moved(x, direction, np), np)[0]
        better = value > found
        best, found = np.where(better[:, None], direction, best), np.where(better, value, found)
    return {**arrays, "x_direction": best}


def bound(p: Params) -> Bound:
    """The bound that the docstring of the module derives."""
    activation, scale = matvec.partner(p), p["max_abs"] * matvec.SMALLEST_PEAK / 127
    small_blocks = p["n"] > 32 or scale < 2.0**-14
    if activation != "q8_1" or not small_blocks:
        return Bound(BOUND, "one code for half a step's ULP: d / (2^-24 d / 2)", rounding=2.0**-20)
    jump = 2.0**37 if p["n"] > 32 else 2.0 ** min(37, -math.floor(math.log2(scale)))
    value = BOUND_WITH_BLOCK_SUMS if p["n"] > 32 else min(BOUND_WITH_BLOCK_SUMS, BOUND + jump / 32)
    return Bound(
        value, "f16 spacing of a subnormal block sum over the ULP of the code that moves it", rounding=2.0**-20
    )


def starts(p: Params, rng: np.random.Generator, count: int) -> dict[str, np.ndarray] | None:
    """The construction of the docstring of the module: a scale just below a power of two, elements at the first
    midpoint, all of them moving outwards. None for a format whose codes are not known.
    """
    if p["format"] not in matvec.WEIGHT_FORMATS:
        return None
    weights, signs = matvec.plain_weights(p, rng, count)
    exponent = math.floor(math.log2(p["max_abs"] / 127)) - rng.integers(0, 2, (count, 1))
    peak = np.nextafter((127 * 2.0**exponent).astype(np.float32), np.float32(0))
    edge = np.nextafter((2.0 ** (exponent - 1)).astype(np.float32), np.float32(0))
    silent = signs == 0
    x = np.where(silent, peak, signs * edge).astype(np.float32)
    direction = signs.astype(np.float32)
    if matvec.partner(p) == "q8_1" and p["n"] > 32:
        _jump_of_block_sum(p, weights, x, direction, rng)
    return {"weights": weights[:, None], "x": x, "x_direction": direction}


def _jump_of_block_sum(
    p: Params,
    weights: UInt8[np.ndarray, "b row_bytes"],
    x: Float32[np.ndarray, "b n"],
    direction: Float32[np.ndarray, "b n"],
    rng: np.random.Generator,
) -> None:
    """Change every other row, in place: one code lifts the subnormal sum of the first block from 0 to 2^-24, and the
    minimum of that block is the only weight.
    """
    fmt = formats.get(p["format"])
    d = 2.0**-25 / 3937.5
    blocks = weights[::2].reshape(-1, fmt.type_size)
    fields = fmt.unpack(blocks)
    first = (np.arange(len(blocks)) % (p["n"] // fmt.block_size) == 0).astype(np.float16)
    fields["d"], fields["m"] = np.zeros_like(fields["d"]), first
    weights[::2] = fmt.pack(fields).reshape(weights[::2].shape)
    rows = len(x[::2])
    x[::2, :32] = 127 * d
    x[::2, 32:] = p["max_abs"] / 2
    place = rng.integers(1, 32, rows)
    x[2 * np.arange(rows), place] = _last_below_midpoint(127 * d)
    direction[::2] = 0
    direction[2 * np.arange(rows), place] = 1


def _last_below_midpoint(peak: float) -> np.float32:
    """The largest float32 number that gets the code 0 in a block of q8_1 with this peak."""
    inverse = np.float32(127) / np.float32(peak)
    x = np.float32(0.5) / inverse
    while x * inverse > np.float32(0.5):
        x = np.nextafter(x, np.float32(0))
    while np.nextafter(x, np.float32(1)) * inverse <= np.float32(0.5):
        x = np.nextafter(x, np.float32(1))
    return x


TARGET = Target(
    name="requantise",
    summary="the GGUF path of one row: how far it moves when its input moves by one ULP",
    parameters=PARAMETERS,
    space=space,
    question=Drift(evaluate, screen, solve, explain=explain),
    measure=lambda p: "(|B(x') - B(x)| / (||w||_1 max|x|)) / (max|x' - x| / max|x|), x' one ULP away",
    bound=bound,
    claim="a move of its input by one ULP makes the quantised path jump",
    threshold=lambda p: 5.0,
    cost=8.0,
    starts=starts,
)
