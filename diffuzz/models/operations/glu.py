"""Gated linear units: an activation of one product times another product."""

from __future__ import annotations

from collections.abc import Sequence as Several
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.models.operations.rounding import FLUSHED, UNIT, to, to_within
from diffuzz.models.sequence import Sequence
from diffuzz.models.step import Estimate

if TYPE_CHECKING:
    from jaxtyping import Float, Float64

_ROOT = float(np.sqrt(2 / np.pi))
# From here on ggml's table is not asked: 0 below, x above.
_END_OF_TABLE = 10.0
# The largest slope of both activations.
_SLOPE = 1.13


@attrs.frozen(eq=False)
class Glu:
    """``activation(gate) * up``, with silu(x) = x / (1 + exp(-x)), or gelu(x) = x (1 + tanh(sqrt(2/pi) (x + 0.044715
    x^3))) / 2.

    arithmetics    f32; f16 table: the activation is looked up in a table of f16 numbers, f16(activation(f16(x))), as
                   ggml does for gelu between -10 and 10
    """

    activation: str

    @property
    def arithmetics(self) -> tuple[str, ...]:
        """See the class."""
        return ("f32", "f16 table")

    def value(
        self, inputs: Several[Float[np.ndarray, " ..."]], arithmetic: str, sequence: Sequence
    ) -> Float[np.ndarray, " ..."]:
        """Elementwise."""
        gate, up = inputs
        with np.errstate(all="ignore"):
            if arithmetic == "f32":
                return np.asarray(self._activated(gate) * up)
            looked_up = to("f16", self._activated(to("f16", gate)))
            if self.activation == "gelu":
                looked_up = np.where(gate <= -_END_OF_TABLE, 0, np.where(gate >= _END_OF_TABLE, gate, looked_up))
            return np.asarray(looked_up * up).astype(up.dtype)

    def _activated(self, x: Float[np.ndarray, " ..."]) -> Float[np.ndarray, " ..."]:
        if self.activation == "silu":
            e = np.exp(-np.abs(x))
            return np.asarray(np.where(x < 0, np.maximum(x, -746) * e, x) / (1 + e))
        return np.asarray(0.5 * x * (1 + np.tanh(_ROOT * x * (1 + 0.044715 * x * x))))

    def _off(self, x: Float64[np.ndarray, " ..."], y: Float64[np.ndarray, " ..."]) -> Float64[np.ndarray, " ..."]:
        """The error of y = activation(x) in float32, by any of the usual forms.

        Both are x S(t), S(t) = 1 / (1 + exp(-t)) = (1 + tanh(t / 2)) / 2: of silu with t = x, of gelu with t of six
        roundings. By an exponential of 4 ULP, a sum, a quotient and a product: 16 u of y; by a power of two, whose
        exponent has two roundings more, the share 2 u |t| (1 - S) besides. By a tanh of 5 ULP, whose sum with 1
        cancels: 6 u |x|, whatever y is. S may be flushed to zero, or end where exp(-t) is infinite.
        """
        if self.activation == "silu":
            t, of_argument = np.abs(x), 2 * UNIT * np.abs(x)
        else:
            t = np.abs(2 * _ROOT * x * (1 + 0.044715 * x * x))
            of_argument = 8 * UNIT * t
        opposite = np.where(x < 0, 1.0, 1 / (1 + np.exp(np.minimum(t, 700.0))))
        by_exponential = (16 * UNIT + of_argument * opposite) * np.abs(y)
        # The largest slope of tanh within what is known of its argument, t / 2.
        steep = of_argument / 2 / np.cosh(np.minimum(t / 2, 300.0)) ** 2
        by_tangent = 0.5 * np.abs(x) * (12 * UNIT + steep) + 3 * UNIT * np.abs(y)
        return np.asarray(np.maximum(by_exponential, by_tangent) + FLUSHED * (1 + np.abs(x)))

    def estimate(
        self,
        inputs: Several[Float64[np.ndarray, " ..."]],
        errors: Several[Float64[np.ndarray, " ..."] | None],
        arithmetic: str,
        sequence: Sequence,
        got: Float64[np.ndarray, " ..."] | None,
    ) -> Estimate:
        """The error of the activation times |up|, and a rounding of the product."""
        gate, up = inputs
        of_gate, of_up = (np.zeros_like(gate) if error is None else error for error in errors)
        with np.errstate(all="ignore"):
            table = np.full(gate.shape, arithmetic != "f32")
            if self.activation == "gelu":
                table &= np.abs(gate) < _END_OF_TABLE
            x, of_x = to_within("f16", gate, of_gate)
            x, of_x = np.where(table, x, gate), np.where(table, np.asarray(of_x), of_gate)
            activated = self._activated(x)
            if self.activation == "gelu" and arithmetic != "f32":
                activated = np.where(table, activated, np.maximum(gate, 0.0))
            rounding = self._off(x, activated)
            stored, off = to_within("f16", activated, rounding + _SLOPE * of_x)
            activated = np.where(table, stored, activated)
            off = np.where(table, np.asarray(off), rounding + _SLOPE * of_x)
            value = activated * up
            # Where a number of the table may be either of two, its step is usual.
            # The product of S and up may be flushed, too, before it is multiplied by x.
            last = UNIT * np.abs(value) + FLUSHED * (1 + np.abs(x))
            rounding = np.where(table & (of_gate == 0), off, rounding) * np.abs(up) + last
            allowed = off * np.abs(up) + (np.abs(activated) + off) * of_up + last
        return Estimate(value, np.where(np.isnan(allowed), np.inf, np.maximum(allowed, rounding)), rounding)
