"""How a function is called as its contract says, and one of whole batches with as many cases at once as it takes.

A user may have restricted the number of cases in a call (``--fix b=1``, see diffuzz.cases.domain). Where a function is
compiled for each shape, the number of its cases is rounded up to one of few. Then a batch is cut into calls, and a call
that is too short is filled up with copies of its last case, whose results are dropped.
"""

from __future__ import annotations

import numpy as np

from diffuzz.cases import domain
from diffuzz.cases.space import Dim
from diffuzz.judging.opening import Signature
from diffuzz.judging.question import Function
from diffuzz.targets.contract import Contract, Result, checked
from diffuzz.targets.outcome import Arrays
from diffuzz.targets.parameter import Params

# Cases in a call of a compiled function: this many, or a power of two times as many.
LEAST_COMPILED = 8


def called(
    contract: Contract,
    params: Params,
    function: Function,
    arrays: Arrays,
    expected: tuple[Result, ...] | None,
    *,
    compiled: bool,
) -> np.ndarray:
    """What a function returns for a batch, in calls of as many cases as it takes."""
    if expected is not None:
        function = checked(function, expected, batched=contract.batched)
    if contract.batched:
        function = in_calls(function, domain.batch(params), compiled=compiled)
    return contract.call(params, function, arrays)


def results_of(contract: Contract, params: Params, arrays: Arrays) -> tuple[Result, ...] | None:
    """What a function returns for each case of a batch, where the contract says that."""
    return None if contract.results is None else contract.results(params, arrays)


def signature_of(
    contract: Contract, operation: str, params: Params, expected: tuple[Result, ...] | None, out: np.ndarray
) -> Signature:
    """What a function has to be told that is not of Python; ``out`` is like its result for a batch."""
    if expected is None:
        # Contracts of a dtype get numbers of it, which they hand on as float32.
        dtype = str(params.get("dtype", out.dtype)) if out.dtype == np.float32 else str(out.dtype)
        expected = (Result(out.shape[1:], dtype),)
    return Signature(operation, contract.arguments, expected, contract.batched)


def right_result(contract: Contract, params: Params, arrays: Arrays) -> np.ndarray:
    """What results are held against: those of the reference where they are fixed, or else the exact ones."""
    return np.asarray((contract.reference if contract.allowance is None else contract.exact)(params, arrays))


def result_like(contract: Contract, known: np.ndarray) -> np.ndarray:
    """A result of the shape and the dtype that a function returns, or of what its results are packed into."""
    if contract.results is not None:
        return known
    return known.astype(np.float32) if known.dtype == np.float64 else known


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


def lengths(total: int, cases: Dim, *, compiled: bool) -> tuple[int, ...]:
    """Numbers of cases in the calls that ``in_calls`` makes for ``total`` of them, each once."""
    if total == 0 or total == _length(total, cases, compiled):
        return (total,)
    starts = range(0, total, cases.highest)
    return tuple(sorted({_length(min(cases.highest, total - start), cases, compiled) for start in starts}))


def _length(count: int, cases: Dim, compiled: bool) -> int:
    """The number of cases in a call for ``count`` of them, at most the largest."""
    wanted = max(count, cases.lowest)
    if compiled:
        wanted = max(LEAST_COMPILED, 1 << (wanted - 1).bit_length())
    wanted = -(-wanted // cases.step) * cases.step
    return min(wanted, cases.highest)
