"""Evidence: what the one case that is printed shows, beside its value.

Terms       of a claim: the numbers that its value is made of
Judged      of a judged function: exact result, reference and candidate at the worst element, and who is wrong
Compared    of two implementations: both at the worst element, and how they agree
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import attrs

from diffuzz.kernels.process.worker import Failure

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float64

Wrong = Literal["candidate", "reference", "both"]


class Agreement(enum.Enum):
    """How two implementations agree, as far as a search has seen."""

    BITS = "to the bit"
    ROUNDING = "to rounding"
    POLICY = "by policy"
    OUTSIDE = "not at all"


@attrs.frozen(eq=False)
class Elements:
    """Every element of the result of one case, for whoever draws it.

    ``sides`` has what each implementation gave, by name: "reference" and "candidate" of a judged function, "A" and "B"
    of two. ``exact`` is None where nobody knows it. ``allowed`` is the largest error, or the largest difference of the
    two; infinite where nothing is promised, and None where results are fixed to the bit. ``ratio`` is how much of that
    there is, whose largest is the value of the case; where results are fixed, 1 for each that differs.
    """

    exact: Float64[np.ndarray, " n"] | None
    sides: Mapping[str, Float64[np.ndarray, " n"]]
    allowed: Float64[np.ndarray, " n"] | None
    ratio: Float64[np.ndarray, " n"]


@attrs.frozen
class Terms:
    """The numbers that the value of a claim is made of, by name."""

    numbers: Mapping[str, float]

    def as_dict(self) -> dict[str, float]:
        """The numbers, by the names that reports and JSON have for them."""
        return dict(self.numbers)


@attrs.frozen
class Judged:
    """What a case shows of a function.

    ``element`` is the worst one (of a result that is fixed to the bit, the first that differs), with the results there;
    ``exact`` is None where nothing but the reference knows the result, ``allowance`` where the result is fixed.
    ``reference_error`` is the largest error of the reference in units of its bound, or how many of its elements differ
    from the exact ones. ``nmse`` is that of the whole result, beside the limit of ggml's own test, where results are
    numbers. ``alone`` is the value of the case without rows beside it, where it is worse beside them. ``failure`` says
    how the function failed; then there is no result.
    """

    element: int
    reference: float
    candidate: float
    wrong: Wrong | None
    exact: float | None = None
    allowance: float | None = None
    reference_error: float = 0.0
    nmse: float | None = None
    nmse_limit: float | None = None
    alone: float | None = None
    failure: Failure | None = None
    elements: Elements | None = attrs.field(default=None, eq=False, repr=False)

    def as_dict(self) -> dict[str, float]:
        """The numbers, by the names that reports and JSON have for them."""
        fixed = self.allowance is None
        named = {
            "first element" if fixed else "worst element": float(self.element),
            "candidate": self.candidate,
            "exact": self.exact,
            "reference": self.reference,
            "allowance": self.allowance,
            "elements of the reference that differ" if fixed else "reference error / a-priori bound": (
                self.reference_error
            ),
            "nmse": self.nmse,
            "ggml nmse limit": self.nmse_limit,
            "alone": self.alone,
        }
        return {name: number for name, number in named.items() if number is not None}


@attrs.frozen
class Compared:
    """What a case shows of two implementations.

    ``element`` is the worst one (the first that differs, where results are fixed), with both results there. Where
    results have an allowance, ``rounding`` is what rounding alone allows there and ``errors`` are the largest errors of
    the two in units of the a-priori bound. Where they are fixed, ``unexplained`` counts the elements of each that no
    choice of the arithmetic explains, if the contract can tell. ``failures`` says how each of them failed.
    """

    element: int
    a: float
    b: float
    exact: float | None = None
    rounding: float | None = None
    errors: tuple[float, float] | None = None
    unexplained: tuple[float, float] | None = None
    failures: tuple[Failure | None, Failure | None] = (None, None)
    elements: Elements | None = attrs.field(default=None, eq=False, repr=False)

    def agreement(self, value: float) -> Agreement:
        """What ``value``, the largest of a search, and these numbers say of the two implementations."""
        if value == 0:
            return Agreement.BITS
        if any(failure is not None for failure in self.failures):
            return Agreement.OUTSIDE
        if self.rounding is not None and value <= 1:
            return Agreement.ROUNDING
        if self.errors is not None:
            return Agreement.POLICY if max(self.errors) <= 1 else Agreement.OUTSIDE
        known = self.unexplained or (math.inf, math.inf)
        return Agreement.POLICY if max(known) == 0 else Agreement.OUTSIDE

    def as_dict(self) -> dict[str, float]:
        """The numbers, by the names that reports and JSON have for them."""
        named: dict[str, float | None] = {
            "first element" if self.errors is None else "worst element": float(self.element),
            "A": self.a,
            "B": self.b,
            "exact": self.exact,
            "rounding": self.rounding,
        }
        if self.errors is not None:
            named |= {f"{side} error / a-priori bound": error for side, error in zip("AB", self.errors, strict=True)}
        if self.unexplained is not None:
            named |= {
                f"elements of {side} that no choice explains": count
                for side, count in zip("AB", self.unexplained, strict=True)
            }
        return {name: number for name, number in named.items() if number is not None}


Evidence = Terms | Judged | Compared
NOTHING = Terms({})
