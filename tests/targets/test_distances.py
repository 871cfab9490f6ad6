"""Measures: each against its definition on numbers worked out by hand, and the rules that all of them keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diffuzz.targets import distances

DISTANCES = (
    distances.relative_l2,
    distances.symmetric_l2,
    distances.rel_diff,
    distances.nmse,
    distances.l1,
    distances.relative_l1,
)
A, B = np.array([3.0, -4.0]), np.array([3.0, -3.0])


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (distances.relative_l2, 1 / 5),
        (distances.symmetric_l2, 1 / 5),
        (distances.nmse, 1 / 25),
        (distances.l1, 1.0),
        (distances.relative_l1, 1 / 7),
        (distances.cosine, 21 / (5 * math.sqrt(18))),
    ],
)
def test_definition(function, expected):
    """Each measure of (3, -4) against (3, -3) is what its formula gives on paper."""
    assert function(A, B) == pytest.approx(expected, rel=1e-15)


def test_rel_diff_is_that_of_the_published_matvec():
    """|A - B| / max(|A|, 1e-9) of the two paths of FFN-GGUF-008 is 0.077 %."""
    a = np.uint32(0xC69384E3).view(np.float32).reshape(1)
    b = np.uint32(0xC693A21E).view(np.float32).reshape(1)
    assert round(100 * float(distances.rel_diff(a, b)[0]), 3) == 0.077
    assert distances.rel_diff(np.zeros(1), np.full(1, 1e-9))[0] == 1.0


@pytest.mark.parametrize("function", DISTANCES)
@given(x=arrays(np.float32, st.integers(1, 9), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
@settings(max_examples=30, deadline=None)
def test_identity_run(function, x):
    """An array against itself is at distance 0, whatever it holds; its cosine and its std-ratio are 1."""
    assert np.all(function(x, x) == 0)
    assert distances.cosine(x, x) == pytest.approx(1.0, abs=1e-12)
    tokens = np.stack([x, 2 * x])
    assert distances.std_ratio(tokens, tokens) == 1.0


@pytest.mark.parametrize("function", [*DISTANCES, distances.cosine, distances.kl_divergence, distances.std_ratio])
def test_unlike_shapes_are_an_error(function):
    """Seven tokens against one are an error, not a number."""
    with pytest.raises(ValueError, match=r"shapes \(7, 4\) and \(1, 4\) differ"):
        function(np.ones((7, 4)), np.ones((1, 4)))


def test_the_published_ratio_was_not_like_for_like():
    """Pooling a prompt with one massive token against its last token gives a large ratio; like for like it is 1."""
    tokens = np.random.default_rng(0).normal(size=(7, 64))
    tokens[0] *= 50
    assert distances.std_ratio(tokens, tokens) == 1.0
    with pytest.raises(ValueError, match="like"):
        distances.std_ratio(tokens, tokens[-1:])


@given(
    a=arrays(np.float64, 5, elements=st.floats(-1e300, 1e300)),
    b=arrays(np.float64, 5, elements=st.floats(-1e300, 1e300)),
)
@settings(max_examples=100, deadline=None)
def test_symmetric_l2_is_at_most_two(a, b):
    """||a - b|| / max(||a||, ||b||) lies in [0, 2] and does not care which of them comes first."""
    value = distances.symmetric_l2(a / 4, b / 4)
    assert 0 <= value <= 2 * (1 + 1e-14)
    assert value == distances.symmetric_l2(b / 4, a / 4)


def test_length_survives_extreme_scales():
    """Squares neither overflow nor vanish: 1e200 and 1e-200 have the relative distance of 1."""
    for scale in (1e200, 1.0, 1e-200):
        assert distances.relative_l2(scale * A, scale * B) == pytest.approx(0.2, rel=1e-14)
        assert distances.cosine(scale * A, scale * A) == pytest.approx(1.0, rel=1e-14)


def test_zero_vectors():
    """0 against 0 is 0 (cosine 1); something against a zero reference is infinitely far."""
    zero, one = np.zeros(2), np.ones(2)
    assert (distances.relative_l2(zero, zero), distances.relative_l2(zero, one)) == (0.0, math.inf)
    assert (distances.cosine(zero, zero), distances.cosine(zero, one)) == (1.0, 0.0)


def test_kl_divergence():
    """KL of (1/2, 1/2, 0) against (1/4, 1/2, 1/4) is log(2) / 2; a zero where the reference has mass is infinite."""
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.5, 0.25])
    assert distances.kl_divergence(p, q) == pytest.approx(math.log(2) / 2, rel=1e-15)
    assert distances.kl_divergence(q, p) == math.inf
    assert distances.kl_divergence(p, p) == 0.0
    with pytest.raises(ValueError, match="negative"):
        distances.kl_divergence(-p, q)


def test_spread_and_std_ratio():
    """The spread is the mean of the components' population standard deviations; the floor keeps a ratio finite."""
    tokens = np.array([[0.0, 1.0], [2.0, 1.0]])
    assert distances.spread(tokens) == 0.5
    assert distances.std_ratio(tokens, 2 * tokens) == 0.5
    assert distances.std_ratio(tokens, 0 * tokens, floor=0.001) == 500.0


def test_ulp_distance():
    """Steps are counted across binades and across zero; both zeros are one number; NaN is far from every number."""
    one = np.float32(1.0)
    after = np.nextafter(one, np.float32(2.0))
    tiny = np.float32(1e-45)
    a = np.array([one, one, -tiny, 0.0, np.nan, np.nan], np.float32)
    b = np.array([after, 2.0, tiny, -0.0, np.nan, 1.0], np.float32)
    assert distances.ulp_distance(a, b).tolist() == [1, 2**23, 2, 0, 0, 2**32]
    with pytest.raises(ValueError, match="float32 is needed"):
        distances.ulp_distance(a, b.astype(np.float64))


@given(x=st.floats(-(2.0**126), 2.0**126, width=32), steps=st.integers(0, 50))
def test_ulp_distance_counts_steps(x, steps):
    """k steps of nextafter are at distance k."""
    start = np.array([x], np.float32)
    moved = start
    for _ in range(steps):
        moved = np.nextafter(moved, np.float32(np.inf))
    # The zeros are two bit patterns but one number, and nextafter goes from the largest negative to -0.
    assert distances.ulp_distance(start, moved)[0] == steps


def test_jax_gives_the_same_numbers():
    """Measures that screens use agree between NumPy and JAX."""
    jax = pytest.importorskip("jax")
    rng = np.random.default_rng(1)
    a, b = np.abs(rng.normal(size=(2, 4, 7, 32)))
    with jax.enable_x64(True):
        for function in (
            distances.relative_l2,
            distances.symmetric_l2,
            distances.relative_l1,
            distances.cosine,
            distances.kl_divergence,
        ):
            got = np.asarray(function(jax.numpy.asarray(a), jax.numpy.asarray(b), xp=jax.numpy))
            np.testing.assert_allclose(got, function(a, b), rtol=1e-12)
        got = np.asarray(distances.std_ratio(jax.numpy.asarray(a), jax.numpy.asarray(b), 1e-3, jax.numpy))
        np.testing.assert_allclose(got, distances.std_ratio(a, b, 1e-3), rtol=1e-12)
