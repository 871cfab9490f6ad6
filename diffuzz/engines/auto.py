"""All engines on one budget: what pays gets more of it.

The constructions a target knows come first, then one round of each engine. After that each round goes to the engine
with the best recent return, the logarithmic improvement of the best value per unit of work, with every engine that
still has ideas tried again now and then: a bandit with an optimistic floor. Hypothesis proposes structure and the
batched engines refine it through the objective's elites.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from diffuzz import engines
from diffuzz.objective import Objective

ORDER = ("evolution", "shapes", "gradient", "pbt", "random")
# Share of an engine's old return that remains after a round of its own.
MEMORY = 0.7
# After how much work of the others, in units of what its last round took, even a hopeless engine gets another; after
# each that brings nothing it waits twice as long.
PATIENCE = {"evolution": 1, "shapes": 4, "gradient": 4, "pbt": 8, "random": 16}
MOST_PATIENCE = 2**20


def rounds(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """One round of one engine a round."""
    if objective.target.starts is not None:
        objective.engine = "starts"
        objective.refine(objective.target.starts(objective.params, rng, objective.rows))
        yield
    running: dict[str, Iterator[None]] = {name: _started_late(name, objective, rng) for name in ORDER}
    returns = dict.fromkeys(ORDER, math.inf)
    # The work at which each engine's waiting ends.
    due = dict.fromkeys(ORDER, 0.0)
    patience = dict(PATIENCE)
    while running:
        name = _choose(objective.work, running, returns, due)
        work, value = objective.work, _value(objective)
        if next(running[name], "ended") == "ended":
            del running[name]
            continue
        gain = math.log(_value(objective) / value) if value > 0 else 0.0
        patience[name] = PATIENCE[name] if _value(objective) > value else min(2 * patience[name], MOST_PATIENCE)
        due[name] = objective.work + patience[name] * (objective.work - work)
        paid = gain / max(objective.work - work, 1.0)
        returns[name] = paid if math.isinf(returns[name]) else MEMORY * returns[name] + (1 - MEMORY) * paid
        yield


def _started_late(name: str, objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """The rounds of an engine that is imported only when its first turn comes: many searches end before."""
    yield from engines.get(name)(objective, rng)


def _choose(work: float, running: dict[str, Iterator[None]], returns: dict[str, float], due: dict[str, float]) -> str:
    for name in running:
        if math.isinf(returns[name]) or work > due[name]:
            return name
    # Ties, as when nothing pays any more, go to the first in order.
    return max(running, key=lambda name: returns[name])


def _value(objective: Objective) -> float:
    return objective.best.value if objective.best else 0.0
