"""Which rule a primitive of JAX has: the table that the walk over a jaxpr reads.

An entry takes the rounding of the result, the equation's parameters and estimates of the operands, and returns the
estimate of the result, or a list of them. Primitives that call another jaxpr are not here: the walk itself follows
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from diffuzz.analysis.arithmetic import FORMATS, reduced
from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.moving import ENTRIES as MOVING
from diffuzz.analysis.rounding import Rounding
from diffuzz.analysis.rules import (
    comparing,
    conversions,
    cumulative,
    elementwise,
    functions,
    integers,
    ordering,
    products,
    reductions,
    windows,
)
from diffuzz.analysis.rules.indexing import moved

Entry = Callable[..., "Estimate | list[Estimate]"]


def _plain(rule: Callable[..., Estimate]) -> Entry:
    """A rule that needs none of the equation's parameters."""

    def entry(rounding: Rounding, params: dict[str, Any], *operands: Estimate) -> Estimate:
        return rule(rounding, *operands)

    return entry


def _same(rounding: Rounding, params: dict[str, Any], *operands: Estimate) -> list[Estimate]:
    return list(operands)


def _convert(rounding: Rounding, params: dict[str, Any], a: Estimate) -> Estimate:
    dtype = np.dtype(params["new_dtype"])
    if dtype.name in FORMATS:
        if a.value.dtype == np.float64:
            return conversions.to_format(rounding, a, FORMATS[dtype.name], FORMATS[params["source"]])
        return conversions.from_integer(rounding, a)
    return conversions.to_integer(rounding, a, dtype)


def _reduce(rule: Callable[..., Estimate]) -> Entry:
    """A rule that reduces the axes of the equation."""

    def entry(rounding: Rounding, params: dict[str, Any], a: Estimate) -> Estimate:
        return rule(rounding, a, params["axes"])

    return entry


def _running(rule: Callable[..., Estimate]) -> Entry:
    """A rule along an axis, in either direction."""

    def entry(rounding: Rounding, params: dict[str, Any], a: Estimate) -> Estimate:
        return rule(rounding, a, params["axis"], reverse=params["reverse"])

    return entry


def _argument(rule: Callable[..., Estimate]) -> Entry:
    """A rule that gives an index along an axis."""

    def entry(rounding: Rounding, params: dict[str, Any], a: Estimate) -> Estimate:
        return rule(rounding, a, params["axes"][0], np.dtype(params["index_dtype"]))

    return entry


def _divide(rounding: Rounding, params: dict[str, Any], a: Estimate, b: Estimate) -> Estimate:
    rule = elementwise.divide if a.value.dtype == np.float64 else integers.divide
    return rule(rounding, a, b)


def _round(rounding: Rounding, params: dict[str, Any], a: Estimate) -> Estimate:
    to_even = int(params["rounding_method"]) == 1
    return elementwise.round_half_even(rounding, a) if to_even else elementwise.round_half_away(rounding, a)


def _power(rounding: Rounding, params: dict[str, Any], a: Estimate, b: Estimate) -> Estimate:
    return elementwise.power(rounding, a, b)


def _dot_general(rounding: Rounding, params: dict[str, Any], a: Estimate, b: Estimate) -> Estimate:
    contracted, batched = params["dimension_numbers"]
    return products.dot_general(rounding, a, b, contracted, batched)


def _convolution(rounding: Rounding, params: dict[str, Any], a: Estimate, b: Estimate) -> Estimate:
    numbers = params["dimension_numbers"]
    inputs, kernels, outputs = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    left = moved(a, lambda x: x.transpose(inputs))
    right = moved(b, lambda x: x.transpose(kernels))
    result = windows.convolution(
        rounding,
        left,
        right,
        strides=params["window_strides"],
        padding=params["padding"],
        dilation=params["lhs_dilation"],
        kernel_dilation=params["rhs_dilation"],
        groups=params["feature_group_count"],
        batch_groups=params["batch_group_count"],
    )
    return moved(result, lambda x: x.transpose(np.argsort(outputs)))


def _window(rule: Callable[..., Estimate], fill: float | None, *, largest: bool | None = None) -> Entry:
    """Pooling: the rule over the elements of each window; what is beyond the array is the rule's neutral element."""

    def entry(rounding: Rounding, params: dict[str, Any], a: Estimate) -> Estimate:
        filling: Any = fill
        if largest is not None and a.value.dtype != np.float64:
            ends = np.iinfo(a.value.dtype)
            filling = ends.min if largest else ends.max
        seen = windows.windows(
            a,
            params["window_dimensions"],
            params["window_strides"],
            params["padding"],
            params["base_dilation"],
            params["window_dilation"],
            filling,
        )
        rank = a.value.ndim
        return rule(rounding, seen, tuple(range(rank, 2 * rank)))

    return entry


