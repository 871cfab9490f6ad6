"""Rules of ATen operations that move, repeat or leave out elements, and of those that make tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffuzz.analysis.arithmetic import FORMATS
from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.rules import conversions, indexing
from diffuzz.analysis.torch_graph.call import (
    Call,
    Rule,
    Table,
    as_result,
    axes_of,
    constant,
    floats,
    integers,
    moved,
    spread,
)
from diffuzz.analysis.walking import AnalysisError


def _same(call: Call, a: Estimate, *_: Any, **__: Any) -> Estimate:
    return a


def _moved(move: Callable[..., np.ndarray]) -> Rule:
    """The rule of `move(array, *arguments)`."""

    def rule(call: Call, a: Estimate, *arguments: Any, **named: Any) -> Estimate:
        return moved(a, lambda x: move(x, *arguments, **named))

    return rule


def _reshaped(call: Call, a: Estimate, *_: Any) -> Estimate:
    return moved(a, lambda x: x.reshape(call.shape))


def _expand(call: Call, a: Estimate, *_: Any, **__: Any) -> Estimate:
    return spread(a, call.shape)


def _slice(x: np.ndarray, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> np.ndarray:
    place = [slice(None)] * x.ndim
    place[axis] = slice(start, end, step)
    return x[tuple(place)]


def _select(x: np.ndarray, axis: int, number: int) -> np.ndarray:
    return np.asarray(np.take(x, number, axis=axis))


def _flip(x: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    return np.flip(x, tuple(axes))


def _diagonal(x: np.ndarray, offset: int = 0, dim1: int = 0, dim2: int = 1) -> np.ndarray:
    return np.diagonal(x, offset, dim1, dim2)


def _repeat(x: np.ndarray, repeats: Sequence[int]) -> np.ndarray:
    return np.tile(x, tuple(repeats))


def _unfold(x: np.ndarray, axis: int, size: int, step: int) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(x, size, axis)
    return _slice(windows, axis % x.ndim, step=step)


def _as_strided(
    call: Call, a: Estimate, size: Sequence[int], stride: Sequence[int], offset: int | None = None
) -> Estimate:
    source = call.node.args[0].meta["val"]
    if not source.is_contiguous():
        raise AnalysisError("as_strided of a tensor that is not contiguous has no rule: call contiguous() before it")
    place = np.full((), int(offset or 0))
    for length, step in zip(size, stride, strict=True):
        place = place[..., None] + np.arange(int(length)) * int(step)
    return moved(a, lambda x: x.reshape(-1)[place])


def _concatenate(call: Call, parts: Sequence[Estimate], axis: int = 0) -> Estimate:
    kept = [as_result(call, each) for each in parts if each.value.shape != (0,)]
    return indexing.concatenate(call.rounding, kept, axis)


def _split(call: Call, a: Estimate, sizes: Sequence[int], axis: int = 0) -> list[Estimate]:
    parts = []
    start = 0
    for size in sizes:
        parts.append(_moved(_slice)(call, a, axis, start, start + size))
        start += size
    return parts  # type: ignore[return-value]


def pad_widths(x: np.ndarray, pad: Sequence[int]) -> tuple[list[tuple[int, int]], tuple[slice, ...]]:
    """Torch's list of paddings, the last axis first, as NumPy's; and the part that remains where paddings are
    negative."""
    pairs = [(int(pad[k]), int(pad[k + 1])) for k in range(0, len(pad), 2)]
    widths = [(0, 0)] * (x.ndim - len(pairs)) + pairs[::-1]
    kept = tuple(slice(max(-low, 0), size - max(-high, 0)) for (low, high), size in zip(widths, x.shape, strict=True))
    return [(max(low, 0), max(high, 0)) for low, high in widths], kept


def _pad(call: Call, a: Estimate, pad: Sequence[int], value: float = 0) -> Estimate:
    widths, kept = pad_widths(a.value, pad)
    filling = as_result(call, value)
    padded = np.pad(a.value[kept], widths, constant_values=filling.value)
    nonnegative = a.nonnegative and bool(filling.value >= 0)
    if a.error is None and filling.error is None:
        return Estimate(padded, nonnegative=nonnegative)
    error = np.pad(a.errors()[kept], widths, constant_values=filling.errors())
    return Estimate(padded, error, nonnegative=nonnegative)


def _slice_scatter(
    call: Call,
    a: Estimate,
    source: Estimate,
    axis: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Estimate:
    return _replaced(a, as_result(call, source), lambda x: _slice(x, axis, start, end, step))


def _replaced(a: Estimate, source: Estimate, view: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    value = a.value.copy()
    view(value)[...] = source.value
    nonnegative = a.nonnegative and source.nonnegative
    if a.error is None and source.error is None:
        return Estimate(value, nonnegative=nonnegative)
    error = a.errors().copy()
    view(error)[...] = source.errors()
    return Estimate(value, error, nonnegative=nonnegative)


def _copy(call: Call, a: Estimate, source: Estimate, *_: Any) -> Estimate:
    return spread(as_result(call, source), call.shape)


def converted(call: Call, a: Estimate, *_: Any, **__: Any) -> Estimate:
    """A conversion to the dtype of the result: to a float of the user's choice the value is rounded."""
    dtype = call.result().dtype
    if not dtype.is_floating_point:
        return integers(call, a, call.dtype)
    name = str(dtype).removeprefix("torch.")
    operand = floats(call, a)
    if name == "float64":
        return operand
    return conversions.to_format(call.rounding, operand, FORMATS[name])


