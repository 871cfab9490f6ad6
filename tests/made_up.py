"""A target for tests, made of one function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from diffuzz.cases.space import Space, TensorSpec
from diffuzz.judging.problem import Problem, open_problem
from diffuzz.targets.drift import Drift
from diffuzz.targets.outcome import Arrays, Outcome
from diffuzz.targets.parameter import Params
from diffuzz.targets.target import Target

Value = Callable[[dict[str, np.ndarray]], np.ndarray]


def problem_of(value: Value, *tensors: TensorSpec, noise: float = 0.0) -> Problem:
    """The claim of a target whose cases have these tensors, and the values that ``value`` gives a batch."""

    def evaluate(params: Params, arrays: Arrays) -> Outcome:
        numbers = np.asarray(value(dict(arrays)), np.float64)
        return Outcome(numbers, np.full(len(numbers), noise))

    target = Target(
        name="made-up",
        summary="",
        parameters=(),
        space=lambda p: Space(tensors),
        question=Drift(evaluate),
        measure=lambda p: "made up",
        bound=lambda p: None,
        claim="",
        threshold=lambda p: 0.0,
    )
    return open_problem(target)
