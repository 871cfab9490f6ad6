"""SiLU, GELU and GEGLU: one correct form of each, with a switch for each bug.

The functions that are made have the signatures of the targets. Without a switch they are correct.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from diffuzz.studies.mutants import styles
from diffuzz.studies.mutants import wrong_rows as rows
from diffuzz.studies.mutants.wrong_norms import Right, Wrong, first_row, whole_vectors
from diffuzz.studies.mutants.wrong_rows import Array, Change, Float, same
from diffuzz.targets.parameter import Params

_F = np.float32
_ROOT = math.sqrt(2 / math.pi)
_HALF_ROOT = math.sqrt(0.5)

erf = np.vectorize(math.erf, otypes=[np.float64])


def silu(
    *, gate: Change = rows.sigmoid, value: Change = same, result: Change = same, dtype: Float = np.float32
) -> Callable[[Array], Array]:
    """``x gate(x)``; ``value`` changes x beforehand, ``result`` the result."""

    def f(x: Array) -> Array:
        with np.errstate(all="ignore"):
            wide = value(x.astype(dtype))
            return result(wide * gate(wide)).astype(np.float32)

    return f


def divided(x: Array) -> Array:
    """SiLU as ``x / (1 + exp(-x))``."""
    with np.errstate(over="ignore"):
        return np.asarray(x / (_F(1) + np.exp(-x)))


def two_sided(x: Array) -> Array:
    """SiLU by exp(-|x|), which never overflows."""
    e = np.exp(-np.abs(x))
    return np.asarray(x * (np.where(x >= 0, _F(1), e) / (_F(1) + e)))


def hard_sigmoid(x: Array) -> Array:
    """The sigmoid by straight lines."""
    return np.clip(x / 6 + _F(0.5), 0, 1)


def erf_form(x: Array) -> Array:
    """``1 + erf(x / sqrt 2)``."""
    return np.asarray(1 + erf((x * x.dtype.type(_HALF_ROOT)).astype(np.float64)).astype(x.dtype))


def erf_polynomial(x: Array) -> Array:
    """The same with erf by Abramowitz and Stegun 7.1.26, whose error is 1.5e-7."""
    size = np.abs(x) * _F(_HALF_ROOT)
    t = _F(1) / (_F(1) + _F(0.3275911) * size)
    p = np.zeros_like(x)
    for coefficient in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        p = (p + _F(coefficient)) * t
    return np.asarray(1 + np.sign(x) * (_F(1) - p * np.exp(-size * size)))


def erf_coarse(x: Array) -> Array:
    """The same with erf by Abramowitz and Stegun 7.1.25, whose error is 2.5e-5."""
    size = np.abs(x) * _F(_HALF_ROOT)
    t = _F(1) / (_F(1) + _F(0.47047) * size)
    p = ((_F(0.7478556) * t - _F(0.0958798)) * t + _F(0.3480242)) * t
    return np.asarray(1 + np.sign(x) * (_F(1) - p * np.exp(-size * size)))


def tanh_form(
    *,
    cubic: float = 0.044715,
    root: float = _ROOT,
    tanh: Change = np.tanh,
    power: Callable[[Array], Array] | None = None,
) -> Change:
    """``1 + tanh(root (x + cubic x^3))``."""

    def f(x: Array) -> Array:
        real = x.dtype.type
        cube = power(x) if power else x * x * x
        return np.asarray(1 + tanh(real(root) * (x + real(cubic) * cube)))

    return f


def tanh_by_exp(x: Array) -> Array:
    """``(e^2x - 1) / (e^2x + 1)``, which is infinity over infinity for large x."""
    e = np.exp(2 * x)
    return np.asarray((e - 1) / (e + 1))


def tanh_by_negative_exp(x: Array) -> Array:
    """``(1 - e^-2x) / (1 + e^-2x)``, which is infinity over infinity for large negative x."""
    e = np.exp(-2 * x)
    return np.asarray((1 - e) / (1 + e))


def tanh_nan_beyond(limit: float) -> Change:
    """A tangent that is NaN beyond ``limit``."""
    return lambda x: np.where(np.abs(x) > limit, _F(np.nan), np.tanh(x))


def tanh_clamped(x: Array) -> Array:
    """The rational approximation x (27 + x^2) / (27 + 9 x^2) of the tangent, clamped to +-3."""
    y = np.clip(x, -3, 3)
    square = y * y
    return np.asarray(y * (_F(27) + square) / (_F(27) + _F(9) * square))


def quick_form(factor: float = 1.702, gate: Change = rows.sigmoid) -> Change:
    """``2 S(factor x)``."""
    return lambda x: np.asarray(2 * gate(x.dtype.type(factor) * x))


FORMS: dict[str, Change] = {"erf": erf_form, "tanh": tanh_form(), "quick": quick_form()}


def gelu(
    own: Change | None = None,
    *,
    other: str = "",
    value: Change = same,
    result: Change = same,
    dtype: Float = np.float32,
) -> Callable[..., Array]:
    """``x own(x) / 2``, where ``own`` is one plus the tangent or error function, by default that of ``form``.

    ``other`` is used in place of the form that is asked for.
    """

    def f(x: Array, *, form: str) -> Array:
        with np.errstate(all="ignore"):
            wide = value(x.astype(dtype))
            return result(wide * (own or FORMS[other or form])(wide) / 2).astype(np.float32)

    return f


def geglu(
    act: Callable[..., Array] | None = None,
    *,
    arguments: Callable[[Array, Array], tuple[Array, Array]] = lambda gate, up: (gate, up),
    up_of: Change = same,
    result: Change = same,
    product: Callable[[Array, Array], Array] = np.multiply,
) -> Callable[..., Array]:
    """``act(gate) up``, by default with GELU; ``arguments`` changes both, ``up_of`` what the product takes."""
    inner = act or gelu()

    def f(gate: Array, up: Array, *, form: str) -> Array:
        one, other = arguments(gate, up)
        with np.errstate(all="ignore"):
            return result(product(inner(one, form=form), up_of(other))).astype(np.float32)

    return f


def product_first(gate: Array, up: Array, *, form: str) -> Array:
    """``(gate up / 2) (1 + tanh(...))``."""
    return np.asarray(gate * up * _F(0.5) * FORMS[form](gate))


def vectors_only(function: Callable[..., Array]) -> Callable[..., Array]:
    """``function`` of whole vectors of 8 elements; what is left stays as it is."""

    def f(x: Array, *, form: str) -> Array:
        return whole_vectors(lambda part: function(part, form=form))(x)

    return f


def lanes_wrong(right: Callable[..., Array], wrong: Callable[..., Array]) -> Callable[..., Array]:
    """``wrong`` for whole vectors of 8 elements, ``right`` for those that are left."""

    def f(x: Array, *, form: str) -> Array:
        y = right(x, form=form)
        n = x.shape[-1] - x.shape[-1] % 8
        return np.concatenate([wrong(x[..., :n], form=form), y[..., n:]], axis=-1)

    return f


def silu_for_gelu(x: Array, *, form: str) -> Array:
    """SiLU in place of GELU."""
    return divided(x)


def _table(x: Array) -> Array:
    """GELU of x rounded to f16, rounded to f16, as a table of 65 536 numbers has it."""
    return rows.half(gelu()(rows.half(x), form="tanh"))


def ggml_table(x: Array, *, form: str) -> Array:
    """ggml's GELU: 0 from -10 on, x from 10 on, a table of f16 numbers between."""
    with np.errstate(all="ignore"):
        return np.where(x <= -10, _F(0), np.where(x >= 10, x, _table(x))).astype(np.float32)