def _full(call: Call, size: Sequence[int], value: Any, **_: Any) -> Estimate:
    return spread(as_result(call, value), call.shape)


def _full_like(call: Call, a: Estimate, value: Any, **_: Any) -> Estimate:
    return spread(as_result(call, value), call.shape)


def _scalar(call: Call, value: Any, **_: Any) -> Estimate:
    return as_result(call, value)


def _arange(call: Call, start: float, end: float, step: float = 1, **_: Any) -> Estimate:
    counted = np.arange(call.shape[0])
    if not call.is_float:
        return Estimate((start + counted * step).astype(call.dtype))
    line = constant(call, start + counted * float(step))
    if call.computing is None or line.error is None:
        return line
    # A start plus a multiple of the step: a product and a sum are rounded, besides the two constants.
    size = abs(start) + np.abs(counted * float(step))
    return Estimate(line.value, 3 * call.computing.unit * size, nonnegative=line.nonnegative)


def _empty(call: Call, *_: Any, **__: Any) -> Estimate:
    """Memory that nobody wrote: it may hold anything."""
    return Estimate(np.zeros(call.shape, call.dtype), np.full(call.shape, np.inf))


def _random(call: Call, *_: Any, **__: Any) -> Estimate:
    raise AnalysisError("random numbers have no exact value: pass them as an argument, or call eval() on the module")


def _axes(x: np.ndarray, axes: Any) -> tuple[int, ...]:
    return tuple(axis for axis in axes_of(axes, x.ndim) if x.shape[axis] == 1)


RANDOM = ("bernoulli", "native_dropout", "rand", "rand_like", "randint", "randn", "randn_like", "randperm")
MOVING: Table = {
    "aten.alias": _same,
    "aten.clone": _same,
    "aten.view": _reshaped,
    "aten.expand": _expand,
    "aten.permute": _moved(lambda x, order: x.transpose(tuple(order))),
    "aten.unsqueeze": _moved(np.expand_dims),
    "aten.squeeze": _moved(lambda x, axes=None: np.squeeze(x, _axes(x, axes))),
    "aten.slice": _moved(_slice),
    "aten.select": _moved(_select),
    "aten.flip": _moved(_flip),
    "aten.diagonal": _moved(_diagonal),
    "aten.repeat": _moved(_repeat),
    "aten.unfold": _moved(_unfold),
    "aten.as_strided": _as_strided,
    "aten.cat": _concatenate,
    "aten.split_with_sizes": _split,
    "aten.constant_pad_nd": _pad,
    "aten.slice_scatter": _slice_scatter,
    "aten.copy": _copy,
    "aten._to_copy": converted,
    "aten.full": _full,
    "aten.full_like": _full_like,
    "aten.scalar_tensor": _scalar,
    "aten.arange": _arange,
    "aten.empty": _empty,
    "aten.empty_permuted": _empty,
    **{f"aten.{name}": _random for name in RANDOM},
}
