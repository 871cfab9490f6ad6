"""A-priori bounds: they hold on adversarial inputs, and each is attained or nearly so."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from diffuzz.kernels import fused
from diffuzz.targets import error_bounds


def test_gamma():
    """gamma_n = n u / (1 - n u); it refuses a number of roundings that it says nothing about."""
    assert error_bounds.gamma(1) == error_bounds.UNIT / (1 - error_bounds.UNIT)
    assert error_bounds.gamma(0) == 0
    for n in (2**24, -1):
        with pytest.raises(ValueError, match=f"n={n}"):
            error_bounds.gamma(n)


def test_gamma_bounds_a_left_fold():
    """A float32 left fold of n products is within gamma_n sum|w x| of the exact sum, for sums that cancel too."""
    rng = np.random.default_rng(0)
    for n in (2, 17, 500):
        w, x = rng.normal(size=(2, 400, n)).astype(np.float32)
        x[::2, n // 2 :] = -x[::2, : n - n // 2]
        fold = np.add.accumulate(w * x, axis=1)[:, -1].astype(np.float64)
        terms = w.astype(np.float64) * x
        assert np.all(np.abs(fold - terms.sum(axis=1)) <= error_bounds.gamma(n) * np.abs(terms).sum(axis=1))


def test_scale_error_is_that_of_f16():
    """sigma bounds the rounding to f16, is attained at midpoints, and is the whole scale below 2^-25."""
    d = np.random.default_rng(0).uniform(1, 2, 100_000) * 2.0 ** np.random.default_rng(1).integers(-30, 10, 100_000)
    with np.errstate(all="ignore"):
        error = np.abs(d.astype(np.float16).astype(np.float64) - d)
    assert np.all(error <= error_bounds.scale_error("q8_0", d))
    for midpoint in (1 + 2.0**-11, 8.5 * 2.0**-24, 2.0**-25):
        assert abs(float(np.float16(midpoint)) - midpoint) == pytest.approx(
            float(error_bounds.scale_error("q8_0", midpoint)), rel=1e-12
        )
    assert error_bounds.scale_error("q8_0", 1e-9) == 1e-9
    assert not error_bounds.scale_error("q8_K", d).any()


def activations(activation: str, rng: np.random.Generator, rows: int, n: int) -> np.ndarray:
    """Vectors whose codes sit beside an edge, with scales at and beside midpoints of the f16 grid."""
    size = 256 if activation == "q8_K" else 32
    codes = rng.choice([0.5, 1.5, 63.5, 125.5, 126.5], (rows, 1)) + rng.choice([-1.0, 1.0], (rows, n)) * 2.0**-15
    grid = 2.0 ** rng.integers(-24, -8, (rows, n // size)) * (rng.integers(0, 3000, (rows, n // size)) + 0.5)
    scale = np.repeat(grid * (1 + rng.choice([-1, 1], grid.shape) * 2.0**-21), size, axis=1)
    codes[:, ::size] = 127
    return (rng.choice([-1.0, 1.0], (rows, n)) * codes * scale).astype(np.float32)


@pytest.mark.parametrize("activation", ["q8_K", "q8_0", "q8_1"])
def test_quantisation_bounds_every_element(activation):
    """Each quantised activation is within its own a-priori bound; so are the block sums of q8_1."""
    rng = np.random.default_rng(0)
    uniform = (rng.uniform(-1, 1, (300, 256)) * 2.0 ** rng.uniform(-40, 10, (300, 1))).astype(np.float32)
    for x in (uniform, activations(activation, rng, 300, 256), np.zeros((1, 256), np.float32)):
        values, shares = fused.seen(activation, x)
        allowed = error_bounds.quantisation(activation, x)
        assert np.all(np.abs(values - x) <= allowed)
        blocks = (len(x), -1, 32)
        off = np.abs((shares - x).reshape(blocks).sum(axis=2))
        assert np.all(off <= allowed.reshape(blocks).sum(axis=2) * (1 + 1e-12))


@pytest.mark.parametrize("activation", ["q8_K", "q8_0", "q8_1"])
@pytest.mark.parametrize("peak", [1.0, 2.0**-7, 127 * 8.25 * 2.0**-24, 127 * 0.75 * 2.0**-24, 127 * 0.3 * 2.0**-24])
def test_largest_errors_hold(activation, peak):
    """Over vectors with max|x| >= peak, next to much smaller blocks too, neither relative error is above its bound."""
    rng = np.random.default_rng(0)
    n = 512
    x = activations(activation, rng, 3000, n)
    x *= (peak * 2.0 ** np.abs(rng.normal(size=(3000, 1))) / np.abs(x).max(axis=1, keepdims=True)).astype(np.float32)
    x = x[np.abs(x).max(axis=1) >= peak]
    values, _ = fused.seen(activation, x)
    wide = x.astype(np.float64)
    error = np.abs(values - wide)
    slack = 1 + error_bounds.ROUNDING
    by_peak = error.max(axis=1) / np.abs(wide).max(axis=1)
    assert np.all(by_peak <= error_bounds.largest_code_error(activation, peak, n) * slack)
    by_length = np.sqrt((error**2).sum(axis=1) / (wide**2).sum(axis=1))
    assert np.all(by_length <= error_bounds.largest_relative_error(activation, peak, n) * slack)


def test_largest_errors_are_attained():
    """1/254 is half a code beside the edge; an f16 scale adds its own error at a midpoint; below 2^-25 the block
    vanishes.
    """
    for activation, d, limit in (
        ("q8_K", 1.0, 1 / 254),
        ("q8_0", (1 + 2.0**-11) * (1 + 2.0**-22), 1 / 254 + 1 / 2049),
        ("q8_0", 2.0**-25 * (1 - 2.0**-20), 1.0),
    ):
        size = 256 if activation == "q8_K" else 32
        x = np.full((1, size), (126.5 + 2.0**-15) * d, np.float32)
        x[0, 0] = 127 * d
        error = np.abs(fused.seen(activation, x)[0] - x.astype(np.float64)).max() / np.abs(x).max()
        assert error == pytest.approx(limit, rel=2e-4)
        assert error <= error_bounds.largest_code_error(activation, 127 * d, size) * (1 + error_bounds.ROUNDING)


def test_bounds_do_not_jump():
    """The limits fall as the least peak rises, to that of a float32 scale plus 2^-11 / (1 + 2^-11)."""
    peaks = 2.0 ** np.linspace(-30, 3, 67)
    for function in (error_bounds.largest_code_error, error_bounds.largest_relative_error):
        values = [function("q8_0", float(peak), 256) for peak in peaks]
        assert all(later <= 1.02 * earlier for earlier, later in itertools.pairwise(values))
        assert values[-1] < values[0]
    assert error_bounds.largest_code_error("q8_K", 1e-30, 256) == 1 / 254
