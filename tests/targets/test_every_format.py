"""Every target works with every format that it says it takes."""

from __future__ import annotations

import numpy as np
import pytest

from diffuzz import formats, targets
from diffuzz.cases import draws
from diffuzz.judging.problem import open_problem
from diffuzz.targets.parameter import ParameterError


def _with_formats() -> list[str]:
    return [name for name in targets.names() if "format" in {one.name for one in targets.get(name).declared}]


@pytest.mark.parametrize("name", _with_formats())
def test_its_claim_can_be_asked(name: str) -> None:
    """Constructions, where it knows any, and draws are cases of its space, and none has a value above the bound."""
    target, taken = targets.get(name), 0
    for format in formats.names():
        try:
            params = target.params({"format": format})
        except ParameterError:
            continue
        taken += 1
        rng = np.random.default_rng(1)
        with open_problem(target, params) as problem:
            made = problem.starts(rng, 4)
            batch = draws.structured(problem.space, rng, 4)
            for cases in (batch, *([] if made is None else [made])):
                assert problem.space.admissible(problem.space.filled(cases)).all(), format
                outcome = problem.evaluate(problem.solve(problem.space.filled(cases)))
                assert not np.isnan(outcome.value).any(), format
                if problem.bound is not None:
                    assert (outcome.value - outcome.noise <= problem.bound.ceiling).all(), format
    assert taken