_SUM_OF_WINDOW = _window(reductions.reduce_sum, 0)
_LARGEST_OF_WINDOW = _window(reductions.reduce_max, -np.inf, largest=True)
_SMALLEST_OF_WINDOW = _window(reductions.reduce_min, np.inf, largest=False)
_BY_COMBINATION = {
    "add": (_SUM_OF_WINDOW, 0.0),
    "max": (_LARGEST_OF_WINDOW, -np.inf),
    "min": (_SMALLEST_OF_WINDOW, np.inf),
    "mul": (_window(reductions.reduce_product, 1), 1.0),
}


def _any_window(rounding: Rounding, params: dict[str, Any], a: Estimate, start: Estimate) -> Estimate:
    """Pooling by a function that is one known combination, from its neutral element."""
    equations = getattr(params["jaxpr"], "jaxpr", params["jaxpr"]).eqns
    name = equations[0].primitive.name if len(equations) == 1 else "a function of its own"
    entry, neutral = _BY_COMBINATION.get(name, (None, None))
    if entry is None or float(start.value) != neutral:
        raise ValueError(f"reduce_window with {name} from {float(start.value):g} has no rule of error analysis")
    result = entry(rounding, params, a)
    assert isinstance(result, Estimate)
    return result


def _top_k(rounding: Rounding, params: dict[str, Any], a: Estimate) -> list[Estimate]:
    return ordering.top_k(rounding, a, params["k"], params.get("axis", -1))


def _approximate_top_k(rounding: Rounding, params: dict[str, Any], a: Estimate) -> list[Estimate]:
    """What a library without an approximation gives: the k largest, or the k smallest."""
    axis = params["reduction_dimension"]
    if params["is_max_k"]:
        return ordering.top_k(rounding, a, params["k"], axis)
    values, indices = ordering.top_k(rounding, elementwise.negate(rounding, a), params["k"], axis)
    return [elementwise.negate(rounding, values), indices]


def _ragged_dot(rounding: Rounding, params: dict[str, Any], a: Estimate, b: Estimate, sizes: Estimate) -> Estimate:
    numbers = params["ragged_dot_dimension_numbers"]
    plain = (((1,), (1,)), ((), ()))
    dimensions = tuple(tuple(tuple(axes) for axes in pair) for pair in numbers.dot_dimension_numbers)
    if dimensions != plain or tuple(numbers.lhs_ragged_dimensions) != (0,) or a.value.ndim != 2:
        raise ValueError("ragged_dot_general has a rule of error analysis only for rows of a matrix in groups")
    return products.ragged_dot(rounding, a, b, sizes)


def _platform(rounding: Rounding, params: dict[str, Any]) -> Estimate:
    """The branch for platforms that are not named, else that of the CPU."""
    platforms = params["platforms"]
    index = platforms.index(None) if None in platforms else next(i for i, each in enumerate(platforms) if "cpu" in each)
    return Estimate(np.asarray(index, np.int32))


def _sort(rounding: Rounding, params: dict[str, Any], *operands: Estimate) -> list[Estimate]:
    return ordering.sort(rounding, operands, params["dimension"], params["num_keys"])


def _reduce_precision(rounding: Rounding, params: dict[str, Any], a: Estimate) -> Estimate:
    chosen = reduced(params["exponent_bits"], params["mantissa_bits"])
    return conversions.reduced_precision(rounding, a, chosen)


def _bitcast(rounding: Rounding, params: dict[str, Any], a: Estimate) -> Estimate:
    return integers.bitcast(rounding, a, params["source"], np.dtype(params["new_dtype"]))


def _iota(rounding: Rounding, params: dict[str, Any]) -> Estimate:
    shape, axis = params["shape"], params["dimension"]
    dtype = np.dtype(params["dtype"])
    floats = dtype.name in FORMATS
    spread = [1] * len(shape)
    spread[axis] = shape[axis]
    line = np.arange(shape[axis], dtype=np.int64 if floats else dtype).reshape(spread)
    counted = Estimate(np.array(np.broadcast_to(line, shape)))
    return conversions.from_integer(rounding, counted) if floats else counted


_IDENTITIES = (
    *("stop_gradient", "copy", "copy_p", "optimization_barrier", "name", "sharding_constraint", "device_put"),
    *("tie", "real", "conj", "pvary", "reshard", "layout_constraint", "with_memory_space_constraint"),
)

