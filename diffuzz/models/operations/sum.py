"""The residual and what a block adds to it."""

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

_STORED = " stored"


@attrs.frozen(eq=False)
class Sum:
    """``residual + branch``.

    arithmetics    f32; bf16, f16: the residual is rounded to it where it is read; bf16 stored, f16 stored: the branch
                   is, too, and so is the sum
    """

    @property
    def arithmetics(self) -> tuple[str, ...]:
        """See the class."""
        return ("f32", "bf16", "f16", "bf16 stored", "f16 stored")

    def value(
        self, inputs: Several[Float[np.ndarray, " ..."]], arithmetic: str, sequence: Sequence
    ) -> Float[np.ndarray, " ..."]:
        """Elementwise."""
        residual, branch = inputs
        kind = arithmetic.removesuffix(_STORED)
        if kind == arithmetic:
            return np.asarray(to(kind, residual) + branch)
        return to(kind, to(kind, residual) + to(kind, branch))

    def estimate(
        self,
        inputs: Several[Float64[np.ndarray, " ..."]],
        errors: Several[Float64[np.ndarray, " ..."] | None],
        arithmetic: str,
        sequence: Sequence,
        got: Float64[np.ndarray, " ..."] | None,
    ) -> Estimate:
        """One rounding of the sum, and one to the format that it is stored in."""
        kind = arithmetic.removesuffix(_STORED)
        residual, of_residual = to_within(kind, inputs[0], errors[0])
        branch, of_branch = (inputs[1], errors[1]) if kind == arithmetic else to_within(kind, inputs[1], errors[1])
        value = np.asarray(residual + branch)
        rounding = UNIT * np.abs(value) + 3 * FLUSHED
        allowed = rounding
        for error in (of_residual, of_branch):
            allowed = allowed if error is None else allowed + error
        if kind != arithmetic:
            stored, error = to_within(kind, value, allowed)
            return Estimate(stored, np.asarray(error), np.asarray(error))
        return Estimate(value, allowed, rounding)
