"""The engines, one file each, found by name.

An engine is a function ``rounds(objective, rng) -> Iterator[None]``: a generator that does one slice of work, all of it
through ``objective``, each time it is asked for another. It ends by running out of ideas (returning) or by the
objective's BudgetSpentError.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator

import numpy as np

from diffuzz.objective import Objective

Rounds = Callable[[Objective, np.random.Generator], Iterator[None]]


class UnknownEngineError(ValueError):
    """No file of that name in this folder; the message lists what there is."""


def names() -> tuple[str, ...]:
    """Names of all engines, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def get(name: str) -> Rounds:
    """The ``rounds`` function of the engine called ``name``. Raises UnknownEngineError."""
    if name not in names():
        raise UnknownEngineError(f"there is no engine {name!r} (engines: {', '.join(names())})")
    rounds: Rounds = importlib.import_module(f"{__name__}.{name}").rounds
    return rounds
