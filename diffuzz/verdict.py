"""Verdicts: what a search may say about the claim "more than T on this domain".

CONFIRMED   a witness: an admissible case whose value exceeds T by more than its own numerical noise.
FALSIFIED   a certificate: a proven upper bound over the whole domain that is at most T.
UNRESOLVED  neither: the best witness, the best bound, and the budget are what is known.

One input never falsifies anything, and no number of inputs does.
"""

from __future__ import annotations

import math
from enum import Enum

from diffuzz.target import Bound


class Verdict(Enum):
    """One of CONFIRMED, FALSIFIED, UNRESOLVED."""

    CONFIRMED = "CONFIRMED"
    FALSIFIED = "FALSIFIED"
    UNRESOLVED = "UNRESOLVED"


def judge(limit: float, value: float, noise: float = 0.0, bound: Bound | None = None) -> Verdict:
    """Verdict on "more than ``limit``", from the largest ``value`` found (known to within +-``noise``) and a bound."""
    if math.isnan(limit):
        raise ValueError("limit is NaN: a claim needs a number to exceed")
    if value - noise > limit:
        return Verdict.CONFIRMED
    if bound is not None and bound.ceiling <= limit:
        return Verdict.FALSIFIED
    return Verdict.UNRESOLVED
