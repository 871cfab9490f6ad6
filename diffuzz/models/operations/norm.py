"""RMSNorm, of a whole row or of each head."""

from __future__ import annotations

from collections.abc import Sequence as Several
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.models.operations.rounding import FLUSHED, UNIT, gamma, to, to_within
from diffuzz.models.sequence import Sequence
from diffuzz.models.step import Estimate

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64


@attrs.frozen(eq=False)
class Norm:
    """``x / sqrt(mean(x^2) + eps) * gain`` over each group of as many elements as the gain has.

    arithmetics    f32; bf16, f16: the same of x rounded to it, as engines with such a residual read it
    """

    gain: Float32[np.ndarray, " d"]
    eps: float

    @property
    def arithmetics(self) -> tuple[str, ...]:
        """See the class."""
        return ("f32", "bf16", "f16")

    def _grouped(self, x: Float[np.ndarray, " ..."]) -> Float[np.ndarray, "... d"]:
        return x.reshape(*x.shape[:-1], -1, len(self.gain))

    def value(
        self, inputs: Several[Float[np.ndarray, " ..."]], arithmetic: str, sequence: Sequence
    ) -> Float[np.ndarray, " ..."]:
        """One group after another."""
        x = self._grouped(to(arithmetic, inputs[0]))
        with np.errstate(all="ignore"):
            square = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float64)
            factor = 1 / np.sqrt(square + self.eps)
            return np.asarray(x * factor.astype(x.dtype) * self.gain.astype(x.dtype)).reshape(inputs[0].shape)

    def estimate(
        self,
        inputs: Several[Float64[np.ndarray, " ..."]],
        errors: Several[Float64[np.ndarray, " ..."] | None],
        arithmetic: str,
        sequence: Sequence,
        got: Float64[np.ndarray, " ..."] | None,
    ) -> Estimate:
        """The mean of n squares is off by gamma_{n+2} of itself, its root by half of that; the sum with eps, the root,
        the reciprocal and three products add ten roundings. x, its square and the result may be flushed.
        """
        x, error = to_within(arithmetic, inputs[0], errors[0])
        value = self.value((x,), "f32", sequence)
        x = self._grouped(x)
        with np.errstate(all="ignore"):
            square = np.mean(x * x, axis=-1, keepdims=True) + self.eps
            flushed = FLUSHED * (1 + np.abs(self.gain) / np.sqrt(square))
            share = gamma(len(self.gain) + 2) / 2 + 10 * UNIT + FLUSHED / square
            rounding = (np.abs(self._grouped(value)) * share + flushed).reshape(value.shape)
            if error is None:
                return Estimate(value, rounding, rounding)
            error = self._grouped(error)
            moved = np.mean((2 * np.abs(x) + error) * error, axis=-1, keepdims=True) / square
            # 1 / sqrt(1 - m) - 1 <= m for m up to 0.6; beyond, nothing is promised.
            moved = np.where(moved <= 0.6, moved, np.inf)
            spread = np.abs(self.gain) / np.sqrt(square) * (error * (1 + moved) + np.abs(x) * moved)
        return Estimate(value, rounding + np.where(np.isnan(spread), np.inf, spread).reshape(value.shape), rounding)
