"""Examination: what a candidate returned, held against what its contract allows.

The value of a case is how far the function leaves what its contract (``Target.contract``) allows:

    an a-priori error bound     max over elements of |f - exact| / allowance: more than 1 is wrong, in any order of sums
    a result fixed to the bit   number of elements that differ: more than 0 is wrong (both zeros are one number)

A NaN or an infinity where the exact result is a float32 number has the value inf, and so has a case on which the
function crashes, hangs, takes all memory, raises, or returns an array of another shape or dtype. Elements for which the
arithmetic promises nothing (overflow; an infinite allowance) are not judged, and on a row that has no others the
function may raise.

A function of whole batches may mix up their rows. In a search every case has others beside it; a case that is evaluated
alone is called alone and in two batches (see diffuzz.judging.company), and the worst of its results counts. So what was
found in a batch is found again where the case is measured, minimised or replayed, and does not depend on the batch it
came from.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.judging import company
from diffuzz.judging.calls import called, result_like, results_of, right_result
from diffuzz.judging.candidate import Candidate, contract_of
from diffuzz.judging.evidence import Elements, Evidence, Judged, Wrong
from diffuzz.judging.examined import Examined, failure_code
from diffuzz.judging.opening import CandidateError
from diffuzz.judging.question import Function
from diffuzz.kernels.process.channel import ResultError
from diffuzz.kernels.process.worker import Failure
from diffuzz.registry import located
from diffuzz.targets import distances
from diffuzz.targets.contract import Contract
from diffuzz.targets.outcome import Arrays, Outcome
from diffuzz.targets.parameter import Params
from diffuzz.targets.target import Target

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Shaped

# max_nmse_err in ggml's tests/test-backend-ops.cpp: of MUL_MAT and SOFT_MAX, and the default of other operations.
GGML_NMSE_LIMIT = {"matvec": 5e-4, "softmax": 1e-6}
GGML_DEFAULT_NMSE_LIMIT = 1e-7
# Relative error of value itself: float64 against allowances of some 2^-24, with room for its own constants.
RELATIVE_NOISE = 1e-6
_LARGEST = float(np.finfo(np.float32).max)


@attrs.frozen
class _Results:
    """A batch, what the candidate made of it, the rows that failed, and what is ``known``: the exact result where the
    contract has an allowance, the reference's where the result is fixed.
    """

    contract: Contract
    params: Params
    arrays: Arrays
    candidate: Shaped[np.ndarray, "b ..."]
    known: Shaped[np.ndarray, "b ..."]
    failures: dict[int, Failure]
    skipped: frozenset[int]

    def ran(self, row: int) -> bool:
        """Whether the candidate has a result for a row."""
        return row not in self.failures and row not in self.skipped


@attrs.frozen
class Examination:
    """What evaluates batches for the question whether a function keeps its contract.

    ``examine`` calls a case that is evaluated alone beside other rows, too; see the module's docstring.
    ``repeated(arrays)`` gives a function that calls the same batch once more each time, and nothing beside it.
    """

    examine: Callable[[Arrays], Examined]
    repeated: Callable[[Arrays], Callable[[], Examined]]


def examination(target: Target, params: Params, function: Candidate | Function, name: str) -> Examination:
    """What evaluates batches for the question whether ``function`` keeps the contract of ``target``.

    A plain function, with ``name`` for messages, is called in this process: one that raises, or returns another shape
    or dtype than its signature says, makes the evaluation raise CandidateError.
    """
    contract = contract_of(target)
    space = contract.space(params)
    nmse_limit = GGML_NMSE_LIMIT.get(target.name, GGML_DEFAULT_NMSE_LIMIT)

    scalars = [scalar.array for scalar in contract.scalars]

    right = partial(right_result, contract, params)

    def ran(arrays: Arrays, known: np.ndarray) -> _Results:
        like = result_like(contract, known)
        if not isinstance(function, Candidate):
            result = _called_here(contract, params, function, name, arrays, like)
            return _Results(contract, params, arrays, result, known, {}, frozenset())
        done = function.run(target.name, params, arrays, like)
        failures, skipped = done.failures, done.skipped
        if any(failure.kind == "raised" for failure in failures.values()):
            promised = _promised(contract, params, arrays, like)
            refused = {row for row, each in failures.items() if each.kind == "raised" and not promised[row]}
            failures = {row: each for row, each in failures.items() if row not in refused}
            skipped = skipped | refused
        return _Results(contract, params, arrays, done.result, known, failures, skipped)

    def judged(arrays: Arrays) -> _Judged:
        return _judged(ran(arrays, right(arrays)))

    def examine(arrays: Arrays) -> Examined:
        whole = judged(arrays)
        outcome = whole.outcome
        explain: Callable[[float, int], Evidence] = lambda value, row: whole.evidence(row, value, nmse_limit)  # noqa: E731
        if len(outcome.value) > 1 or not contract.batched or np.isinf(outcome.value[0]):
            return Examined(outcome, explain)
        alone = worst = float(outcome.value[0])
        for batch, places in zip(company.standard(space, arrays, scalars), company.PLACES, strict=True):
            beside = judged(batch)
            of_case = np.nan_to_num(beside.outcome.value[list(places)], nan=-np.inf, posinf=np.inf)
            if of_case.max() > worst * (1 + RELATIVE_NOISE) or np.isnan(worst):
                worst = float(of_case.max())
                outcome, explain = _of_row(beside, places[int(of_case.argmax())], alone, nmse_limit)
        return Examined(outcome, explain)

    def repeated(arrays: Arrays) -> Callable[[], Examined]:
        known = right(arrays)
        first: list[tuple[bytes, Examined]] = []

        def again() -> Examined:
            results = ran(arrays, known)
            # Equal bits have equal values, which are not computed again: a fault by chance takes thousands of calls.
            bits = b"" if results.failures or results.skipped else results.candidate.tobytes()
            if first and bits and first[0][0] == bits:
                return first[0][1]
            whole = _judged(results)
            examined = Examined(whole.outcome, lambda value, row: whole.evidence(row, value, nmse_limit))
            if not first:
                first.append((bits, examined))
            return examined

        return again

    return Examination(examine, repeated)


def _of_row(
    beside: _Judged, row: int, alone: float, nmse_limit: float
) -> tuple[Outcome, Callable[[float, int], Evidence]]:
    """The outcome of one row of a batch, and its evidence, in which stands what it has ``alone``."""
    return beside.outcome.of_row(row), lambda value, _: attrs.evolve(
        beside.evidence(row, value, nmse_limit), alone=alone
    )


def _promised(contract: Contract, p: Params, arrays: Arrays, like: np.ndarray) -> Bool[np.ndarray, " b"]:
    """Rows of whose result the arithmetic promises anything. Of the others, an exception is as good as any."""
    if contract.allowance is not None:
        finite = np.isfinite(_flat(contract.allowance(p, arrays)))
        return np.asarray((finite & _judgeable(contract, _flat(contract.exact(p, arrays)))).any(axis=1))
    if contract.accepts is None:
        return np.ones(len(like), bool)
    # What takes two opposite results takes any.
    anything = [contract.accepts(p, arrays, np.full_like(like, bits)).reshape(len(like), -1) for bits in (0, 255)]
    return np.asarray(~(anything[0] & anything[1]).all(axis=1))


def _called_here(
    contract: Contract, p: Params, function: Function, name: str, arrays: Arrays, like: np.ndarray
) -> np.ndarray:
    given = {key: np.array(array) for key, array in arrays.items()}
    shapes = ", ".join(f"{key} {array.dtype}{list(array.shape)}" for key, array in given.items())
    try:
        result = np.array(called(contract, p, function, given, results_of(contract, p, arrays), compiled=False))
    except ResultError as error:
        raise CandidateError(
            f"candidate {name} {error} (called with {shapes}; its signature: {contract.signature})"
        ) from error
    except (Exception, SystemExit) as error:
        raise CandidateError(f"candidate {name} raises {located(error)} (called with {shapes})") from error
    if result.shape != like.shape or result.dtype != like.dtype:
        raise CandidateError(
            f"candidate {name} returns {result.dtype}{list(result.shape)}, where {like.dtype}{list(like.shape)} is "
            f"needed (called with {shapes}; its signature: {contract.signature})"
        )
    return result


@attrs.frozen
class _Judged:
    """The values of a batch, and what makes the evidence of one of its rows from the same results."""

    outcome: Outcome
    evidence: Callable[[int, float, float], Judged]


def _judged(results: _Results) -> _Judged:
    return _fixed(results) if results.contract.allowance is None else _within_allowance(results)


def _outcome(results: _Results, value: Float64[np.ndarray, " b"], noise: Float64[np.ndarray, " b"]) -> Outcome:
    """A row that failed is wrong without end; one that was not run has no value."""
    if not results.failures and not results.skipped:
        return Outcome(value, noise)
    value, noise, failures = value.copy(), noise.copy(), np.zeros(len(value), np.int64)
    for row, failure in results.failures.items():
        value[row], noise[row], failures[row] = np.inf, 0.0, failure_code(failure)
    without = list(results.skipped)
    value[without], noise[without] = np.nan, 0.0
    return Outcome(value, noise, failures)


def _within_allowance(results: _Results) -> _Judged:
    contract, p, arrays = results.contract, results.params, results.arrays
    if contract.allowance is None:
        raise TypeError("a contract without an allowance has a fixed result")
    exact, candidate = _flat(results.known), _flat(_settled(results))
    allowance = _flat((contract.first_allowance or contract.allowance)(p, arrays))
    judgeable = _judgeable(contract, exact)
    promised = np.isfinite(allowance) & judgeable
    ratio = np.where(promised, _ratio(candidate, exact, allowance), 0.0)
    value = ratio.max(axis=1)
    if contract.first_allowance is not None and (beyond := np.flatnonzero(~(value <= 1))).size:
        # These rows may be right by another form of the formula, whose bounds take as long as the first again.
        allowance = allowance.copy()
        allowance[beyond] = _flat(contract.allowance(p, {name: array[beyond] for name, array in arrays.items()}))
        promised = np.isfinite(allowance) & judgeable
        ratio = np.where(promised, _ratio(candidate, exact, allowance), 0.0)
        value = ratio.max(axis=1)

    def evidence(row: int, shown: float, nmse_limit: float) -> Judged:
        one = slice(row, row + 1)
        # Only here, because the bits of a reference cost more than all the rest.
        reference = _flat(contract.reference(p, {name: array[one] for name, array in arrays.items()}))
        worst = int(ratio[row].argmax())
        ours = float(np.where(promised[one], _ratio(reference, exact[one], allowance[one]), 0.0).max())
        both = [np.where(promised, numbers, 0.0)[one] for numbers in (exact, candidate)]
        return Judged(
            element=worst,
            candidate=float(_flat(results.candidate)[row, worst]) if results.ran(row) else np.nan,
            exact=float(exact[row, worst]),
            reference=float(reference[0, worst]),
            allowance=float(allowance[row, worst]),
            reference_error=ours,
            nmse=_nmse(*both) if results.ran(row) else np.nan,
            nmse_limit=nmse_limit,
            failure=results.failures.get(row),
            wrong=_wrong(shown > 1, ours > 1),
            elements=Elements(
                exact=exact[row],
                sides=_sides(results, row, reference[0]),
                allowed=np.where(promised[row], allowance[row], np.inf),
                ratio=ratio[row],
            ),
        )

    outcome = _outcome(results, value, np.where(np.isfinite(value), RELATIVE_NOISE * value, 0.0))
    return _Judged(attrs.evolve(outcome, promised=promised.mean(axis=1)), evidence)


def _judgeable(contract: Contract, exact: Float64[np.ndarray, "b n"]) -> Bool[np.ndarray, "b n"]:
    """Which exact results a result can be held against: numbers of the dtype. The allowance of packed results is
    infinite for the others, and an infinity is exact where the function has one.
    """
    return np.asarray(~np.isnan(exact) if contract.results is not None else np.abs(exact) <= _LARGEST)


def _settled(results: _Results) -> np.ndarray:
    """What the candidate returned, with the exact result in the place of what is as good."""
    settled = results.contract.settled
    if settled is None:
        return results.candidate
    return settled(results.params, results.arrays, results.candidate)


def _ratio(
    result: Float64[np.ndarray, "b n"], exact: Float64[np.ndarray, "b n"], allowance: Float64[np.ndarray, "b n"]
) -> Float64[np.ndarray, "b n"]:
    """|result - exact| / allowance, element by element: 0 where they are equal, inf where the result is not finite.

    Not that of diffuzz.judging.pair: here a NaN is wrong whatever the exact result is.
    """
    ratio: Float64[np.ndarray, "b n"] = np.subtract(result, exact)
    np.abs(ratio, out=ratio)
    ratio /= allowance
    odd = ~np.isfinite(ratio)
    if odd.any():
        # 0 / 0, two equal infinities; or an error where none is allowed, an infinity, NaN.
        ratio[odd] = np.where(result[odd] == exact[odd], 0.0, np.inf)
    odd = ~np.isfinite(result) & (result != exact)
    if odd.any():
        # An infinity where anything is allowed.
        ratio[odd] = np.inf
    return ratio


def _nmse(exact: Float64[np.ndarray, "1 n"], result: Float[np.ndarray, "1 n"]) -> float:
    """NMSE of a row; inf where the result is not finite, which ggml's tests refuse as well."""
    return float(distances.nmse(exact, result)[0]) if np.isfinite(result).all() else np.inf


