"""Drift: the distance between two implementations of one operation on the same input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.formats.arrays import AnyArray
from diffuzz.targets.outcome import Arrays, Outcome
from diffuzz.targets.parameter import Params

if TYPE_CHECKING:
    from jaxtyping import Float64


def _nothing(params: Params, arrays: Arrays) -> dict[str, Float64[np.ndarray, " b"]]:
    """The default of ``explain``: no numbers but the value itself."""
    return {}


@attrs.frozen
class Drift:
    """How far apart two implementations are, in a norm-relative measure.

    evaluate(params, arrays)   the Outcome of a batch, by the NumPy kernels, whose results are exact to the bit
    screen(params)             a function ``arrays -> value [b]`` of the same measure that JAX can trace, for engines
                               only; None if these parameters have none
    solve(params, arrays)      the batch with its arrays of kind ``direction`` replaced by the worst ones known
    explain(params, arrays)    by name, the numbers [b] that the values were computed from; it is called only for the
                               case that is printed

    ``screen`` and ``solve`` are optional.
    """

    evaluate: Callable[[Params, Arrays], Outcome]
    screen: Callable[[Params], Callable[[Arrays], Float64[AnyArray, " b"]] | None] | None = None
    solve: Callable[[Params, Arrays], dict[str, np.ndarray]] | None = None
    explain: Callable[[Params, Arrays], Mapping[str, Float64[np.ndarray, " b"]]] = attrs.field(
        default=_nothing, kw_only=True
    )