ENTRIES: dict[str, Entry] = {
    "neg": _plain(elementwise.negate),
    "abs": _plain(elementwise.absolute),
    "sign": _plain(elementwise.sign),
    "add": _plain(elementwise.add),
    "add_any": _plain(elementwise.add),
    "sub": _plain(elementwise.subtract),
    "mul": _plain(elementwise.multiply),
    "div": _divide,
    "rem": _plain(integers.remainder),
    "floor": _plain(elementwise.floor),
    "ceil": _plain(elementwise.ceil),
    "round": _round,
    "nextafter": _plain(elementwise.nextafter),
    "square": _plain(elementwise.square),
    "integer_pow": lambda rounding, params, a: elementwise.integer_power(rounding, a, params["y"]),
    "pow": _power,
    "sqrt": _plain(elementwise.sqrt),
    "rsqrt": _plain(elementwise.rsqrt),
    "cbrt": _plain(elementwise.cbrt),
    "exp": _plain(functions.exp),
    "exp2": _plain(functions.exp2),
    "expm1": _plain(functions.expm1),
    "log": _plain(functions.log),
    "log1p": _plain(functions.log1p),
    "tanh": _plain(functions.tanh),
    "logistic": _plain(functions.logistic),
    "sin": _plain(functions.sin),
    "cos": _plain(functions.cos),
    "tan": _plain(functions.tan),
    "asin": _plain(functions.asin),
    "acos": _plain(functions.acos),
    "atan": _plain(functions.atan),
    "atan2": _plain(functions.atan2),
    "sinh": _plain(functions.sinh),
    "cosh": _plain(functions.cosh),
    "asinh": _plain(functions.asinh),
    "acosh": _plain(functions.acosh),
    "atanh": _plain(functions.atanh),
    "bessel_i0e": _plain(functions.bessel_i0e),
    "bessel_i1e": _plain(functions.bessel_i1e),
    "erf_inv": _plain(functions.erf_inv),
    "lgamma": _plain(functions.lgamma),
    "digamma": _plain(functions.digamma),
    "erf": _plain(functions.erf),
    "erfc": _plain(functions.erfc),
    "max": _plain(elementwise.maximum),
    "min": _plain(elementwise.minimum),
    "clamp": _plain(elementwise.clamp),
    "eq": _plain(comparing.equal),
    "ne": _plain(comparing.not_equal),
    "lt": _plain(comparing.less),
    "le": _plain(comparing.less_equal),
    "gt": _plain(comparing.greater),
    "ge": _plain(comparing.greater_equal),
    # The total order differs for NaN and for zeros of both signs only.
    "eq_to": _plain(comparing.equal),
    "lt_to": _plain(comparing.less),
    "le_to": _plain(comparing.less_equal),
    "is_finite": _plain(comparing.is_finite),
    "and": _plain(comparing.bitwise_and),
    "or": _plain(comparing.bitwise_or),
    "xor": _plain(comparing.bitwise_xor),
    "not": _plain(comparing.bitwise_not),
    "shift_left": _plain(integers.shift_left),
    "shift_right_logical": _plain(integers.shift_right_logical),
    "shift_right_arithmetic": _plain(integers.shift_right_arithmetic),
    "population_count": _plain(integers.population_count),
    "clz": _plain(integers.leading_zeros),
    "select_n": _plain(comparing.select),
    "reduce_sum": _reduce(reductions.reduce_sum),
    "reduce_max": _reduce(reductions.reduce_max),
    "reduce_min": _reduce(reductions.reduce_min),
    "reduce_prod": _reduce(reductions.reduce_product),
    "reduce_and": _reduce(reductions.reduce_all),
    "reduce_or": _reduce(reductions.reduce_any),
    "reduce_xor": _reduce(reductions.reduce_parity),
    "argmax": _argument(ordering.argmax),
    "argmin": _argument(ordering.argmin),
    "cumsum": _running(cumulative.cumulative_sum),
    "cumprod": _running(cumulative.cumulative_product),
    "cummax": _running(cumulative.cumulative_max),
    "cummin": _running(cumulative.cumulative_min),
    "cumlogsumexp": _running(cumulative.cumulative_logsumexp),
    "sort": _sort,
    "top_k": _top_k,
    "approx_top_k": _approximate_top_k,
    "ragged_dot_general": _ragged_dot,
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "reduce_window_sum": _SUM_OF_WINDOW,
    "reduce_window_max": _LARGEST_OF_WINDOW,
    "reduce_window_min": _SMALLEST_OF_WINDOW,
    "reduce_window": _any_window,
    "iota": _iota,
    "convert_element_type": _convert,
    "reduce_precision": _reduce_precision,
    "bitcast_convert_type": _bitcast,
    "platform_index": _platform,
    **dict.fromkeys(_IDENTITIES, _same),
    **MOVING,
}

# Where an operand is one of a known set of integers, these are evaluated for each of them.
BY_CHOICE = frozenset(
    (
        *("add", "sub", "mul", "div", "rem", "neg", "abs", "sign", "max", "min", "clamp", "select_n"),
        *("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor", "not", "convert_element_type", "integer_pow"),
        *("shift_left", "shift_right_logical", "shift_right_arithmetic", "population_count", "clz"),
        *("broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "slice", "rev", "concatenate", "pad"),
    )
)