def _product_of_vectors(y: Array, up: Array) -> Array:
    n = y.shape[-1] - y.shape[-1] % 8
    return np.concatenate([y[..., :n] * up[..., :n], y[..., n:]], axis=-1)


def _cut(limit: float) -> Change:
    return lambda x: np.where(x < -limit, _F(0), x)


_ERF, _TANH, _QUICK = {"form": "erf"}, {"form": "tanh"}, {"form": "quick"}
# What is wrong with a GELU alone and inside of GEGLU: (name, form, function, what, source).
_GELUS: tuple[tuple[str, Params, Callable[..., Array], str, str], ...] = (
    ("tanh-for-erf", _ERF, gelu(other="tanh"), "tangent for erf", ""),
    ("erf-for-tanh", _TANH, gelu(other="erf"), "erf for the tangent", ""),
    ("quick-for-erf", _ERF, gelu(other="quick"), "sigmoid for erf", ""),
    ("silu", _QUICK, silu_for_gelu, "SiLU for the quick form", ""),
    (
        "tanh-exp",
        _TANH,
        gelu(tanh_form(tanh=tanh_by_negative_exp)),
        "infinity by infinity below -13",
        "executorch#22323",
    ),
    ("tanh-exp-growing", _TANH, gelu(tanh_form(tanh=tanh_by_exp)), "infinity by infinity at 20", "llama.cpp#5243"),
    ("tanh-45", _TANH, gelu(tanh_form(tanh=tanh_nan_beyond(45))), "tangent NaN beyond 45", "tvm#16438"),
    ("erf-coarse", _ERF, gelu(erf_coarse), "erf to 2.5e-5", ""),
    ("f16", _TANH, gelu(result=rows.half), "result in f16", ""),
)

