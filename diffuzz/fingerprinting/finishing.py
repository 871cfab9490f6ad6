"""Finishing: what an operation makes of a sum, in the ways that kernels do it, to the bit.

Each is a function of the sum in float64, of which float32 is what a float32 accumulator holds, and of what else the
operation has; the result is float32. They are tried one after the other on random inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

_F = np.float32

# (sum [rows], x [rows, n], eps) -> result.
Finish: TypeAlias = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


def _divided(total: np.ndarray, x: np.ndarray, eps: float) -> np.ndarray:
    return np.asarray(total.astype(_F) / _F(x.shape[1]))


def _multiplied(total: np.ndarray, x: np.ndarray, eps: float) -> np.ndarray:
    return np.asarray(total.astype(_F) * (_F(1) / _F(x.shape[1])))


def _divided_wide(total: np.ndarray, x: np.ndarray, eps: float) -> np.ndarray:
    return np.asarray((total / x.shape[1]).astype(_F))


_MEANS: Mapping[str, Finish] = {
    "sum / n": _divided,
    "sum * (1 / n)": _multiplied,
    "sum / n in float64": _divided_wide,
}


def _by_root(mean: Finish) -> Finish:
    return lambda total, x, eps: x.astype(_F) / np.sqrt(mean(total, x, eps) + _F(eps))[:, None]


def _by_reciprocal(mean: Finish) -> Finish:
    return lambda total, x, eps: x.astype(_F) * (_F(1) / np.sqrt(mean(total, x, eps) + _F(eps)))[:, None]


def _by_rsqrt(mean: Finish) -> Finish:
    def finish(total: np.ndarray, x: np.ndarray, eps: float) -> np.ndarray:
        root = np.sqrt((mean(total, x, eps) + _F(eps)).astype(np.float64))
        return np.asarray(x.astype(_F) * (1 / root).astype(_F)[:, None])

    return finish


def _wide_norm(total: np.ndarray, x: np.ndarray, eps: float) -> np.ndarray:
    return np.asarray((x / np.sqrt(total / x.shape[1] + eps)[:, None]).astype(_F))


def _quotient(total: np.ndarray, x: np.ndarray, eps: float) -> np.ndarray:
    return x.astype(_F) / total.astype(_F)[:, None]


def _product(total: np.ndarray, x: np.ndarray, eps: float) -> np.ndarray:
    return np.asarray(x.astype(_F) * (_F(1) / total.astype(_F))[:, None])


def _product_wide(total: np.ndarray, x: np.ndarray, eps: float) -> np.ndarray:
    return np.asarray(x.astype(_F) * (1 / total).astype(_F)[:, None])


def _quotient_wide(total: np.ndarray, x: np.ndarray, eps: float) -> np.ndarray:
    return np.asarray((x / total[:, None]).astype(_F))


# By the name of the target. ``x`` are the exponentials of a softmax, and the numbers whose squares are added elsewhere.
FINISHES: Mapping[str, Mapping[str, Finish]] = {
    "mean_square": _MEANS,
    "rmsnorm": {
        **{f"x / sqrt(mean + eps), mean = {name}": _by_root(mean) for name, mean in _MEANS.items()},
        **{f"x * (1 / sqrt(mean + eps)), mean = {name}": _by_reciprocal(mean) for name, mean in _MEANS.items()},
        **{f"x * rsqrt(mean + eps), rounded once, mean = {name}": _by_rsqrt(mean) for name, mean in _MEANS.items()},
        "x / sqrt(mean + eps) in float64": _wide_norm,
    },
    "softmax": {
        "e / sum": _quotient,
        "e * (1 / sum)": _product,
        "e * (1 / sum in float64)": _product_wide,
        "e / sum in float64": _quotient_wide,
    },
}
