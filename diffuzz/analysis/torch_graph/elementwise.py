"""Rules of ATen operations that work element by element."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.rounding import Rounding
from diffuzz.analysis.rules import comparing, functions
from diffuzz.analysis.rules import elementwise as rules
from diffuzz.analysis.rules import integers as whole
from diffuzz.analysis.torch_graph.call import Call, Rule, Table, as_result, constant, floats, integers, same, spread


def _function(rule: Callable[..., Estimate]) -> Rule:
    return lambda call, a: rule(call.rounding, floats(call, a))


def _kept(rule: Callable[..., Estimate]) -> Rule:
    """A rule that keeps integers as they are."""
    return lambda call, a: rule(call.rounding, as_result(call, a))


def _two(rule: Callable[..., Estimate], of_integers: Callable[..., np.ndarray]) -> Rule:
    def both(call: Call, a: Any, b: Any, *, alpha: float = 1) -> Estimate:
        left, right = as_result(call, a), as_result(call, b)
        if not call.is_float:
            return _whole(of_integers, left, _whole(np.multiply, right, integers(call, alpha, call.dtype)))
        if alpha != 1:
            right = rules.multiply(call.rounding, right, constant(call, alpha))
        return rule(call.rounding, left, right)

    return both


def _whole(function: Callable[..., np.ndarray], a: Estimate, b: Estimate) -> Estimate:
    """A sum, difference or product of integers."""
    value = function(a.value, b.value)
    if a.error is None and b.error is None:
        return Estimate(value)
    reach: np.ndarray = a.errors() + b.errors()
    if function is np.multiply:
        reach = np.abs(a.value) * b.errors() + np.abs(b.value) * a.errors() + a.errors() * b.errors()
    return Estimate(value, np.broadcast_to(reach, value.shape))


def _compared(rule: Callable[..., Estimate]) -> Rule:
    def both(call: Call, a: Any, b: Any) -> Estimate:
        left, right = same(call, a, b)
        if a is not b:
            left, right = spread(left, call.shape), spread(right, call.shape)
        return rule(call.rounding, left, right)

    return both


def _logical(rule: Callable[..., Estimate]) -> Rule:
    def all_of(call: Call, *operands: Any) -> Estimate:
        return rule(call.rounding, *(spread(integers(call, each, np.dtype(np.bool_)), call.shape) for each in operands))

    return all_of


def _bits(rule: Callable[..., Estimate]) -> Rule:
    def all_of(call: Call, *operands: Any) -> Estimate:
        return rule(call.rounding, *(spread(integers(call, each, call.dtype), call.shape) for each in operands))

    return all_of


def _steps(rule: Callable[..., Estimate]) -> Rule:
    """Rounding to whole numbers, which leaves integers as they are."""

    def of_floats(call: Call, a: Any) -> Estimate:
        operand = as_result(call, a)
        return rule(call.rounding, operand) if operand.value.dtype.kind == "f" else operand

    return of_floats


def _truncated(rounding: Rounding, a: Estimate) -> Estimate:
    """Towards zero, a monotone step."""
    value = np.trunc(a.value)
    if a.error is None:
        return Estimate(value, nonnegative=a.nonnegative)
    return Estimate(value, rules.farthest(value, np.trunc(a.lowest()), np.trunc(a.highest())))


def _round(call: Call, a: Any, *, decimals: int = 0) -> Estimate:
    if decimals:
        scale = constant(call, 10.0**decimals)
        whole = _steps(rules.round_half_even)(call, rules.multiply(call.rounding, floats(call, a), scale))
        return rules.divide(call.rounding, whole, scale)  # type: ignore[arg-type]
    return _steps(rules.round_half_even)(call, a)  # type: ignore[return-value]


def _divide(call: Call, a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode is None:
        return rules.divide(call.rounding, floats(call, a), floats(call, b))
    if not call.is_float:
        left, right = integers(call, a, call.dtype), integers(call, b, call.dtype)
        quotient = np.floor_divide(left.value, right.value)
        if rounding_mode == "trunc":
            exact = quotient * right.value == left.value
            quotient = quotient + ((quotient < 0) & ~exact)
        uncertain = left.error is not None or right.error is not None
        return Estimate(quotient.astype(call.dtype), np.full(quotient.shape, np.inf) if uncertain else None)
    quotient_of = rules.divide(call.rounding, floats(call, a), floats(call, b))
    return (rules.floor if rounding_mode == "floor" else _truncated)(call.rounding, quotient_of)


def _remainder(call: Call, a: Any, b: Any) -> Estimate:
    """a - b floor(a / b), with the sign of b: a negative fmod gets b added. Open where the errors reach a multiple of
    b."""
    left, right = as_result(call, a), as_result(call, b)
    value = np.remainder(left.value, right.value)
    if left.error is None and right.error is None:
        return call.rounding.result(value, lambda: None) if call.is_float else Estimate(value.astype(call.dtype))
    if right.error is not None or not call.is_float:
        return Estimate(value, np.full(value.shape, np.inf))
    same = np.floor(left.lowest() / right.value) == np.floor(left.highest() / right.value)
    error = np.where(same, left.errors(), np.abs(right.value) + left.errors())
    return call.rounding.result(value, lambda: error)


def _fmod(call: Call, a: Any, b: Any) -> Estimate:
    """a - b trunc(a / b), with the sign of a."""
    return whole.remainder(
        call.rounding, spread(as_result(call, a), call.shape), spread(as_result(call, b), call.shape)
    )


def _power(call: Call, base: Any, exponent: Any) -> Estimate:
    if isinstance(exponent, int | float):
        if not call.is_float:
            powered = integers(call, base, call.dtype)
            value = powered.value ** np.asarray(exponent, call.dtype)
            return Estimate(value, None if powered.error is None else np.full(value.shape, np.inf))
        a = floats(call, base)
        if float(exponent).is_integer() and abs(exponent) <= 64:
            return rules.integer_power(call.rounding, a, int(exponent))
        if exponent == 0.5:
            return rules.sqrt(call.rounding, a)
        if exponent == -0.5:
            return rules.rsqrt(call.rounding, a)
    a, b = spread(floats(call, base), call.shape), spread(floats(call, exponent), call.shape)
    return rules.power(call.rounding, a, b)


def _reciprocal(call: Call, a: Any) -> Estimate:
    return rules.divide(call.rounding, Estimate(np.ones(()), nonnegative=True), floats(call, a))


def _relu(call: Call, a: Any) -> Estimate:
    operand = as_result(call, a)
    return rules.maximum(call.rounding, operand, Estimate(np.zeros((), operand.value.dtype), nonnegative=True))


def _clamp(call: Call, a: Any, min: Any = None, max: Any = None) -> Estimate:
    result = as_result(call, a)
    if min is not None:
        result = rules.maximum(call.rounding, result, as_result(call, min))
    if max is not None:
        result = rules.minimum(call.rounding, result, as_result(call, max))
    return spread(result, call.shape)


def _extreme(rule: Callable[..., Estimate]) -> Rule:
    return lambda call, a, b: rule(call.rounding, as_result(call, a), as_result(call, b))


def _where(call: Call, which: Any, yes: Any, no: Any) -> Estimate:
    picked = spread(integers(call, which, np.dtype(np.bool_)), call.shape)
    branches = (spread(as_result(call, no), call.shape), spread(as_result(call, yes), call.shape))
    return comparing.select(call.rounding, picked, *branches)


def _is_nan(call: Call, a: Any) -> Estimate:
    operand = floats(call, a)
    return comparing.not_equal(call.rounding, operand, operand)


def _is_infinite(call: Call, a: Any) -> Estimate:
    size = rules.absolute(call.rounding, floats(call, a))
    return comparing.equal(call.rounding, size, Estimate(np.full(size.value.shape, np.inf)))


def _log_base(base: float) -> Rule:
    """log2 and log10, whose budgets are those of log: a logarithm times a constant is allowed, so one rounding more."""

    def rule(call: Call, a: Any) -> Estimate:
        natural = functions.log(call.rounding, floats(call, a))
        return rules.multiply(call.rounding, natural, constant(call, 1 / math.log(base)))

    return rule


ELEMENTWISE: Table = {
    "aten.add": _two(rules.add, np.add),
    "aten.sub": _two(rules.subtract, np.subtract),
    "aten.mul": _two(rules.multiply, np.multiply),
    "aten.div": _divide,
    "aten.remainder": _remainder,
    "aten.fmod": _fmod,
    "aten.pow": _power,
    "aten.reciprocal": _reciprocal,
    "aten.abs": _kept(rules.absolute),
    "aten.neg": _kept(rules.negate),
    "aten.sign": _kept(rules.sign),
    "aten.floor": _steps(rules.floor),
    "aten.ceil": _steps(rules.ceil),
    "aten.trunc": _steps(_truncated),
    "aten.round": _round,
    "aten.sqrt": _function(rules.sqrt),
    "aten.rsqrt": _function(rules.rsqrt),
    "aten.exp": _function(functions.exp),
    "aten.exp2": _function(functions.exp2),
    "aten.expm1": _function(functions.expm1),
    "aten.log": _function(functions.log),
    "aten.log1p": _function(functions.log1p),
    "aten.log2": _log_base(2.0),
    "aten.log10": _log_base(10.0),
    "aten.tanh": _function(functions.tanh),
    "aten.sigmoid": _function(functions.logistic),
    "aten.sin": _function(functions.sin),
    "aten.cos": _function(functions.cos),
    "aten.sinh": _function(functions.sinh),
    "aten.cosh": _function(functions.cosh),
    "aten.asinh": _function(functions.asinh),
    "aten.acosh": _function(functions.acosh),
    "aten.atanh": _function(functions.atanh),
    "aten.asin": _function(functions.asin),
    "aten.acos": _function(functions.acos),
    "aten.atan": _function(functions.atan),
    "aten.erf": _function(functions.erf),
    "aten.erfc": _function(functions.erfc),
    "aten.erfinv": _function(functions.erf_inv),
    "aten.tan": _function(functions.tan),
    "aten.atan2": _two(functions.atan2, np.arctan2),
    "aten.lgamma": _function(functions.lgamma),
    "aten.digamma": _function(functions.digamma),
    "aten.relu": _relu,
    "aten.clamp": _clamp,
    "aten.maximum": _extreme(rules.maximum),
    "aten.minimum": _extreme(rules.minimum),
    "aten.where": _where,
    "aten.isnan": _is_nan,
    "aten.isinf": _is_infinite,
    "aten.eq": _compared(comparing.equal),
    "aten.ne": _compared(comparing.not_equal),
    "aten.lt": _compared(comparing.less),
    "aten.le": _compared(comparing.less_equal),
    "aten.gt": _compared(comparing.greater),
    "aten.ge": _compared(comparing.greater_equal),
    "aten.logical_and": _logical(comparing.bitwise_and),
    "aten.logical_or": _logical(comparing.bitwise_or),
    "aten.logical_xor": _logical(comparing.bitwise_xor),
    "aten.logical_not": _logical(comparing.bitwise_not),
    "aten.bitwise_and": _bits(comparing.bitwise_and),
    "aten.bitwise_or": _bits(comparing.bitwise_or),
    "aten.bitwise_xor": _bits(comparing.bitwise_xor),
    "aten.bitwise_not": _bits(comparing.bitwise_not),
}
