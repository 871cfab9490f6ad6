"""Candidates: a user's own function in the place of the implementation under test.

    function = load("my_kernels.py:soft_max")
    target = with_candidate(targets.get("softmax"), params, function, "my_kernels.py:soft_max")

The result is a target like any other. Its value is how far the function leaves what its contract
(``Target.contract``) allows:

    an a-priori error bound     max over elements of |f - exact| / allowance: more than 1 is wrong, in any order of sums
    a result fixed to the bit   number of elements that differ: more than 0 is wrong (both zeros are one number)

A NaN or an infinity where the exact result is a float32 number has the value inf. Elements for which the arithmetic
promises nothing (overflow; an infinite allowance) are not judged. The function is called in this process, with copies
of the arrays.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from diffuzz import measure
from diffuzz.target import Arrays, Contract, Drift, Outcome, Params, Target

# max_nmse_err in ggml's tests/test-backend-ops.cpp: of MUL_MAT and SOFT_MAX, and the default of other operations.
GGML_NMSE_LIMIT = {"matvec": 5e-4, "softmax": 1e-6}
GGML_DEFAULT_NMSE_LIMIT = 1e-7
# Relative error of value itself: float64 against allowances of some 2^-24, with room for its own constants.
_RELATIVE_NOISE = 1e-6
_LARGEST = float(np.finfo(np.float32).max)

Function = Callable[..., Any]


class CandidateError(ValueError):
    """A candidate that cannot be loaded or called, or does not return an array of the right kind; one line."""


def load(specification: str) -> Function:
    """The function that ``FILE.py:FUNCTION`` names; the file is run, with its folder importable.

    Raises CandidateError: no such file or function, or an exception while the file ran.
    """
    file, colon, name = specification.rpartition(":")
    if not (colon and file and name.isidentifier()):
        raise CandidateError(f"candidate {specification!r}: FILE.py:FUNCTION is needed")
    path = Path(file)
    if not path.is_file():
        raise CandidateError(f"candidate {specification}: there is no file {file}")
    module_name = f"diffuzz_candidate_{path.stem}"
    module_spec = importlib.util.spec_from_file_location(module_name, path)
    if module_spec is None or module_spec.loader is None:
        raise CandidateError(f"candidate {specification}: {file} is not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(module_spec)
    folder = str(path.resolve().parent)
    sys.modules[module_name] = module
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise CandidateError(f"candidate {specification}: {file} fails to load: {_one_line(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        kind = "no function" if function is None else f"a {type(function).__name__}, not a function,"
        raise CandidateError(f"candidate {specification}: {file} has {kind} {name}")
    result: Function = function
    return result


def with_candidate(target: Target, params: Params, function: Function, name: str) -> Target:
    """``target`` asking whether ``function``, ``name`` in messages, keeps its contract; see the module's docstring.

    Raises CandidateError if the target takes no candidate. Evaluating the result raises it if the function raises, or
    returns another shape or dtype than its signature says.
    """
    contract = target.contract
    if contract is None:
        raise CandidateError(
            f"target {target.name} takes no candidate: its claim is about the arithmetic, not about one function"
        )
    exact_bits = contract.allowance is None
    judged = _differing if exact_bits else _beyond_allowance
    nmse_limit = GGML_NMSE_LIMIT.get(target.name, GGML_DEFAULT_NMSE_LIMIT)

    def evaluate(p: Params, arrays: Arrays) -> Outcome:
        with np.errstate(all="ignore"):
            reference = np.asarray(contract.reference(p, arrays))
            result = _called(contract, p, function, name, arrays, reference)
            return judged(contract, p, arrays, result, reference, nmse_limit)

    return attrs.evolve(
        target,
        summary=f"{name} against the contract of {target.name}",
        space=contract.space or target.space,
        question=Drift(evaluate),
        measure=lambda p: (
            "elements that differ from the fixed result" if exact_bits else "max |f - exact| / a-priori bound"
        ),
        bound=lambda p: None,
        claim=f"{name} is wrong",
        limit=lambda p: 0.0 if exact_bits else 1.0,
        tolerance=0.0 if exact_bits else _RELATIVE_NOISE,
        starts=contract.starts if contract.space else target.starts,
    )


def _called(
    contract: Contract, p: Params, function: Function, name: str, arrays: Arrays, like: np.ndarray
) -> np.ndarray:
    given = {key: np.array(array) for key, array in arrays.items()}
    shapes = ", ".join(f"{key} {array.dtype}{list(array.shape)}" for key, array in given.items())
    try:
        result = np.asarray(contract.call(p, function, given))
    except (Exception, SystemExit) as error:
        raise CandidateError(f"candidate {name} raises {_one_line(error)} (called with {shapes})") from error
    if result.shape != like.shape or result.dtype != like.dtype:
        raise CandidateError(
            f"candidate {name} returns {result.dtype}{list(result.shape)}, where {like.dtype}{list(like.shape)} is "
            f"needed (called with {shapes}; its signature: {contract.signature})"
        )
    return result


def _beyond_allowance(
    contract: Contract, p: Params, arrays: Arrays, result: np.ndarray, reference: np.ndarray, nmse_limit: float
) -> Outcome:
    if contract.exact is None or contract.allowance is None:
        raise TypeError("a contract with an allowance needs the exact result")
    exact = _flat(contract.exact(p, arrays))
    allowance = _flat(contract.allowance(p, arrays))
    result, reference = _flat(result), _flat(reference)
    promised = np.isfinite(allowance) & (np.abs(exact) <= _LARGEST)
    ratio = np.where(promised, _ratio(result, exact, allowance), 0.0)
    ours = np.where(promised, _ratio(reference, exact, allowance), 0.0)
    value, worst = ratio.max(axis=1), ratio.argmax(axis=1)
    row = np.arange(len(value))
    detail = {
        "worst element": worst.astype(np.float64),
        "candidate": result[row, worst],
        "exact": exact[row, worst],
        "reference": reference[row, worst],
        "allowance": allowance[row, worst],
        "reference error / a-priori bound": ours.max(axis=1),
        "nmse": _nmse(np.where(promised, exact, 0.0), np.where(promised, result, 0.0)),
        "ggml nmse limit": np.full(len(value), nmse_limit),
    }
    return Outcome(value, np.where(np.isfinite(value), _RELATIVE_NOISE * value, 0.0), detail)


def _ratio(result: np.ndarray, exact: np.ndarray, allowance: np.ndarray) -> np.ndarray:
    """|result - exact| / allowance, element by element; inf where the result is not finite."""
    error = np.abs(result - exact)
    return np.where(np.isfinite(result), np.where(error > 0, error / allowance, 0.0), np.inf)


def _nmse(exact: np.ndarray, result: np.ndarray) -> np.ndarray:
    """NMSE by row; inf where the result is not finite, which ggml's tests refuse as well."""
    finite = np.isfinite(result)
    return np.where(finite.all(axis=1), measure.nmse(exact, np.where(finite, result, 0.0)), np.inf)


def _differing(
    contract: Contract, p: Params, arrays: Arrays, result: np.ndarray, reference: np.ndarray, nmse_limit: float
) -> Outcome:
    if contract.accepts is not None:
        wrong = ~contract.accepts(p, arrays, result)
    else:
        wrong = (result != reference) & ~(np.isnan(result) & np.isnan(reference))
    numbers = reference.dtype == np.float32
    wrong, result, reference = wrong.reshape(len(wrong), -1), _flat(result), _flat(reference)
    count, first = wrong.sum(axis=1).astype(np.float64), wrong.argmax(axis=1)
    row = np.arange(len(count))
    detail = {
        "first element": first.astype(np.float64),
        "candidate": result[row, first],
        "reference": reference[row, first],
    }
    if numbers:
        detail |= {"nmse": _nmse(reference, result), "ggml nmse limit": np.full(len(count), nmse_limit)}
    return Outcome(count, np.zeros(len(count)), detail)


def _flat(array: np.ndarray) -> np.ndarray:
    return np.asarray(array).reshape(len(array), -1).astype(np.float64)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
