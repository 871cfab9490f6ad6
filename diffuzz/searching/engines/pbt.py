"""Hypothesis as an engine: it proposes structure, ``target()`` climbs, and the batched engines refine what it finds.

Each round is a run of its own: a few dozen generated cases, then Hypothesis's optimiser on the integers and choices of
their descriptors. An evaluation here costs about a thousand times what one row of a batch costs, so the strength of
this engine is not speed but that it knows structures (and shrinks them), which reach the others through the objective's
elites.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings, target
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.errors import HypothesisWarning
from hypothesis.strategies import SearchStrategy

from diffuzz.cases.case import Case, stack
from diffuzz.searching.objective import BudgetSpentError, Objective
from diffuzz.searching.own_strategies import cases

EXAMPLES = 48
# What one example costs beside its evaluation, in elements: about 2 ms.
WORK_PER_EXAMPLE = 2**16


def rounds(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """One run of EXAMPLES examples a round, for ever."""
    drawn = cases(objective.space)
    while True:
        if _run(objective, drawn, int(rng.integers(2**63))):
            raise BudgetSpentError(objective.stopped)
        yield


def _run(objective: Objective, drawn: SearchStrategy[Case], number: int) -> bool:
    """One run of Hypothesis; True if the budget ended it."""
    seen: list[Case] = []
    over = False

    @seed(number)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.target),
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
        print_blob=False,
    )
    @given(drawn)
    def climb(case: Case) -> None:
        nonlocal over
        # Raising would make Hypothesis replay and report a failure: after the end every example returns at once.
        if over or len(seen) >= 4 * EXAMPLES:
            return
        seen.append(case)
        objective.charge(WORK_PER_EXAMPLE)
        try:
            value = float(objective.evaluate(case.batch())[0])
        except BudgetSpentError:
            over = True
            return
        if value > 0 and math.isfinite(value):
            # A logarithm, because Hypothesis climbs by any improvement and values span many orders of magnitude.
            target(math.log2(value), label="log2 value")

    with warnings.catch_warnings(), _nothing_left_behind():
        warnings.simplefilter("ignore", HypothesisWarning)
        climb()
    if seen and not over:
        # Neighbours in a batch see the perturbation solver once more, and the elites see all of them.
        objective.evaluate(stack(seen[: objective.rows]))
    return over


@contextmanager
def _nothing_left_behind() -> Iterator[None]:
    """Hypothesis keeps constants of the source files it sees in ./.hypothesis, even without a database of examples; a
    search must not write into the folder that it was started in.
    """
    with tempfile.TemporaryDirectory(prefix="diffuzz-") as folder:
        set_hypothesis_home_dir(folder)
        try:
            yield
        finally:
            # What it was by itself: the environment's HYPOTHESIS_STORAGE_DIRECTORY, or ./.hypothesis.
            set_hypothesis_home_dir(None)
