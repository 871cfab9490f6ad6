"""The objective: budget, best so far, admissibility, confirmation by the exact implementation, elites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cases.draws import uniform
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.judging.problem import Problem, open_problem
from diffuzz.searching.objective import Batch, Budget, BudgetSpentError, Objective, Values
from diffuzz.targets.drift import Drift
from diffuzz.targets.outcome import Arrays, Bound, Outcome
from diffuzz.targets.parameter import Params
from diffuzz.targets.target import Target


def mean_of(p: Params, arrays: Arrays) -> Outcome:
    value = arrays["x"].mean(axis=1).astype(np.float64)
    return Outcome(value, np.zeros(len(value)))


def mean_problem(*, steady: bool = True, **changes: Any) -> Problem:
    space = Space((TensorSpec("x", kind="activations", shape=(Dim("n", 4),), low=-1.0, high=1.0),))
    target = Target(
        name="mean",
        summary="mean of x",
        parameters=(),
        space=lambda p: space,
        question=Drift(mean_of),
        measure=lambda p: "mean x",
        bound=lambda p: Bound(1.0, "|x| <= 1"),
        claim="the mean is large",
        threshold=lambda p: 0.5,
    )
    return attrs.evolve(open_problem(attrs.evolve(target, **changes)), steady=steady)


def batch(*rows: float) -> dict[str, np.ndarray]:
    return {"x": np.full((len(rows), 4), np.array(rows)[:, None], np.float32)}


def test_keeps_the_largest_value() -> None:
    """The best is the largest value of all batches, with the case that has it and the engine that found it."""
    objective = Objective(mean_problem(), Budget(60), engine="hand")
    objective.evaluate(batch(0.25, 0.5))
    objective.evaluate(batch(0.125))
    assert objective.best is not None
    assert (objective.best.value, objective.best.engine, objective.best.evaluations) == (0.5, "hand", 2)
    assert (objective.best.case["x"] == 0.5).all()
    assert objective.evaluations == 3


def test_rows_outside_the_space_do_not_count() -> None:
    """A row outside the space has the value -inf and never becomes the best."""
    objective = Objective(mean_problem(), Budget(60))
    assert objective.evaluate(batch(2.0, 0.25, np.nan)).tolist() == [-np.inf, 0.25, -np.inf]
    assert objective.best is not None
    assert objective.best.value == 0.25


def test_a_screen_is_not_believed() -> None:
    """What a screen promises counts only with the value that the exact evaluation gives it."""

    def liar(arrays: Batch) -> Callable[[], Values]:
        return lambda: (arrays["x"].mean(axis=1).astype(np.float64) + 10, arrays)

    objective = Objective(mean_problem(), Budget(60), screen=liar)
    objective.evaluate(batch(0.25))
    assert objective.best is not None
    assert objective.best.value == 0.25


def test_what_a_screen_makes_is_not_believed_either() -> None:
    """A row that a screen replaces by one outside the space has no value, does not become the best, and no elite."""

    def wild(arrays: Batch) -> Callable[[], Values]:
        made = np.array(arrays["x"])
        made[1:] = np.array([[2.0], [np.nan]])
        return lambda: (np.array([0.25, 2.0, 3.0]), {"x": made})

    objective = Objective(mean_problem(bound=lambda p: None), Budget(60), screen=wild)
    assert objective.evaluate(batch(0.25, 0.5, 0.5)).tolist() == [0.25, -np.inf, -np.inf]
    assert [found.value for found in objective.history] == [0.25]
    assert objective.elites.values.tolist() == [0.25]


def test_what_a_target_solves_is_not_believed_either() -> None:
    """A case that the target's own solution puts outside the space has no value."""

    def solve(p: Params, arrays: Arrays) -> dict[str, np.ndarray]:
        return {"x": arrays["x"] * np.float32(2)}

    objective = Objective(mean_problem(question=Drift(mean_of, solve=solve)), Budget(60))
    assert objective.evaluate(batch(0.25, 0.75)).tolist() == [0.5, -np.inf]
    assert [found.value for found in objective.history] == [0.5]


def test_noisy_values_do_not_count() -> None:
    """A value that is known less well than it is large is no value."""

    def noisy(p: Params, arrays: Arrays) -> Outcome:
        outcome = mean_of(p, arrays)
        return Outcome(outcome.value, outcome.value.copy())

    objective = Objective(mean_problem(question=Drift(noisy)), Budget(60))
    assert objective.evaluate(batch(0.5)).tolist() == [-np.inf]
    assert objective.best is None


@pytest.mark.parametrize(
    ("budget", "reason"), [(Budget(60, work=1), "work"), (Budget(0), "clock")], ids=["work", "clock"]
)
def test_stops_when_the_budget_is_spent(budget: Budget, reason: str) -> None:
    """Work and clock each end a search, before the next evaluation, and the reason is kept."""
    objective = Objective(mean_problem(), budget)
    if reason == "work":
        objective.evaluate(batch(0.25))
    with pytest.raises(BudgetSpentError):
        objective.evaluate(batch(0.25))
    assert objective.stopped == reason


def test_stops_at_the_bound() -> None:
    """Nothing is left to find once the proven bound is reached."""
    objective = Objective(mean_problem(), Budget(60))
    objective.evaluate(batch(1.0))
    with pytest.raises(BudgetSpentError):
        objective.evaluate(batch(0.25))
    assert objective.stopped == "bound reached"


def test_elites_are_distinct_and_sorted() -> None:
    """Elites hold the best rows of all batches, best first, no value twice."""
    objective = Objective(mean_problem(bound=lambda p: None), Budget(60))
    objective.evaluate(batch(0.25, 0.5, 0.25))
    objective.evaluate(batch(0.75, 0.5))
    assert objective.elites.values.tolist() == [0.75, 0.5, 0.25]
    assert objective.elites.take("x")[:, 0].tolist() == [0.75, 0.5, 0.25]


