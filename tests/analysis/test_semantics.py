"""What the analysis promises where errors decide: predicates, orders, overflow, masks, conversions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from diffuzz.analysis import AnalysisError, Arithmetic, Estimate, bound, trace
from diffuzz.analysis.choices import ranked

FLOAT32 = Arithmetic.of("float32")
TINY = 2.0**-24


def analysed(function: Callable[..., Any], *inputs: Any, arithmetic: Arithmetic = FLOAT32) -> list[Estimate]:
    """The estimates of a function of these numbers."""
    arrays = [np.asarray(each) for each in inputs]
    arrays = [each.astype(np.float64) if each.dtype.kind == "f" else each for each in arrays]
    return bound(trace(function, arrays), arrays, arithmetic)


def test_a_predicate_that_the_error_may_flip_selects_either_branch() -> None:
    """Where x + 0.1 may be above or below one, the result may be either constant; elsewhere it is exact."""
    x = np.array([0.5, np.float32(1 - 0.1), 1.5])
    [estimate] = analysed(lambda x: jnp.where(x + 0.1 > 1, 7.0, 3.0), x)
    assert [0.0, 4.0, 0.0] == estimate.errors().tolist()


def test_asking_for_nan_is_certain() -> None:
    """x != x does not depend on the error of x."""
    [estimate] = analysed(lambda x: jnp.where((x * 0.1) != (x * 0.1), -5.0, 2.0), [0.3, 0.7])
    assert [2.0, 2.0] == estimate.value.tolist()
    assert not estimate.errors().any()


def test_exact_operations_add_no_error() -> None:
    """Powers of two, extremes, moves and whole constants."""
    x = np.array([0.3, -1.7, 5.5], np.float32)
    [estimate] = analysed(lambda x: jnp.maximum(-x[::-1] * 0.25, 0) + jnp.arange(3) * 0, x)
    [scaled] = analysed(lambda x: jnp.maximum(-x[::-1] * 0.25, 0), x)
    assert estimate.value.tolist() == scaled.value.tolist()
    assert scaled.errors().max() <= 2.0**-125


@pytest.mark.parametrize(
    ("function", "x"),
    [
        (lambda x: 1 / (x * 0.1 - x * 0.1), [1.5]),
        (lambda x: jnp.log(x + 0.1 - 0.1), [0.0]),
        (lambda x: x * x, [1e30]),
        (lambda x: jnp.exp(x), [89.0]),
        (lambda x: jnp.sqrt(x - 0.3), [0.3]),
        (lambda x: x / 0.0, [0.0]),
        (lambda x: (x - jnp.inf) + jnp.inf, [1.0]),
        (lambda x: jnp.sum(x.astype(jnp.bfloat16)) * 1e30, [3e38]),
    ],
)
def test_nothing_is_promised_and_nothing_is_nan(function: Callable[..., Any], x: list[float]) -> None:
    """Division by a possible zero, logarithms and roots of what may be negative, overflow, NaN: infinite errors."""
    for estimate in analysed(function, np.float32(x)):
        assert np.isinf(estimate.errors()).all()


def test_masks_are_exact() -> None:
    """exp(-inf) is 0 and exact, also of finfo.min, scaled and shifted masks; a row that is masked whole is NaN."""
    x = np.array([[0.3, 0.7, -0.2], [1.0, 2.0, 3.0]], np.float32)
    mask = np.array([[True, False, True], [False, False, False]])
    for low in (-np.inf, float(np.finfo(np.float64).min)):
        [estimate] = analysed(lambda x, m, low=low: jax.nn.softmax(jnp.where(m, x, 0.5 * low) + 1.5), x, mask)
        assert 0.0 == estimate.value[0, 1] == estimate.errors()[0, 1]
        assert (estimate.errors()[0, ::2] < 3e-6).all()
        assert np.isinf(estimate.errors()[1]).all() or low != -np.inf


def test_a_masked_row_is_nan_without_a_promise() -> None:
    """softmax of minus infinities."""
    [estimate] = analysed(jax.nn.softmax, np.full((1, 3), -np.inf, np.float32))
    assert np.isinf(estimate.errors()).all()


def test_sums_in_a_narrow_format_promise_nothing_from_some_length_on() -> None:
    """gamma_n is infinite from n u = 1/2 on: 128 terms in bfloat16."""
    narrow = Arithmetic.of("bfloat16", "bfloat16")
    short = analysed(jnp.sum, np.ones(100), arithmetic=narrow)[0]
    long = analysed(jnp.sum, np.ones(256), arithmetic=narrow)[0]
    assert np.isfinite(short.errors()).all()
    assert np.isinf(long.errors()).all()
    assert np.isfinite(analysed(jnp.sum, np.ones(256), arithmetic=Arithmetic.of("bfloat16"))[0].errors()).all()


def test_indices_are_sets() -> None:
    """Of equal numbers any may come first, none twice; of numbers that are apart only one."""
    values, indices = analysed(lambda x: lax.top_k(x, 3), np.float32([2.0, 5.0, 2.0, 1.0]))
    assert [5.0, 2.0, 2.0] == values.value.tolist()
    assert [True, True, True] == indices.admits(np.array([1, 2, 0])).tolist()
    assert [True, True, True] == indices.admits(np.array([1, 0, 2])).tolist()
    assert not indices.admits(np.array([1, 0, 0])).all()
    assert [False, True, True] == indices.admits(np.array([3, 0, 2])).tolist()
    [largest] = analysed(lambda x: jnp.argmax(x * 0.1), np.float32([1.0, np.nextafter(np.float32(1), 2), 0.9]))
    assert [True, True, False] == [bool(largest.admits(np.array(each))) for each in range(3)]


def test_what_is_picked_by_an_open_index_may_be_any_of_the_set() -> None:
    """The farthest of the elements that the index may stand for, through reshapes and arithmetic of indices."""
    x = np.float32([1.0, np.nextafter(np.float32(1), 2), 0.5])
    [picked] = analysed(lambda x: jnp.array([10.0, 14.0, 90.0])[jnp.argmax(x * 0.1)], x)
    [hot] = analysed(lambda x: jax.nn.one_hot(jnp.argmax(x * 0.1), 3), x)
    assert 14.0 == picked.value
    assert 4.0 == picked.errors()
    assert [1.0, 1.0, 0.0] == hot.errors().tolist()


def test_a_stored_result_is_one_of_few_numbers() -> None:
    """bfloat16 results of float32 intermediates: the next number of the format, or one of two beside a tie."""
    [estimate] = analysed(lambda x: x * 1.5, [1.0], arithmetic=Arithmetic.of("bfloat16"))
    assert 1.5 == estimate.value
    assert not estimate.errors().any()
    [estimate] = analysed(lambda x: x * 1.001, [1.0], arithmetic=Arithmetic.of("bfloat16"))
    assert estimate.errors() == pytest.approx(0.001)


def test_a_conversion_is_part_of_the_function() -> None:
    """The value is rounded; the error reaches the number that is not."""
    [estimate] = analysed(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), np.float32([1.001]))
    assert 1.0 == estimate.value
    assert estimate.errors() == pytest.approx(0.001, rel=1e-3)


def test_constants_are_rounded_to_what_is_computed_in() -> None:
    """0.1 is no float32; 0.5 is one. An input that is a constant is rounded, too."""
    [tenth] = analysed(lambda x: x + 0.1, [0.0])
    [half] = analysed(lambda x: jnp.maximum(x, 0.5), [0.0])
    assert tenth.errors() >= abs(np.float32(0.1) - 0.1)
    assert not half.errors().any()
    traced = trace(lambda x, eps: jnp.maximum(x, eps), [np.zeros(1), np.zeros(())])
    [given] = bound(traced, [np.zeros(1), np.array(0.1)], FLOAT32, constants={1})
    assert given.errors() == abs(float(np.float32(0.1)) - 0.1)


def test_a_loop_whose_end_is_open_promises_nothing() -> None:
    """An unsure predicate of while; a scan of known length is walked as it runs."""
    [_, open_] = analysed(lambda x: lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 0.1, c[1] * 2), (x, x)), 0.5)
    assert np.isinf(open_.errors())
    [total] = analysed(lambda x: lax.fori_loop(0, 4, lambda i, c: c + x[i], 0.0), np.float32([0.1, 0.2, 0.3, 0.4]))
    assert 0 < total.errors() < 8 * TINY


def test_errors_have_one_line() -> None:
    """What cannot be traced, and arrays of other shapes."""
    with pytest.raises(AnalysisError, match=r"^<lambda>: cannot be traced by JAX: \w+: [^\n]+$"):
        trace(lambda x: 1 if x > 0 else 2, [np.ones(())])
    traced = trace(jnp.sin, [np.ones(3)])
    with pytest.raises(ValueError, match=r"^input 0 has the shape \(4,\); it was traced with \(3,\)$"):
        bound(traced, [np.ones(4)], FLOAT32)
    with pytest.raises(ValueError, match=r"^2 inputs were given; the traced function takes 1$"):
        bound(traced, [np.ones(3), np.ones(3)], FLOAT32)


def test_a_row_does_not_depend_on_the_others() -> None:
    """Errors of a batch are those of its rows alone."""
    rng = np.random.default_rng(0)
    x = np.float32(rng.standard_normal((6, 5)) * 10.0 ** rng.integers(-12, 4, (6, 1))).astype(np.float64)
    x[2, 1], x[3] = -np.inf, 0.0

    def function(x: Any) -> Any:
        return jax.nn.softmax(x), jax.nn.gelu(x), jnp.tanh(x) / (1 + jnp.exp(-x)), jnp.cumsum(x), lax.top_k(x, 2)[0]

    together = bound(trace(function, [x], batched={0}), [x], FLOAT32)
    for row in range(len(x)):
        alone = bound(trace(function, [x[:1]], batched={0}), [x[row : row + 1]], FLOAT32)
        for one, other in zip(together, alone, strict=True):
            assert np.array_equal(one.errors()[row], other.errors()[0])


def test_counted_floats_are_whole() -> None:
    """Powers of negative numbers need exponents that are certain: those of jnp.vander are counted."""
    [estimate] = analysed(lambda x: jnp.vander(x, 4), np.float32([3.0, -2.2]))
    assert (estimate.errors() < 1e-4).all()


@pytest.mark.parametrize("exact", [True, False])
def test_ranks_are_counts(exact: bool) -> None:
    """The least rank counts those that are certainly before, the largest those that are not certainly after."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        low = rng.integers(0, 6, (3, 7)).astype(np.float64)
        high = low if exact else low + rng.integers(0, 3, (3, 7))
        ranks = ranked(low, high, 3, -1, descending=False)
        before = (high[:, None, :] < low[:, :, None]).sum(axis=-1)
        not_after = (low[:, None, :] <= high[:, :, None]).sum(axis=-1)
        assert np.array_equal(before, ranks.lowest)
        assert np.array_equal(not_after - 1, ranks.highest)


def test_ratios_of_numbers_that_are_none() -> None:
    """The exact infinity is right, another and NaN are wrong; nothing is asked where nothing is promised."""
    estimate = Estimate(
        np.array([np.inf, np.inf, np.inf, 1.0, 1.0, 1.0, np.nan]), np.array([0, 0, 0, 0.5, 0.5, np.inf, 1])
    )
    got = np.array([np.inf, -np.inf, np.nan, np.nan, 1.25, np.nan, 3.0])
    assert [0, np.inf, np.inf, np.inf, 0.5, 0, 0] == estimate.ratios(got).tolist()
