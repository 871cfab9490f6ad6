"""Norms with a gain, and LayerNorm: one correct form of each, with a switch for each bug.

The functions that are made have the signatures of the targets. Without a switch they are correct.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from diffuzz.studies.mutants import styles
from diffuzz.studies.mutants import wrong_rows as rows
from diffuzz.studies.mutants.wrong_rows import Array, Change, Float, same
from diffuzz.targets.parameter import Params

_F = np.float32
# (name, target, parameters, function, what is wrong, source) of mutants; the functions have one result or several.
Wrong: TypeAlias = tuple[tuple[str, str, Params, Callable[..., Any], str, str], ...]
# Correct functions in the same order, without a source.
Right: TypeAlias = list[tuple[str, str, Params, Callable[..., Any], str]]
# (x, reciprocal of the root of the mean square, gain) -> result.
_Finish: TypeAlias = Callable[[Array, Array, Array], Array]


def first_row(x: Array) -> Array:
    """The first row for all."""
    return np.broadcast_to(x[:1], x.shape)


def whole_vectors(change: Callable[[Array], Array], width: int = 8) -> Change:
    """``change`` for whole vectors of ``width`` elements of the last axis; what is left stays as it is."""

    def f(x: Array) -> Array:
        y, n = np.array(x), x.shape[-1] - x.shape[-1] % width
        y[..., :n] = change(x[..., :n])
        return y

    return f


def padded(width: int = 8) -> Callable[[int], float]:
    """The number of elements of whole vectors: padding is counted."""
    return lambda n: float(n + -n % width)


def mean_of(
    x: Array, total: Change = rows.fold, count: Callable[[int], float] = float, dtype: Float = np.float32
) -> Array:
    """``total(x) / count(n)`` along the last axis, which is kept with length 1."""
    return np.asarray(total(x) / dtype(count(x.shape[-1])))


def rms_norm(
    *,
    value: Change = same,
    square: Change = lambda x: x * x,
    total: Change = rows.fold,
    count: Callable[[int], float] = float,
    mean: Change = same,
    eps_of: Callable[[float], float] = lambda eps: eps,
    inverse: Callable[[Array, float], Array] | None = None,
    gain_of: Change = same,
    finish: _Finish = lambda x, inverse, gain: x * inverse * gain,
    result: Change = same,
    dtype: Float = np.float32,
) -> Callable[..., Array]:
    """``x / sqrt(total(x^2) / n + eps) gain``; ``value`` changes x where its squares are summed."""

    def f(x: Array, gain: Array, *, eps: float) -> Array:
        with np.errstate(all="ignore"):
            wide = x.astype(dtype)
            m = mean(mean_of(square(value(wide)), total, count, dtype))
            used = eps_of(eps)
            root = inverse(m, used) if inverse else dtype(1) / np.sqrt(m + dtype(used))
            y = finish(wide, root, gain_of(gain).astype(dtype))
            return np.asarray(result(y).astype(np.float32))

    return f


def gain_inside(x: Array, gain: Array, *, eps: float) -> Array:
    """RMSNorm of x times gain: the gain is normalised away."""
    return np.asarray(rows.rms_norm()(x * gain, eps))


def add_norm(
    *,
    add: Callable[[Array, Array], Array] = np.add,
    normed: Callable[[Array, Array, Array], Array] = lambda s, x, residual: s,
    norm: Callable[..., Array] | None = None,
    stored: Callable[[Array, Array, Array, Array], Array] = lambda s, y, x, residual: s,
) -> Callable[..., tuple[Array, Array]]:
    """(norm of ``s = add(x, residual)``, ``s``); ``normed`` is normalised in place of s, ``stored`` returned."""
    inner = norm or rms_norm()

    def f(x: Array, residual: Array, gain: Array, *, eps: float) -> tuple[Array, Array]:
        s = add(x, residual)
        y = inner(normed(s, x, residual), gain, eps=eps)
        return y, stored(s, y, x, residual)

    return f


def residual_late(x: Array, residual: Array, gain: Array, *, eps: float) -> tuple[Array, Array]:
    """The residual is added to the normalised x."""
    return rms_norm()(x, gain, eps=eps) + residual, x + residual


def tail_not_added(width: int = 8) -> Callable[[Array, Array], Array]:
    """A sum of whole vectors; what is left keeps x."""

    def f(x: Array, residual: Array) -> Array:
        s, n = np.array(x), x.shape[-1] - x.shape[-1] % width
        s[..., :n] += residual[..., :n]
        return s

    return f


def layer_norm(
    *,
    mean: Change = mean_of,
    centre: Callable[[Array, Array], Array] = np.subtract,
    variance: Callable[[Array, Array, Array], Array] = lambda x, mean, centred: mean_of(centred * centred),
    eps_of: Callable[[float], float] = lambda eps: eps,
    inverse: Callable[[Array, float], Array] | None = None,
    gain_of: Change = same,
    bias_of: Change = same,
    finish: Callable[[Array, Array, Array], Array] = lambda y, gain, bias: y * gain + bias,
    result: Change = same,
    dtype: Float = np.float32,
) -> Callable[..., Array]:
    """``(x - mean) / sqrt(variance + eps) gain + bias``; ``variance(x, mean, x - mean)``."""

    def f(x: Array, gain: Array, bias: Array, *, eps: float) -> Array:
        with np.errstate(all="ignore"):
            wide = x.astype(dtype)
            m = mean(wide)
            centred = centre(wide, m)
            v, used = variance(wide, m, centred), eps_of(eps)
            root = inverse(v, used) if inverse else dtype(1) / np.sqrt(v + dtype(used))
            y = finish(centred * root, gain_of(gain).astype(dtype), bias_of(bias).astype(dtype))
            return np.asarray(result(np.asarray(y)).astype(np.float32))

    return f


def one_pass(x: Array, mean: Array, centred: Array) -> Array:
    """The variance as E[x^2] - E[x]^2, not below 0."""
    return np.asarray(np.maximum(mean_of(x * x) - mean * mean, _F(0)))


def welford(x: Array, mean: Array, centred: Array) -> Array:
    """The variance by Welford's recurrence, in float32."""
    m, s = np.zeros_like(x[..., :1]), np.zeros_like(x[..., :1])
    for i in range(x.shape[-1]):
        one = x[..., i : i + 1]
        new = m + (one - m) / _F(i + 1)
        s = s + (one - m) * (one - new)
        m = new
    return np.asarray(s / _F(x.shape[-1]))


