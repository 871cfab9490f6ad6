"""How a function of whole batches is called: with as many cases at once as it takes.

A user may have restricted the number of cases in a call (``--fix b=1``, see diffuzz.cases.domain). Where a function is
compiled for each shape, the number of its cases is rounded up to one of few. Then a batch is cut into calls, and a call
that is too short is filled up with copies of its last case, whose results are dropped.
"""

from __future__ import annotations

import numpy as np

from diffuzz.cases.space import Dim
from diffuzz.judging.question import Function

# Cases in a call of a compiled function: this many, or a power of two times as many.
LEAST_COMPILED = 8


def in_calls(function: Function, cases: Dim, *, compiled: bool = False) -> Function:
    """``function``, called with a number of cases that ``cases`` admits; see the module's docstring.

    What is given by keyword is for all cases, such as the factors of RoPE, and is handed on as it is.
    A result of another length than its call is returned as it is, for the caller to report.
    """

    def call(*arguments: object, **named: object) -> np.ndarray:
        arrays = [one for one in arguments if isinstance(one, np.ndarray)]
        total = len(arrays[0]) if arrays else 0
        if total == 0 or total == _length(total, cases, compiled):
            whole: np.ndarray = function(*arguments, **named)
            return whole
        parts: list[np.ndarray] = []
        for start in range(0, total, cases.highest):
            count = min(cases.highest, total - start)
            rows = np.minimum(np.arange(start, start + _length(count, cases, compiled)), start + count - 1)
            part = (one[rows] if isinstance(one, np.ndarray) else one for one in arguments)
            got = np.asarray(function(*part, **named))
            if got.shape[:1] != rows.shape or (parts and got.dtype != parts[0].dtype):
                return got
            # A copy: a function may return the same buffer each time.
            parts.append(np.array(got[:count]))
        if any(part.shape[1:] != parts[0].shape[1:] for part in parts):
            return next(part for part in parts if part.shape[1:] != parts[0].shape[1:])
        return np.concatenate(parts)

    return call


def _length(count: int, cases: Dim, compiled: bool) -> int:
    """The number of cases in a call for ``count`` of them, at most the largest."""
    wanted = max(count, cases.lowest)
    if compiled:
        wanted = max(LEAST_COMPILED, 1 << (wanted - 1).bit_length())
    wanted = -(-wanted // cases.step) * cases.step
    return min(wanted, cases.highest)
