"""What is known of a number that an implementation computes: the exact value, and how far from it the computed one may
be.
"""

from __future__ import annotations

import attrs
import numpy as np

from diffuzz.analysis.choices import Choices, Listed


@attrs.frozen(eq=False)
class Estimate:
    """``value`` is exact (float64, or integers or truth values of any dtype), and the computed array is within
    ``error`` of it.

    ``error`` is a float64 array that broadcasts to the value, or None where the computed array is the value itself. It
    is never NaN; infinity promises nothing. The error of a truth value is 0 or 1: at 1 it may be the other one. A value
    that is infinite with an error of 0 is certainly that infinity. ``nonnegative`` says that no computed element is
    below zero, whatever the error.
    """

    value: np.ndarray = attrs.field(converter=np.asarray)
    error: np.ndarray | None = attrs.field(default=None, converter=attrs.converters.optional(np.asarray))
    choices: Choices | None = None
    nonnegative: bool = False
    constant: bool = False

    def errors(self) -> np.ndarray:
        """The error as an array of the value's shape."""
        if self.error is None:
            return np.zeros(self.value.shape)
        return np.broadcast_to(self.error, self.value.shape)

    def lowest(self) -> np.ndarray:
        """The least that a computed element may be."""
        if self.error is None:
            return self.value
        low: np.ndarray = self.value - self.error
        return np.maximum(low, 0.0) if self.nonnegative else low

    def highest(self) -> np.ndarray:
        """The most that a computed element may be."""
        return self.value if self.error is None else np.asarray(self.value + self.error)

    def options(self) -> np.ndarray | None:
        """For an integer that is one of a known set: arrays of the value's shape, of which it may be each; None where
        the set is not known or the value is certain.
        """
        if self.choices is None:
            return None
        return self.choices.listed()

    def allowed(self) -> np.ndarray:
        """How far off each computed element may be: infinity where nothing is promised, and 0 for an integer of a known
        set, which is right or wrong.
        """
        if self.choices is not None:
            return np.zeros(self.value.shape)
        error = self.errors()
        unknown = np.isnan(self.value) if self.value.dtype.kind == "f" else np.zeros((), bool)
        return np.where(unknown, np.inf, error) if unknown.any() else error

    def allowed_of(self, other: Estimate) -> np.ndarray:
        """How far off this value a computed array may be that ``other``, another formula of it, describes: by the error
        of the other, which is about its own value, and by the distance of both, which the evaluation in float64 makes.
        """
        if self.value.dtype.kind != "f":
            return other.allowed()
        with np.errstate(invalid="ignore"):
            apart = np.abs(other.value - self.value)
        return other.allowed() + np.where(np.isfinite(apart), apart, 0.0)

    def admits(self, candidate: np.ndarray) -> np.ndarray:
        """Which numbers of a computed array are right integers: those of the set where there is one, else those within
        the error.
        """
        candidate = np.asarray(candidate)
        if candidate.shape != self.value.shape:
            raise ValueError(f"the candidate has the shape {candidate.shape}, and the result {self.value.shape}")
        if self.choices is None:
            return np.asarray(np.abs(candidate.astype(np.float64) - self.value) <= self.errors())
        whole = np.isfinite(candidate) & (candidate == np.rint(candidate))
        return np.asarray(whole & self.choices.admits(np.where(whole, candidate, 0).astype(np.int64)))

    def settled(self, got: np.ndarray) -> np.ndarray:
        """A computed array in float64, with the exact integer in the place of each that is as good."""
        got = np.asarray(got, np.float64)
        return got if self.choices is None else np.where(self.admits(got), self.value, got)

    def ratios(self, got: np.ndarray) -> np.ndarray:
        """The error of each computed element over what is allowed: at most 1 inside the bound, 0 where nothing is
        promised, infinity for what is no number or another infinity.
        """
        got, value, allowed = self.settled(got), self.value.astype(np.float64), self.allowed()
        with np.errstate(all="ignore"):
            shares = np.where(got == value, 0.0, np.abs(got - value) / allowed)
        return np.where(np.isinf(allowed), 0.0, np.where(np.isnan(shares), np.inf, shares))


def of_options(options: np.ndarray, value: np.ndarray | None = None) -> Estimate:
    """The estimate of an array whose elements may each be one of these options (the first axis); the first, or
    ``value``, is exact.
    """
    exact = options[0] if value is None else value
    if len(options) == 1:
        return Estimate(exact)
    error = np.abs(options.astype(np.float64) - exact.astype(np.float64)).max(axis=0)
    if not error.any():
        return Estimate(exact)
    if options.dtype == bool:
        return Estimate(exact, error)
    return Estimate(exact, error, Listed(options))
