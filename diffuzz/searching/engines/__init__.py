"""The engines, one file each, found by name.

An engine is a function ``rounds(objective, rng) -> Iterator[None]``: a generator that does one slice of work, all of it
through ``objective``, each time it is asked for another. It ends by running out of ideas (returning) or by the
objective's BudgetSpentError. Engines of other packages and of files are found by :mod:`diffuzz.registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from diffuzz.registry import Registry
from diffuzz.searching.objective import Objective

Rounds = Callable[[Objective, np.random.Generator], Iterator[None]]


class EngineError(ValueError):
    """An engine that is none, or cannot search a target at all, such as gradients of a function of bytes; one line."""


def started(name: str, objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """The rounds of the engine ``name``. Raises EngineError if it gives none."""
    rounds: object = REGISTRY.get(name)(objective, rng)
    if not isinstance(rounds, Iterator):
        raise EngineError(f"engine {name}: it returns a {type(rounds).__name__}; write yield after each slice of work")
    return rounds


def _check(found: object) -> Rounds:
    if not callable(found):
        raise TypeError(f"a function rounds(objective, rng) is needed, it is a {type(found).__name__}")
    return found


# What auto credits beside the engines.
_CREDITED = ("kept", "sampling", "starts")
REGISTRY = Registry("engine", "diffuzz.engines", _check, folder=__name__, attribute="rounds", reserved=_CREDITED)
names, get, load = REGISTRY.names, REGISTRY.get, REGISTRY.load
