"""Activations as a product reads them: as they are, rounded to a narrower format, or quantised to 8 bits.

A quantiser divides a block by d = max|x| / 127, rounds to codes q, and stores them with the scale d, which ggml rounds
to f16 for q8_0 and q8_1 and others keep in float32. q8_1 also stores s = d sum(q), by which minimums are multiplied,
and ggml rounds that to f16, too.

**Choices.** Engines compute x / d in float32 by one of several formulas, whose results are within 4 u 127 of the exact
quotient. So a quotient that near to the middle between two codes may become either. The same holds for a scale or a sum
beside the middle between two f16 numbers. Each of these is a ``Choice``: what changes if an engine took the other one.
Ties are choices as well, whichever way they are rounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.models.operations.rounding import UNIT

if TYPE_CHECKING:
    from jaxtyping import Float64

LARGEST_CODE = 127
_QUOTIENT = 4 * UNIT * LARGEST_CODE
_SCALE = 4 * UNIT
# So many choices of a token are tried one by one; beyond, all of them are allowed for.
MOST_CHOICES = 48


@attrs.frozen(eq=False)
class Choice:
    """Another activation that an engine may have read: of ``token``, ``change`` at the elements from ``start`` on, and
    ``change_of_sum`` in the sum of the block.
    """

    token: int
    start: int
    change: Float64[np.ndarray, " some"]
    change_of_sum: float


@attrs.frozen(eq=False)
class Seen:
    """Activations as they are read.

    values     the restored numbers
    sums       of q8_1: what the format stores as the sum of each block, for weights with minimums; else None
    error      how far off each may be, where that is no choice
    of_sums    the same of the sums
    choices    see the module
    """

    values: Float64[np.ndarray, "n k"]
    sums: Float64[np.ndarray, "n k/32"] | None
    error: Float64[np.ndarray, "n k"] | None
    of_sums: Float64[np.ndarray, "n k/32"] | None
    choices: tuple[Choice, ...]


def quantised(
    kind: str,
    x: Float64[np.ndarray, "n k"],
    error: Float64[np.ndarray, "n k"] | None,
    *,
    half: bool,
    choose: bool = True,
) -> Seen:
    """x quantised to q8_0, q8_1 or q8_K.

    ``half`` says whether scales and sums are f16 numbers. Without ``choose``, and where x is not known exactly or there
    are too many choices, there is an error instead of choices.
    """
    size = formats.get(kind).block_size
    n = len(x)
    blocks = x.reshape(n, -1, size)
    with np.errstate(all="ignore"):
        return _quantised(kind, blocks, None if error is None else error.reshape(blocks.shape), half, choose)


def _quantised(
    kind: str,
    blocks: Float64[np.ndarray, "n blocks size"],
    error: Float64[np.ndarray, "n blocks size"] | None,
    half: bool,
    choose: bool,
) -> Seen:
    n, _, size = blocks.shape
    peak = np.abs(blocks).max(axis=2)
    d = peak / LARGEST_CODE
    quotient = blocks / np.where(d > 0, d, 1.0)[..., None]
    codes = np.clip(np.rint(quotient), -LARGEST_CODE, LARGEST_CODE)
    rounded = kind != "q8_K" and half
    scale = _half(d) if rounded else d
    values = scale[..., None] * codes
    total = codes.sum(axis=2)
    sums = None
    if kind == "q8_1":
        sums = _half(d * total) if half else d * total

    # What may be otherwise.
    reach = np.full(quotient.shape, _QUOTIENT)
    off: np.ndarray | None = None
    of_sums: np.ndarray | None = None
    if error is not None:
        moved = error.max(axis=2) / LARGEST_CODE
        reach = reach + np.where(d > 0, 1 / np.where(d > 0, d, 1.0), 0.0)[..., None] * (
            error + np.abs(quotient) * moved[..., None])  # fmt: skip
        of_scale = moved + (_step(d) if rounded else 0.0)
        off = of_scale[..., None] * np.abs(codes)
        if sums is not None:
            of_sums = of_scale * np.abs(total) + (_step(d * total) if half else 0.0)
    middle = np.floor(quotient) + 0.5
    either = (np.abs(quotient - middle) <= reach) & (np.abs(middle) < LARGEST_CODE) & (d > 0)[..., None]
    if off is not None:
        # More than one code may be meant where x is known too badly.
        far = reach > 0.5
        either &= ~far
        off = off + np.where(far, np.ceil(reach) * scale[..., None], 0.0)
    choices: list[Choice] = []
    if either.any():
        other = 2 * middle - codes
        change = np.where(either, scale[..., None] * (other - codes), 0.0)
        if error is not None or not choose or int(either.sum(axis=(1, 2)).max()) > MOST_CHOICES:
            off = np.abs(change) + (0.0 if off is None else off)
            if sums is not None:
                step = np.where(either, d[..., None], 0.0).sum(axis=2) + (_step(d * total) if half else 0.0)
                of_sums = step * either.any(axis=2) + (0.0 if of_sums is None else of_sums)
        else:
            for token, block, element in np.argwhere(either).tolist():
                sum_moves = 0.0
                if sums is not None:
                    moved_sum = d[token, block] * (total[token, block] + other[token, block, element]
                                                   - codes[token, block, element])  # fmt: skip
                    sum_moves = float((_half(moved_sum) if half else moved_sum) - sums[token, block])
                choices.append(
                    Choice(token, block * size + element, change[token, block, element : element + 1], sum_moves)
                )
            if sums is not None and half:
                # A sum is rounded once, for all codes of its block together: by a step from what they add one by one.
                step = _step(d * total)
                for token, block in np.argwhere(either.sum(axis=2) > 1).tolist():
                    for moved in (step[token, block], -step[token, block]):
                        choices.append(Choice(token, block * size, np.zeros(1), float(moved)))
    if rounded and error is None:
        for exact, of_sum in ((d, False), (d * total, True)):
            if of_sum and sums is None:
                continue
            low, high = _half(exact * (1 - _SCALE)), _half(exact * (1 + _SCALE))
            if not choose:
                if of_sum:
                    of_sums = np.abs(high - low) + (0.0 if of_sums is None else of_sums)
                else:
                    off = np.abs(high - low)[..., None] * np.abs(codes) + (0.0 if off is None else off)
                continue
            now = sums if of_sum and sums is not None else scale
            for token, block in np.argwhere(low != high).tolist():
                there = now[token, block]
                delta = float((low if there == high[token, block] else high)[token, block] - there)
                change = np.zeros(1) if of_sum else delta * codes[token, block]
                choices.append(Choice(token, block * size, change, delta if of_sum else 0.0))
    return Seen(
        values.reshape(n, -1),
        sums,
        None if off is None else np.asarray(off).reshape(n, -1),
        of_sums,
        tuple(choices),
    )


def _half(x: Float64[np.ndarray, " ..."]) -> Float64[np.ndarray, " ..."]:
    return np.asarray(x).astype(np.float32).astype(np.float16).astype(np.float64)


def _step(x: Float64[np.ndarray, " ..."]) -> Float64[np.ndarray, " ..."]:
    """The distance of f16 numbers at x, at least that of subnormal ones."""
    _, exponent = np.frexp(x)
    step: np.ndarray = np.maximum(np.ldexp(1.0, exponent - 11), 2.0**-24)
    return step
