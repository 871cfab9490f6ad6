"""Activations as a product reads them: as they are, rounded to a narrower format, or quantised to 8 bits.

A quantiser divides a block by d = max|x| / 127, rounds to codes q, and stores them with the scale d, which ggml rounds
to f16 for q8_0 and q8_1 and others keep in float32. q8_1 also stores s = d sum(q), by which minimums are multiplied,
and ggml rounds that to f16, too. Engines of other kinds have a scale for another number of elements, or for a whole
row, and codes that are float8 numbers (e4m3, d = max|x| / 448).

**Choices.** Engines compute x / d in float32 by one of several formulas, whose results are within 4 u 127 of the exact
quotient. So a quotient that near to the middle between two codes may become either. The same holds for a scale or a sum
beside the middle between two f16 numbers. Each of these is a ``Choice``: what changes if an engine took the other one.
Ties are choices as well, whichever way they are rounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.models.operations.rounding import UNIT, to

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

LARGEST_CODE = 127
LARGEST_FLOAT8 = 448
_QUOTIENT = 4 * UNIT * LARGEST_CODE
_SCALE = 4 * UNIT
# So many choices of a token are tried one by one; beyond, all of them are allowed for.
MOST_CHOICES = 48


@attrs.frozen
class Codes:
    """How activations become codes.

    size      elements that share a scale; 0: those of a row
    half      whether scales, and stored sums, are f16 numbers
    sums      whether the sum of each block is stored
    float8    whether codes are float8 numbers (e4m3)
    """

    size: int
    half: bool
    sums: bool = False
    float8: bool = False


def of_format(kind: str, *, half: bool) -> Codes:
    """Those of q8_0, q8_1 and q8_K; the scale of the last is never an f16 number."""
    return Codes(formats.get(kind).block_size, half and kind != "q8_K", kind == "q8_1")


# What engines have that quantise activations otherwise than ggml, by name.
UNUSUAL: Mapping[str, Codes] = MappingProxyType({
    **{f"int8 by {size}" if size else "int8 by row": Codes(size, half=False) for size in (0, 16, 32, 64, 128, 256)},
    **{f"int8 by {size or 'row'}, f16 scale": Codes(size, half=True) for size in (0, 16, 32, 64, 128, 256)},
    **{f"fp8 by {size or 'row'}": Codes(size, half=False, float8=True) for size in (0, 16, 32, 64, 128)},
})  # fmt: skip


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


@attrs.frozen(eq=False)
class _Coded:
    """Blocks in codes.

    other    the code that may be meant instead, where ``either``
    reach    by how much codes may be off where more than two may be meant
    """

    d: Float64[np.ndarray, "n blocks"]
    codes: Float64[np.ndarray, "n blocks size"]
    other: Float64[np.ndarray, "n blocks size"]
    either: Bool[np.ndarray, "n blocks size"]
    reach: Float64[np.ndarray, "n blocks size"] | None


def quantised(
    codes: Codes,
    x: Float64[np.ndarray, "n k"],
    error: Float64[np.ndarray, "n k"] | None,
    *,
    choose: bool = True,
) -> Seen:
    """x in codes, restored.

    Without ``choose``, and where x is not known exactly or there are too many choices, there is an error instead of
    choices.
    """
    blocks = x.reshape(len(x), -1, codes.size or x.shape[1])
    with np.errstate(all="ignore"):
        of_blocks = None if error is None else error.reshape(blocks.shape)
        coded = (_float8 if codes.float8 else _int8)(blocks, of_blocks)
        scale = _half(coded.d) if codes.half else coded.d
        total = coded.d * coded.codes.sum(axis=2)
        sums = None if not codes.sums else _half(total) if codes.half else total
        choose = choose and error is None and int(coded.either.sum(axis=(1, 2)).max(initial=0)) <= MOST_CHOICES
        if choose:
            off = of_sums = None
            choices = (
                *_other_codes(codes, coded, scale, sums),
                *(_other_halves(coded.d, scale, coded.codes) if codes.half else ()),
                *(_other_halves(total, sums, None, size=blocks.shape[2]) if codes.half and sums is not None else ()),
            )
        else:
            choices = ()
            off, of_sums = _errors(codes, coded, scale, of_blocks)
    values = scale[..., None] * coded.codes
    return Seen(
        values.reshape(x.shape), sums, None if off is None else np.asarray(off).reshape(x.shape), of_sums, choices
    )


def _int8(blocks: Float64[np.ndarray, "n blocks size"], error: Float64[np.ndarray, "n blocks size"] | None) -> _Coded:
    d, quotient, reach = _quotients(blocks, error, LARGEST_CODE)
    reach = reach + _QUOTIENT
    codes = np.clip(np.rint(quotient), -LARGEST_CODE, LARGEST_CODE)
    middle = np.floor(quotient) + 0.5
    either = (np.abs(quotient - middle) <= reach) & (np.abs(middle) < LARGEST_CODE) & (d > 0)[..., None]
    if error is None:
        return _Coded(d, codes, 2 * middle - codes, either, None)
    # More than one code may be meant where x is known too badly.
    far = reach > 0.5
    return _Coded(d, codes, 2 * middle - codes, either & ~far, np.where(far, np.ceil(reach), 0.0))


def _float8(blocks: Float64[np.ndarray, "n blocks size"], error: Float64[np.ndarray, "n blocks size"] | None) -> _Coded:
    d, quotient, reach = _quotients(blocks, error, LARGEST_FLOAT8)
    reach = reach + 4 * UNIT * np.abs(quotient)
    low, codes, high = (to("e4m3", np.clip(quotient + move, -LARGEST_FLOAT8, LARGEST_FLOAT8))
                        for move in (-reach, 0.0, reach))  # fmt: skip
    either = (low != high) & (d > 0)[..., None]
    if error is None:
        return _Coded(d, codes, low + high - codes, either, None)
    far = np.where(either, np.maximum(high - codes, codes - low), 0.0)
    return _Coded(d, codes, codes, np.zeros_like(either), far)


def _quotients(
    blocks: Float64[np.ndarray, "n blocks size"], error: Float64[np.ndarray, "n blocks size"] | None, largest: int
) -> tuple[Float64[np.ndarray, "n blocks"], Float64[np.ndarray, "n blocks size"], np.ndarray]:
    """Scales, quotients, and how far these may be off because blocks are."""
    d = np.abs(blocks).max(axis=2) / largest
    divisor = np.where(d > 0, d, 1.0)[..., None]
    quotient = blocks / divisor
    if error is None:
        return d, quotient, np.zeros(())
    moved = error.max(axis=2, keepdims=True) / largest
    return d, quotient, np.where((d > 0)[..., None], (error + np.abs(quotient) * moved) / divisor, 0.0)


def _errors(
    codes: Codes,
    coded: _Coded,
    scale: Float64[np.ndarray, "n blocks"],
    error: Float64[np.ndarray, "n blocks size"] | None,
) -> tuple[Float64[np.ndarray, "n blocks size"] | None, Float64[np.ndarray, "n blocks"] | None]:
    """How far off activations, and stored sums, may be if all choices are allowed for."""
    d, total = coded.d, coded.codes.sum(axis=2)
    largest = LARGEST_FLOAT8 if codes.float8 else LARGEST_CODE
    of_scale = np.zeros_like(d)
    if error is not None:
        of_scale = error.max(axis=2) / largest + (_step(d) if codes.half else 0.0)
    elif codes.half:
        low, high = (_half(d * (1 + move)) for move in (-_SCALE, _SCALE))
        of_scale = np.abs(high - low)
    of_codes = np.where(coded.either, np.abs(coded.other - coded.codes), 0.0)
    if coded.reach is not None:
        of_codes = of_codes + coded.reach
    off = of_scale[..., None] * np.abs(coded.codes) + of_codes * scale[..., None]
    if not off.any():
        off = None
    if not codes.sums:
        return off, None
    of_sums = of_scale * np.abs(total) + d * of_codes.sum(axis=2) + (_step(d * total) if codes.half else 0.0)
    return off if off is not None else np.zeros_like(coded.codes), of_sums


def _other_codes(
    codes: Codes,
    coded: _Coded,
    scale: Float64[np.ndarray, "n blocks"],
    sums: Float64[np.ndarray, "n blocks"] | None,
) -> Iterator[Choice]:
    """The choices of codes, and of the sums that they are in."""
    either = coded.either
    if not either.any():
        return
    size, d, total = either.shape[2], coded.d, coded.codes.sum(axis=2)
    change = np.where(either, coded.other - coded.codes, 0.0)
    for token, block, element in np.argwhere(either).tolist():
        of_sum = 0.0
        if sums is not None:
            moved = d[token, block] * (total[token, block] + change[token, block, element])
            of_sum = float((_half(moved) if codes.half else moved) - sums[token, block])
        values = scale[token, block] * change[token, block, element : element + 1]
        yield Choice(token, block * size + element, values, of_sum)
    if sums is None or not codes.half:
        return
    # A sum is rounded once, for all codes of its block together: by a step from what they add one by one.
    step = _step(d * total)
    for token, block in np.argwhere(either.sum(axis=2) > 1).tolist():
        for moved in (step[token, block], -step[token, block]):
            yield Choice(token, block * size, np.zeros(1), float(moved))


def _other_halves(
    exact: Float64[np.ndarray, "n blocks"],
    now: Float64[np.ndarray, "n blocks"],
    codes: Float64[np.ndarray, "n blocks size"] | None,
    size: int = 0,
) -> Iterator[Choice]:
    """The choices of f16 numbers: of scales, which ``codes`` are multiplied by, or of sums."""
    low, high = _half(exact * (1 - _SCALE)), _half(exact * (1 + _SCALE))
    for token, block in np.argwhere(low != high).tolist():
        there = now[token, block]
        delta = float((low if there == high[token, block] else high)[token, block] - there)
        if codes is None:
            yield Choice(token, block * size, np.zeros(1), delta)
        else:
            yield Choice(token, block * codes.shape[2], delta * codes[token, block], 0.0)


def _half(x: Float64[np.ndarray, " ..."]) -> Float64[np.ndarray, " ..."]:
    return np.asarray(x).astype(np.float32).astype(np.float16).astype(np.float64)


def _step(x: Float64[np.ndarray, " ..."]) -> Float64[np.ndarray, " ..."]:
    """The distance of f16 numbers at x, at least that of subnormal ones."""
    _, exponent = np.frexp(x)
    step: np.ndarray = np.maximum(np.ldexp(1.0, exponent - 11), 2.0**-24)
    return step
