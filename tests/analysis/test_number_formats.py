"""Arithmetics whose formats differ in their range, and what XLA's functions need of the budgets."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffuzz.analysis import FORMATS, Arithmetic, FloatFormat, bound, round_to, trace

SCALES = {"float16": (-14, 9), "float8_e4m3fn": (-6, 4), "float8_e5m2": (-14, 9)}


def nearest(stated: Arithmetic, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """A product, a running sum and a sum of products, each operation rounded to nearest."""

    def rounded(number_format: FloatFormat, z: np.ndarray) -> np.ndarray:
        return round_to(number_format, z)

    def total(terms: np.ndarray) -> np.ndarray:
        reached = rounded(stated.accumulating, terms[:, 0])
        for term in terms[:, 1:].T:
            reached = rounded(stated.accumulating, reached + rounded(stated.accumulating, term))
        return rounded(stated.storage, rounded(stated.computing, reached))

    x, y = rounded(stated.computing, x), rounded(stated.computing, y)
    return {"product": rounded(stated.storage, rounded(stated.computing, x * y)), "sum": total(x), "dot": total(x * y)}


@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float8_e5m2"])
def test_formats_that_hold_not_all_of_the_others_numbers(dtype: str, flush: bool) -> None:
    """bfloat16 in float16 and float16 in bfloat16, and sums in either: what underflows or overflows is allowed."""
    functions: dict[str, Callable[..., Any]] = {
        "product": lambda x, y: x * y,
        "sum": lambda x, y: jnp.sum(x, axis=-1),
        "dot": lambda x, y: jnp.einsum("ij,ij->i", x, y),
    }
    rng = np.random.default_rng(0)
    formats = ["float32", "bfloat16", "float16", "float8_e4m3fn"]
    for compute, accumulate in itertools.product(formats, formats):
        stated = Arithmetic.of(dtype, compute, accumulate, flush)
        low, high = SCALES.get(dtype, (-30, 30))
        x, y = (
            round_to(stated.storage, rng.standard_normal((64, 5)) * 2.0 ** rng.uniform(low, high, (64, 1)))
            for _ in range(2)
        )
        with np.errstate(all="ignore"):
            got = nearest(stated, x, y)
            for name, function in functions.items():
                [estimate] = bound(trace(function, [x, y]), [x, y], stated)
                error = np.where(got[name] == estimate.value, 0.0, np.abs(got[name] - estimate.value))
                allowed = estimate.errors()
                assert (np.isinf(allowed) | (error <= allowed)).all(), (name, compute, accumulate)


def test_a_format_includes_another() -> None:
    """By precision and by both ends of the range."""
    assert FORMATS["float32"].includes(FORMATS["bfloat16"])
    assert FORMATS["float32"].includes(FORMATS["float16"])
    assert not FORMATS["float16"].includes(FORMATS["bfloat16"])
    assert not FORMATS["bfloat16"].includes(FORMATS["float16"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize(
    ("function", "low", "high"),
    [
        (jnp.exp2, -120.0, 120.0),
        (jnp.log1p, -0.45, -0.35),
        (jnp.arctanh, -0.45, 0.45),
        (jax.scipy.special.erfc, 2.0, 9.0),
        (jax.scipy.special.erfinv, 0.9, 0.9999),
        (jax.scipy.special.gammaln, 0.7, 3.0),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_functions_of_xla_are_within_their_budgets(
    function: Callable[..., Any], low: float, high: float, dtype: str
) -> None:
    """Where XLA's own formulas lose most."""
    x = round_to(FORMATS[dtype], np.random.default_rng(0).uniform(low, high, 50_000))
    [estimate] = bound(trace(function, [x]), [x], Arithmetic.of(dtype, dtype))
    with jax.enable_x64(dtype == "float64"):
        got = np.asarray(jax.jit(function)(jnp.asarray(x, dtype)).astype(dtype)).astype(np.float64)
    allowed = estimate.errors()
    with np.errstate(all="ignore"):
        error = np.where(got == estimate.value, 0.0, np.abs(got - estimate.value))
    assert (np.isinf(allowed) | (error <= allowed)).all()
    assert np.isfinite(allowed).mean() > 0.5


def test_subnormal_numbers_are_kept_if_it_is_said() -> None:
    """Without flushing bfloat16 keeps 8 bits of 2^-127, and two of its subnormal numbers are told apart."""
    x = np.array([2.0**-128, 2.0**-127])
    for dtype in ("float32", "bfloat16"):
        kept, flushed = (
            bound(trace(jnp.negative, [x]), [x], Arithmetic.of(dtype, flush=flush))[0].errors()
            for flush in (False, True)
        )
        assert not kept.any()
        assert (flushed >= x).all()
