"""Verdicts: what a search may say about the claim "value > T on this domain".

CONFIRMED   a witness: an admissible case whose value exceeds T by more than its own numerical noise.
FALSIFIED   a certificate: a proven upper bound over the whole domain that is at most T.
UNRESOLVED  neither: the best witness, the best bound, and the budget are what is known.

One input never falsifies anything, and no number of inputs does.
"""

from __future__ import annotations

import math
from enum import Enum

from diffuzz.targets.outcome import Bound


class Verdict(Enum):
    """One of CONFIRMED, FALSIFIED, UNRESOLVED."""

    CONFIRMED = "CONFIRMED"
    FALSIFIED = "FALSIFIED"
    UNRESOLVED = "UNRESOLVED"


def judge(threshold: float, value: float, noise: float = 0.0, bound: Bound | None = None) -> Verdict:
    """Verdict on "value > threshold", from the largest ``value`` found, known to within +-``noise``, and a bound."""
    if math.isnan(threshold):
        raise ValueError("threshold is NaN: a claim needs a number to exceed")
    if value - noise > threshold:
        return Verdict.CONFIRMED
    if bound is not None and bound.ceiling <= threshold:
        return Verdict.FALSIFIED
    return Verdict.UNRESOLVED


def same(now: float, recorded: float, tolerance: float) -> bool:
    """Whether a value is the recorded one, within a relative tolerance; an infinite one is only itself."""
    if not math.isfinite(recorded):
        return now == recorded
    return abs(now - recorded) <= tolerance * abs(recorded)