def _halves(x: Array, mean: Array, centred: Array) -> Array:
    return mean_of(rows.half(centred * centred))


def _outside(mean: Array, eps: float) -> Array:
    return np.asarray(1 / (np.sqrt(mean) + _F(eps)))


def _greater(mean: Array, eps: float) -> Array:
    return np.asarray(1 / np.sqrt(np.maximum(mean, _F(eps))))


def _at_most(limit: float) -> Callable[[Array, float], Array]:
    return lambda mean, eps: np.minimum(1 / np.sqrt(mean + _F(eps)), _F(limit))


def _byte_index(gain: Array) -> Array:
    return np.asarray(gain[np.arange(len(gain)) % 256])


def _gain_of_vectors(x: Array, inverse: Array, gain: Array) -> Array:
    y = x * inverse
    n = y.shape[-1] - y.shape[-1] % 8
    return np.concatenate([y[..., :n] * gain[:n], y[..., n:]], axis=-1)


def _bias_of_vectors(y: Array, gain: Array, bias: Array) -> Array:
    n = y.shape[-1] - y.shape[-1] % 8
    return np.asarray(y * gain + np.where(np.arange(len(bias)) < n, bias, _F(0)))


def _mean_of_vectors(x: Array) -> Array:
    return mean_of(x, total=lambda x: rows.fold(rows.tail_lost(4)(x)))


# Wrong norms that two targets have: (name, function, what is wrong, source).
_SHARED: tuple[tuple[str, Callable[..., Array], str, str], ...] = (
    ("eps-constant", rms_norm(eps_of=lambda eps: 1e-5), "eps fixed at 1e-5", "llama.cpp#2373"),
    ("eps-forgotten", rms_norm(eps_of=lambda eps: 0.0), "without eps", ""),
    ("eps-outside", rms_norm(inverse=_outside), "eps outside of the root", ""),
    ("eps-maximum", rms_norm(inverse=_greater), "max(mean, eps)", ""),
    ("squares-f16", rms_norm(square=lambda x: rows.half(x * x)), "squares in f16", "pytorch#133085"),
    ("squares-tail", rms_norm(total=lambda s: rows.fold(rows.tail_lost(8)(s))), "squares of whole vectors only", ""),
    ("count-padded", rms_norm(count=padded()), "mean over whole vectors of 8", ""),
    ("first-row", rms_norm(mean=first_row), "mean square of the first row for all", "vllm#22701"),
    ("gain-tail", rms_norm(finish=_gain_of_vectors), "no gain after the last whole vector of 8", ""),
    ("gain-byte", rms_norm(gain_of=_byte_index), "index of the gain in 8 bits", ""),
    ("gain-first", rms_norm(gain_of=lambda g: np.full_like(g, g[0])), "first gain for all", ""),
    ("gain-f16", rms_norm(gain_of=rows.half), "gain in f16", ""),
    ("result-bf16", rms_norm(result=rows.bfloat), "result cut to bf16", ""),
    ("root-clamped", rms_norm(inverse=_at_most(100)), "1 / rms at most 100", ""),
)

