"""A case of vectors: what a function is called with, the exact result, and what each element may be off by.

All of it follows from a contract, as in the judging of a candidate, but is written down element by element. Where a
result is right for another reason than its distance from the exact one, nothing is promised of the element: of an index
that another could stand for; of a code of a quantiser at a tie, where either rule is right, and of sums that depend on
it; where the arithmetic overflows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.judging.examination import RELATIVE_NOISE
from diffuzz.targets import weight_quantisers
from diffuzz.targets.contract import Call, Contract
from diffuzz.targets.outcome import Arrays
from diffuzz.targets.parameter import Params
from diffuzz.targets.target import Target
from diffuzz.vectors.vectors import ANY_BYTE, Argument, Expected, VectorCase, VectorsError

if TYPE_CHECKING:
    from jaxtyping import Float64

_LARGEST = float(np.finfo(np.float32).max)


def opened(target: Target, given: Mapping[str, object]) -> tuple[Contract, Params]:
    """The contract of a target of which vectors can be made, its parameters. Raises VectorsError, ParameterError."""
    contract = target.contract
    if contract is None:
        raise VectorsError(
            f"target {target.name} has no vectors: its claim is about the arithmetic, not about one function"
        )
    p = target.contract_params(given)
    if contract.allowance is None and contract.result_format is not None:
        format = contract.result_format(p)
        if weight_quantisers.known(format):
            raise VectorsError(
                f"target {target.name} has no vectors with format={format}: many blocks are right, and no bytes are "
                "fixed; judge the function with search --candidate"
            )
    return contract, p


def made(contract: Contract, p: Params, arrays: Arrays) -> VectorCase:
    """The vectors of a batch of cases that one call gets, or of one case where a call gets one."""
    with np.errstate(all="ignore"):
        results = (_fixed if contract.allowance is None else _within)(contract, p, arrays)
    return attrs.evolve(asked(contract, p, arrays), results=results)


def in_one_call(contract: Contract, p: Params, arrays: Arrays) -> Arrays:
    """The batch, if one call gets it as a whole, or its first case: RoPE gets the factors of one case at a time."""
    call = contract.first_call(p, arrays) if contract.batched else None
    given = [] if call is None else [len(one) for one in call.positional if isinstance(one, np.ndarray)]
    whole = not given or given[0] == len(next(iter(arrays.values())))
    return arrays if whole else {name: array[:1] for name, array in arrays.items()}


def asked(contract: Contract, p: Params, arrays: Arrays) -> VectorCase:
    """The same without results, which take longer than a call."""
    call = contract.first_call(p, arrays)
    if call is None:
        raise ValueError("the contract calls no function")
    return VectorCase(*_arguments(contract, call), ())


def _arguments(contract: Contract, call: Call) -> tuple[dict[str, Argument], dict[str, Argument]]:
    names = call.by_name(contract.arguments)
    positional = dict(list(names.items())[: len(call.positional)])
    return _plain(positional), _plain(dict(call.named))


def _plain(arguments: dict[str, object]) -> dict[str, Argument]:
    plain: dict[str, Argument] = {}
    for name, value in arguments.items():
        one = value.item() if isinstance(value, np.generic) else value
        if not isinstance(one, (np.ndarray, int, float, str, type(None))):
            raise TypeError(f"the argument {name} is a {type(one).__name__}")
        plain[name] = np.ascontiguousarray(one) if isinstance(one, np.ndarray) else one
    return plain


def _within(contract: Contract, p: Params, arrays: Arrays) -> tuple[Expected, ...]:
    """Numbers, each with an allowance."""
    assert contract.allowance is not None
    exact, allowance = contract.exact(p, arrays), contract.allowance(p, arrays)
    exact, allowance = (np.asarray(one, np.float64) for one in (exact, allowance))
    without = np.isnan(exact) | np.isnan(allowance)
    if contract.results is None:
        without |= ~(np.abs(exact) <= _LARGEST)
    if contract.derived is not None and contract.settled is not None:
        without |= ~contract.derived.certain(p, arrays)
    # With room for the rounding of both in float64, so that a reader needs none.
    allowance = np.where(without, np.inf, allowance * (1 + RELATIVE_NOISE))
    exact = np.where(without, 0.0, exact)
    if contract.results is None:
        dtype = str(p.get("dtype", "float32"))
        exact, allowance = (one if contract.batched else one[0] for one in (exact, allowance))
        return (Expected(exact, allowance, dtype),)
    found, place = [], 0
    for result in contract.results(p, arrays):
        count = int(np.prod(result.shape))
        shape = (len(exact), *result.shape) if contract.batched else result.shape
        of_result = [_part(one, place, count, shape) for one in (exact, allowance)]
        found.append(Expected(of_result[0], of_result[1], result.dtype))
        place += count
    return tuple(found)


def _part(
    packed: Float64[np.ndarray, "b n"], place: int, count: int, shape: tuple[int, ...]
) -> Float64[np.ndarray, " ..."]:
    return np.ascontiguousarray(packed[:, place : place + count].reshape(shape))


def _fixed(contract: Contract, p: Params, arrays: Arrays) -> tuple[Expected, ...]:
    """A result that is fixed to the bit."""
    right = contract.reference(p, arrays)
    if right.dtype == np.uint8:
        free = _free_bytes(contract, p, arrays, right)
        allowance = np.where(free, np.uint8(ANY_BYTE), np.uint8(0))
        exact = right
    else:
        free = _free_numbers(contract, p, arrays, right)
        exact = np.where(free, 0.0, right.astype(np.float64))
        allowance = np.where(free, np.inf, 0.0)
    exact, allowance = (one if contract.batched else one[0] for one in (exact, allowance))
    dtype = "uint8" if right.dtype == np.uint8 else str(p.get("dtype", "float32"))
    return (Expected(np.ascontiguousarray(exact), np.ascontiguousarray(allowance), dtype),)


def _free_bytes(contract: Contract, p: Params, arrays: Arrays, right: np.ndarray) -> np.ndarray:
    """Bytes that may be others, and those that are others where these are."""
    if contract.accepts is None:
        return np.zeros(right.shape, bool)
    free = np.zeros(right.shape, bool)
    for step in (1, 255):
        beside = right + np.uint8(step)
        own = contract.accepts(p, arrays, beside)
        # A sum of codes is another one where a code is.
        depends = ~contract.accepts(p, arrays, np.where(own, beside, right))
        free |= own | depends
    return np.asarray(free)


def _free_numbers(contract: Contract, p: Params, arrays: Arrays, right: np.ndarray) -> np.ndarray:
    """Numbers of which nothing is promised, or a neighbour of which is right, too."""
    free = ~np.isfinite(right)
    if contract.accepts is not None:
        # Neighbours in a dtype of 8 bits are far apart, and what is accepted is never further than one is.
        beside = [np.nextafter(right, np.float32(end)) for end in (-np.inf, np.inf)]
        for other in (*beside, np.full_like(right, np.nan)):
            free |= contract.accepts(p, arrays, other)
    return np.asarray(free)
