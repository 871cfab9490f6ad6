"""What is open stays open: overflows that may be NaN, indices that become floats, rows that have NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from diffuzz.analysis import Arithmetic, bound, evaluate, trace


def errors(function: Callable[..., Any], *inputs: np.ndarray, dtype: str = "float32") -> list[np.ndarray]:
    """The errors of a function's results."""
    return [each.errors() for each in bound(trace(function, inputs), inputs, Arithmetic.of(dtype, dtype))]


@pytest.mark.parametrize(
    "bounded",
    [
        jnp.tanh,
        jax.nn.sigmoid,
        jnp.sin,
        jnp.cos,
        jnp.arctan,
        jnp.sign,
        lax.erf,
        lax.erfc,
        lambda t: jnp.arctan2(t, 2.0),
        lambda t: jnp.fmod(t, 3.0),
        lambda t: jnp.minimum(t * t, 3.0),
        lambda t: jnp.min(jnp.stack([t * t, jnp.full_like(t, 3.0)]), axis=0),
        lambda t: lax.cummin(jnp.stack([t * t, jnp.full_like(t, 3.0)])),
    ],
)
def test_a_bounded_function_of_what_overflows_may_be_nan(bounded: Callable[..., Any]) -> None:
    """In float32 x x and x (x + 1) are both infinite, so their difference is NaN and so is a function of it."""
    x = np.array([1e30])
    assert np.isinf(errors(lambda x: bounded(x * (x + 1) - x * x), x)[0]).all()


def test_a_sum_with_an_infinity_and_what_overflows_may_be_nan() -> None:
    """0 times what overflows is NaN, though neither factor is negative, and infinity plus that is NaN too."""
    x = np.array([100.0, np.inf])
    [error] = errors(lambda x: x[1] + jnp.exp(x[0]) * 0.0, x)
    assert np.isinf(error)


def test_an_index_that_becomes_a_float_is_rounded_as_one() -> None:
    """Two equal numbers leave the index open; what is calculated with it is rounded, and -inf makes no NaN of it."""
    x = np.array([[1.0, 0.3, 0.1], [2.0, 2.0, -np.inf]])
    [error] = errors(lambda x: x + jnp.argmax(x, axis=1)[:, None], x, dtype="float16")
    assert not np.isnan(error).any()
    assert error[0, 1] > 0
    assert error[1, 2] == 0


def test_counted_floats_are_exact() -> None:
    """A comparison with a whole number is certain."""
    [error] = errors(lambda x: jnp.where(jnp.arange(4.0) == 2, x, 0.0), np.ones(4))
    assert not error.any()


def test_the_smaller_of_an_update_may_be_negative() -> None:
    """A minimum with a negative number is no root's certain operand."""
    x, u = np.array([4.0, 9.0]), np.array([-3 * 2.0**-12])
    [error] = errors(lambda x, u: jnp.sqrt((x * x).at[0].min(u[0] / 3) + 2.0**-12), x, u)
    assert np.isinf(error[0])
    assert np.isfinite(error[1])


def test_nothing_is_promised_of_the_largest_of_a_row_with_nan() -> None:
    """NaN comes first in XLA and in torch, also beside an infinity; that of the other sign comes last in XLA."""
    x = np.array([[np.inf, np.nan, 1.0], [3.0, 2.0, 1.0]])
    traced = trace(lambda x: lax.top_k(x, 2), [x])
    values, indices = evaluate(traced, [x])
    np.testing.assert_array_equal(values, [[np.nan, np.inf], [3.0, 2.0]])
    np.testing.assert_array_equal(indices, [[1, 0], [0, 1]])
    error = bound(traced, [x], Arithmetic.of())[0].errors()
    assert np.isinf(error[0]).all()
    assert not error[1].any()


def test_zeros_of_a_row_do_not_depend_on_another_row() -> None:
    """A subnormal number in one row leaves the zeros of another certain."""
    x = np.array([[0.0, 0.0, 1.0], [1e-40, 0.0, 1.0]])
    together, alone = (errors(lambda x: lax.top_k(x, 3), rows)[0] for rows in (x, x[:1]))
    np.testing.assert_array_equal(together[:1], alone)
    assert together[1, 1] > 0


def test_constants_of_different_types_have_traces_of_their_own() -> None:
    """1, 1.0 and true are equal, and so are zeros of both signs."""

    def function(x: Any, *, p: Any) -> Any:
        return x * 0 + (1 if p is True else 2 if isinstance(p, int) else np.copysign(3, p))

    x = np.ones(2)
    got = [float(evaluate(trace(function, [x], named={"p": p}), [x])[0][0]) for p in (1, 1.0, True, 0.0, -0.0)]
    assert got == [2.0, 3.0, 1.0, 3.0, -3.0]


def test_what_overflows_in_float64_is_no_infinity() -> None:
    """log(exp(1000)) is 1000, as a compiler that knows so computes it; 1 / 0, log(0) and masks are infinite."""
    x = np.array([1000.0, 0.0, -np.inf, 1.0])
    for function in (lambda x: jnp.log(jnp.exp(x)), lambda x: jnp.exp(x) ** 2, lambda x: x * 1e200 * 1e200):
        assert np.isinf(errors(function, x, dtype="float64")[0][0])
    for function in (
        lambda x: 1 / x[1:2],
        lambda x: jnp.log(x[1]),
        lambda x: jnp.arctanh(x[3]),
        lambda x: x[2] + 1,
    ):
        assert not errors(function, x)[0].any()


def test_no_error_is_nan() -> None:
    """A constant beyond the largest number is an infinity, and 0 times it NaN, of which nothing is promised."""
    y = np.array([-2.0, 2.0, 0.0])
    [error] = errors(lambda y: jnp.where(y * 1e18 > y, y * 1e18, y * 2), y, dtype="float16")
    assert not np.isnan(error).any()
