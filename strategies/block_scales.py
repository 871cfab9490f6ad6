"""Scales of quantised blocks: f16 bit patterns for d and dmin, and small integers for sub-block scales and minimums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

if TYPE_CHECKING:
    from jaxtyping import Float16, Int32

LARGEST_HALF = 65504.0


def _half_bits(allow_nonfinite: bool) -> st.SearchStrategy[int]:
    """Bit patterns of positive f16 numbers, simplest first: 1, powers of two, normal, subnormal, 0, extremes."""
    finite = st.one_of(
        st.just(0x3C00),
        st.integers(1, 30).map(lambda exponent: exponent << 10),
        st.integers(0x0400, 0x7BFF),
        st.integers(0x0001, 0x03FF),
        st.sampled_from([0x0000, 0x0001, 0x03FF, 0x0400, 0x7BFF]),
    )
    return st.one_of(finite, st.sampled_from([0x7C00, 0x7E00])) if allow_nonfinite else finite


def half_scales(
    count: int, *, largest: float = LARGEST_HALF, allow_nonfinite: bool = False
) -> st.SearchStrategy[np.ndarray]:
    """float16[count] with |d| <= largest: one to three numbers of either sign, repeated.

    They include zero and subnormal numbers and, with ``allow_nonfinite``, infinities and NaN. Shrinks towards 1, or the
    largest power of two that is admissible. Raises ValueError unless count >= 1 and largest > 0.
    """
    if count < 1 or not largest > 0:
        raise ValueError(f"count={count}, largest={largest}: count >= 1 and a positive largest are needed")

    def scaled(patterns: Sequence[tuple[int, bool]]) -> Float16[np.ndarray, " count"]:
        bits = np.array([pattern | (0x8000 if negative else 0) for pattern, negative in patterns], np.uint16)
        halves = bits.view(np.float16)
        with np.errstate(invalid="ignore"):
            wide = halves.astype(np.float64)
            # A scale that is too large is halved until it fits, which keeps its significand.
            excess = np.where(np.isfinite(wide) & (np.abs(wide) > largest), np.abs(wide) / largest, 1.0)
            fitted = (wide * 2.0 ** -np.ceil(np.log2(excess))).astype(np.float16)
        repeated: Float16[np.ndarray, " count"] = np.resize(fitted, count)
        return repeated

    return st.lists(st.tuples(_half_bits(allow_nonfinite), st.booleans()), min_size=1, max_size=3).map(scaled)


def sub_scales(groups: int, low: int, high: int) -> st.SearchStrategy[np.ndarray]:
    """int32[groups] in [low, high]: constant, a ramp, only the upper half, one different, a single bit, or random.

    Shrinks towards ``high`` everywhere. Raises ValueError unless groups >= 1 and low <= high.
    """
    if groups < 1 or low > high:
        raise ValueError(f"groups={groups}, low={low}, high={high}: groups >= 1 and low <= high are needed")
    i = np.arange(groups)
    number = st.one_of(st.sampled_from([high, low, max(low, min(high, 1))]), st.integers(low, high))
    zero = max(low, min(high, 0))

    bits = (high - low).bit_length()

    def expand(shape: str, first: int, second: int, place: int, bit: int, seed: int) -> Int32[np.ndarray, " groups"]:
        patterns: dict[str, Callable[[], np.ndarray]] = {
            "constant": lambda: np.full(groups, first),
            "ramp": lambda: low + (i * (high - low)) // max(1, groups - 1),
            "upper half": lambda: np.where(i >= groups // 2, first, zero),
            "one": lambda: np.where(i == place, first, second),
            "single bit": lambda: np.where(i == place, single_bit(bit, low, high), zero),
            "random": lambda: np.random.default_rng(seed).integers(low, high + 1, groups),
        }
        return np.asarray(np.clip(patterns[shape](), low, high), np.int32)

    return st.builds(
        expand,
        st.sampled_from(["constant", "ramp", "upper half", "one", "single bit", "random"]),
        number,
        number,
        st.integers(0, groups - 1),
        st.integers(0, max(0, bits - 1)),
        st.integers(0, 2**32 - 1),
    )


def single_bit(bit: int, low: int, high: int) -> int:
    """The number in [low, high] with only ``bit`` set; the highest bit of a signed field is its sign."""
    value = 1 << bit
    return value if value <= high else max(low, value - (1 << (high - low).bit_length()))
