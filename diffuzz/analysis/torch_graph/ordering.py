"""Rules of ATen operations that sort and pick, and of cumulative ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.rules import cumulative, ordering, reductions
from diffuzz.analysis.rules import elementwise as rules
from diffuzz.analysis.torch_graph.call import Call, Rule, Table, as_result, floats, integers, moved
from diffuzz.analysis.torch_graph.reducing import kept


def _argument(rule: Callable[..., Estimate]) -> Rule:
    def picked(call: Call, a: Estimate, axis: int | None = None, keepdim: bool = False) -> Estimate:
        if axis is None:
            index = rule(call.rounding, moved(a, np.ravel), 0, np.int64)
            return moved(index, lambda x: x.reshape(call.shape))
        return kept(
            rule(call.rounding, a, axis % max(a.value.ndim, 1), np.int64), (axis % max(a.value.ndim, 1),), keepdim
        )

    return picked


def _extreme_along(extreme: Callable[..., Estimate], argument: Callable[..., Estimate]) -> Rule:
    def along(call: Call, a: Estimate, axis: int | None = None, keepdim: bool = False) -> Any:
        if axis is None:
            return extreme(call.rounding, a, tuple(range(a.value.ndim)))
        place = axis % max(a.value.ndim, 1)
        value = kept(extreme(call.rounding, a, (place,)), (place,), keepdim)
        if not call.uses(1):
            return value, None
        return value, kept(argument(call.rounding, a, place, np.int64), (place,), keepdim)

    return along


def _sort(call: Call, a: Estimate, axis: int = -1, descending: bool = False, **_: Any) -> list[Estimate]:
    place = axis % max(a.value.ndim, 1)
    numbers = np.arange(a.value.shape[place])
    line = np.broadcast_to(numbers.reshape([-1 if k == place else 1 for k in range(a.value.ndim)]), a.value.shape)
    key = _turned(call, a, descending)
    value, index = ordering.sort(call.rounding, [key, Estimate(line)], place, 1)
    return [_turned(call, value, descending), index]


def _top_k(
    call: Call, a: Estimate, k: int, axis: int = -1, largest: bool = True, sorted: bool = True
) -> list[Estimate]:
    value, index = ordering.top_k(call.rounding, _turned(call, a, not largest), k, axis)
    return [_turned(call, value, not largest), _wide(index)]


def _turned(call: Call, a: Estimate, turn: bool) -> Estimate:
    return rules.negate(call.rounding, a) if turn else a


def _wide(index: Estimate) -> Estimate:
    """Indices as int64, which torch has."""
    return Estimate(index.value.astype(np.int64), index.error, index.choices)


def _cumulative(rule: Callable[..., Estimate]) -> Rule:
    def along(call: Call, a: Estimate, axis: int, **_: Any) -> Estimate:
        operand = as_result(call, a)
        return operand if operand.value.ndim == 0 else rule(call.rounding, operand, axis)

    return along


def _product(call: Call, a: Estimate, axis: int | None = None, keepdim: bool = False, **_: Any) -> Estimate:
    operand = floats(call, a) if call.is_float else integers(call, a, call.dtype)
    over = tuple(range(operand.value.ndim)) if axis is None else (axis % operand.value.ndim,)
    return kept(reductions.reduce_product(call.rounding, operand, over), over, keepdim)


ORDERING: Table = {
    "aten.argmax": _argument(ordering.argmax),
    "aten.argmin": _argument(ordering.argmin),
    "aten.max": _extreme_along(reductions.reduce_max, ordering.argmax),
    "aten.min": _extreme_along(reductions.reduce_min, ordering.argmin),
    "aten.sort": _sort,
    "aten.topk": _top_k,
    "aten.cumsum": _cumulative(cumulative.cumulative_sum),
    "aten.cumprod": _cumulative(cumulative.cumulative_product),
    "aten.logcumsumexp": _cumulative(cumulative.cumulative_logsumexp),
    "aten.prod": _product,
}
