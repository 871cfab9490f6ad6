"""How the result of one operation is rounded: the last step of every rule.

A rule evaluates its operation on float64 values and says how the errors of its operands reach the result. What the
operation's own rounding adds is said here, once for all rules, because it depends on the arithmetic and not on the
operation:

    error = propagated + unit (|value| + propagated) + underflow

with unit = 2 k u for a function with a budget of k ULP; a rounded sum, difference or product has k = 1/2. The value was
evaluated in float64, so its own error is added to the unit; it only matters where the arithmetic is float64 too.

**Underflow.** In the formats with a long exponent (float64, float32, bfloat16) processors may flush: a number below
twice the smallest normal one may become any number of its sign below that. In float16 and float8 subnormal numbers are
kept, so rounding to them is off by at most half the smallest one, and by no more than the number itself. Zero stays
zero in both.

**Overflow.** Where |value| + error may exceed the format's largest number, nothing is promised. A value that is
infinite for certain (a mask of -inf, and what is computed from it) is exact. NaN is an infinite error.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs
import numpy as np

from diffuzz.analysis.arithmetic import FORMATS, Arithmetic, FloatFormat, budget, round_to
from diffuzz.analysis.estimate import Estimate

# The relative error of NumPy's float64: of its sums, products, quotients and roots, and of its functions.
_EVALUATION = 2.0**-52
_EVALUATION_OF_FUNCTIONS = 2.0**-50

# Tensor cores read float32 operands as tf32 by ignoring the low 13 bits, so an operand is off by up to one unit of its
# last place.
TRUNCATED = 2.0**-10

# Gives an array that broadcasts to the value, a number, or None where the operands are exact.
Propagate = Callable[[], Any]


class Rounding(Protocol):
    """What rules hand their results to."""

    @property
    def values_only(self) -> bool:
        """Whether errors are not asked for."""

    @property
    def number_format(self) -> FloatFormat:
        """The format that results are rounded to."""

    @property
    def flushed(self) -> float:
        """Below this a number may become any other of its sign; 0 where subnormal numbers are kept."""

    def factor(self, a: Estimate) -> Estimate:
        """An operand of a product of matrices as it is read: in tf32, if the arithmetic says so."""

    def lost_by_reciprocal(self, a: Any, size: Any, least: Any) -> Any:
        """What underflow and overflow of 1 / b add to the error of a / b as a (1 / b), for |b| = size and at least
        ``least``.
        """

    def result(
        self,
        value: np.ndarray,
        propagate: Propagate,
        *,
        name: str | None = None,
        roundings: float = 1.0,
        operands: Sequence[Estimate] = (),
        function: Callable[..., np.ndarray] | None = None,
        elementwise: bool = True,
        nonnegative: bool = False,
    ) -> Estimate:
        """The estimate of a rounded result. ``propagate`` gives what the operands' errors make of it; ``name`` is the
        function's in the table of budgets, else the operation is off by ``roundings`` times u. ``function`` of
        ``operands`` gives the value: where the value or an error is infinite, it is evaluated at the corners of the
        operands.
        """

    def total(
        self,
        value: np.ndarray,
        propagate: Propagate,
        *,
        additions: Any,
        products: int,
        roundings: Any,
        whole: Callable[[], bool],
        magnitude: Callable[[], Any],
        terms: Callable[[], Any],
        function: Callable[..., np.ndarray] | None = None,
        operands: Sequence[Estimate] = (),
        nonnegative: bool = False,
    ) -> Estimate:
        """The estimate of a sum. ``roundings`` is the largest number of roundings that one term meets, ``additions``
        and ``products`` say how many results there are on the way, ``magnitude`` gives the sum of the terms' largest
        magnitudes, ``whole`` whether all terms are whole numbers, ``terms`` the terms along a last axis.
        """

    def lost_in_product(self, error: Any, value: Any, largest: Any, smallest: Any, n: int) -> Any:
        """The error of a product of n numbers with what underflow and overflow of partial products add. No partial
        product is above ``largest`` or below ``smallest`` (the products of what is above and below one).
        """


@attrs.frozen
class Values:
    """Float64 values, without errors."""

    values_only = True
    number_format = FORMATS["float64"]
    flushed = 0.0

    def factor(self, a: Estimate) -> Estimate:
        """The operand."""
        return a

    def lost_by_reciprocal(self, a: Any, size: Any, least: Any) -> Any:
        """Nothing."""
        return None

    def lost_in_product(self, error: Any, value: Any, largest: Any, smallest: Any, n: int) -> Any:
        """Nothing."""
        return None

    def result(self, value: np.ndarray, propagate: Propagate, **_: Any) -> Estimate:
        """The value."""
        return Estimate(value)

    def total(self, value: np.ndarray, propagate: Propagate, **_: Any) -> Estimate:
        """The value."""
        return Estimate(value)


@attrs.frozen
class Bounds:
    """Errors of results that are rounded to ``number_format``, with sums accumulated in ``accumulating``."""

    number_format: FloatFormat
    accumulating: FloatFormat
    flush: bool
    truncates_factors: bool = False
    values_only = False

    @staticmethod
    def of(arithmetic: Arithmetic, number_format: FloatFormat | None = None) -> Bounds:
        """The rounding of an arithmetic's intermediates; with ``number_format`` that of operations whose dtype the
        function states: their sums are accumulated in the more precise of the two.
        """
        computing = arithmetic.computing
        accumulating = arithmetic.accumulating
        if number_format is not None:
            computing = number_format
            accumulating = min(accumulating, number_format, key=lambda each: each.unit)
        return Bounds(computing, accumulating, arithmetic.flush, arithmetic.truncates_factors)

    @property
    def flushed(self) -> float:
        """Below this a number may become any other of its sign; 0 where subnormal numbers are kept."""
        return 0.0 if self.number_format.keeps_subnormals or not self.flush else 2 * self.number_format.smallest_normal

    @property
    def half_subnormal(self) -> float:
        """The largest error of rounding to a subnormal number."""
        return self.number_format.smallest_subnormal / 2

    def result(
        self,
        value: np.ndarray,
        propagate: Propagate,
        *,
        name: str | None = None,
        roundings: float = 1.0,
        operands: Sequence[Estimate] = (),
        function: Callable[..., np.ndarray] | None = None,
        elementwise: bool = True,
        nonnegative: bool = False,
    ) -> Estimate:
        """See :class:`Rounding`."""
        error = propagate()
        if value.dtype != np.float64:
            return _of_integers(value, error)
        u = self.number_format.unit
        if name is not None:
            unit, evaluation = 2 * budget(name, self.number_format) * u, _EVALUATION_OF_FUNCTIONS
        else:
            unit, evaluation = roundings * u, _EVALUATION * roundings
            if error is None and operands and all(each.constant for each in operands) and self.holds(value):
                return Estimate(value, None, nonnegative=nonnegative)
        total, sure = self._rounded(value, error, unit, evaluation)
        if not sure:
            total = self._repaired(value, total, operands, function, elementwise, unit)
        return Estimate(value, total, nonnegative=nonnegative)

    def total(
        self,
        value: np.ndarray,
        propagate: Propagate,
        *,
        additions: Any,
        products: int,
        roundings: Any,
        whole: Callable[[], bool],
        magnitude: Callable[[], Any],
        terms: Callable[[], Any],
        function: Callable[..., np.ndarray] | None = None,
        operands: Sequence[Estimate] = (),
        nonnegative: bool = False,
    ) -> Estimate:
        """See :class:`Rounding`.

        Sums of n terms in any order are off by gamma_k times the sum of the magnitudes, gamma_k = k u / (1 - k u) with
        k roundings on the way of a term (Higham, Accuracy and Stability, sections 3.1 and 4.2), infinite from k u = 1/2
        on. Each addition may be flushed. The result is then rounded to the format of intermediates, unless the sum is
        in it already.
        """
        error = propagate()
        u = self.accumulating.unit
        narrows = u > self.number_format.unit
        count = roundings + narrows
        size = magnitude()
        exactly = 1 / max(u, self.number_format.unit)
        constant = bool(operands) and all(each.constant for each in operands)
        if error is None and constant and size.max(initial=0.0) <= exactly and whole():
            return Estimate(value, None, nonnegative=nonnegative)
        gamma = np.where(count * u >= 0.5, np.inf, count * u / (1 - np.minimum(count * u, 0.5)))
        own = size * (gamma + (roundings + 1) * _EVALUATION)
        # Terms of a format with smaller numbers are rounded, or else each sum with one.
        foreign = 0 if self.accumulating.includes(self.number_format) else additions + 1
        if self.accumulating.keeps_subnormals or not self.flush:
            lost = np.maximum(products, foreign) * self.accumulating.smallest_subnormal / 2
        else:
            lost = (additions + products + foreign) * 2 * self.accumulating.smallest_normal
        if self.flush or (own.size and not own.min() * 2.0**-60 >= np.max(lost)):
            own = own + np.where(size > 0, lost, 0.0)
        if size.size and not size.max() * (1 + np.max(gamma)) <= self.accumulating.largest:
            own = np.where(size * (1 + gamma) <= self.accumulating.largest, own, np.inf)
        error = own if error is None else own + error
        if not self.number_format.includes(self.accumulating):
            total, sure = self._rounded(value, error, self.number_format.unit, 0.0)
        else:
            total, sure = error, bool(np.isfinite(error.max(initial=0.0)))
        if not sure:
            whole_sum = None if function is None else lambda x: self._summed(function, x)
            total = self._repaired(value, total, operands, whole_sum, False, self.number_format.unit)
        return Estimate(value, total, nonnegative=nonnegative)

    def _summed(self, function: Callable[..., np.ndarray], terms: np.ndarray) -> np.ndarray:
        """A sum with infinite terms: NaN where the finite ones alone may overflow, to the other infinity."""
        finite = function(np.where(np.isfinite(terms), np.abs(terms), 0.0))
        return np.where(finite <= self.accumulating.largest / 2, function(terms), np.nan)

    def factor(self, a: Estimate) -> Estimate:
        """See :class:`Rounding`."""
        if not self.truncates_factors:
            return a
        own = (np.abs(a.value) + (0.0 if a.error is None else a.error)) * TRUNCATED
        return Estimate(a.value, own if a.error is None else own + a.error, nonnegative=a.nonnegative)

    def lost_by_reciprocal(self, a: Any, size: Any, least: Any) -> Any:
        """See :class:`Rounding`.

        A reciprocal that is subnormal is off by at most eta, and by less than an eighth of u where |b| eta <= u / 8,
        which the budget of a quotient covers. The reciprocal of a number below 1 / largest is infinite.
        """
        if least.size == 0:
            return None
        eta, limits = self.flushed or self.half_subnormal, self.number_format
        if size.max() * eta <= limits.unit / 8 and least.min() * limits.largest >= 1:
            return None
        lost = np.where((size * eta > limits.unit / 8) & (a != 0), np.abs(a) * eta, 0.0)
        return np.where((least * limits.largest >= 1) | np.isinf(size), lost, np.inf)

    def lost_in_product(self, error: Any, value: Any, largest: Any, smallest: Any, n: int) -> Any:
        """See :class:`Rounding`. A partial product that underflows is off by eta, and what it is multiplied with is at
        most ``largest``.
        """
        eta = self.flushed or self.half_subnormal
        lost = np.where(smallest < 4 * eta / self.number_format.unit, n * eta * largest, 0.0)
        lost = np.where(value == 0 if error is None else (value == 0) & (error == 0), 0.0, lost)
        lost = np.where(largest * (1 + n * self.number_format.unit) <= self.number_format.largest, lost, np.inf)
        if error is None:
            return lost if lost.any() else None
        return error + lost

    def holds(self, value: np.ndarray) -> bool:
        """Whether every number is one of the format's, so that an exact operation has it as its result. A first look at
        a few spares the work for arrays of which that cannot be expected.
        """
        few = value.ravel()[:8] if value.flags.c_contiguous else value.reshape(-1)[:8] if value.size < 4096 else None
        if few is not None and not np.array_equal(round_to(self.number_format, few), few):
            return False
        if value.size == 0:
            return True
        size = np.abs(value)
        low, high = size.min(where=size > 0, initial=1.0), size.max()
        if low < self.flushed or not high <= self.number_format.largest:
            return False
        return bool(np.array_equal(round_to(self.number_format, value), value))

    def _rounded(
        self, value: np.ndarray, error: np.ndarray | float | None, unit: float, evaluation: float
    ) -> tuple[np.ndarray, bool]:
        """The error with this rounding's own; and whether all of it is finite."""
        size = np.abs(value)
        if error is not None:
            if np.shape(error) not in (size.shape, ()):
                size = size + error
            else:
                size += error
        if size.size == 0:
            return size, True
        low, high = size.min(), size.max()
        sure = bool(high * (1 + unit) <= self.number_format.largest * (1 + self.number_format.unit))
        own = size * ((unit + evaluation) * (1 + 2.0**-30))
        eta = self.flushed or self.half_subnormal
        if self.flushed:
            # Always, so that the error of a number is the same whatever else is in the array.
            own += eta
            if not low > 0:
                own = np.where(size == 0, 0.0, own)
        elif not low >= self.number_format.smallest_normal:
            own = self._underflown(size, own, unit, eta * (1 + 2.0**-30))
        if error is not None:
            own += error
        return own, sure

    def _underflown(self, size: np.ndarray, own: np.ndarray, unit: float, eta: float) -> np.ndarray:
        """The error of rounding where subnormal numbers are kept."""
        once = unit <= self.number_format.unit
        small = np.maximum(own, eta if once else eta * unit / self.number_format.unit)
        # Rounding to nearest moves no number by more than the number itself; a function may.
        if once:
            small = np.minimum(size, small)
        return np.where(size < self.number_format.smallest_normal, small, own)

    def _repaired(
        self,
        value: np.ndarray,
        total: np.ndarray,
        operands: Sequence[Estimate],
        function: Callable[..., np.ndarray] | None,
        elementwise: bool,
        unit: float,
    ) -> np.ndarray:
        """The error where something is infinite: 0 where every corner of the operands gives the value's own infinity,
        the distance of the farthest corner where an operand is infinite and the value is not, infinite elsewhere.
        """
        total = np.array(np.broadcast_to(total, value.shape))
        finite = np.abs(value) + total
        with np.errstate(all="ignore"):
            bad = ~(finite * (1 + unit) <= self.number_format.largest * (1 + self.number_format.unit))
        total[bad] = np.inf
        if function is None:
            return total
        # A finite result of a sum that may overflow on its way stays bad; corners speak of infinities only.
        again = bad & np.isinf(value)
        if elementwise:
            infinite = np.isinf(value)
            # What overflows even in float64 is no infinity; poles are at operands of 0 or 1, as of 1 / 0 and atanh(1).
            overflown = infinite.copy()
            for operand in operands:
                infinite |= np.isinf(operand.value)
                overflown &= np.isfinite(operand.value) & (operand.value != 0) & (np.abs(operand.value) != 1)
            again = bad & infinite & ~overflown
        if not again.any():
            return total
        if elementwise:
            shape = value.shape
            ends = []
            for each in operands:
                low, high = (np.broadcast_to(end, shape)[again] for end in _ends(each))
                ends.append((low, high) if each.error is not None else (low,))
            here = value[again]
            worst = np.zeros(here.shape)
            for corner in itertools.product(*ends):
                worst = np.maximum(worst, distance(function(*corner), here))
        else:
            here = value[again]
            worst = np.zeros(here.shape)
            for end in (0, 1):
                worst = np.maximum(worst, distance(function(*(_ends(each)[end] for each in operands))[again], here))
        # A corner says nothing of how a finite value is rounded.
        rounding = np.where(
            ~np.isfinite(here), 0.0, unit * np.abs(here) + np.where(here != 0, self.flushed or self.half_subnormal, 0.0)
        )
        total[again] = worst + rounding
        return total


def _ends(a: Estimate) -> tuple[np.ndarray, np.ndarray]:
    """The least and the most that is computed; NaN where nothing is promised."""
    if a.error is None:
        return a.value, a.value
    lost = np.isinf(a.errors())
    return np.where(lost, np.nan, a.lowest()), np.where(lost, np.nan, a.highest())


def _of_integers(value: np.ndarray, error: Any) -> Estimate:
    """Integers are not rounded; where they may leave their range, nothing is promised."""
    if error is None:
        return Estimate(value)
    reach = np.abs(value.astype(np.float64)) + error
    inside = reach <= float(np.iinfo(value.dtype).max)
    return Estimate(value, np.where(inside, error, np.inf), nonnegative=value.dtype.kind == "u")


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a - b|: 0 for equal infinities, infinite where one is NaN."""
    gap = np.abs(a - b)
    gap = np.where(a == b, 0.0, gap)
    return np.where(np.isnan(gap), np.inf, gap)
