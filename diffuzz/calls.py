"""What the row targets share when they call a candidate: how long the rows are, how large their numbers, and one call
for each value of a scalar argument.

The question that a target itself asks has a domain of its own (``n``, ``max_abs``), which its bound is about. Kernels
meet more: bodies that take eight or 256 elements at a time, and numbers that no f16 holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from diffuzz.space import Dim
from diffuzz.target import Parameter, Params

# Lengths without a tail are multiples of this, the width of the usual vector of float32.
WHOLE = 8
# Beyond the largest f16 number, and far from where float32 sums of squares overflow.
LARGEST = 1e5

LENGTH = Parameter(
    "candidate_n",
    1024,
    "largest length that a candidate is called with (one more with tail, where it is even)",
    low=1,
    high=65536,
    of_candidate=True,
    recorded=False,
)
TAIL = Parameter(
    "tail",
    True,
    f"a candidate is called with every length, odd ones too; false: multiples of {WHOLE}, or candidate_n alone where "
    "that is none",
    of_candidate=True,
)


def largest(
    what: str, default: float = LARGEST, *, low: float = 1e-3, high: float = 1e9, recorded: bool = False
) -> Parameter:
    """The parameter ``candidate_max_abs``, of the array or arrays ``what``."""
    text = f"largest |{what}| that a candidate is called with"
    return Parameter("candidate_max_abs", default, text, low=low, high=high, of_candidate=True, recorded=recorded)


def row(p: Params) -> Dim:
    """The length of a row: with ``tail`` every one up to candidate_n, or one more: the largest is odd, so that no
    vector width divides it. Otherwise what ``TAIL`` says.
    """
    n = int(p["candidate_n"])
    if p["tail"]:
        return Dim("n", n | 1)
    return Dim("n", n, fixed=True) if n % WHOLE else Dim("n", n, step=WHOLE)


def by_value(scalars: np.ndarray, call: Callable[[float, np.ndarray], Any], like: np.ndarray) -> Any:
    """``call(value, rows)`` for each distinct value among ``scalars`` [b], ``rows`` being where it is: bool[b]. The
    parts are put together in the order of the rows.

    A part that is not of as many rows, and of the shape, of ``like``, or not of the dtype of the other parts, is
    returned as it is: for the caller to complain about.
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
    return together
