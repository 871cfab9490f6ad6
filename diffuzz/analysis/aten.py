"""Running error analysis of a function of torch tensors, or of a module, over the graph of ATen operations that
torch.export makes of it.

    exact, [estimate] = bound(torch.nn.LayerNorm(64), [x], Arithmetic.of("bfloat16"))

The meaning of values and errors is that of `diffuzz.analysis.jaxpr`, and so are the rules of arithmetic; what differs
is the table of operations. The function is captured in float64 (see `diffuzz.analysis.torch_graph.capture`): tensors of
bfloat16 and float16 are taken at their exact values, and it runs on the CPU wherever the tensors are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch.utils import _pytree as pytree

from diffuzz.analysis.arithmetic import Arithmetic
from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.rounding import Bounds
from diffuzz.analysis.rules import conversions
from diffuzz.analysis.torch_graph.capture import Captured, capture, storage_of, tensors_of
from diffuzz.analysis.torch_graph.walk import loaded, roundings_of, walk
from diffuzz.analysis.walking import Roundings


def bound(
    function: Callable[..., Any], inputs: Sequence[Any], arithmetic: Arithmetic, **parameters: Any
) -> tuple[Any, list[Estimate]]:
    """The exact results of ``function(*inputs, **parameters)``, and how far an implementation of this arithmetic may be
    from them.

    Returns the exact results in the structure that the function returns, as float64 arrays (integers and truth values
    in their own dtype), and an estimate for each of them in order; errors include the last rounding to the storage
    dtype. Inputs, parameters, buffers and the tensors that the function holds on to are exact.

    Raises AnalysisError, one line, for an operation without a rule (naming it and the line of the user's code) and for
    a function that torch.export refuses, for example because its control flow depends on values.
    """
    captured, results = _walked(function, inputs, parameters, roundings_of(arithmetic))
    estimates = [_stored(each, arithmetic) for each in results]
    return pytree.tree_unflatten([each.value for each in estimates], captured.tree), estimates


def evaluate(function: Callable[..., Any], inputs: Sequence[Any], **parameters: Any) -> Any:
    """The exact results of ``function(*inputs, **parameters)`` in the structure that it returns, evaluated by NumPy in
    float64: the same bits every time. Raises as :func:`bound`.
    """
    captured, results = _walked(function, inputs, parameters, roundings_of(None))
    return pytree.tree_unflatten([each.value for each in results], captured.tree)


def dtype_of(function: Callable[..., Any], inputs: Sequence[Any]) -> str:
    """The storage dtype of a call: that of its first tensor of floats, else of a module's, else torch's default."""
    return str(storage_of(function, tensors_of(list(inputs)))).removeprefix("torch.")


def _walked(
    function: Callable[..., Any], inputs: Sequence[Any], parameters: dict[str, Any], roundings: Roundings
) -> tuple[Captured, list[Estimate]]:
    captured = capture(function, inputs, parameters)
    tensors = tensors_of((list(inputs), parameters))
    with np.errstate(all="ignore"):
        estimates = [loaded(value, roundings) for value in captured.values(tensors)]
        return captured, walk(captured, estimates, roundings)


def _stored(result: Estimate, arithmetic: Arithmetic) -> Estimate:
    """A result with its last rounding."""
    if result.value.dtype != np.float64:
        return result
    with np.errstate(all="ignore"):
        if arithmetic.storage.unit > arithmetic.computing.unit:
            return conversions.stored(Bounds.of(arithmetic), result, arithmetic.storage)
        lost = np.isnan(result.value)
        if lost.any():
            return Estimate(result.value, np.where(lost, np.inf, result.errors()), result.choices, result.nonnegative)
    return result
