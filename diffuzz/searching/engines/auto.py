"""All engines on one budget: what pays gets more of it.

First come the constructions that a target knows, then one round of each engine. After that each round goes to the
engine with the best recent return, which is the logarithmic improvement of the best value per unit of work. Every
engine that still has ideas is tried again now and then: a bandit with an optimistic floor. Hypothesis proposes
structure, and the batched engines refine it through the objective's elites.

Where functions are judged by a contract, what pays is no guide: a correct function has rounding noise to climb all day,
and a wrong one may be wrong in one place and nowhere near it. There fresh batches get fixed shares of the work, FRESH.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from diffuzz.cases import draws
from diffuzz.searching import engines
from diffuzz.searching.objective import Objective

ORDER = ("evolution", "shapes", "gradient", "pbt", "random")
# Share of an engine's old return that remains after a round of its own.
MEMORY = 0.7
# After how much work of the others, in units of what its last round took, even a hopeless engine gets another; after
# each that brings nothing it waits twice as long.
PATIENCE = {"evolution": 1, "shapes": 4, "gradient": 4, "pbt": 8, "random": 16}
# The same for engines that come from elsewhere.
OF_OTHERS = 4
MOST_PATIENCE = 2**20
# Shares of the work in a contract: other shapes, and batches of the usual shape that nobody has climbed to. Shapes get
# more until each that is worth a look had one, and less where each of them is compiled.
FRESH = {"shapes": 0.3, "sampling": 0.25}
SWEEPING_SHAPES, COMPILED_SHAPES = 0.6, 0.4


def rounds(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """One round of one engine a round."""
    if own := _own_engine(objective):
        yield from _started_late(own, objective, rng)
        return
    made = objective.problem.starts(rng, objective.rows)
    if made is not None and not objective.before.searches:
        objective.for_engine("starts").refine(made)
        yield
    names = (*ORDER, *(name for name in engines.names() if name not in engines.REGISTRY.built_in()))
    names = tuple(name for name in names if name not in objective.without)
    running: dict[str, Iterator[None]] = {name: _started_late(name, objective, rng) for name in names}
    fresh: dict[str, float] = {}
    if objective.problem.judges:
        fresh = dict.fromkeys(FRESH, 0.0)
        running["sampling"] = _sampling(objective, rng)
    returns = dict.fromkeys(names, math.inf)
    # The work at which each engine's waiting ends.
    due = dict.fromkeys(names, 0.0)
    patience: dict[str, float] = {name: PATIENCE.get(name, OF_OTHERS) for name in names}
    for index, kept in enumerate((returns, due, patience)):
        # An engine that has had its turns in the search before does not begin anew.
        known = objective.before.note(f"auto/{index} {' '.join(names)}", len(names))
        kept |= {} if known is None else dict(zip(names, map(float, known), strict=True))

    def notes() -> dict[str, np.ndarray]:
        waits = {name: at - objective.work for name, at in due.items()}
        return {
            f"{index} {' '.join(names)}": np.array(list(kept.values()))
            for index, kept in enumerate((returns, waits, patience))
        }

    objective.note("auto", notes)
    while running:
        name = _behind(objective, fresh) or _choose(objective, running, returns, due, fresh)
        work, value = objective.work, _value(objective)
        if next(running[name], "ended") == "ended":
            del running[name]
            fresh.pop(name, None)
            continue
        if name in fresh:
            fresh[name] += objective.work - work
            yield
            continue
        gain = math.log(_value(objective) / value) if value > 0 else 0.0
        patience[name] = (
            PATIENCE.get(name, OF_OTHERS) if _value(objective) > value else min(2 * patience[name], MOST_PATIENCE)
        )
        due[name] = objective.work + patience[name] * (objective.work - work)
        paid = gain / max(objective.work - work, 1.0)
        returns[name] = paid if math.isinf(returns[name]) else MEMORY * returns[name] + (1 - MEMORY) * paid
        yield


def _own_engine(objective: Objective) -> str:
    """The engine that is made for the target, if its own question is asked and there is one."""
    return "" if objective.problem.judges else objective.problem.target.engine


def _started_late(name: str, objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """The rounds of an engine that is imported only when its first turn comes: many searches end before."""
    yield from engines.started(name, objective.for_engine(name), rng)


def _sampling(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """A structured batch and a scattered one, in turn, for ever."""
    sampling = objective.for_engine("sampling")
    while True:
        for draw in (draws.structured, draws.scattered):
            sampling.evaluate(draw(objective.space, rng, objective.rows))
            yield


def _behind(objective: Objective, fresh: dict[str, float]) -> str | None:
    """The first whose part of the work is below its share."""
    shares = dict(FRESH)
    if objective.problem.compiles:
        shares["shapes"] = COMPILED_SHAPES
    elif not objective.swept:
        shares["shapes"] = SWEEPING_SHAPES
    return next((name for name, spent in fresh.items() if spent < shares[name] * objective.work), None)


def _choose(
    objective: Objective,
    running: dict[str, Iterator[None]],
    returns: dict[str, float],
    due: dict[str, float],
    fresh: dict[str, float],
) -> str:
    """The best of those without a share of their own."""
    running = {name: rounds for name, rounds in running.items() if name not in fresh}
    if "shapes" in fresh and not objective.swept and len(running) > 1:
        # To import Hypothesis takes as long as hundreds of shapes.
        running.pop("pbt", None)
    for name in running:
        if math.isinf(returns[name]) or objective.work > due[name]:
            return name
    # Ties, as when nothing pays any more, go to the first in order.
    return max(running, key=lambda name: returns[name])


def _value(objective: Objective) -> float:
    return objective.best.value if objective.best else 0.0