WRONG: Wrong = (
    *((f"rmsnorm-gain/{name}", "rmsnorm_gain", {}, f, wrong, source) for name, f, wrong, source in _SHARED),
    ("rmsnorm-gain/gain-inside", "rmsnorm_gain", {}, gain_inside, "gain applied before the norm", "tpu-inference#3040"),
    ("rmsnorm-gain/gain-plus-one", "rmsnorm_gain", {}, rms_norm(gain_of=lambda g: g + _F(1)), "times 1 + gain",
     "imp#1289"),
    ("rmsnorm-gain/gain-magnitude", "rmsnorm_gain", {}, rms_norm(gain_of=np.abs), "sign of the gain lost", ""),
    ("rmsnorm-gain/count", "rmsnorm_gain", {}, rms_norm(count=lambda n: max(n - 1, 1)), "mean over n - 1", ""),
    ("rmsnorm-gain/centred", "rmsnorm_gain", {}, rms_norm(value=lambda x: x - mean_of(x)), "variance", ""),
    ("rmsnorm-gain/root-rough", "rmsnorm_gain", {}, rms_norm(inverse=rows.rough_root), "12 bits of rsqrt", ""),
    *((f"add-rmsnorm/{name}", "add_rmsnorm", {}, add_norm(norm=f), what, source) for name, f, what, source in _SHARED),
    ("add-rmsnorm/sum-f16", "add_rmsnorm", {}, add_norm(add=lambda x, r: rows.half(x + r)), "sum in f16",
     "onnxruntime#29043"),
    ("add-rmsnorm/sum-stored-f16", "add_rmsnorm", {}, add_norm(stored=lambda s, y, x, r: rows.half(s)),
     "sum stored in f16", ""),
    ("add-rmsnorm/sum-not-stored", "add_rmsnorm", {}, add_norm(stored=lambda s, y, x, r: x), "x stored, not s", ""),
    ("add-rmsnorm/norm-stored", "add_rmsnorm", {}, add_norm(stored=lambda s, y, x, r: y), "norm stored, not s", ""),
    ("add-rmsnorm/norm-of-x", "add_rmsnorm", {}, add_norm(normed=lambda s, x, r: x), "x normalised, not the sum", ""),
    ("add-rmsnorm/added-twice", "add_rmsnorm", {}, add_norm(normed=lambda s, x, r: s + r), "residual added twice", ""),
    ("add-rmsnorm/residual-late", "add_rmsnorm", {}, residual_late, "residual added after the norm", ""),
    ("add-rmsnorm/difference", "add_rmsnorm", {}, add_norm(add=np.subtract), "x - residual", ""),
    ("add-rmsnorm/sum-tail", "add_rmsnorm", {}, add_norm(add=tail_not_added()), "residual of whole vectors only", ""),
    ("add-rmsnorm/first-residual", "add_rmsnorm", {}, add_norm(add=lambda x, r: x + first_row(r)),
     "residual of the first row for all", ""),
    ("layer-norm/one-pass", "layer_norm", {}, layer_norm(variance=one_pass), "E[x^2] - E[x]^2 cancels", "flax"),
    ("layer-norm/unbiased", "layer_norm", {},
     layer_norm(variance=lambda x, m, c: mean_of(c * c, count=lambda n: max(n - 1, 1))), "variance over n - 1", ""),
    ("layer-norm/count-padded", "layer_norm", {},
     layer_norm(variance=lambda x, m, c: mean_of(c * c, count=padded())), "variance over whole vectors of 8", ""),
    ("layer-norm/rms", "layer_norm", {}, layer_norm(centre=lambda x, m: x), "mean not subtracted", "aprender"),
    ("layer-norm/variance-of-x", "layer_norm", {}, layer_norm(variance=lambda x, m, c: mean_of(x * x)),
     "mean square for variance", ""),
    ("layer-norm/mean-tail", "layer_norm", {}, layer_norm(mean=_mean_of_vectors), "mean of whole vectors only", ""),
    ("layer-norm/variance-tail", "layer_norm", {},
     layer_norm(variance=lambda x, m, c: mean_of(rows.tail_lost(8)(c * c), count=lambda _: float(x.shape[-1]))),
     "variance of whole vectors only", ""),
    ("layer-norm/mean-f16", "layer_norm", {}, layer_norm(mean=lambda x: rows.half(mean_of(x))), "mean in f16", ""),
    ("layer-norm/squares-f16", "layer_norm", {}, layer_norm(variance=_halves), "squares in f16", "pytorch#133085"),
    ("layer-norm/eps-constant", "layer_norm", {}, layer_norm(eps_of=lambda eps: 1e-5), "eps fixed at 1e-5",
     "llama.cpp#2373"),
    ("layer-norm/eps-forgotten", "layer_norm", {}, layer_norm(eps_of=lambda eps: 0.0), "without eps", ""),
    ("layer-norm/eps-outside", "layer_norm", {}, layer_norm(inverse=_outside), "eps outside of the root", ""),
    ("layer-norm/eps-maximum", "layer_norm", {}, layer_norm(inverse=_greater), "max(variance, eps)", ""),
    ("layer-norm/root-rough", "layer_norm", {}, layer_norm(inverse=rows.rough_root), "12 bits of rsqrt", ""),
    ("layer-norm/bias-first", "layer_norm", {}, layer_norm(finish=lambda y, g, b: (y + b) * g), "(y + bias) gain", ""),
    ("layer-norm/bias-tail", "layer_norm", {}, layer_norm(finish=_bias_of_vectors),
     "no bias after the last whole vector of 8", ""),
    ("layer-norm/bias-forgotten", "layer_norm", {}, layer_norm(finish=lambda y, g, b: y * g), "without bias", ""),
    ("layer-norm/bias-bf16", "layer_norm", {}, layer_norm(bias_of=rows.bfloat), "bias cut to bf16", ""),
    ("layer-norm/gain-f16", "layer_norm", {}, layer_norm(gain_of=rows.half), "gain in f16", ""),
    ("layer-norm/gain-byte", "layer_norm", {}, layer_norm(gain_of=_byte_index), "index of the gain in 8 bits", ""),
    ("layer-norm/first-row", "layer_norm", {}, layer_norm(mean=lambda x: first_row(mean_of(x))),
     "mean of the first row for all", "vllm#22701"),
)  # fmt: skip


