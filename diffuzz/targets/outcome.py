"""What the evaluation of a batch gives, and what is proven about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import attrs
import numpy as np

from diffuzz.formats.arrays import AnyArray

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64

# Arrays by name, with a leading batch axis: NumPy arrays, or JAX arrays in a screen.
Arrays: TypeAlias = Mapping[str, AnyArray]


@attrs.frozen
class Bound:
    """A proven upper bound of a target's value over its space.

    ``value`` holds in exact arithmetic. ``rounding`` is the relative amount by which the float32 rounding of the
    measured implementations may exceed it; it is 0 where the exact function is measured. ``because`` is the derivation
    in one line; the docstring of the target's module has it in full.
    """

    value: float
    because: str
    rounding: float = attrs.field(default=0.0, kw_only=True)

    @property
    def ceiling(self) -> float:
        """``value (1 + rounding)``, which no measured value exceeds."""
        return self.value * (1.0 + self.rounding)


@attrs.frozen
class Outcome:
    """Values of a batch of b cases, each known to within +-``noise``, both in the unit of the target's measure.

    ``failures`` is None if no implementation failed. Otherwise it has a code for each row: 0 where nothing failed, and
    the same number for rows on which the implementations failed in the same way (see diffuzz.judging.evidence).
    ``promised`` is the share of each case's numbers that were judged; None where all of them are.
    """

    value: Float64[np.ndarray, " b"]
    noise: Float64[np.ndarray, " b"]
    failures: Int64[np.ndarray, " b"] | None = None
    promised: Float64[np.ndarray, " b"] | None = None

    def of_row(self, row: int) -> Outcome:
        """The outcome of one row, as that of a batch of one."""
        one = slice(row, row + 1)
        failures, promised = (None if each is None else each[one] for each in (self.failures, self.promised))
        return Outcome(self.value[one], self.noise[one], failures, promised)
