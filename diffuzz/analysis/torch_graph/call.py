"""What a rule of an ATen operation is told, and how it reads its operands.

A rule is a function `rule(call, *arguments, **named)` of the operation's own arguments: tensors are estimates,
everything else is what the graph says. It returns an estimate, or a sequence of them where the operation has several
results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
import torch

from diffuzz.analysis.arithmetic import FloatFormat, round_to
from diffuzz.analysis.estimate import Estimate, of_options
from diffuzz.analysis.rounding import Rounding
from diffuzz.analysis.rules import comparing, indexing
from diffuzz.analysis.walking import AnalysisError, Roundings

Rule = Callable[..., "Estimate | Sequence[Estimate]"]
Table = dict[str, Rule]

_NUMPY: dict[Any, Any] = {
    torch.float64: np.float64,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.int16: np.int16,
    torch.int8: np.int8,
    torch.uint8: np.uint8,
    torch.bool: np.bool_,
}


@attrs.frozen(eq=False)
class Call:
    """One node of a graph: the rounding of its result, that of all others, and what torch knows of its results."""

    rounding: Rounding
    roundings: Roundings
    node: torch.fx.Node

    @property
    def computing(self) -> FloatFormat | None:
        """The format of intermediates, None where only values are asked for."""
        return None if self.roundings.arithmetic is None else self.roundings.arithmetic.computing

    def result(self, number: int = 0) -> torch.Tensor:
        """The shape and dtype of a result, as a tensor without numbers."""
        known = self.node.meta["val"]
        return known[number] if isinstance(known, tuple | list) else known

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the (first) result."""
        return tuple(int(size) for size in self.result().shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the (first) result: float64 for each kind of floats."""
        return numpy_dtype(self.result().dtype)

    @property
    def is_float(self) -> bool:
        """Whether the (first) result holds floats."""
        return bool(self.result().is_floating_point())

    def uses(self, number: int) -> bool:
        """Whether anything reads this one of several results."""
        return any(user.args[1] == number for user in self.node.users)


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """What values of a tensor of this dtype are held in. Raises AnalysisError where there are no rules for it."""
    if dtype.is_floating_point:
        return np.dtype(np.float64)
    if dtype not in _NUMPY:
        raise AnalysisError(f"no rules for tensors of {dtype}: use floats, integers of up to 64 bits or truth values")
    result: np.dtype[Any] = np.dtype(_NUMPY[dtype])
    return result


def constant(call: Call, value: Any) -> Estimate:
    """Floats that the function's text holds, as an implementation has them."""
    return call.roundings.constant(np.asarray(value, np.float64))


def floats(call: Call, operand: Any) -> Estimate:
    """An operand as floats: integers as they are where the format of intermediates holds them."""
    if not isinstance(operand, Estimate):
        return constant(call, float(operand))
    if operand.value.dtype == np.float64:
        return operand
    wide = operand.value.astype(np.float64)
    error = operand.error
    if call.computing is not None and np.abs(wide).max(initial=0.0) * call.computing.unit > 1:
        own = np.abs(round_to(call.computing, wide) - wide)
        error = own if error is None else error + own
    nonnegative = operand.nonnegative or operand.value.dtype.kind in "bu"
    return Estimate(wide, error, nonnegative=nonnegative, constant=operand.constant)


def integers(call: Call, operand: Any, dtype: np.dtype[Any]) -> Estimate:
    """An operand as integers (or truth values) of this dtype; floats are truncated towards zero."""
    if not isinstance(operand, Estimate):
        return Estimate(np.asarray(operand, dtype), constant=True)
    if operand.value.dtype == dtype:
        return operand
    if dtype == np.bool_:
        return comparing.not_equal(call.rounding, operand, Estimate(np.zeros((), operand.value.dtype)))
    value = operand.value.astype(dtype)
    if operand.error is None:
        return Estimate(value)
    if operand.value.dtype.kind != "f":
        return Estimate(value, operand.error)
    low, high = np.trunc(operand.lowest()), np.trunc(operand.highest())
    error = np.maximum(high - value, value - low)
    return Estimate(value, np.where(np.isnan(error), np.inf, error))


def same(call: Call, *operands: Any) -> tuple[Estimate, ...]:
    """Operands as floats if any is one, else as integers of one dtype."""
    if any(_is_float(each) for each in operands):
        return tuple(floats(call, each) for each in operands)
    kinds = [each.value.dtype for each in operands if isinstance(each, Estimate)]
    dtype = np.result_type(*kinds)
    return tuple(integers(call, each, dtype) for each in operands)


def _is_float(operand: Any) -> bool:
    return isinstance(operand, float) or (isinstance(operand, Estimate) and operand.value.dtype.kind == "f")


def as_result(call: Call, operand: Any) -> Estimate:
    """An operand in the dtype of the call's result."""
    return floats(call, operand) if call.is_float else integers(call, operand, call.dtype)


def spread(operand: Estimate, shape: Sequence[int]) -> Estimate:
    """An operand broadcast to a shape."""
    if operand.value.shape == tuple(shape):
        return operand
    return moved(operand, lambda x: np.broadcast_to(x, tuple(shape)))


def moved(a: Estimate, move: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    """What ``move`` makes of an array, which only moves, repeats or leaves out elements; a set of integers moves
    along."""
    options = a.options()
    if options is not None:
        return of_options(np.stack([move(option) for option in options]), move(a.value))
    return indexing.moved(a, move)


def axes_of(axes: Any, dimensions: int) -> tuple[int, ...]:
    """Axes as numbers from 0 on; all of them for None or an empty list."""
    if axes is None or (isinstance(axes, list | tuple) and not axes):
        return tuple(range(dimensions))
    listed = axes if isinstance(axes, list | tuple) else (axes,)
    return tuple(int(axis) % max(dimensions, 1) for axis in listed)
