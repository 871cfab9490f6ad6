"""What targets of row operations share when they call a candidate: lengths of rows, sizes of numbers, and one call for
each value of a scalar argument.

The target's own claim has a narrower domain (``n``, ``max_abs``), for which its bound holds. Candidates are called on
more, because kernels have loops that take eight or 256 elements at a time, and convert numbers to f16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from diffuzz.cases.space import Dim
from diffuzz.targets.parameter import Parameter, Params

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

# Lengths without a tail are multiples of 8, the number of float32 in an AVX register.
WHOLE = 8
# Beyond the largest f16 number, and far from where float32 sums of squares overflow.
LARGEST = 1e5

# The length of most batches: several thousand elements in a few rows, and loops of any width come round often.
USUAL = 1024
# The largest vocabularies of models have a quarter of a million entries.
LENGTH = Parameter(
    "candidate_n",
    2**18,
    f"largest length that a candidate is called with, most often {USUAL}; if it is even and tail is true, one more",
    low=1,
    high=2**20,
)
TAIL = Parameter(
    "tail",
    True,
    f"true: a candidate is called with every length, odd ones too; false: with multiples of {WHOLE}, or only with "
    f"candidate_n if that is no multiple of {WHOLE}",
)


def largest(what: str, default: float = LARGEST, *, low: float = 1e-3, high: float = 1e9) -> Parameter:
    """The parameter ``candidate_max_abs``: the largest magnitude in the array or arrays called ``what``."""
    text = f"largest |{what}| that a candidate is called with"
    return Parameter("candidate_max_abs", default, text, low=low, high=high)


def row(p: Params) -> Dim:
    """The dimension "n", the length of a row, as the parameters ``LENGTH`` and ``TAIL`` say.

    With a tail the usual length is odd, so that no vector width divides it, and so is the largest.
    """
    n = int(p["candidate_n"])
    if p["tail"]:
        return Dim("n", min(n, USUAL) | 1, largest=n | 1)
    return Dim("n", n, fixed=True) if n % WHOLE else Dim("n", min(n, USUAL), step=WHOLE, largest=n)


def by_value(
    scalars: Float[np.ndarray, " b"],
    call: Callable[[float, Bool[np.ndarray, " b"]], np.ndarray],
    like: np.ndarray,
) -> np.ndarray:
    """Results of ``call(value, rows)`` for each distinct value among ``scalars``, in the order of the rows of ``like``.

    ``rows`` says where the value is. A result that has another shape than those rows of ``like``, or another dtype than
    the results before it, is returned as it is, and the caller reports it.
    """
    values = np.unique(scalars)
    if len(values) == 1:
        return call(float(values[0]), np.ones(len(scalars), bool))
    together: np.ndarray | None = None
    for value in values:
        rows = scalars == value
        part = np.asarray(call(float(value), rows))
        if together is None:
            together = np.empty(like.shape, part.dtype)
        if part.shape != like[rows].shape or part.dtype != together.dtype:
            return part
        together[rows] = part
    return like[:0] if together is None else together
