"""All kinds of faults, and where in a model each can be."""

from __future__ import annotations

import numpy as np

from diffuzz.models.step import Step
from diffuzz.studies.faults import wrong_attention, wrong_norms, wrong_places, wrong_products
from diffuzz.studies.faults.site import Fault

FAULTS: tuple[Fault, ...] = (
    *wrong_products.FAULTS,
    *wrong_norms.FAULTS,
    *wrong_attention.FAULTS,
    *wrong_places.FAULTS,
)


def places(fault: Fault, steps: tuple[Step, ...]) -> list[Step]:
    """The steps that a fault can be in."""
    return [step for step in steps if step.op in fault.ops]


def drawn(steps: tuple[Step, ...], count: int, rng: np.random.Generator) -> list[tuple[Fault, Step]]:
    """Faults at random places: every kind once before one comes again."""
    found: list[tuple[Fault, Step]] = []
    while len(found) < count:
        before = len(found)
        for index in rng.permutation(len(FAULTS)):
            there = places(FAULTS[index], steps)
            if there and len(found) < count:
                found.append((FAULTS[index], there[int(rng.integers(len(there)))]))
        if len(found) == before:
            break
    return found