def _fixed(results: _Results) -> _Judged:
    contract, p, arrays = results.contract, results.params, results.arrays
    # A third voice, where there is one: the exact result, rounded once.
    has_exact = "exact" in contract.kernels(p)
    truth = contract.exact(p, arrays) if has_exact else results.known
    wrong = (
        ~contract.accepts(p, arrays, results.candidate)
        if contract.accepts is not None
        else unequal(results.candidate, truth)
    )
    wrong = wrong.reshape(len(wrong), -1)
    count = wrong.sum(axis=1).astype(np.float64)

    def evidence(row: int, shown: float, nmse_limit: float) -> Judged:
        ours, numbers = _flat(unequal(results.known, truth))[row], results.known.dtype == np.float32
        first = int((wrong[row] if wrong[row].any() else ours).argmax())
        candidate, reference, exact = (_flat(each)[row] for each in (results.candidate, results.known, truth))
        differing = float(ours.sum())
        nmse = _nmse(exact[None], candidate[None]) if numbers else None
        return Judged(
            element=first,
            exact=float(exact[first]) if has_exact and numbers else None,
            candidate=float(candidate[first]) if results.ran(row) else np.nan,
            reference=float(reference[first]),
            reference_error=differing,
            nmse=nmse if results.ran(row) or nmse is None else np.nan,
            nmse_limit=nmse_limit if numbers else None,
            failure=results.failures.get(row),
            wrong=_wrong(shown > 0, differing > 0),
            elements=Elements(
                exact=exact if has_exact and numbers else None,
                sides=_sides(results, row, reference),
                allowed=None,
                ratio=wrong[row].astype(np.float64),
            ),
        )

    return _Judged(_outcome(results, count, np.zeros(len(count))), evidence)


def _sides(results: _Results, row: int, reference: Float64[np.ndarray, " n"]) -> dict[str, Float64[np.ndarray, " n"]]:
    """What the reference and, unless it failed, the candidate gave of a row."""
    return {"reference": reference} | ({"candidate": _flat(results.candidate)[row]} if results.ran(row) else {})


def unequal(a: np.ndarray, b: np.ndarray) -> Bool[np.ndarray, ...]:
    """Whether numbers differ; both zeros are one number, and so is every NaN."""
    return np.asarray((a != b) & ~(np.isnan(a) & np.isnan(b)))


def _wrong(candidate: bool, reference: bool) -> Wrong | None:
    """Which implementation a case shows to be wrong: the candidate, diffuzz's own reference, both, or none of them."""
    if candidate:
        return "both" if reference else "candidate"
    return "reference" if reference else None


def _flat(array: np.ndarray) -> Float64[np.ndarray, "b n"]:
    return np.asarray(array).reshape(len(array), -1).astype(np.float64)
