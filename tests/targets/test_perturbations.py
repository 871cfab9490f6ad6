"""Perturbation models: every move keeps its budget, and the drift is measured on the move."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diffuzz.targets import perturbations

VECTORS = hnp.arrays(np.float32, (3, 5), elements=st.floats(-(2.0**100), 2.0**100, width=32))
DIRECTIONS = hnp.arrays(np.float32, (3, 5), elements=st.floats(-1, 1, width=32))
DELTAS = st.sampled_from([1e-6, 0.00077, 0.5])


@settings(max_examples=60)
@given(x=VECTORS, t=DIRECTIONS, delta=DELTAS, model=st.sampled_from(["componentwise", "normwise", "l1"]))
def test_drift_keeps_the_budget(x: np.ndarray, t: np.ndarray, delta: float, model: str) -> None:
    """The drift is at most delta, and exactly delta for a componentwise move of a vector that is not zero."""
    moved = perturbations.apply(model, x, t, delta)
    drift = perturbations.drift(model, x, moved)
    # x + dx is rounded to float64, relative to the largest element.
    slack = 1e-15
    assert (drift <= delta + slack).all()
    if model == "componentwise":
        assert np.allclose(drift, np.where(np.any(x != 0, axis=1), delta, 0), atol=slack, rtol=0)


@pytest.mark.parametrize(("model", "p"), [("normwise", 2), ("l1", 1)])
def test_a_long_direction_uses_the_whole_budget_and_a_short_one_its_length(model: str, p: int) -> None:
    """A direction of norm 1 or more makes a move of drift delta; one of norm s < 1 a move of s delta."""
    x = np.array([[3, -4, 12]], np.float32)
    for t, share in (([1, -1, 1], 1.0), ([0, 1, 0], 1.0), ([0, 0.25, 0], 0.25), ([0.125, 0, 0], 0.125)):
        moved = perturbations.apply(model, x, np.array([t], np.float32), 0.01)
        assert perturbations.drift(model, x, moved)[0] == pytest.approx(0.01 * share, rel=1e-12)
        length, norm = {1: (np.abs(moved - x).sum(), 19.0), 2: (np.sqrt(((moved - x) ** 2).sum()), 13.0)}[p]
        assert length == pytest.approx(0.01 * share * norm, rel=1e-12)


def test_componentwise_signs() -> None:
    """An element moves up where its direction is >= 0, down elsewhere, by delta times its size; zeros stay."""
    x = np.array([[2, -2, 2, -2, 0]], np.float32)
    t = np.array([[0.5, 0, -0.5, -1, 1]], np.float32)
    assert perturbations.apply("componentwise", x, t, 0.5)[0].tolist() == [3, -1, 1, -3, 0]


def test_ulp_steps_to_the_neighbours() -> None:
    """One float32 up, down, or none, also across powers of two and into subnormals; the drift is relative to max|x|."""
    x = np.array([[1, 1, 1, 0, -1]], np.float32)
    t = np.array([[1, -1, 0, 1, 1]], np.float32)
    moved = perturbations.apply("ulp", x, t, 0.0)
    assert moved[0].tolist() == [1 + 2.0**-23, 1 - 2.0**-24, 1, 2.0**-149, -1 + 2.0**-24]
    assert perturbations.drift("ulp", x, moved).tolist() == [2.0**-23]


@given(x=hnp.arrays(np.float64, (2, 4), elements=st.floats(-1e150, 1e150)), p=st.sampled_from([1, 2, np.inf]))
def test_norm(x: np.ndarray, p: float) -> None:
    """The norm of each row is NumPy's, zero rows included, without overflow of squares."""
    with np.errstate(over="ignore", under="ignore"):
        scale = np.abs(x).max(axis=1, keepdims=True)
        scale = np.where(scale > 0, scale, 1)
        expected = scale[:, 0] * np.linalg.norm(x / scale, p, axis=1)
    assert np.allclose(perturbations.norm(x, p), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("p", [1, 2, np.inf])
def test_norm_of_extremes(p: float) -> None:
    """Squares of 1e200 and of 1e-200 neither overflow nor vanish."""
    for size in (1e200, 1e-200):
        expected = {1: 2.0, 2: np.sqrt(2), np.inf: 1.0}[p]
        assert perturbations.norm(np.array([[size, -size]]), p)[0] / size == pytest.approx(expected)


@pytest.mark.parametrize("model", perturbations.MODELS)
def test_zero_vectors_do_not_drift(model: str) -> None:
    """A zero vector has drift 0, never a division by zero (one ULP aside, it does not even move)."""
    x = np.zeros((1, 3), np.float32)
    moved = perturbations.apply(model, x, np.ones_like(x), 0.1)
    assert perturbations.drift(model, x, moved).tolist() == [0.0]
