"""Loops and branches of JAX, walked as they run: a scan as many times as it is long, a while loop as long as its
predicate says.

A branch that is unsure may be any; a predicate of a while loop that is unsure leaves nothing certain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.rounding import Values
from diffuzz.analysis.rules import comparing, indexing

Walk = Callable[[Any, Sequence[Estimate]], list[Estimate]]


def _scan(params: dict[str, Any], operands: Sequence[Estimate], walk: Walk) -> list[Estimate]:
    constants, carried = params["num_consts"], params["num_carry"]
    fixed, carry = operands[:constants], list(operands[constants : constants + carried])
    lines = operands[constants + carried :]
    length = params["length"]
    steps: list[list[Estimate]] = [[] for _ in range(length)]
    for step in reversed(range(length)) if params["reverse"] else range(length):
        here = [indexing.part(each, step) for each in lines]
        results = walk(params["jaxpr"], [*fixed, *carry, *here])
        carry, steps[step] = results[:carried], results[carried:]
    if not length:
        empty = params["jaxpr"].out_avals[carried:]
        return [*carry, *(Estimate(np.zeros((0, *each.shape), each.dtype)) for each in empty)]
    stacked = []
    for position in range(len(steps[0])):
        parts = [indexing.moved(each[position], lambda x: x[None]) for each in steps]
        stacked.append(indexing.concatenate(Values(), parts, 0))
    return [*carry, *stacked]


def _while(params: dict[str, Any], operands: Sequence[Estimate], walk: Walk) -> list[Estimate]:
    of_test, of_body = params["cond_nconsts"], params["body_nconsts"]
    for_test, for_body = operands[:of_test], operands[of_test : of_test + of_body]
    carry = list(operands[of_test + of_body :])
    unsure = np.zeros((), bool)
    while True:
        [going] = walk(params["cond_jaxpr"], [*for_test, *carry])
        unsure = unsure | (going.errors() > 0)
        if not going.value.any():
            break
        again = walk(params["body_jaxpr"], [*for_body, *carry])
        # A mapped loop has a predicate for each row, and rows that are done stay as they are.
        carry = again if going.value.all() else [_chosen(going.value, *pair) for pair in zip(carry, again, strict=True)]
    if not unsure.any():
        return carry
    return [Estimate(each.value, np.where(_spread(unsure, each), np.inf, each.errors())) for each in carry]


def _chosen(which: np.ndarray, old: Estimate, new: Estimate) -> Estimate:
    return comparing.select(Values(), Estimate(_spread(which, old)), old, new)


def _spread(rows: np.ndarray, a: Estimate) -> np.ndarray:
    """Something of each row, for the elements of the rows."""
    spread = (*np.shape(rows), *(1 for _ in range(a.value.ndim - np.ndim(rows))))
    return np.broadcast_to(np.reshape(rows, spread), a.value.shape)


def _cond(params: dict[str, Any], operands: Sequence[Estimate], walk: Walk) -> list[Estimate]:
    which, rest = operands[0], operands[1:]
    branches = params["branches"]
    index = int(np.clip(int(which.value), 0, len(branches) - 1))
    if which.error is None or not which.errors().any():
        return walk(branches[index], rest)
    every = [walk(branch, rest) for branch in branches]
    certain = Estimate(np.array(index), np.ones(()))
    return [comparing.select(Values(), certain, *each) for each in zip(*every, strict=True)]


ENTRIES: dict[str, Callable[[dict[str, Any], Sequence[Estimate], Walk], list[Estimate]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
