"""Rows of a table, one for each token: the beginning of a pass."""

from __future__ import annotations

from collections.abc import Sequence as Several
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.models.model import Tensor
from diffuzz.models.operations.rounding import FLUSHED, UNIT, to, to_within
from diffuzz.models.sequence import Sequence
from diffuzz.models.step import Estimate

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64


@attrs.frozen(eq=False)
class Embedding:
    """``scale * table[token]``.

    arithmetics    f32; bf16 scale: as in models trained in bfloat16, the scale is rounded to that; bf16, f16: rows,
                   scale and results are rounded to it
    """

    table: Tensor
    scale: float = 1.0

    @property
    def arithmetics(self) -> tuple[str, ...]:
        """See the class; bf16 scale where that is another."""
        same = float(to("bf16", np.array(self.scale))) == self.scale
        return ("f32", *(() if same else ("bf16 scale",)), "bf16", "f16")

    def value(
        self, inputs: Several[Float[np.ndarray, " ..."]], arithmetic: str, sequence: Sequence
    ) -> Float[np.ndarray, "n d"]:
        """In float64; there are no inputs."""
        rows, scale = self._rows(sequence), np.array(self.scale)
        if arithmetic == "bf16 scale":
            return np.asarray(rows.astype(np.float64) * to("bf16", scale))
        return to(arithmetic, to(arithmetic, rows).astype(np.float64) * to(arithmetic, scale))

    def estimate(
        self,
        inputs: Several[Float64[np.ndarray, " ..."]],
        errors: Several[Float64[np.ndarray, " ..."] | None],
        arithmetic: str,
        sequence: Sequence,
        got: Float64[np.ndarray, "n d"] | None,
    ) -> Estimate:
        """Three roundings of a dequantised number, one of the scale and one of the product; each may make it the
        next number of a narrower format.
        """
        value = self.value(inputs, arithmetic, sequence)
        rounding = 5 * UNIT * np.abs(value) + FLUSHED * (1 + abs(self.scale))
        if arithmetic not in ("bf16", "f16"):
            return Estimate(value, rounding, rounding)
        scale = float(to(arithmetic, np.array(self.scale)))
        exact = self._rows(sequence).astype(np.float64)
        rows, off = to_within(arithmetic, exact, 3 * UNIT * np.abs(exact))
        _, allowed = to_within(arithmetic, rows * scale, np.asarray(off) * abs(scale) + UNIT * np.abs(rows * scale))
        return Estimate(value, np.asarray(allowed), np.asarray(allowed))

    def _rows(self, sequence: Sequence) -> Float32[np.ndarray, "n d"]:
        return np.stack([self.table.values(slice(token, token + 1))[0] for token in sequence.tokens.tolist()])