WRONG: Wrong = (
    ("silu/newton", "silu", {}, silu(gate=rows.sigmoid_newton), "0 times infinity for x < -88", "ds4#498"),
    ("silu/growing", "silu", {}, silu(gate=rows.sigmoid_growing), "infinity by infinity for x > 88", ""),
    ("silu/flush", "silu", {}, silu(gate=rows.sigmoid_clamped), "0 for x < -20", ""),
    ("silu/clamp", "silu", {}, silu(gate=rows.sigmoid_limited), "exponent clamped to 10", ""),
    ("silu/cancels", "silu", {}, silu(gate=rows.sigmoid_tanh), "(1 + tanh(x/2)) / 2 cancels", ""),
    ("silu/hard", "silu", {}, silu(gate=hard_sigmoid), "hard swish", ""),
    ("silu/gelu", "silu", {}, silu(gate=rows.gelu_sigmoid), "GELU for SiLU", ""),
    ("silu/quick", "silu", {}, silu(gate=lambda x: rows.sigmoid(_F(1.702) * x)), "sigmoid of 1.702 x", ""),
    ("silu/sigmoid", "silu", {}, lambda x: rows.sigmoid(x), "not multiplied by x", ""),
    ("silu/f16", "silu", {}, silu(result=rows.half), "result in f16", ""),
    ("silu/exp-f16", "silu", {}, silu(gate=lambda x: 1 / (1 + rows.half(np.exp(-x)))), "exp in f16", ""),
    ("silu/x-bf16", "silu", {}, silu(value=rows.bfloat), "x cut to bf16", ""),
    ("silu/tail", "silu", {}, whole_vectors(silu()), "nothing after the last whole vector of 8", ""),
    ("silu/schraudolph", "silu", {}, silu(gate=lambda x: 1 / (1 + rows.exp_schraudolph(-x))), "exp by bits", ""),
    ("silu/log2e", "silu", {}, silu(gate=lambda x: 1 / (1 + rows.exp_base_two(1.4427)(-x))), "log2 e = 1.4427", ""),
    *((f"gelu/{name}", "gelu", form, f, wrong, source) for name, form, f, wrong, source in _GELUS),
    ("gelu/cubic", "gelu", _TANH, gelu(tanh_form(cubic=0.0447)), "0.0447 for 0.044715", ""),
    ("gelu/root", "gelu", _TANH, gelu(tanh_form(root=0.8)), "0.8 for sqrt(2 / pi)", ""),
    ("gelu/square", "gelu", _TANH, gelu(tanh_form(power=lambda x: x * np.abs(x))), "x |x| for x^3", ""),
    ("gelu/rational", "gelu", _TANH, gelu(tanh_form(tanh=tanh_clamped)), "rational tangent", ""),
    ("gelu/cube-f16", "gelu", _TANH, gelu(tanh_form(power=lambda x: rows.half(x * x * x))), "x^3 in f16", ""),
    ("gelu/factor", "gelu", _QUICK, gelu(quick_form(1.7)), "1.7 for 1.702", ""),
    ("gelu/quick-newton", "gelu", _QUICK, gelu(quick_form(gate=rows.sigmoid_newton)), "0 times infinity", "ds4#498"),
    ("gelu/root-of-two", "gelu", _ERF, gelu(lambda x: erf_form(x * _F(math.sqrt(2)))), "erf(x)", ""),
    ("gelu/half", "gelu", _ERF, gelu(result=lambda y: y * 2), "not halved", ""),
    ("gelu/tail", "gelu", _ERF, vectors_only(gelu()), "nothing after the last whole vector of 8", ""),
    ("gelu/nan-lanes", "gelu", _TANH, lanes_wrong(gelu(), gelu(tanh_form(tanh=tanh_by_exp))),
     "NaN in whole vectors, right in the tail", "AiDotNet.Tensors#594"),
    ("gelu/table", "gelu", _TANH, ggml_table, "table of f16 numbers", ""),
    *((f"geglu/{name}", "geglu", form, geglu(f), wrong, source) for name, form, f, wrong, source in _GELUS),
    ("geglu/exchanged", "geglu", _ERF, geglu(arguments=lambda g, u: (u, g)), "gate and up exchanged", ""),
    ("geglu/up-twice", "geglu", _ERF, geglu(product=lambda y, u: y * u * u), "up squared", ""),
    ("geglu/tail", "geglu", _ERF, geglu(product=_product_of_vectors), "no product after the last vector of 8", ""),
    ("geglu/first-row", "geglu", _ERF, geglu(up_of=first_row), "up of the first row for all", ""),
    ("geglu/up-f16", "geglu", _TANH, geglu(up_of=rows.half), "up in f16", ""),
    ("geglu/gate-f16", "geglu", _ERF, geglu(arguments=lambda g, u: (rows.half(g), u)), "gate in f16", ""),
    ("geglu/limit", "geglu", _ERF, geglu(arguments=lambda g, u: (g, np.clip(u, -7, 7))), "up clamped to 7", ""),
    ("geglu/up-plus-one", "geglu", _TANH, geglu(up_of=lambda u: u + 1), "up + 1", ""),
)  # fmt: skip

