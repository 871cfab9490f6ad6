"""The walk over a graph of ATen operations: each node's estimates from those of its operands."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
import torch

from diffuzz.analysis.arithmetic import Arithmetic
from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.rounding import Bounds, Values
from diffuzz.analysis.torch_graph.call import Call, Table
from diffuzz.analysis.torch_graph.capture import Captured, where_written
from diffuzz.analysis.torch_graph.elementwise import ELEMENTWISE
from diffuzz.analysis.torch_graph.indexing import INDEXING
from diffuzz.analysis.torch_graph.moving import MOVING
from diffuzz.analysis.torch_graph.multiplying import MULTIPLYING
from diffuzz.analysis.torch_graph.ordering import ORDERING
from diffuzz.analysis.torch_graph.pooling import POOLING
from diffuzz.analysis.torch_graph.reducing import REDUCING
from diffuzz.analysis.torch_graph.resizing import RESIZING
from diffuzz.analysis.walking import AnalysisError, Roundings, distance_to

RULES: Table = {**ELEMENTWISE, **REDUCING, **MOVING, **MULTIPLYING, **POOLING, **INDEXING, **ORDERING, **RESIZING}


def roundings_of(arithmetic: Arithmetic | None) -> Roundings:
    """How results are rounded in this arithmetic; None evaluates without errors."""
    if arithmetic is None:
        return Roundings(Values())
    return Roundings(Bounds.of(arithmetic), arithmetic, functools.partial(Bounds.of, arithmetic))


def walk(captured: Captured, inputs: Sequence[Estimate], roundings: Roundings) -> list[Estimate]:
    """The estimates of the user's results, in the order of the leaves of `captured.tree`.

    Raises AnalysisError, one line, for an operation without a rule.
    """
    known: dict[torch.fx.Node, Any] = {}
    needed = captured.needed
    results = captured.module.graph.output_node().args[0]
    # How many will still read a node's result; those of the user are read once more, at the end.
    remaining = {node: sum(user in needed for user in node.users) for node in needed}
    for place in captured.outputs:
        if isinstance(results[place], torch.fx.Node):
            remaining[results[place]] += 1
    given = iter(inputs)
    for node in captured.module.graph.nodes:
        if node.op == "placeholder":
            known[node] = next(given)
        elif node.op == "output":
            return [_result(known, results[place]) for place in captured.outputs]
        elif node in needed:
            known[node] = _applied(node, known, roundings)
        for operand in node.all_input_nodes if node in needed else ():
            remaining[operand] -= 1
            if not remaining[operand]:
                known[operand] = None  # its memory is free again
    raise AssertionError("a graph ends with its output")


def _result(known: dict[torch.fx.Node, Any], result: Any) -> Estimate:
    if isinstance(result, torch.fx.Node):
        return known[result]  # type: ignore[no-any-return]
    raise AnalysisError(f"a result is {result!r}, which is no tensor: return tensors alone")


def _applied(node: torch.fx.Node, known: dict[torch.fx.Node, Any], roundings: Roundings) -> Any:
    arguments = torch.fx.node.map_arg(node.args, known.__getitem__)
    named = torch.fx.node.map_arg(node.kwargs, known.__getitem__)
    if node.target is operator.getitem:
        return arguments[0][arguments[1]]
    rule = _rule(node)
    call = Call(roundings.of(_dtype(node)), roundings, node)
    try:
        result = rule(call, *arguments, **named)
    except AnalysisError as error:
        where = where_written(node)
        raise AnalysisError(f"{error}{where}" if where and where not in str(error) else str(error)) from None
    # What is made of constants alone is one, and exact where the format holds it.
    if isinstance(result, Estimate) and all(known[operand].constant for operand in node.all_input_nodes):
        return attrs.evolve(result, constant=True)
    return result


def _dtype(node: torch.fx.Node) -> Any:
    """The dtype of a node's (first) result, as NumPy or a format names it."""
    known = node.meta.get("val")
    first = known[0] if isinstance(known, tuple | list) and known else known
    name = str(getattr(first, "dtype", "")).removeprefix("torch.")
    return np.dtype(np.float64) if name == "float64" else name


def _rule(node: torch.fx.Node) -> Callable[..., Any]:
    name = str(node.target).split(".")
    rule = RULES.get(".".join(name[:2])) if node.op == "call_function" else None
    if rule is None:
        raise AnalysisError(f"the operation {node.target} has no rule of error analysis{where_written(node)}")
    return rule


def loaded(value: np.ndarray, roundings: Roundings) -> Estimate:
    """A stored number as an implementation has it: rounded where the format of intermediates is narrower, flushed where
    that may be.
    """
    arithmetic = roundings.arithmetic
    if arithmetic is None or value.dtype != np.float64:
        return Estimate(value, nonnegative=value.dtype.kind in "bu")
    error = distance_to(arithmetic.computing, value)
    flushed = Bounds.of(arithmetic).flushed
    if flushed and not arithmetic.storage.keeps_subnormals:
        error += np.where((np.abs(value) < flushed) & (value != 0), flushed, 0.0)
    return Estimate(value, error if error.any() else None, nonnegative=bool((value >= 0).all()))
