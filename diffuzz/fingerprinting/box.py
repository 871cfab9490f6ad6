"""Black boxes: an implementation of an operation, of which nothing is known but its results.

    with opened(targets.get("sum"), {}, "my_kernels.py:total") as box:
        box({"x": x})                      # float32[cases, rows, n] -> float64[cases, ...]

A candidate runs in its process, as in a search, and a failure there is an error of one line here.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import kernels
from diffuzz.cases import domain
from diffuzz.judging import handing
from diffuzz.judging.calls import called, result_like, results_of
from diffuzz.judging.candidate import Candidate, contract_of
from diffuzz.judging.handing import Handing
from diffuzz.judging.pair import COMPILED, check_known
from diffuzz.judging.question import Function, QuestionError
from diffuzz.kernels.process.worker import RowsFailedError
from diffuzz.targets.outcome import Arrays
from diffuzz.targets.parameter import Params
from diffuzz.targets.target import Target

if TYPE_CHECKING:
    from jaxtyping import Float64

# Bytes of the arrays of one call.
_MOST_BYTES = 2**26


def _nothing() -> None:
    pass


class BoxError(ValueError):
    """An implementation that gives no results that an arithmetic could be recovered from; one line."""


@attrs.frozen
class Box:
    """An implementation: called with the arrays of a batch of cases, it gives their results.

    ``name`` is what messages call it. ``params`` are those of the target's contract. Where a call gets a whole batch,
    it has as many cases as are ``together``, as the order of a sum may depend on that; ``alone`` if each is a call.
    """

    target: Target
    params: Params
    name: str
    _run: Callable[[Params, Arrays], np.ndarray]
    _close: Callable[[], None] = _nothing
    together: int | None = None
    alone: bool = False

    def with_rows(self, rows: int) -> Box:
        """The same, with so many cases in a call, where a call gets several and the user has not said how many."""
        if not contract_of(self.target).batched:
            # What is compiled for whole batches is called with one case, whose rows are those of a call.
            return attrs.evolve(self, together=1) if self.alone else self
        return self if f"fix:{domain.BATCH}" in self.params else attrs.evolve(self, together=rows)

    def __enter__(self) -> Box:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def __call__(self, arrays: Arrays, **changes: float | str) -> Float64[np.ndarray, "cases ..."]:
        """The results of a batch, with ``changes`` of the parameters. Raises BoxError where a case has none."""
        params = {**self.params, **changes}
        filled = contract_of(self.target).space(self.params).filled(arrays)
        cases = len(next(iter(filled.values())))
        each = max(sum(array.nbytes for array in filled.values()) // max(cases, 1), 1)
        step = max(_MOST_BYTES // each, 1)
        if self.together is not None:
            step = self.together if self.alone else max(step // self.together, 1) * self.together
            if contract_of(self.target).batched:
                params = {f"fix:{domain.BATCH}": self.together, **params}
        missing = -cases % step if self.alone and self.together is not None else 0
        if missing:
            filled = {name: np.concatenate([one, np.repeat(one[-1:], missing, axis=0)]) for name, one in filled.items()}
        parts = [
            self._run(params, {name: array[start : start + step] for name, array in filled.items()})
            for start in range(0, cases, step)
        ]
        return np.concatenate(parts)[:cases].astype(np.float64)


def opened(
    target: Target,
    params: Params,
    implementation: str | Function,
    *,
    timeout: float = 10.0,
    name: str | None = None,
    given: Handing | None = None,
) -> Box:
    """The box of a candidate, by its name (see diffuzz.judging.opening), or of a function of this process. Messages
    call it ``name``, if that is given; ``given`` says which arrays it gets, if not NumPy's.

    Raises CandidateError if it does not load, or fails on ones.
    """
    contract = contract_of(target)
    if not isinstance(implementation, str):
        function = handing.opened(given or Handing())(implementation)

        def within(p: Params, arrays: Arrays) -> np.ndarray:
            with np.errstate(all="ignore"):
                return np.asarray(
                    called(contract, p, function, arrays, results_of(contract, p, arrays), compiled=False)
                )

        return Box(target, params, str(getattr(implementation, "__name__", "candidate")), within)
    process = Candidate(implementation, timeout=timeout, handing=given or Handing())
    try:
        process.probe(target, params)
    except BaseException:
        process.close()
        raise

    called_so = name or implementation

    def run(p: Params, arrays: Arrays) -> np.ndarray:
        with np.errstate(all="ignore"):
            one = {name: array[:1] for name, array in arrays.items()}
            like = result_like(contract, np.asarray(contract.exact(params, one)))
        like = np.zeros((len(next(iter(arrays.values()))), *like.shape[1:]), like.dtype)
        ran = process.run(target.name, p, arrays, like)
        if ran.failures:
            failure = next(iter(ran.failures.values()))
            raise BoxError(f"{called_so}: no result of a case, so there is no fingerprint: {failure}")
        if ran.skipped:
            raise BoxError(f"{called_so}: it takes none of these cases: {process.skipping}")
        return ran.result

    return Box(target, params, called_so, run, process.close, alone=process.compiles)


def of_kernels(target: Target, params: Params, name: str) -> Box:
    """The box of an implementation of diffuzz.kernels, or of one from outside.

    Raises QuestionError if the target's operation is not among them; MissingKernelsError, an ImportError.
    """
    contract = contract_of(target)
    check_known(target, params, name)
    module = kernels.get(name)

    def run(p: Params, arrays: Arrays) -> np.ndarray:
        try:
            with np.errstate(all="ignore"):
                return np.asarray(contract.run(p, arrays, module))
        except RowsFailedError as error:
            raise BoxError(f"kernels {name}: no result of a case, so there is no fingerprint: {error}") from error
        except AttributeError as error:
            if error.obj is not module:
                raise
            raise QuestionError(f"kernels {name}: no {error.name} there, which {target.name} calls") from error

    # What is compiled for each shape may add up in another order for each.
    close = module.close if kernels.KernelName.parse(name).is_library else _nothing
    return Box(target, params, name, run, close, alone=name == COMPILED)