def _product_first(x: Array, inverse: Array, gain: Array) -> Array:
    return np.asarray(x * (inverse * gain))


def _gain_first(x: Array, inverse: Array, gain: Array) -> Array:
    return np.asarray(x * gain * inverse)


# Correct norms in other orders and precisions.
_ORDERS: tuple[tuple[str, Callable[..., Array], str], ...] = (
    ("plain", rms_norm(), "left fold"),
    ("pairwise", rms_norm(total=rows.pairwise), "pairwise sum"),
    ("backwards", rms_norm(total=rows.backwards), "backwards"),
    ("kahan", rms_norm(total=styles.kahan), "compensated sum"),
    ("wide", rms_norm(dtype=np.float64), "float64 inside"),
    ("newton", rms_norm(inverse=styles.newton_root), "rsqrt and a Newton step"),
    ("product-first", rms_norm(finish=_product_first), "x (gain / rms)"),
    ("gain-early", rms_norm(finish=_gain_first), "(x gain) / rms"),
)
RIGHT: Right = [
    *((f"rmsnorm-gain/{name}", "rmsnorm_gain", {}, f, what) for name, f, what in _ORDERS),
    *((f"add-rmsnorm/{name}", "add_rmsnorm", {}, add_norm(norm=f), what) for name, f, what in _ORDERS),
    ("layer-norm/plain", "layer_norm", {}, layer_norm(), "left fold"),
    ("layer-norm/pairwise", "layer_norm", {},
     layer_norm(mean=lambda x: mean_of(x, rows.pairwise), variance=lambda x, m, c: mean_of(c * c, rows.pairwise)),
     "pairwise sums"),
    ("layer-norm/backwards", "layer_norm", {},
     layer_norm(mean=lambda x: mean_of(x, rows.backwards), variance=lambda x, m, c: mean_of(c * c, rows.backwards)),
     "backwards"),
    ("layer-norm/wide", "layer_norm", {}, layer_norm(dtype=np.float64), "float64 inside"),
    ("layer-norm/one-pass-policy", "layer_norm", {"policy": "one-pass"}, layer_norm(variance=one_pass),
     "E[x^2] - E[x]^2"),
    ("layer-norm/welford", "layer_norm", {}, layer_norm(variance=welford), "Welford's recurrence"),
    ("layer-norm/newton", "layer_norm", {}, layer_norm(inverse=styles.newton_root), "rsqrt and a Newton step"),
]  # fmt: skip
