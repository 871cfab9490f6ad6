"""Populations: the best distinct cases of all that were offered, each with its own arrays."""

from __future__ import annotations

import numpy as np

from diffuzz.searching.population import Population


def test_holds_the_best_distinct_cases() -> None:
    """After any number of batches: what sorting all values at once would have kept, and each value's own case."""
    rng = np.random.default_rng(0)
    population, offered = Population(16), set()
    for _ in range(200):
        values = rng.choice([*rng.integers(0, 1000, 8).astype(float), -np.inf, 3.0], rng.integers(1, 40))
        population.admit({"x": np.stack([values, 2 * values], axis=1), "y": values.astype(np.float32)}, values)
        offered |= set(values[values > -np.inf].tolist())
        assert sorted(offered, reverse=True)[:16] == population.values.tolist()
        assert (population.take("x") == population.values[:, None] * [1, 2]).all()
        assert (population.take("y") == population.values).all()


def test_an_earlier_case_stays_before_a_later_one_of_its_value() -> None:
    """Of equal values the first case is kept, so equal seeds have equal populations."""
    population = Population(2)
    population.admit({"x": np.array([[1.0], [2.0]])}, np.array([5.0, 5.0]))
    population.admit({"x": np.array([[3.0]])}, np.array([5.0]))
    assert population.take("x").tolist() == [[1.0]]


def test_keeps_no_reference_to_a_batch() -> None:
    """A batch that is written to afterwards does not change the population, nor does what was taken from it."""
    batch = {"x": np.array([[1.0]])}
    population = Population(2)
    population.admit(batch, np.array([1.0]))
    batch["x"][:] = 7
    population.take("x")[:] = 8
    assert population.take("x", slice(1)).tolist() == [[1.0]]


def test_nothing_without_a_value_is_admitted() -> None:
    """Rows of value -inf, outside the space or without a value, are never members, even of an empty population."""
    population = Population(4)
    population.admit({"x": np.zeros((3, 1))}, np.full(3, -np.inf))
    assert len(population) == 0
