"""One step of a forward pass: which tap it makes, of which taps, by which operation."""

from __future__ import annotations

import re
from collections.abc import Sequence as Several
from typing import TYPE_CHECKING, Protocol

import attrs
import numpy as np

from diffuzz.models.sequence import Sequence

if TYPE_CHECKING:
    from jaxtyping import Float, Float64

_LAYER = re.compile(r"blk\.(\d+)\.(.+)")


@attrs.frozen(eq=False)
class Estimate:
    """What a step makes of its inputs in one arithmetic.

    value      in float64, where codes and rounded inputs are those of the arithmetic
    allowed    how far from it a result of that arithmetic may be: infinite where nothing is promised
    rounding   what the rounding of sums and functions usually makes, but for a factor that all layers share
    """

    value: Float64[np.ndarray, " ..."]
    allowed: Float64[np.ndarray, " ..."]
    rounding: Float64[np.ndarray, " ..."]


class Operation(Protocol):
    """What a step computes. Inputs are arrays of taps, one token after another along an axis, after any number of axes
    for several runs at once; parameters are attributes.
    """

    @property
    def arithmetics(self) -> tuple[str, ...]:
        """The arithmetics that engines are known to use for it, the usual ones first."""

    def value(
        self, inputs: Several[Float[np.ndarray, " ..."]], arithmetic: str, sequence: Sequence
    ) -> Float[np.ndarray, " ..."]:
        """The result in one of the arithmetics, computed in the inputs' dtype: float32, or float64 to be exact."""

    def estimate(
        self,
        inputs: Several[Float64[np.ndarray, " ..."]],
        errors: Several[Float64[np.ndarray, " ..."] | None],
        arithmetic: str,
        sequence: Sequence,
        got: Float64[np.ndarray, " ..."] | None,
    ) -> Estimate:
        """The result of one run and its bound, for inputs that are known to within ``errors`` (None: exactly).

        ``got`` is what a run made of them, if that is known. Where an arithmetic leaves a choice, such as the code of
        an activation on the edge between two, the estimate is that of the choice which is nearest to ``got``, or
        allows for all of them.
        """


@attrs.frozen(eq=False)
class Step:
    """``tap`` = operation(``inputs``), as docs/dump-format.md names them."""

    tap: str
    inputs: tuple[str, ...]
    operation: Operation

    @property
    def layer(self) -> int | None:
        """The number of the layer, None for embd, final_norm and logits."""
        found = _LAYER.fullmatch(self.tap)
        return int(found[1]) if found else None

    @property
    def op(self) -> str:
        """The tap's name without its layer."""
        found = _LAYER.fullmatch(self.tap)
        return found[2] if found else self.tap
