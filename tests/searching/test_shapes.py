"""The sizes that are looked at, and what is said of them; functions that compile each."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cases import draws, sizes
from diffuzz.judging.problem import Problem, open_problem
from diffuzz.judging.question import Judge
from diffuzz.searching import engines
from diffuzz.searching.objective import Budget, BudgetSpentError, Objective
from diffuzz.searching.search import OVERTIME, search


def judged(seen: Callable[[np.ndarray], None], **given: object) -> Problem:
    """A softmax that is right, and shows what it is called with."""

    def f(z: np.ndarray) -> np.ndarray:
        seen(z)
        e = np.exp(z.astype(np.float64) - z.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True), np.float32)

    keys = {key.replace("_", ":", 1): value for key, value in given.items()}
    return open_problem(targets.get("softmax"), keys, Judge(f, name="f"))


def swept(problem: Problem, seed: int = 0) -> Objective:
    objective = Objective(problem, Budget(math.inf))
    rounds = engines.started("shapes", objective, np.random.default_rng(seed))
    for _ in range(400):
        next(rounds)
        if objective.swept:
            return objective
    raise AssertionError("no end")


def test_every_size_worth_a_look_has_its_turn() -> None:
    """Those of models, the edges of powers of two, the smallest, and whole tiles, of the length and of the batch."""
    problem = judged(lambda z: None, range_n=":5000", range_b=":2048")
    objective = swept(problem)
    (n,) = (dim for dim in problem.space.dims if dim.name == "n")
    lengths = objective.coverage.sizes["n"]
    assert {*sizes.of_models(n), *sizes.edges(n), *sizes.multiples(n), *range(1, 257)} <= lengths
    assert objective.coverage.of_models(n) == (len(sizes.of_models(n)),) * 2
    assert problem.batch is not None
    assert set(sizes.edges(problem.batch)) <= objective.coverage.sizes["b"]


def test_the_largest_comes_first() -> None:
    """What is wrong from some size on is wrong there."""
    lengths: list[int] = []
    objective = Objective(judged(lambda z: lengths.append(z.shape[1])), Budget(math.inf))
    next(engines.started("shapes", objective, np.random.default_rng(3)))
    assert lengths[0] == 2**18 + 1


def test_batches_of_many_rows_are_one_call() -> None:
    """Scalar arguments are the same in all rows, so that no call is shorter than its batch."""
    calls: list[int] = []

    def f(x: np.ndarray, eps: float) -> np.ndarray:
        calls.append(len(x))
        return np.asarray(x / np.sqrt((x.astype(np.float64) ** 2).mean(1, keepdims=True) + eps), np.float32)

    given = {"range:n": ":64", "range:b": "3000:"}
    problem = open_problem(targets.get("rmsnorm"), given, Judge(f, name="f"))
    objective = Objective(problem, Budget(math.inf))
    rounds = engines.started("shapes", objective, np.random.default_rng(0))
    for _ in range(10):
        next(rounds)
    assert 2**16 + 1 in calls
    assert all(3000 <= count <= 2**16 + 1 for count in calls)


def test_a_function_that_compiles_keeps_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new shape takes 0.3 s: a search takes the budget and OVERTIME at most, beside loading and one call, and as
    long as the budget for new shapes.
    """
    monkeypatch.chdir(tmp_path)
    Path("slow.py").write_text(
        "import time\nimport numpy as np\nseen = set()\n"
        "def f(z):\n    if z.shape not in seen:\n        seen.add(z.shape)\n        time.sleep(0.3)\n"
        "    e = np.exp(z - z.max(1, keepdims=True))\n    return e / e.sum(1, keepdims=True)\n"
    )
    began = time.monotonic()
    with open_problem(targets.get("softmax"), {}, Judge("slow.py:f")) as problem:
        loading = time.monotonic() - began
        assert problem.compiles
    result = search(targets.get("softmax"), {}, Judge("slow.py:f"), seconds=3, seed=0)
    warm_up = sum(result.problem.warm_ups)
    # Ten shapes in the search's 3 s, and as many again while the case is minimised and measured in a fresh process.
    assert 1 <= sum(taken >= 0.3 for taken in result.problem.warm_ups) <= 2 * 10 + 2
    assert result.seconds - loading - warm_up < 3 + OVERTIME + 1
    assert result.coverage.sizes["n"] >= {1025}
    assert 2 <= len(result.coverage.sizes["n"]) <= 12


@pytest.mark.parametrize(("pace", "most"), [(1e-3, 2500), (1e-7, 2**16 + 1)], ids=["slow", "quick"])
def test_a_slow_function_gets_fewer_rows(pace: float, most: int) -> None:
    """At most so many that a call takes a quarter of the budget, by what a row has taken; a quick one all there are."""
    now, calls = 0.0, [0]

    def seen(z: np.ndarray) -> None:
        nonlocal now
        calls.append(len(z))
        now += pace * len(z)

    objective = Objective(judged(seen, range_n=":8"), Budget(10.0, math.inf), clock=lambda: now)
    # What a row takes is known once a batch of many was called.
    objective.evaluate(draws.structured(objective.space, np.random.default_rng(0), 128))
    rounds = engines.started("shapes", objective, np.random.default_rng(0))
    with contextlib.suppress(BudgetSpentError):
        for _ in range(40):
            next(rounds)
    assert most / 4 < max(calls) <= most
