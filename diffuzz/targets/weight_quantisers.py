r"""What a quantiser of weights promises: how far a restored block may be from what it was.

No quantiser gives the best blocks there are, and ggml's own make other compromises: one scale for each block by a rule,
or by a search for the least error with large weights weighted more. There are blocks that some scale restores exactly,
and that are not restored exactly by any of these rules (multiples of max / 7 in q4_0, whose rule divides max by 8). So
an error is not compared with the least one of the same block, but with the least that holds for every block: that of
rounding to nearest at the plain scale, which is half the distance of two neighbouring levels.

**Formats with levels.** A group is the weights that share a scale. Its plain scale is peak / reach, with reach the
largest level on the shorter side, or (most - least) / reach in formats with a minimum or a zero point. With u = x /
scale between two levels, a(x) is half their distance, or that of the next two further out if that is larger, times the
scale: a scale that is a little larger or smaller moves x there.

    |x^_i - x_i| <= ELEMENT a(x_i) + s_i        for every element                                              (1)
    ||x^ - x||   <= GROUP ||a(x)|| + ||s||      for every group                                                (2)

s is what scales cost that are stored: half an ULP of the f16, bf16 or e4m3 number, and for sub-block scales of few bits
half a unit, which is the largest scale of the super-block divided by the largest number, times the largest level;
minimums likewise. A power of two may be twice the plain scale (mxfp4): a is doubled.

**Formats with grids** of points (iq1, iq2, iq3) have no such distance. Their norm is that of a whole block, weighted as
ggml weights errors,

    ||x^ - x||_w <= GRID[format] ||x||_w + ||s||_w,   ||v||_w^2 = sum w_i v_i^2,   w_i = sqrt(mean(x^2) + x_i^2)    (3)

**The factors** are measured. Of some 10^5 blocks of seven kinds (levels, uniform, normal, heavy-tailed, rational,
sparse and nearly constant ones) ggml's quantisers come to 1.24 in (1) and 0.92 in (2), those of diffuzz to 1.1 and
1.03, so the factors are 1.5 and 1.25; in (3) to 0.47 (iq2_xxs), 0.35, 0.33, 0.21 (iq3_xxs), 0.52 (iq1_s) and 0.5.
ggml's quantiser of iq3_s is the exception: it loses the signs of whole groups beside smaller ones and comes to 1.6,
which is not allowed. A quantiser that cuts codes off, which is wrong by up to two half distances, is beyond (2), one
whose scale is half or twice what it should be beyond (1).

**Beyond that** every restored value must be finite. Nothing else is promised where max|x| is beyond what the scales can
store, and where it is below 2^-100, where its reciprocal may overflow, only that no error is above 2 max|x|.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.formats import iq4_nl, mxfp4, nf4, small_floats

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Float64, UInt8

HALF, E4M3 = 2.0**-11, 2.0**-4
ELEMENT, GROUP = 1.5, 1.25
# The factor of (3), and the largest weight of a block in units of d.
GRID = {
    "iq1_s": (0.7, 15 * 9 / 8), "iq1_m": (0.65, 15 * 9 / 8), "iq2_xxs": (0.65, 31 * 43 / 8),
    "iq2_xs": (0.55, 31 * 43 / 8), "iq2_s": (0.55, 31 * 43 / 8), "iq3_xxs": (0.5, 31 * 62 / 4), "iq3_s": (0.3, 31 * 15),
}  # fmt: skip
LEAST_PROMISED = 2.0**-100


@attrs.frozen(eq=False)
class Rule:
    """How a format quantises a group of weights.

    group      weights that share a scale
    levels     ascending; in units of the plain scale
    reach      plain scale = peak / reach, or the range of the group / reach where there is a minimum
    minimum    whether a group has a minimum or a zero point; its range includes 0
    numbers    the largest sub-block scale, 0 where groups have no sub-blocks
    rounding   relative error of the scale as it is stored, and its absolute one: half the least number
    widened    how many times the plain scale the stored one may be
    inner      share of the reach beyond which an element may be cut off
    sparse     whether elements are weighted by their size, so that zeros beside large ones count for nothing (q2_K)
    largest    magnitude up to which a quantiser promises anything
    relative   for codes that are floats: the largest half distance of two of them, relative to the larger; where the
               distance changes depends on the scale, which may be a power of two
    """

    group: int
    levels: Float64[np.ndarray, " count"]
    reach: float
    minimum: bool = False
    numbers: int = 0
    rounding: float = HALF
    least: float = 2.0**-25
    widened: float = 1.0
    inner: float = 1.0
    sparse: bool = False
    largest: float = 65504.0
    relative: float = 0.0


def _integers(low: int, high: int) -> Float64[np.ndarray, " count"]:
    return np.arange(low, high + 1, dtype=np.float64)


def _uniform(group: int, bits: int, numbers: int = 0) -> Rule:
    top = 2 ** (bits - 1)
    # With the scale peak / top an element of the other sign is cut off from top - 1/2 on.
    inner = (top - 1.5) / top
    return Rule(group, _integers(-top, top - 1), top - 1, numbers=numbers, inner=inner)


def _ranged(group: int, bits: int, numbers: int = 0) -> Rule:
    top = 2**bits - 1
    return Rule(
        group,
        _integers(0, top),
        top,
        minimum=True,
        numbers=numbers,
        inner=1 - 1 / top,
        sparse=(bits, numbers) == (2, 15),
    )


_FP4 = np.unique(np.array(mxfp4.LEVELS, np.float64))
_IQ4 = np.array(iq4_nl.LEVELS, np.float64)


def _float8(magnitudes: Float32[np.ndarray, " codes"], mantissa_bits: int) -> Rule:
    wide = magnitudes.astype(np.float64)
    levels = np.unique(np.concatenate([-wide, wide]))
    # A code just above a power of two is half a unit of its last bit away from the next.
    relative = 2.0 ** -(mantissa_bits + 1)
    return Rule(128, levels, wide[-1], rounding=2.0**-24, least=2.0**-150, largest=2.0**127, relative=relative)


RULES: dict[str, Rule] = {
    "q4_0": _uniform(32, 4),
    "q5_0": _uniform(32, 5),
    "q4_1": _ranged(32, 4),
    "q5_1": _ranged(32, 5),
    "q2_K": _ranged(16, 2, 15),
    "q3_K": _uniform(16, 3, 31),
    "q4_K": _ranged(32, 4, 63),
    "q5_K": _ranged(32, 5, 63),
    "q6_K": _uniform(16, 6, 127),
    "iq4_nl": Rule(32, _IQ4, 113, inner=89 / 113),
    "iq4_xs": Rule(32, _IQ4, 113, numbers=31, inner=89 / 113),
    "mxfp4": Rule(32, _FP4, 12, rounding=0.0, least=2.0**-128, widened=2.0, largest=2.0**127),
    "nvfp4": Rule(16, _FP4, 12, rounding=E4M3, least=2.0**-11, inner=2 / 3, largest=6 * 240),
    "nvfp4_two_level": Rule(16, _FP4, 12, rounding=E4M3, least=2.0**-150 * 448, inner=2 / 3, largest=2.0**127),
    "tq1_0": Rule(256, _integers(-1, 1), 1),
    "tq2_0": Rule(256, _integers(-1, 1), 1),
    "fp8_e4m3": _float8(small_floats.E4M3, 3),
    "fp8_e5m2": _float8(small_floats.E5M2, 2),
    "nf4": Rule(64, nf4.LEVELS.astype(np.float64), 1, rounding=2.0**-24, least=2.0**-150, largest=2.0**127),
    **{f"{family}_g{size}": _ranged(size, 4) for family in ("gptq", "gptq_v2", "awq") for size in (32, 64, 128)},
}


def guarantee(
    rule: Rule, values: Float32[np.ndarray, "b n"]
) -> tuple[Float64[np.ndarray, "b groups size"], Float64[np.ndarray, "b groups size"]]:
    """(a, s) of the docstring of this module for each weight."""
    x = values.astype(np.float64).reshape(len(values), -1, rule.group)
    least, most = x.min(axis=2, keepdims=True), x.max(axis=2, keepdims=True)
    if rule.minimum:
        offset, own = np.minimum(least, 0), most
        scale = (np.maximum(most, 0) - offset) / rule.reach
    else:
        offset, own = np.zeros_like(least), np.maximum(-least, most)
        scale = own / rule.reach
    u = (x - offset) / np.where(scale > 0, scale, 1.0)
    half, numbers, top = _half_gaps(rule, u), max(1, rule.numbers), np.abs(rule.levels).max()
    coarse = rule.rounding * scale < rule.least * numbers
    step = np.where(coarse, top * rule.least * numbers, np.abs(x - offset) * rule.rounding)
    if rule.minimum:
        step = step + np.abs(offset) * rule.rounding + rule.least * numbers
    if rule.numbers:
        unit = scale.max(axis=1, keepdims=True) / numbers
        # Of a group below zero some take the scale from its range without 0: the code of x is then larger.
        code = np.abs(x - offset) / np.where(own > offset, own - offset, 1.0) * rule.reach
        step = step + (code / 2 + half) * unit
        if rule.minimum:
            # A fitted minimum may lie some steps beyond the least element.
            step = step + np.abs(offset).max(axis=1, keepdims=True) / (2 * numbers) + 2 * unit
    if rule.relative:
        return np.maximum(rule.relative * np.abs(x), 2 * scale * np.diff(rule.levels).min() / 2), step
    return rule.widened * scale * half, step


def _half_gaps(rule: Rule, u: Float64[np.ndarray, " ..."]) -> Float64[np.ndarray, " ..."]:
    """Half the distance of the levels around each number, or of the next two further out; twice that at the ends."""
    half = np.diff(rule.levels) / 2
    middle = (rule.levels[1:] + rule.levels[:-1]) / 2
    outer = np.maximum(half, np.where(middle >= 0, np.r_[half[1:], half[-1]], np.r_[half[0], half[:-1]]))
    # A scale that does not reach the largest element cuts it off.
    ends = np.abs(u) > rule.reach * rule.inner
    place = np.clip(np.searchsorted(rule.levels, u) - 1, 0, len(half) - 1)
    return np.asarray(outer[place] * np.where(ends, 2, 1))


def known(format: str) -> bool:
    """Whether it is a format of weights whose quantisers promise what this module says."""
    return format in RULES or format in GRID


def keeps(
    format: str, values: Float32[np.ndarray, "b n"], blocks: UInt8[np.ndarray, "b type_size"]
) -> Bool[np.ndarray, " b"]:
    """Which blocks restore their values as closely as the docstring of this module says."""
    restored = formats.get(format).dequantize(blocks).astype(np.float64)
    peak = np.abs(values.astype(np.float64)).max(axis=1)
    finite = np.isfinite(restored).all(axis=1)
    with np.errstate(all="ignore"):
        error = np.abs(restored - values)
        near = _within_grid(format, values, error) if format in GRID else _within_levels(RULES[format], values, error)
        tiny = (error <= 2 * peak[:, None]).all(axis=1)
    largest = 65504.0 if format in GRID else RULES[format].largest
    return np.asarray(np.where(peak > largest, True, finite & (near | (tiny & (peak < LEAST_PROMISED)))))


def _within_levels(
    rule: Rule, values: Float32[np.ndarray, "b n"], error: Float64[np.ndarray, "b n"]
) -> Bool[np.ndarray, " b"]:
    """(1) and (2)."""
    a, s = guarantee(rule, values)
    error = error.reshape(a.shape)
    if rule.sparse:
        size = np.abs(values.astype(np.float64)).reshape(a.shape)
        peak = size.max(axis=2, keepdims=True)
        error = error * np.sqrt(size / np.where(peak > 0, peak, 1.0))
    # Rounding of the restored values, and of what is computed here.
    s = s + 2.0**-22 * np.abs(values.astype(np.float64)).max(axis=1)[:, None, None]
    each = (error <= ELEMENT * a + s).all(axis=(1, 2))
    norm = (_norm(error) <= GROUP * _norm(a) + _norm(s)).all(axis=1)
    return np.asarray(each & norm)


def _norm(x: Float64[np.ndarray, "... n"]) -> Float64[np.ndarray, " ..."]:
    return np.asarray(np.sqrt((x * x).sum(axis=-1)))


def _within_grid(
    format: str, values: Float32[np.ndarray, "b n"], error: Float64[np.ndarray, "b n"]
) -> Bool[np.ndarray, " b"]:
    """(3)."""
    factor, top = GRID[format]
    x = values.astype(np.float64)
    root = np.sqrt(np.sqrt((x * x).mean(axis=1, keepdims=True) + x * x))
    lost = np.full_like(x, top * 2.0**-25)
    return np.asarray(_norm(root * error) <= factor * _norm(root * x) + _norm(root * lost))


def starts(format: str, top: float, rng: np.random.Generator, count: int) -> Float32[np.ndarray, "count n"]:
    """Blocks that show what quantisers get wrong: of one value, and with one element that is not like the others; codes
    just below whole and half numbers, at scales between two powers of two; groups of very different sizes; only
    positive or only negative elements; a largest element of either sign, at the ends of a group; zeros, and subnormal
    numbers.
    """
    fmt = formats.get(format)
    n, group = fmt.block_size, RULES[format].group if format in RULES else 16
    reach = RULES[format].reach if format in RULES else 7.0
    scale = 2.0 ** rng.uniform(-12, np.log2(top), (count, 1))
    scale = np.where(rng.random((count, 1)) < 0.3, 2.0 ** rng.uniform(-30, -12, (count, 1)), scale)
    sign = np.where(rng.random((count, n)) < rng.choice([0.0, 0.5, 1.0], (count, 1)), -1.0, 1.0)
    codes = np.floor(rng.random((count, n)) * reach) + rng.choice([0.499, 0.501, 0.95, 0.05, 0.0], (count, 1))
    spread = np.repeat(2.0 ** -rng.integers(0, 8, (count, n // group)), group, axis=1)
    place = rng.choice([0, group - 1, n - 1, int(rng.integers(0, n))], (count, 1))
    spike = np.arange(n) == place
    kinds = [
        np.ones((count, n)),
        sign,
        sign * np.minimum(codes / reach, 1),
        sign * np.minimum(codes / reach, 1) * spread,
        np.where(spike, sign, 0),
        np.where(spike, sign, 0.5 * sign[:, ::-1]),
        np.where(spike, 0, sign),
        np.zeros((count, n)),
        sign * rng.random((count, n)) * 2.0**-110 / scale,
        sign * 2.0**-140 / scale,
    ]
    chosen = np.choose(rng.integers(0, len(kinds), (count, 1)), kinds)
    # The largest element of either sign decides the scale.
    chosen = np.where(spike & (rng.random((count, 1)) < 0.5) & (np.abs(chosen) > 2.0**-100), sign, chosen)
    return np.clip(chosen * scale, -top, top).astype(np.float32)
