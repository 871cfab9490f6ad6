"""Rotary position embedding of heads."""

from __future__ import annotations

from collections.abc import Sequence as Several
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.models.operations.rounding import FLUSHED, UNIT
from diffuzz.models.sequence import Sequence
from diffuzz.models.step import Estimate

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64, Int


@attrs.frozen(eq=False)
class Rope:
    """Pair i of a head turned by ``position * scale * base^(-2 i / d) / factors[i]``, d = ``dimensions``.

    size      elements c of a head
    layout    norm: pairs (2 i, 2 i + 1) | neox: pairs (i, i + d / 2); elements from d on stay
    arithmetics    f32. How a float32 angle is had differs between engines (a power, or a recurrence that ggml uses),
                   which the bound covers.
    """

    heads: int
    size: int
    base: float
    layout: str
    dimensions: int
    scale: float = 1.0
    factors: Float32[np.ndarray, " d/2"] | None = None

    @property
    def arithmetics(self) -> tuple[str, ...]:
        """See the class."""
        return ("f32",)

    def _angles(self, sequence: Sequence) -> Float64[np.ndarray, "n 1 d/2"]:
        pairs = np.arange(self.dimensions // 2)
        frequency = self.scale * self.base ** (-2.0 * pairs / self.dimensions)
        if self.factors is not None:
            frequency = frequency / self.factors.astype(np.float64)
        return np.asarray(sequence.positions[:, None, None].astype(np.float64) * frequency)

    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        first = np.arange(self.dimensions // 2)
        return (2 * first, 2 * first + 1) if self.layout == "norm" else (first, first + self.dimensions // 2)

    def permutation(self) -> Int[np.ndarray, " heads*c"]:
        """Where the elements of this layout are in heads of the other layout."""
        pairs = np.arange(self.dimensions // 2)
        other = (pairs, pairs + len(pairs)) if self.layout == "norm" else (2 * pairs, 2 * pairs + 1)
        order = np.arange(self.size)
        for mine, its in zip(self._pairs(), other, strict=True):
            order[mine] = its
        return (np.arange(self.heads)[:, None] * self.size + order).reshape(-1)

    def value(
        self, inputs: Several[Float[np.ndarray, " ..."]], arithmetic: str, sequence: Sequence
    ) -> Float[np.ndarray, "... n heads*c"]:
        """Angles are float64's, or, with arithmetic "recurrence", ggml's in float32."""
        x = inputs[0]
        turned = x.reshape(*x.shape[:-1], self.heads, -1).copy()
        angle = self._recurrence(sequence) if arithmetic == "recurrence" else self._angles(sequence)
        cos, sin = np.cos(angle).astype(x.dtype), np.sin(angle).astype(x.dtype)
        one, other = self._pairs()
        a, b = turned[..., one], turned[..., other]
        turned[..., one], turned[..., other] = a * cos - b * sin, a * sin + b * cos
        return turned.reshape(x.shape)

    def _recurrence(self, sequence: Sequence) -> Float64[np.ndarray, "n 1 d/2"]:
        steps = np.full((len(sequence.positions), self.dimensions // 2), np.float32(self.base) ** np.float32(
            -2 / self.dimensions), np.float32)  # fmt: skip
        steps[:, 0] = sequence.positions
        theta = np.multiply.accumulate(steps, axis=1) * np.float32(self.scale)
        if self.factors is not None:
            theta = theta / self.factors
        return theta[:, None, :].astype(np.float64)

    def estimate(
        self,
        inputs: Several[Float64[np.ndarray, " ..."]],
        errors: Several[Float64[np.ndarray, " ..."] | None],
        arithmetic: str,
        sequence: Sequence,
        got: Float64[np.ndarray, " ..."] | None,
    ) -> Estimate:
        """The angle a of pair i is off by (10 i + 8 i ln(base) / d + 8) u |a|: by the recurrence of ggml, i products by
        a power of 4 ULP; or by exp(-2 i / d ln(base)), whose exponent has four roundings. Cosine
        and sine are within 4 ULP, and two products and a sum take three roundings.
        """
        value = self.value(inputs, arithmetic, sequence)
        pairs = np.arange(self.dimensions // 2)
        roundings = 10 * pairs + 8 * pairs * abs(np.log(self.base)) / self.dimensions + 8
        moved = np.abs(self._angles(sequence)) * roundings * UNIT
        rounding = self._of_pairs(np.abs(inputs[0]), np.minimum(moved + 11 * UNIT, 2.0), 0.0) + 4 * FLUSHED
        if errors[0] is None:
            return Estimate(value, rounding, rounding)
        return Estimate(value, rounding + self._of_pairs(errors[0], 1.0, 1.0), rounding)

    def _of_pairs(
        self, x: Float64[np.ndarray, "n heads*c"], factor: Float64[np.ndarray, "n 1 d/2"] | float, others: float
    ) -> Float64[np.ndarray, "n heads*c"]:
        """The sum of each pair times ``factor`` in the places of both, and the elements that stay times ``others``."""
        heads = x.reshape(len(x), self.heads, -1)
        one, other = self._pairs()
        with np.errstate(invalid="ignore"):
            made = heads * others
            made[..., one] = made[..., other] = (heads[..., one] + heads[..., other]) * factor
        return made.reshape(x.shape)