RIGHT: Right = [
    ("silu/plain", "silu", {}, silu(), "x times sigmoid"),
    ("silu/divided", "silu", {}, divided, "x / (1 + exp(-x))"),
    ("silu/two-sided", "silu", {}, two_sided, "exp(-|x|)"),
    ("silu/tanh", "silu", {"policy": "tanh"}, silu(gate=rows.sigmoid_tanh), "(1 + tanh(x / 2)) / 2"),
    ("silu/wide", "silu", {}, silu(dtype=np.float64), "float64 inside"),
    ("silu/exp-ends", "silu", {}, silu(gate=styles.sigmoid_flushed), "0 below a sigmoid of 2^-125.5"),
    ("silu/base-two", "silu", {}, silu(gate=lambda x: 1 / (1 + rows.exp_base_two(1.4426950408889634)(-x))), "exp2"),
    *((f"gelu/{form}", "gelu", {"form": form}, gelu(), "plain") for form in FORMS),
    *((f"gelu/{form}-wide", "gelu", {"form": form}, gelu(dtype=np.float64), "float64 inside") for form in FORMS),
    ("gelu/tanh-sigmoid", "gelu", _TANH, gelu(lambda x: 2 * rows.sigmoid(_F(2 * _ROOT) * (x + _F(0.044715) * x**3))),
     "sigmoid for the tangent"),
    ("gelu/tanh-factored", "gelu", _TANH, gelu(lambda x: 1 + np.tanh(_F(_ROOT) * x * (1 + _F(0.044715) * x * x))),
     "x (1 + 0.044715 x^2)"),
    ("gelu/quick-divided", "gelu", _QUICK, lambda x, *, form: x / (1 + np.exp(_F(-1.702) * x)), "x / (1 + exp)"),
    ("gelu/erf-polynomial", "gelu", _ERF, gelu(erf_polynomial), "erf by Abramowitz and Stegun, to 1.5e-7"),
    *((f"geglu/{form}", "geglu", {"form": form}, geglu(), "plain") for form in FORMS),
    ("geglu/wide", "geglu", _ERF, geglu(gelu(dtype=np.float64)), "float64 inside"),
    ("geglu/product-first", "geglu", _TANH, product_first, "x u / 2 first"),
]  # fmt: skip
