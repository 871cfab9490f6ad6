"""The walk over the equations of a traced function, one rule after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np

from diffuzz.analysis import control
from diffuzz.analysis.arithmetic import FORMATS, Arithmetic, FloatFormat, constant_error, round_to
from diffuzz.analysis.choices import enumerated
from diffuzz.analysis.estimate import Estimate, of_options
from diffuzz.analysis.inlining import Program, called
from diffuzz.analysis.primitives import BY_CHOICE, ENTRIES
from diffuzz.analysis.rounding import Rounding, Values

_FLOAT64 = np.dtype(np.float64)


class AnalysisError(ValueError):
    """A function that cannot be analysed: one line that says what and where."""


@attrs.define(eq=False)
class Roundings:
    """The rounding of an equation by the dtype of its result: ``plain`` for those that are traced in float64, else what
    ``stated`` gives for the format. ``settled`` makes of a constant's estimate what the walk goes on with.
    """

    plain: Rounding
    arithmetic: Arithmetic | None = None
    stated: Callable[[FloatFormat], Rounding] | None = None
    settled: Callable[[Estimate], Estimate] | None = None
    # The equations that the walk is inside of, for messages.
    calls: list[Any] = attrs.field(init=False, factory=list)
    _known: dict[str, Rounding] = attrs.field(init=False, factory=dict)

    def of(self, of_result: Any) -> Rounding:
        """The rounding for results of this dtype."""
        if self.stated is None or of_result == _FLOAT64:
            return self.plain
        dtype = str(of_result)
        if dtype not in FORMATS:
            return self.plain
        if dtype not in self._known:
            self._known[dtype] = self.stated(FORMATS[dtype])
        return self._known[dtype]

    def constant(self, value: Any) -> Estimate:
        """A constant of the function: the nearest number of the format of intermediates may take its place. One beyond
        the largest number (finfo(x.dtype).min, as a mask) is an infinity.
        """
        estimate = _constant(value, self.arithmetic)
        return estimate if self.settled is None else self.settled(estimate)


def _constant(value: Any, arithmetic: Arithmetic | None) -> Estimate:
    array = np.asarray(value)
    if array.dtype.kind in "biu":
        return Estimate(array, constant=True)
    exact = array.dtype.name != "float64" and array.dtype.name in FORMATS
    array = array.astype(np.float64)
    if arithmetic is None:
        return Estimate(array, constant=True)
    computing = arithmetic.computing
    if computing.name != "float64":
        beyond = np.abs(array) > computing.largest
        if beyond.any():
            array = np.where(beyond, np.copysign(np.inf, array), array)
    if exact:
        return Estimate(array, constant=True)
    if array.ndim == 0:
        error = constant_error(computing, float(array))
        nonnegative = bool(array >= 0) and not error
        return Estimate(array, np.asarray(error) if error else None, nonnegative=nonnegative, constant=True)
    errors = distance_to(computing, array)
    return Estimate(array, errors if errors.any() else None, constant=True)


def walk(jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Estimate], roundings: Roundings) -> list[Estimate]:
    """The results of a jaxpr on these estimates."""
    known: dict[Any, Estimate] = dict(zip(jaxpr.constvars, (roundings.constant(each) for each in consts), strict=True))
    known.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Estimate:
        return roundings.constant(atom.val) if hasattr(atom, "val") else known[atom]

    within = jaxpr.within if isinstance(jaxpr, Program) else {}
    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        outer = within.get(id(equation), ())
        roundings.calls.extend(outer)
        results = _apply(equation, operands, roundings)
        if all(each.constant for each in operands):
            results = [attrs.evolve(each, constant=True) for each in results]
        if outer:
            del roundings.calls[-len(outer) :]
        for variable, result in zip(equation.outvars, results, strict=True):
            known[variable] = result
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation: Any, operands: list[Estimate], roundings: Roundings) -> list[Estimate]:
    name = equation.primitive.name
    if any(getattr(getattr(variable.aval, "dtype", None), "kind", "") == "c" for variable in equation.outvars):
        where = _where([*roundings.calls, equation])
        raise AnalysisError(f"complex numbers have no rule of error analysis; they were traced at {where}")
    entry = ENTRIES.get(name)
    if entry is not None:
        rounding = roundings.of(equation.outvars[0].aval.dtype)
        params = equation.params
        if name in ("bitcast_convert_type", "convert_element_type"):
            params = {**params, "source": str(equation.invars[0].aval.dtype)}
        # A float is rounded, and its options would not be.
        of_integers = equation.outvars[0].aval.dtype.kind in "biu"
        if name in BY_CHOICE and of_integers and any(each.choices is not None for each in operands):
            chosen = _by_choice(entry, params, operands)
            if chosen is not None:
                return [chosen]
        try:
            result = entry(rounding, params, *operands)
        except ValueError as error:
            where = _where([*roundings.calls, equation])
            raise AnalysisError(f"{error}; it was traced at {where}") from error
        return result if isinstance(result, list) else [result]
    if name in control.ENTRIES:
        roundings.calls.append(equation)
        results = control.ENTRIES[name](
            equation.params, operands, lambda inner, given: _called(inner, given, roundings)
        )
        roundings.calls.pop()
        return results
    inner = called(equation.params, len(operands))
    if inner is not None:
        roundings.calls.append(equation)
        results = _called(inner, operands, roundings)
        roundings.calls.pop()
        return results
    where = _where([*roundings.calls, equation])
    raise AnalysisError(f"the primitive {name} has no rule of error analysis; it was traced at {where}")


def _called(inner: Any, operands: Sequence[Estimate], roundings: Roundings) -> list[Estimate]:
    """The results of a jaxpr that an equation holds."""
    jaxpr, consts = (inner.jaxpr, inner.consts) if hasattr(inner, "jaxpr") else (inner, ())
    return walk(jaxpr, consts, operands, roundings)


def _by_choice(entry: Any, params: Any, operands: Sequence[Estimate]) -> Estimate | None:
    """The result for each of the integers that an operand may be, where all other operands are certain."""
    if any(each.error is not None and each.choices is None and each.errors().any() for each in operands):
        return None
    options = [each.options() for each in operands]
    if any(option is None and each.choices is not None for option, each in zip(options, operands, strict=True)):
        return None
    values = Values()
    results = enumerated(
        lambda *each: entry(values, params, *map(Estimate, each)).value, [each.value for each in operands], options
    )
    if results is None:
        return None
    exact = entry(values, params, *(Estimate(each.value) for each in operands)).value
    return of_options(results, exact)


def _where(calls: Sequence[Any]) -> str:
    """File and line of the user's code that the innermost of these equations comes from; jax.numpy's own have none."""
    from jax._src import source_info_util

    lines = (str(source_info_util.summarize(equation.source_info)) for equation in reversed(calls))
    return next((line for line in lines if line and not line.startswith(__file__)), "no line of the user's")


def distance_to(number_format: Any, value: np.ndarray) -> np.ndarray:
    gap = np.abs(round_to(number_format, value) - value)
    return np.where(np.isinf(value), 0.0, np.where(np.isnan(gap), np.inf, gap))
