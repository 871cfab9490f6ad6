"""The engine that draws, changes and chooses cases on the device."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import attrs
import numpy as np
import pytest

from diffuzz import targets
from diffuzz.judging.problem import open_problem
from diffuzz.searching.engines import auto, device
from diffuzz.searching.objective import Budget, BudgetSpentError, Objective
from diffuzz.searching.screen import compile_screen, configured_jax

jax = pytest.importorskip("jax")


def _objective(name: str, given: dict[str, Any]) -> Objective:
    return Objective(open_problem(targets.get(name), given), Budget(math.inf))


# Numbers, blocks, positions, a narrower dtype, and blocks of which not every byte string is one.
CASES = [
    ("softmax", {"n": 8}),
    pytest.param("matvec", {"format": "q4_K", "n": 256}, marks=pytest.mark.slow),
    pytest.param("rope", {}, marks=pytest.mark.slow),
    pytest.param("requantise", {"format": "q8_0", "n": 32}, marks=pytest.mark.slow),
    pytest.param("softmax", {"n": 8, "dtype": "bfloat16"}, marks=pytest.mark.slow),
    pytest.param("matvec", {"format": "fp8_e4m3", "n": 128}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "given"), CASES, ids=str)
def test_a_program(name: str, given: dict[str, Any]) -> None:
    """Its values fall, do not get worse from round to round, and are those that the screen has of the cases, of which
    each is in the space.
    """
    objective = _objective(name, given)
    rows = min(objective.rows, 64)
    program = device.compiled(jax, objective, rows)
    assert program is not None
    population, values = device._first(objective, np.random.default_rng(1))
    bests = []
    with jax.enable_x64(True):
        key = jax.random.key(3, impl="rbg")
        for _ in range(4):
            population, values, key = program(population, values, key)
            bests.append(float(values[0]))
    found = np.asarray(values)
    assert (np.diff(found) <= 0).all()
    assert len(np.unique(found[np.isfinite(found)])) == np.isfinite(found).sum()
    assert bests == sorted(bests)
    assert bests[-1] > bests[0] or objective.problem.bound is not None
    batch = {spec.name: np.asarray(population[spec.name]) for spec in objective.space.tensors}
    assert {name: array.dtype for name, array in batch.items()} == {
        spec.name: np.dtype(spec.dtype) for spec in objective.space.tensors
    }
    known = np.isfinite(found)
    assert objective.space.admissible(batch)[known].all()
    screen = compile_screen(objective.problem, objective.rows)
    assert screen is not None
    again, _ = screen({name: array[known] for name, array in batch.items()})()
    # A screen may know a worse direction than that of the case.
    assert (again >= found[known] * (1 - 1e-9)).all()


def test_it_finds_what_there_is() -> None:
    """It reaches the bounds that the engine on the host reaches, and equal seeds find equal cases."""
    histories = []
    for seed in (1, 1, 2):
        objective = _objective("softmax", {"n": 7})
        objective.use_screen(compile_screen(objective.problem, objective.rows))
        rounds = device.rounds(objective.for_engine("device"), np.random.default_rng(seed))
        with contextlib.suppress(BudgetSpentError):
            for _ in range(40):
                next(rounds)
        assert objective.stopped == "bound reached"
        histories.append([(found.value, found.case.digest, found.evaluations) for found in objective.history])
        assert objective.best is not None
        assert objective.best.engine == "device"
    assert histories[0] == histories[1] != histories[2]


def test_batches_grow_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to what keeps it busy; its work counts as that of something faster. (Here the CPU is said to be one.)"""
    monkeypatch.setattr(configured_jax(), "default_backend", lambda: "gpu")
    monkeypatch.setattr(device, "GROWTH", 2)
    monkeypatch.setattr(device, "MOST_ELEMENTS", 2**17)
    rows: list[int] = []

    def compiled(jax: Any, objective: Objective, count: int) -> device.Program:
        rows.append(count)
        return lambda population, values, key: (population, values, key)

    monkeypatch.setattr(device, "compiled", compiled)
    problem = attrs.evolve(open_problem(targets.get("rmsnorm"), {"n": 16}), bound=None)
    objective = Objective(problem, Budget(math.inf))
    objective.use_screen(compile_screen(problem, objective.rows))
    made = auto._on_device(objective, np.random.default_rng(0))
    for _ in range(9):
        next(made)
    most = 2**17 // objective.space.elements
    assert rows == [objective.rows, 2 * objective.rows, most]
    before = objective.work, objective.evaluations
    next(made)
    evaluations = objective.evaluations - before[1] - device.BROUGHT_BACK
    assert evaluations == most * device.GENERATIONS
    assert objective.work - before[0] < evaluations * objective.space.elements


def test_a_cpu_is_left_to_the_other_engine() -> None:
    """The engine auto does not use it where JAX has no device of its own."""
    objective = _objective("softmax", {"n": 8})
    objective.use_screen(compile_screen(objective.problem, objective.rows))
    assert list(auto._on_device(objective, np.random.default_rng(0))) == []
    assert objective.evaluations == 0
