"""Uniform random search: the baseline that every other engine is measured against.

Its numbers are what a hand-written fuzz loop or ggml's own tests would draw; its perturbations are solved like
everybody's, so that a comparison measures where an engine looks and not what it knows about the derivative.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from diffuzz.cases.draws import uniform
from diffuzz.searching.objective import Objective


def rounds(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """One uniform batch a round, for ever."""
    while True:
        objective.evaluate(uniform(objective.space, rng, objective.rows))
        yield
