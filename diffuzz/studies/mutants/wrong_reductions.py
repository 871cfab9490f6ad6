"""Sums, prefix sums and mean squares: one correct form of each, with a switch for each bug.

The functions that are made have the signatures of the targets. Without a switch they are correct.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from diffuzz.studies.mutants import styles
from diffuzz.studies.mutants import wrong_rows as rows
from diffuzz.studies.mutants.wrong_norms import Right, Wrong, first_row, padded
from diffuzz.studies.mutants.wrong_rows import Array, Change, same

_F = np.float32


def reduced(total: Change, value: Change = same, result: Change = same) -> Callable[[Array], Array]:
    """``total`` along the last axis, whose axis of length 1 is dropped."""

    def f(x: Array) -> Array:
        with np.errstate(all="ignore"):
            return result(total(value(x))[..., 0]).astype(np.float32)

    return f


def mean_of_squares(
    *,
    square: Change = lambda x: x * x,
    total: Change = rows.fold,
    count: Callable[[int], float] = float,
    result: Change = same,
) -> Callable[[Array], Array]:
    """``total(square(x)) / count(n)``."""

    def f(x: Array) -> Array:
        with np.errstate(all="ignore"):
            return result(total(square(x))[..., 0] / _F(count(x.shape[-1]))).astype(np.float32)

    return f


def folded(round: Change) -> Change:
    """A left fold with ``round`` after each addition."""

    def f(x: Array) -> Array:
        total = np.zeros_like(x[..., :1])
        for i in range(x.shape[-1]):
            total = round(total + x[..., i : i + 1])
        return total

    return f


def strided(lanes: int, whole: bool) -> Change:
    """Sums in ``lanes`` accumulators; without ``whole`` the last incomplete step is lost."""

    def f(x: Array) -> Array:
        n = x.shape[-1]
        kept = n if whole else max(n - n % lanes, min(n, 1))
        parts = [rows.fold(x[..., i:kept:lanes]) for i in range(min(lanes, kept))]
        return rows.fold(np.concatenate(parts, axis=-1))

    return f


def clipped(limit: float) -> Change:
    """Numbers clipped to +-``limit``."""
    return lambda x: np.clip(x, -limit, limit)


def prefix_sums(x: Array) -> Array:
    """Prefix sums from left to right."""
    return np.add.accumulate(x, axis=-1)


def blocked(
    size: int, *, carried: Callable[[Array, Array], Array] = np.add, inner: Change = prefix_sums
) -> Callable[[Array], Array]:
    """Prefix sums in blocks of ``size``; ``carried(sums, carry)`` adds what comes before a block."""

    def f(x: Array) -> Array:
        carry, parts = np.zeros_like(x[..., :1]), []
        for i in range(0, x.shape[-1], size):
            block = inner(x[..., i : i + size])
            parts.append(carried(block, carry))
            carry = carry + block[..., -1:]
        return np.concatenate(parts, axis=-1)

    return f


def scanned(change: Callable[[Array, Array], Array]) -> Callable[[Array], Array]:
    """``change(x, prefix sums)``."""
    return lambda x: np.asarray(change(x, prefix_sums(x))).astype(np.float32)


def rounded_scan(round: Change) -> Callable[[Array], Array]:
    """Prefix sums with ``round`` after each addition."""

    def f(x: Array) -> Array:
        y, total = np.empty_like(x), np.zeros_like(x[..., 0])
        for i in range(x.shape[-1]):
            total = round(total + x[..., i])
            y[..., i] = total
        return y

    return f


def doubling(x: Array) -> Array:
    """Prefix sums by steps of 1, 2, 4 ... (Hillis and Steele)."""
    step = 1
    while step < x.shape[-1]:
        x = np.concatenate([x[..., :step], x[..., step:] + x[..., :-step]], axis=-1)
        step *= 2
    return x


def doubling_short(x: Array) -> Array:
    """The same without the last step."""
    step = 1
    while 2 * step < x.shape[-1]:
        x = np.concatenate([x[..., :step], x[..., step:] + x[..., :-step]], axis=-1)
        step *= 2
    return x


def _tail(x: Array, y: Array) -> Array:
    n = max(x.shape[-1] - x.shape[-1] % 8, 1)
    return np.where(np.arange(x.shape[-1]) < n, y, x)


def _last_twice(x: Array) -> Array:
    return np.concatenate([x, x[..., -1:]], axis=-1)


WRONG: Wrong = (
    ("sum/tail", "sum", {}, reduced(lambda x: rows.fold(rows.tail_lost(8)(x))), "whole vectors only", ""),
    ("sum/lanes-tail", "sum", {}, reduced(strided(32, whole=False)), "whole steps of 32 lanes only", ""),
    ("sum/first-lost", "sum", {}, reduced(lambda x: rows.fold(x[..., 1:]) if x.shape[-1] > 1 else x * 0),
     "begins at the second element", ""),
    ("sum/last-twice", "sum", {}, reduced(lambda x: rows.fold(_last_twice(x))), "last element twice", ""),
    ("sum/f16", "sum", {}, reduced(folded(rows.half)), "accumulated in f16", "onnxruntime#29611"),
    ("sum/bf16", "sum", {}, reduced(folded(rows.bfloat)), "accumulated in bf16", ""),
    ("sum/inputs-f16", "sum", {}, reduced(rows.fold, value=rows.half), "elements in f16", ""),
    ("sum/inputs-bf16", "sum", {}, reduced(rows.fold, value=rows.bfloat), "elements in bf16", ""),
    ("sum/result-f16", "sum", {}, reduced(rows.fold, result=rows.half), "result in f16", "vllm#33972"),
    ("sum/int32", "sum", {}, reduced(lambda x: rows.fold(np.rint(x * 65536) / 65536)), "fixed point of 16 bits", ""),
    ("sum/clipped", "sum", {}, reduced(rows.fold, result=clipped(65504.0)), "saturated to 65504", ""),
    ("sum/magnitudes", "sum", {}, reduced(rows.fold, value=np.abs), "|x|", ""),
    ("sum/first-row", "sum", {}, reduced(rows.fold, value=first_row), "first row for all", ""),
    ("sum/mean", "sum", {}, lambda x: rows.fold(x)[..., 0] / _F(x.shape[-1]), "mean", ""),
    ("sum/byte", "sum", {}, reduced(lambda x: rows.fold(x[..., np.arange(x.shape[-1]) % 256])), "index in 8 bits", ""),
    ("sum/flush", "sum", {}, reduced(rows.fold, value=lambda x: np.where(np.abs(x) < 1e-5, _F(0), x)),
     "elements below 1e-5 as 0", ""),
    ("cumsum/exclusive", "cumsum", {}, scanned(lambda x, y: y - x), "without the element itself", ""),
    ("cumsum/backwards", "cumsum", {}, lambda x: prefix_sums(x[..., ::-1])[..., ::-1], "from the end", ""),
    ("cumsum/tail", "cumsum", {}, scanned(_tail), "not added after the last whole vector of 8", ""),
    ("cumsum/not-carried", "cumsum", {}, blocked(128, carried=lambda sums, carry: sums), "blocks not carried", ""),
    ("cumsum/carry-once", "cumsum", {},
     blocked(128, carried=lambda sums, carry: sums, inner=blocked(64)), "carry lost after two blocks of 64", ""),
    ("cumsum/doubling-short", "cumsum", {}, doubling_short, "last doubling step missing", ""),
    ("cumsum/f16", "cumsum", {}, rounded_scan(rows.half), "accumulated in f16", "onnxruntime#29611"),
    ("cumsum/bf16", "cumsum", {}, rounded_scan(rows.bfloat), "accumulated in bf16", ""),
    ("cumsum/stored-f16", "cumsum", {}, scanned(lambda x, y: rows.half(y)), "stored in f16", ""),
    ("cumsum/carry-f16", "cumsum", {}, blocked(32, carried=lambda sums, carry: sums + rows.half(carry)),
     "carry in f16", ""),
    ("cumsum/first-axis", "cumsum", {}, lambda x: np.add.accumulate(x, axis=0), "along the wrong axis", ""),
    ("cumsum/across-rows", "cumsum", {},
     lambda x: np.add.accumulate(x.reshape(-1)).reshape(x.shape).astype(np.float32), "rows not separated", ""),
    ("cumsum/sum", "cumsum", {}, scanned(lambda x, y: np.broadcast_to(y[..., -1:], y.shape)), "sum everywhere", ""),
    ("cumsum/clipped", "cumsum", {}, scanned(lambda x, y: np.clip(y, -65504.0, 65504.0)), "saturated to 65504", ""),
    ("mean-square/tail", "mean_square", {}, mean_of_squares(total=lambda s: rows.fold(rows.tail_lost(8)(s))),
     "whole vectors only", ""),
    ("mean-square/count", "mean_square", {}, mean_of_squares(count=lambda n: max(n - 1, 1)), "over n - 1", ""),
    ("mean-square/count-padded", "mean_square", {}, mean_of_squares(count=padded()), "over whole vectors of 8", ""),
    ("mean-square/sum", "mean_square", {}, mean_of_squares(count=lambda n: 1.0), "not divided", ""),
    ("mean-square/f16", "mean_square", {}, mean_of_squares(square=lambda x: rows.half(x * x)), "squares in f16",
     "pytorch#133085"),
    ("mean-square/sum-f16", "mean_square", {}, mean_of_squares(total=folded(rows.half)), "accumulated in f16", ""),
    ("mean-square/sum-bf16", "mean_square", {}, mean_of_squares(total=folded(rows.bfloat)), "accumulated in bf16", ""),
    ("mean-square/inputs-bf16", "mean_square", {}, mean_of_squares(square=lambda x: rows.bfloat(x) ** 2),
     "elements in bf16", ""),
    ("mean-square/root", "mean_square", {}, mean_of_squares(result=np.sqrt), "root", ""),
    ("mean-square/eps", "mean_square", {}, mean_of_squares(result=lambda m: m + _F(1e-6)), "plus 1e-6", ""),
    ("mean-square/variance", "mean_square", {},
     mean_of_squares(square=lambda x: (x - x.mean(axis=-1, keepdims=True)) ** 2), "variance", ""),
    ("mean-square/of-mean", "mean_square", {},
     lambda x: (rows.fold(x)[..., 0] / _F(x.shape[-1])) ** 2, "square of the mean", ""),
    ("mean-square/first-row", "mean_square", {}, mean_of_squares(square=lambda x: first_row(x * x)),
     "first row for all", ""),
    ("mean-square/flush", "mean_square", {}, mean_of_squares(square=lambda x: np.where(np.abs(x) < 1e-4, _F(0), x * x)),
     "squares below 1e-8 as 0", ""),
)  # fmt: skip

_ORDERS: tuple[tuple[str, Change, str], ...] = (
    ("plain", rows.fold, "left fold"),
    ("pairwise", rows.pairwise, "pairwise"),
    ("backwards", rows.backwards, "backwards"),
    ("kahan", styles.kahan, "compensated"),
    ("lanes", strided(32, whole=True), "32 lanes"),
    ("wide", lambda x: np.asarray(np.sum(x, axis=-1, keepdims=True, dtype=np.float64)), "float64"),
)
RIGHT: Right = [
    *((f"sum/{name}", "sum", {}, reduced(total), what) for name, total, what in _ORDERS),
    *((f"mean-square/{name}", "mean_square", {}, mean_of_squares(total=t), what) for name, t, what in _ORDERS),
    ("mean-square/scaled", "mean_square", {},
     lambda x: rows.fold(x * x * (_F(1) / _F(x.shape[-1])))[..., 0], "each square divided"),
    ("cumsum/plain", "cumsum", {}, prefix_sums, "from left to right"),
    ("cumsum/blocks", "cumsum", {}, blocked(64), "blocks of 64"),
    ("cumsum/doubling", "cumsum", {}, doubling, "steps of 1, 2, 4"),
    ("cumsum/wide", "cumsum", {}, lambda x: np.cumsum(x, axis=-1, dtype=np.float64).astype(np.float32), "float64"),
]  # fmt: skip
