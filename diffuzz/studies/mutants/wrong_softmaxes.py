"""Log-softmax and masked softmax: one correct form of each, with a switch for each bug.

The functions that are made have the signatures of the targets. Without a switch they are correct.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from diffuzz.studies.mutants import styles
from diffuzz.studies.mutants import wrong_rows as rows
from diffuzz.studies.mutants.wrong_norms import Right, Wrong, first_row
from diffuzz.studies.mutants.wrong_rows import Array, Change, Float, same
from diffuzz.targets.parameter import Params

_F = np.float32


def peak(z: Array) -> Array:
    """The largest of the last axis, which is kept with length 1."""
    return np.asarray(z.max(axis=-1, keepdims=True))


def log_soft_max(
    *,
    value: Change = same,
    top: Change = peak,
    exp: Change = np.exp,
    total: Change = rows.fold,
    log: Change = np.log,
    whole: Change = same,
    joined: bool = False,
    result: Change = same,
    dtype: Float = np.float32,
) -> Callable[[Array], Array]:
    """``(z - top) - log(total(exp(z - top)))`` or, if ``joined``, ``z - (top + log(...))``."""

    def f(z: Array) -> Array:
        with np.errstate(all="ignore"):
            wide = value(z.astype(dtype))
            m = top(wide)
            logarithm = log(whole(total(exp(wide - m))))
            y = wide - (m + logarithm) if joined else (wide - m) - logarithm
            return result(np.asarray(y)).astype(np.float32)

    return f


def log_of_soft_max(eps: float) -> Callable[[Array], Array]:
    """``log(softmax(z) + eps)``, which is the logarithm of 0 for unlikely logits."""

    def f(z: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(np.log(rows.soft_max()(z) + _F(eps)))

    return f


def online_log_soft_max(rescaled: bool = True) -> Callable[[Array], Array]:
    """In one pass with a running maximum; the sum is rescaled when it changes, unless ``rescaled`` is False."""

    def f(z: Array) -> Array:
        top, total = np.full_like(z[..., :1], -np.inf), np.zeros_like(z[..., :1])
        with np.errstate(all="ignore"):
            for i in range(z.shape[-1]):
                new = np.maximum(top, z[..., i : i + 1])
                shift = np.where(new > -np.inf, new, _F(0))
                total = total * (np.exp(top - shift) if rescaled else 1) + np.exp(z[..., i : i + 1] - shift)
                top = new
            return np.asarray((z - top) - np.log(total))

    return f


def masked_soft_max(
    *,
    scaled: Callable[[Array, float], Array] = lambda z, scale: z * _F(scale),
    masked: Callable[[Array, Array], Array] = np.add,
    mask_of: Change = same,
    top: Change = peak,
    exp: Change = np.exp,
    total: Change = rows.fold,
    empty: str = "nan",
    result: Change = same,
    dtype: Float = np.float32,
) -> Callable[..., Array]:
    """``softmax(scaled(z) + mask)``; ``empty`` says what a row gives that is masked whole: NaN, zero or uniform."""

    def f(z: Array, mask: Array, *, scale: float) -> Array:
        with np.errstate(all="ignore"):
            t = masked(scaled(z.astype(dtype), scale), mask_of(mask).astype(dtype))
            m = top(t)
            e = exp(t - m)
            y = e / total(e)
            none = m == -np.inf
            if empty == "zero":
                y = np.where(none, 0, y)
            if empty == "uniform":
                y = np.where(none, 1 / z.shape[-1], y)
            return result(np.asarray(y)).astype(np.float32)

    return f


def _at_least(value: float) -> Change:
    return lambda t: np.maximum(peak(t), _F(value))


def _finite(value: float) -> Change:
    return lambda mask: np.where(np.isneginf(mask), _F(value), mask)


def _mask_as_bool(t: Array, mask: Array) -> Array:
    return np.where(mask < 0, _F(-np.inf), t)


_ANY: Params = {}
_ZERO: Params = {"masked_rows": "zero"}

WRONG: Wrong = (
    ("log-softmax/no-max", "log_softmax", {}, log_soft_max(top=lambda z: np.zeros_like(z[..., :1])),
     "exp without the maximum", "uTensor#175"),
    ("log-softmax/of-softmax", "log_softmax", {}, log_of_soft_max(0.0), "log of 0", ""),
    ("log-softmax/of-softmax-eps", "log_softmax", {}, log_of_soft_max(1e-10), "log(softmax + 1e-10)", ""),
    ("log-softmax/max-zero", "log_softmax", {}, log_soft_max(top=_at_least(0)), "running maximum starts at 0", ""),
    ("log-softmax/max-sentinel", "log_softmax", {}, log_soft_max(top=_at_least(-5e3)),
     "running maximum starts at -5e3", ""),
    ("log-softmax/max-tail", "log_softmax", {}, log_soft_max(top=lambda z: peak(rows.tail_lost(4)(z))),
     "maximum of whole vectors only", ""),
    ("log-softmax/sum-tail", "log_softmax", {}, log_soft_max(total=lambda e: rows.fold(rows.tail_lost(4)(e))),
     "sum of whole vectors only", ""),
    ("log-softmax/sum-f16", "log_softmax", {}, log_soft_max(whole=rows.half), "sum in f16", ""),
    ("log-softmax/sum-eps", "log_softmax", {}, log_soft_max(whole=lambda s: s + _F(1e-5)), "log(sum + 1e-5)", ""),
    ("log-softmax/log2", "log_softmax", {}, log_soft_max(log=np.log2), "log2 for log", ""),
    ("log-softmax/log2e", "log_softmax", {}, log_soft_max(exp=rows.exp_base_two(1.4427)), "log2 e = 1.4427", ""),
    ("log-softmax/exp-clamp", "log_softmax", {}, log_soft_max(exp=rows.exp_limited(-8)), "exp(max(x, -8))", ""),
    ("log-softmax/clamped", "log_softmax", {}, log_soft_max(result=lambda y: np.maximum(y, _F(-100))),
     "at least -100", ""),
    ("log-softmax/f16", "log_softmax", {}, log_soft_max(result=rows.half), "result in f16", ""),
    ("log-softmax/first-row", "log_softmax", {}, log_soft_max(whole=first_row), "sum of the first row for all", ""),
    ("log-softmax/first-axis", "log_softmax", {}, lambda z: log_soft_max()(z.T).T, "along the wrong axis", ""),
    ("log-softmax/not-rescaled", "log_softmax", {}, online_log_soft_max(rescaled=False), "online sum not rescaled", ""),
    ("masked-softmax/scale-forgotten", "masked_softmax", _ANY, masked_soft_max(scaled=lambda z, scale: z),
     "scale forgotten", ""),
    ("masked-softmax/scale-of-sum", "masked_softmax", _ANY, lambda z, mask, *, scale:
     masked_soft_max()(z + mask, 0 * z, scale=scale), "mask scaled, too", ""),
    ("masked-softmax/mask-subtracted", "masked_softmax", _ANY, masked_soft_max(masked=np.subtract), "- mask", ""),
    ("masked-softmax/mask-multiplied", "masked_softmax", _ANY, masked_soft_max(masked=np.multiply), "times mask", ""),
    ("masked-softmax/mask-bool", "masked_softmax", _ANY, masked_soft_max(masked=_mask_as_bool), "mask as bool", ""),
    ("masked-softmax/mask-1e4", "masked_softmax", _ANY, masked_soft_max(mask_of=_finite(-1e4)),
     "-1e4 for -inf", "apex#1390"),
    ("masked-softmax/mask-30", "masked_softmax", _ANY, masked_soft_max(mask_of=_finite(-30)), "-30 for -inf", ""),
    ("masked-softmax/mask-f16", "masked_softmax", _ANY, masked_soft_max(mask_of=rows.half), "mask in f16",
     "llama.cpp#15730"),
    ("masked-softmax/first-mask", "masked_softmax", _ANY, masked_soft_max(mask_of=first_row),
     "mask of the first row for all", "llama.cpp#10683"),
    ("masked-softmax/mask-tail", "masked_softmax", _ANY,
     masked_soft_max(mask_of=lambda m: np.where(np.arange(m.shape[-1]) < m.shape[-1] // 8 * 8, m, _F(0))),
     "mask of whole vectors only", ""),
    ("masked-softmax/max-of-z", "masked_softmax", _ANY,
     lambda z, mask, *, scale: masked_soft_max(top=lambda t: peak(z * _F(scale)))(z, mask, scale=scale),
     "maximum without the mask", ""),
    ("masked-softmax/max-zero", "masked_softmax", _ANY, masked_soft_max(top=_at_least(0)), "maximum starts at 0", ""),
    ("masked-softmax/max-sentinel", "masked_softmax", _ANY, masked_soft_max(top=_at_least(-1e3)),
     "maximum starts at -1e3", ""),
    ("masked-softmax/no-max", "masked_softmax", _ANY, masked_soft_max(top=lambda t: np.zeros_like(t[..., :1])),
     "exp without the maximum", "uTensor#175"),
    ("masked-softmax/exp-f16", "masked_softmax", _ANY, masked_soft_max(exp=lambda x: rows.half(np.exp(x))),
     "exp in f16", "openvino#33880"),
    ("masked-softmax/sum-tail", "masked_softmax", _ANY,
     masked_soft_max(total=lambda e: rows.fold(rows.tail_lost(4)(e))), "sum of whole vectors only", ""),
    ("masked-softmax/whole-nan", "masked_softmax", _ZERO, masked_soft_max(),
     "NaN for a row that is masked whole", "cubecl#1070"),
    ("masked-softmax/whole-uniform", "masked_softmax", _ZERO, masked_soft_max(empty="uniform"),
     "1/n for a row that is masked whole", "pytorch#109517"),
)  # fmt: skip

_ORDERS: tuple[tuple[str, Change, str], ...] = (
    ("plain", rows.fold, "left fold"),
    ("pairwise", rows.pairwise, "pairwise sum"),
    ("backwards", rows.backwards, "backwards"),
    ("kahan", styles.kahan, "compensated sum"),
)
_LOG2_E = 1.4426950408889634
RIGHT: Right = [
    *((f"log-softmax/{name}", "log_softmax", {}, log_soft_max(total=total), what) for name, total, what in _ORDERS),
    ("log-softmax/joined", "log_softmax", {}, log_soft_max(joined=True), "z - logsumexp(z)"),
    ("log-softmax/wide", "log_softmax", {}, log_soft_max(dtype=np.float64), "float64 inside"),
    ("log-softmax/online", "log_softmax", {}, online_log_soft_max(), "one pass"),
    ("log-softmax/base-two", "log_softmax", {},
     log_soft_max(exp=rows.exp_base_two(_LOG2_E), log=lambda s: np.log2(s) * _F(0.6931471805599453)), "exp2 and log2"),
    *((f"masked-softmax/{name}", "masked_softmax", _ANY, masked_soft_max(total=total), what)
      for name, total, what in _ORDERS),
    ("masked-softmax/wide", "masked_softmax", _ANY, masked_soft_max(dtype=np.float64,
     scaled=lambda z, scale: z * scale), "float64 inside"),
    ("masked-softmax/base-two", "masked_softmax", _ANY, masked_soft_max(exp=rows.exp_base_two(_LOG2_E)), "exp2"),
    ("masked-softmax/zero", "masked_softmax", _ZERO, masked_soft_max(empty="zero"), "0 for a row that is masked whole"),
    ("masked-softmax/any-zero", "masked_softmax", _ANY, masked_soft_max(empty="zero"), "0 where it is left open"),
]  # fmt: skip
