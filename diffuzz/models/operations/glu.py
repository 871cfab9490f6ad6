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
        """The error of y = activation(x) in float32: an exponential of 4 ULP, a sum and a quotient; or a tanh of 5 ULP,
        whose argument has six roundings, and a sum that cancels.
        """
        if self.activation == "silu":
            return np.asarray(16 * UNIT * np.abs(y) + FLUSHED)
        z = np.abs(_ROOT * x * (1 + 0.044715 * x * x))
        steep = z / np.cosh(np.minimum(z, 300.0)) ** 2
        return np.asarray(0.5 * np.abs(x) * (12 + 6 * steep) * UNIT + 3 * UNIT * np.abs(y) + FLUSHED)

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
            rounding = np.where(table & (of_gate == 0), off, rounding) * np.abs(up) + UNIT * np.abs(value) + FLUSHED
            allowed = off * np.abs(up) + (np.abs(activated) + off) * of_up + UNIT * np.abs(value) + FLUSHED
        return Estimate(value, np.where(np.isnan(allowed), np.inf, np.maximum(allowed, rounding)), rounding)