def test_started_batches_count_when_the_search_ends() -> None:
    """A batch that was started before the budget was spent is finished, and its values count."""
    objective = Objective(mean_problem(), Budget(60, work=1))
    objective.start(batch(0.25, 0.5))
    with pytest.raises(BudgetSpentError):
        objective.start(batch(0.75))
    assert objective.best is not None
    assert objective.best.value == 0.5


def test_other_shapes_are_no_elites() -> None:
    """A batch of a smaller shape may hold the best case, but not become the parent of cases of the full shape."""
    objective = Objective(mean_problem(bound=lambda p: None), Budget(60))
    objective.evaluate(batch(0.25))
    objective.evaluate({"x": np.full((1, 2), 0.5, np.float32)})
    assert objective.best is not None
    assert objective.best.case["x"].shape == (2,)
    assert objective.elites.values.tolist() == [0.25]


def test_equal_seeds_give_equal_histories() -> None:
    """Two searches over the same batches have the same history to the bit."""
    problem = open_problem(targets.get("rmsnorm"), {"n": 8})
    digests = []
    for _ in range(2):
        objective = Objective(problem, Budget(60))
        rng = np.random.default_rng(3)
        for _ in range(5):
            objective.evaluate(uniform(objective.space, rng, 16))
        digests.append([(found.value, found.case.digest) for found in objective.history])
    assert digests[0] == digests[1]


def test_what_is_found_is_credited_to_an_engine() -> None:
    """Every engine has the same search, under its own name."""
    objective = Objective(mean_problem(bound=lambda p: None), Budget(60), engine="all")
    one, other = objective.for_engine("one"), objective.for_engine("other")
    objective.evaluate(batch(0.125))
    one.evaluate(batch(0.25))
    other.evaluate(batch(0.25))
    other.evaluate(batch(0.5))
    for each in (objective, one, other):
        assert [(found.engine, found.value) for found in each.history] == [
            ("all", 0.125),
            ("one", 0.25),
            ("other", 0.5),
        ]
        assert (each.evaluations, each.work) == (4, objective.work)
        assert each.elites.values.tolist() == [0.5, 0.25, 0.125]
    assert (objective.engine, one.engine) == ("all", "one")


def test_what_an_engine_does_beside_is_counted() -> None:
    """Work and evaluations that are charged count like others, and end the search."""
    objective = Objective(mean_problem(), Budget(60, work=1e6))
    objective.for_engine("one").charge(1e5, evaluations=7)
    objective.charge(1e4)
    assert (objective.work, objective.evaluations) == (1.1e5, 7)
    objective.stop_if_over()
    objective.for_engine("other").charge(1e6)
    for each in (objective, objective.for_engine("one")):
        with pytest.raises(BudgetSpentError):
            each.evaluate(batch(0.25))
        assert each.stopped == "work"


def test_a_screen_is_for_all_engines() -> None:
    """From the batch on before which it was given."""
    seen: list[int] = []

    def screen(arrays: Batch) -> Callable[[], Values]:
        seen.append(len(arrays["x"]))
        return lambda: (arrays["x"].mean(axis=1).astype(np.float64), arrays)

    objective = Objective(mean_problem(), Budget(60))
    one = objective.for_engine("one")
    one.evaluate(batch(0.25))
    assert not one.screened
    objective.use_screen(screen)
    one.evaluate(batch(0.25, 0.5))
    assert (one.screened, seen) == (True, [2])
    one.use_screen(None)
    assert not objective.screened


def test_what_a_row_alone_has_counts() -> None:
    """Where a value may depend on its batch, that of the row alone counts; other rows that it needs are kept."""

    def by_place(p: Params, arrays: Arrays) -> Outcome:
        value = arrays["x"].mean(axis=1).astype(np.float64) * (1 + np.arange(len(arrays["x"])))
        return Outcome(value, np.zeros(len(value)))

    problem = mean_problem(steady=False, question=Drift(by_place), threshold=lambda p: 1.5)
    objective = Objective(problem, Budget(60))
    objective.evaluate(batch(0.25, 0.5))
    assert objective.best is not None
    assert (objective.best.value, objective.unsteady) == (0.5, None)
    objective.evaluate(batch(0.25, 0.375, 0.625))
    found = objective.best
    assert (found.value, objective.unsteady) == (1.875, None)
    assert (found.case["x"] == 0.625).all()
    assert found.company is not None
    # Rows like the case show it as well.
    assert [each["x"][0] for each in found.company.before] == [0.625, 0.625]
    assert found.company.after == ()


def test_what_is_not_had_again_is_remembered() -> None:
    """A value above the threshold that no repetition gives is no best case; how often such values came is counted."""
    calls = []

    def at_first(p: Params, arrays: Arrays) -> Outcome:
        calls.append(len(arrays["x"]))
        value = arrays["x"].mean(axis=1).astype(np.float64) * (2 if len(calls) == 1 else 1)
        return Outcome(value, np.zeros(len(value)))

    objective = Objective(mean_problem(steady=False, question=Drift(at_first), threshold=lambda p: 0.75), Budget(60))
    objective.evaluate(batch(0.25, 0.5))
    assert objective.unsteady is not None
    assert (objective.unsteady.found.value, objective.unsteady.again, objective.unsteady.seen) == (1.0, 0.5, 1)
    # Not the batch itself, and not what the other row has alone.
    assert objective.unsteady.calls == len(calls) - 2 > 2000
    assert objective.best is not None
    assert objective.best.value == 0.25
