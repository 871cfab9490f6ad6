"""Implementations that keep a stated arithmetic, simulated: the same equations, with every intermediate rounded
somehow.

A bound is sound if none of them is outside it, and sharp if the worst of them comes close. What an implementation may
do is chosen rounding by rounding, by a :data:`Chooser`:

- round to nearest, as a processor does, or to any number within the unit roundoff, or not at all, as a fused operation;
- miss a function's result by up to its budget of ULPs;
- add the terms of a sum along any tree;
- flush what is near the smallest normal number, or not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import attrs
import numpy as np

from diffuzz.analysis.arithmetic import FORMATS, Arithmetic, FloatFormat, budget, round_to
from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.jaxpr import Traced
from diffuzz.analysis.rounding import TRUNCATED
from diffuzz.analysis.walking import Roundings, walk

# For the exact result of an operation: which way it is rounded, in units of the largest error that is allowed, from -1
# to 1; or None for the nearest number. Called once for each rounding, in the order of the equations.
Chooser = Callable[[np.ndarray], "np.ndarray | float | None"]


@attrs.frozen(eq=False)
class Simulated:
    """Rounds as a chooser says. It stands where :class:`~diffuzz.analysis.rounding.Bounds` does."""

    number_format: FloatFormat
    accumulating: FloatFormat
    flush: bool
    truncates_factors: bool
    choose: Chooser
    rng: np.random.Generator
    values_only = True
    flushed = 0.0

    def factor(self, a: Estimate) -> Estimate:
        """The operand in tf32: cut off, or rounded."""
        if not self.truncates_factors:
            return a
        nearest = round_to(FORMATS["tf32"], a.value)
        cut = np.where(np.abs(nearest) > np.abs(a.value), nearest * (1 - TRUNCATED), nearest)
        return attrs.evolve(a, value=cut if self.rng.random() < 0.5 else nearest)

    def lost_by_reciprocal(self, a: Any, size: Any, least: Any) -> Any:
        """Nothing: no error is asked for."""
        return None

    def lost_in_product(self, error: Any, value: Any, largest: Any, smallest: Any, n: int) -> Any:
        """Nothing: no error is asked for."""
        return None

    def result(
        self,
        value: np.ndarray,
        propagate: Any,
        *,
        name: str | None = None,
        roundings: float = 1.0,
        **_: Any,
    ) -> Estimate:
        """A rounded result."""
        if value.dtype != np.float64:
            return Estimate(value)
        u = self.number_format.unit
        unit = roundings * u if name is None else 2 * budget(name, self.number_format) * u
        return Estimate(self.rounded(value, self.number_format, unit))

    def total(
        self, value: np.ndarray, propagate: Any, *, terms: Callable[[], np.ndarray], products: Any, **_: Any
    ) -> Estimate:
        """A sum along a tree, each addition rounded, and products rounded before or not at all."""
        parts = np.array(terms(), np.float64)
        fused = bool(np.any(products)) and self.rng.random() < 0.5
        if np.any(products) and not fused:
            parts = self.rounded(parts, self.accumulating, self.accumulating.unit)
        summed = self._added(parts, fused)
        if self.accumulating.unit < self.number_format.unit:
            summed = self.rounded(summed, self.number_format, self.number_format.unit)
        return Estimate(summed)

    def rounded(
        self, value: np.ndarray, number_format: FloatFormat, unit: float, *, underflows: bool = True
    ) -> np.ndarray:
        """The value rounded to a format, with an error of at most ``unit`` of its size, and flushed. Sums of numbers of
        a format that are subnormal are exact, so they do not underflow.
        """
        toward = self.choose(value)
        flushed = 0.0 if number_format.keeps_subnormals or not self.flush else 2 * number_format.smallest_normal
        if toward is None:
            result = round_to(number_format, value) if unit > 0 else value
            if flushed:
                result = np.where(np.abs(result) < number_format.smallest_normal, np.copysign(0.0, result), result)
            return result
        own = np.where(np.isfinite(value), np.abs(value) * unit, 0.0)
        if unit <= number_format.unit:
            # A number of the format is not rounded.
            own = np.where(round_to(number_format, value) == value, 0.0, own)
        if number_format.keeps_subnormals and unit > 0 and underflows:
            least = number_format.smallest_subnormal / 2 * max(1.0, unit / number_format.unit)
            near = np.abs(value) < number_format.smallest_normal
            limit = np.abs(value) if unit <= number_format.unit else np.inf
            own = np.where(near & (own != 0), np.minimum(np.maximum(own, least), limit), own)
        result = value + own * np.asarray(toward)
        if flushed:
            small = (np.abs(result) < flushed) & (result != 0)
            ends = np.where(np.broadcast_to(toward, result.shape) > 0, np.nextafter(flushed, 0.0), 0.0)
            result = np.where(small, np.copysign(ends, value), result)
        return np.asarray(np.where(np.abs(result) > number_format.largest, np.copysign(np.inf, result), result))

    def _added(self, parts: np.ndarray, fused: bool) -> np.ndarray:
        """The sum over the last axis: one after the other, or in pairs, in an order of its own."""
        count = parts.shape[-1]
        if count == 0:
            return np.zeros(parts.shape[:-1])
        parts = parts[..., self.rng.permutation(count)] if self.rng.random() < 0.8 else parts
        if count <= 64 and self.rng.random() < 0.5:
            result = parts[..., 0]
            for position in range(1, count):
                result = self._sum(result, parts[..., position], fused)
            return result
        while parts.shape[-1] > 1:
            half = parts.shape[-1] // 2
            pairs = self._sum(parts[..., :half], parts[..., half : 2 * half], fused)
            parts = np.concatenate([pairs, parts[..., 2 * half :]], axis=-1)
        return parts[..., 0]

    def _sum(self, a: np.ndarray, b: np.ndarray, fused: bool) -> np.ndarray:
        """A rounded sum; zero adds nothing, and rounds nothing."""
        rounded = self.rounded(a + b, self.accumulating, self.accumulating.unit, underflows=fused)
        return np.where(a == 0, b, np.where(b == 0, a, rounded))


def simulate(
    traced: Traced,
    inputs: Sequence[np.ndarray],
    arithmetic: Arithmetic,
    choose: Chooser,
    rng: np.random.Generator,
    constants: Collection[int] = (),
) -> list[np.ndarray]:
    """What an implementation gives that rounds as ``choose`` says and adds in an order that ``rng`` draws.

    Float results are numbers of the storage dtype, as float64, where it is narrower than what is computed in.
    ``inputs`` and ``constants`` are those of :func:`diffuzz.analysis.bound`.
    """
    accumulating, truncates = arithmetic.accumulating, arithmetic.truncates_factors

    def made(number_format: FloatFormat, sums: FloatFormat) -> Simulated:
        return Simulated(number_format, sums, arithmetic.flush, truncates, choose, rng)

    def stated(number_format: FloatFormat) -> Simulated:
        return made(number_format, min(accumulating, number_format, key=lambda each: each.unit))

    plain = made(arithmetic.computing, accumulating)

    def settled(constant: Estimate) -> Estimate:
        if constant.value.dtype != np.float64 or constant.error is None:
            return attrs.evolve(constant, error=None)
        return Estimate(round_to(arithmetic.computing, constant.value), constant=True)

    with np.errstate(all="ignore"):
        loaded = []
        for position, given in enumerate(inputs):
            value = np.asarray(given)
            if not traced.in_floats[position]:
                loaded.append(Estimate(value))
                continue
            value = value.astype(np.float64)
            rounds = position in constants or arithmetic.computing.unit > arithmetic.storage.unit
            value = round_to(arithmetic.computing, value) if rounds else value
            if not arithmetic.storage.keeps_subnormals:
                value = plain.rounded(value, arithmetic.computing, 0.0)
            loaded.append(Estimate(value))
        results = walk(traced.program, traced.program.consts, loaded, Roundings(plain, arithmetic, stated, settled))
        # Where results are stored as they were computed, they have been rounded already.
        narrows = arithmetic.storage.unit > arithmetic.computing.unit
        return [
            round_to(arithmetic.storage, each.value) if dtype == "float" and narrows else each.value
            for each, dtype in zip(results, traced.out_dtypes, strict=True)
        ]


def nearest(value: np.ndarray) -> None:
    """Round as processors do."""


def randomly(rng: np.random.Generator) -> Chooser:
    """For each operation by itself: to nearest, not at all, as far as allowed up or down, or anywhere between."""

    def choose(value: np.ndarray) -> np.ndarray | float | None:
        kind = rng.integers(6)
        if kind == 0:
            return None
        if kind == 1:
            return 0.0
        if kind == 2:
            return rng.uniform(-1.0, 1.0, value.shape)
        if kind == 3:
            return np.asarray(np.where(np.signbit(value), -1.0, 1.0) * rng.choice([-1.0, 1.0]))
        if kind == 4:
            return float(rng.choice([-1.0, 1.0]))
        return rng.choice([-1.0, 1.0], value.shape)

    return choose


@attrs.define
class Directed:
    """Directions that are kept: for each rounding in turn one number for each row, times a pattern."""

    rows: int
    rng: np.random.Generator
    directions: list[np.ndarray] = attrs.field(factory=list)
    _next: int = 0

    def start(self) -> None:
        """Before the first rounding of a run."""
        self._next = 0

    def __call__(self, value: np.ndarray) -> np.ndarray:
        """The direction of the next rounding: 1 and -1 mean up and down, 2 and -2 away from zero and towards it."""
        if self._next == len(self.directions):
            self.directions.append(self.rng.choice([-1.0, 1.0], self.rows))
        kept = self.directions[self._next]
        self._next += 1
        if value.ndim == 0 or value.shape[0] != self.rows:
            return np.full(value.shape, np.clip(kept[0], -1.0, 1.0))
        kept = kept.reshape(-1, *(1 for _ in range(value.ndim - 1)))
        signs = np.where(np.signbit(value), -1.0, 1.0)
        return np.asarray(np.where(np.abs(kept) > 1, np.sign(kept) * signs, kept))


def adversarial(
    traced: Traced,
    inputs: Sequence[np.ndarray],
    arithmetic: Arithmetic,
    estimates: Sequence[Estimate],
    rng: np.random.Generator,
    *,
    sweeps: int = 2,
    constants: Collection[int] = (),
) -> tuple[np.ndarray, int]:
    """For each row of a batch the largest found |computed - exact| / error that chosen roundings lead to, and how many
    results were looked at.

    The directions of all roundings are drawn, and then each is turned in each row in the way that makes the row's
    largest ratio larger, one after the other. The tree of each sum stays the same.
    """
    rows = estimates[0].value.shape[0]
    directed = Directed(rows, rng)
    seed = int(rng.integers(2**32))
    looked = 0

    def ratios() -> np.ndarray:
        nonlocal looked
        directed.start()
        results = simulate(traced, inputs, arithmetic, directed, np.random.default_rng(seed), constants)
        looked += rows
        each = [ratio(estimate, got) for estimate, got in zip(estimates, results, strict=True)]
        return np.asarray(np.max(each, axis=0))

    best = ratios()
    for _ in range(sweeps):
        for position in range(len(directed.directions)):
            for option in (1.0, -1.0, 2.0, -2.0):
                kept = directed.directions[position]
                directed.directions[position] = np.full(rows, option)
                now = ratios()
                directed.directions[position] = np.where(now > best, option, kept)
                best = np.maximum(best, now)
    return best, looked


def ratio(estimate: Estimate, got: np.ndarray) -> np.ndarray:
    """For each row the largest of :meth:`Estimate.ratios`."""
    rows: np.ndarray = estimate.ratios(got).reshape(estimate.value.shape[0], -1).max(axis=1, initial=0.0)
    return rows
