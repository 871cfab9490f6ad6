"""Targets: what is searched. An operation, the space of its inputs, a measure, a claim and, where there is one, a
bound.

A target asks one of two questions:

Amplification   one function, an input and a small move of it: relative output drift / relative input drift.
Drift           two implementations of one operation, the same input: how far apart, in a norm-relative measure.

Each lives in one file of ``diffuzz/targets/`` that defines ``TARGET`` and is found by its name. A user's own function
takes the place of the implementation under test through the target's ``Contract``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any

import attrs
import numpy as np

from diffuzz import kernels, perturb
from diffuzz.case import Case
from diffuzz.space import Space

Params = Mapping[str, Any]
Arrays = Mapping[str, Any]


class ParameterError(ValueError):
    """A parameter that the target does not have, or a value outside its range; one line."""


@attrs.frozen
class Parameter:
    """A parameter of a target: its name, default (whose type is the parameter's), range or choices, and meaning.

    One ``of_candidate`` says how a candidate is called, and is no part of the target's own question. One that is not
    ``recorded``, either, is in an entry of the corpus only where a candidate, or a pair of kernels, was judged.
    """

    name: str
    default: int | float | bool | str
    help: str
    low: float | None = attrs.field(default=None, kw_only=True)
    high: float | None = attrs.field(default=None, kw_only=True)
    choices: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    of_candidate: bool = attrs.field(default=False, kw_only=True)
    recorded: bool = attrs.field(default=True, kw_only=True)

    def parse(self, value: Any) -> Any:
        """``value`` (text or number) as the parameter's type. Raises ParameterError outside range or choices."""
        kind = type(self.default)
        try:
            if kind is bool:
                parsed: Any = {"true": True, "false": False}[str(value).lower()]
            elif kind is int:
                parsed = int(value) if isinstance(value, str) else int(float(value))
                if float(value) != parsed:
                    raise ValueError
            else:
                parsed = kind(value)
        except (ValueError, KeyError, OverflowError, TypeError):
            wanted = "true or false" if kind is bool else {int: "a whole number", float: "a number"}.get(kind, "text")
            raise ParameterError(f"parameter {self.name}={value!s}: {wanted} is needed") from None
        if self.choices and parsed not in self.choices:
            raise ParameterError(f"parameter {self.name}={value!s}: one of {', '.join(self.choices)} is needed")
        low, high = self.low, self.high
        if isinstance(parsed, (int, float)) and not isinstance(parsed, bool):
            below, above = low is not None and not parsed >= low, high is not None and not parsed <= high
            if below or above or not math.isfinite(parsed):
                raise ParameterError(
                    f"parameter {self.name}={value!s} is out of range: "
                    f"{-math.inf if low is None else low:g} <= {self.name} <= {math.inf if high is None else high:g}"
                )
        return parsed


@attrs.frozen
class Bound:
    """A proven upper bound of a target's value over its space.

    ``value`` holds in exact arithmetic; ``rounding`` is the relative excess that the float32 rounding of the measured
    implementations may add to it (0 where the value is that of the exact function). ``because`` is the derivation in
    one line; the docstring of the target has it in full.
    """

    value: float
    because: str
    rounding: float = attrs.field(default=0.0, kw_only=True)

    @property
    def ceiling(self) -> float:
        """What no measured value exceeds: ``value (1 + rounding)``."""
        return self.value * (1.0 + self.rounding)


@attrs.frozen
class Outcome:
    """Values of a batch: ``value`` float64[b], each known to within +-``noise`` float64[b]; ``detail`` names what they
    are made of.
    """

    value: np.ndarray
    noise: np.ndarray
    detail: Mapping[str, np.ndarray] = attrs.field(factory=dict)


@attrs.frozen
class Measurement:
    """The value of one case, its numerical noise, its measure in words, and the numbers it is made of."""

    value: float
    noise: float
    measure: str
    detail: Mapping[str, float] = attrs.field(factory=dict)


@attrs.frozen
class Amplification:
    """Amplification of a function under the perturbation model of parameter ``perturbation`` and budget ``delta``.

    value = (||f(x') - f(x)||_norm / scale) / drift(x, x'), the drift being the largest over the perturbed inputs.

    ``function(params, arrays, kernels) -> (output [b, ...], scale [b], magnitude [b])`` evaluates f with the operations
    of a kernel module (``diffuzz.kernels.exact`` or ``.xla``, both with ``.xp``): scale is what the output drift is
    relative to, magnitude the size of the terms that f adds up (its rounding errors are a few ULP of it).
    ``inputs(params)`` names the arrays that move; array ``x`` has its direction in array ``x_direction``.
    """

    function: Callable[[Params, Arrays, ModuleType], tuple[Any, Any, Any]]
    inputs: Callable[[Params], tuple[str, ...]]
    norm: float

    def move(self, params: Params, arrays: Arrays, xp: Any = np) -> tuple[dict[str, Any], Any]:
        """The perturbed arrays, and the input drift [b]."""
        moved = dict(arrays)
        drifts = []
        for name in self.inputs(params):
            x = arrays[name]
            moved[name] = perturb.apply(params["perturbation"], x, arrays[f"{name}_direction"], params["delta"], xp)
            drifts.append(perturb.drift(params["perturbation"], x, moved[name], xp))
        drift = drifts[0]
        for other in drifts[1:]:
            drift = xp.maximum(drift, other)
        return moved, drift

    def ratio(self, params: Params, arrays: Arrays, kernels: ModuleType) -> tuple[Any, Any, Any, Any]:
        """(value, noise, output drift, input drift), each [b], with the operations of ``kernels``."""
        xp = kernels.xp
        moved, drift_in = self.move(params, arrays, xp)
        before, scale, magnitude = self.function(params, arrays, kernels)
        after, _, _ = self.function(params, moved, kernels)
        usable = (scale > 0) & (drift_in > 0)
        safe_scale, safe_drift = xp.where(usable, scale, 1.0), xp.where(usable, drift_in, 1.0)
        drift_out = perturb.norm(after - before, self.norm, xp) / safe_scale
        value = xp.where(usable, drift_out / safe_drift, 0.0)
        # Two evaluations, each wrong by a few units in the last place of a float64 sum of terms of that magnitude.
        noise = xp.where(usable, 32 * 2.0**-53 * magnitude / safe_scale / safe_drift, 0.0)
        return value, noise, drift_out, drift_in

    def evaluate(self, params: Params, arrays: Arrays) -> Outcome:
        """Values of a batch by the exact (float64) kernels."""
        from diffuzz.kernels import exact

        value, noise, drift_out, drift_in = self.ratio(params, arrays, exact)
        return Outcome(value, noise, {"output drift": drift_out, "input drift": drift_in})

    def screen(self, params: Params) -> Callable[[Arrays], Any]:
        """A JAX-traceable function ``arrays -> value [b]``."""
        from diffuzz.kernels import xla

        return lambda arrays: self.ratio(params, arrays, xla)[0]


@attrs.frozen
class Drift:
    """Drift between two implementations.

    ``evaluate(params, arrays) -> Outcome`` is exact about bits (NumPy); ``screen(params)``, where given, makes a
    JAX-traceable function ``arrays -> value [b]`` of the same measure, for engines only. ``solve(params, arrays) ->
    arrays``, where given, is a NumPy function that replaces the arrays of kind ``direction`` in a batch by the worst
    ones it knows. ``steady`` is False where a value may depend on the other rows of its batch, or on chance, as that of
    a user's function may: then it counts once the row alone has it.
    """

    evaluate: Callable[[Params, Arrays], Outcome]
    screen: Callable[[Params], Callable[[Arrays], Any] | None] | None = None
    solve: Callable[[Params, Arrays], dict[str, np.ndarray]] | None = None
    steady: bool = True


@attrs.frozen
class Contract:
    """What a user's function must do to stand in for the implementation under test, and how far off it may be.

    ``call(params, function, arrays)`` calls the user's function as ``signature`` says, for a batch; ``run(params,
    arrays, kernels)`` does the operation with those of a kernel module. ``kernels(params)`` names the modules that have
    it (see diffuzz.kernels.get), the reference, our third voice, first.

    ``allowance`` is the a-priori bound of |result - exact| of the stated arithmetic, element by element (see
    diffuzz.errors); ``rounding``, where it is less, the part of it that does not stem from a choice, such as that of a
    quantiser. With ``allowance`` None the result is fixed to the bit: it must equal the reference's, or
    ``accepts(params, arrays, result)``, bool like the result, says which of its elements are right; ``allows`` the same
    of all that any choice could give which the arithmetic leaves (the rule for ties). ``space(params)``
    is the space of the cases where it is not that of the target, and ``starts(params, rng, count)`` then makes
    constructions for it.

    ``batched``: the function is given a batch of cases in one call, whose rows it may mix up; ``scalars`` are arrays
    that stand for a scalar argument, one for each such call. ``result_format(params)`` is the block format of a result
    that is bytes of blocks.
    """

    signature: str
    call: Callable[[Params, Callable[..., Any], Arrays], np.ndarray]
    run: Callable[[Params, Arrays, Any], np.ndarray]
    kernels: Callable[[Params], tuple[str, ...]]
    allowance: Callable[[Params, Arrays], np.ndarray] | None = None
    rounding: Callable[[Params, Arrays], np.ndarray] | None = None
    accepts: Callable[[Params, Arrays, np.ndarray], np.ndarray] | None = None
    allows: Callable[[Params, Arrays, np.ndarray], np.ndarray] | None = None
    space: Callable[[Params], Space] | None = None
    starts: Callable[[Params, np.random.Generator, int], dict[str, np.ndarray]] | None = None
    batched: bool = True
    scalars: tuple[str, ...] = ()
    result_format: Callable[[Params], str] | None = None

    def exact(self, params: Params, arrays: Arrays) -> np.ndarray:
        """The exact result, in float64."""
        return self.run(params, arrays, kernels.get("exact"))

    def reference(self, params: Params, arrays: Arrays) -> np.ndarray:
        """The result of the reference."""
        return self.run(params, arrays, kernels.get(self.kernels(params)[0]))


@attrs.frozen
class Target:
    """One thing to search. See the module's docstring; ``diffuzz/targets/rmsnorm.py`` is a commented example.

    ``measure(params)`` is the measure in words, printed with every value. ``bound(params)`` is the proven limit or
    None. ``limit(params)`` is the default T of the claim "more than T". ``starts(params, rng, count)``, where given,
    makes a batch of constructions that are known to come close to the limit. ``tolerance`` is the relative difference
    within which a replay on another machine counts as the same value: 0 where every bit is ours, a few float64 ULP of
    noise where libm takes part. ``cost`` is the work of one evaluation in operations per element of the case, relative
    to a norm's. ``compiles`` says that each new shape is compiled, so that engines look at few.
    """

    name: str
    summary: str
    parameters: tuple[Parameter, ...]
    space: Callable[[Params], Space]
    question: Amplification | Drift
    measure: Callable[[Params], str]
    bound: Callable[[Params], Bound | None]
    claim: str
    limit: Callable[[Params], float]
    tolerance: float = 0.0
    cost: float = 1.0
    starts: Callable[[Params, np.random.Generator, int], dict[str, np.ndarray]] | None = None
    contract: Contract | None = None
    compiles: bool = False

    def params(self, given: Mapping[str, Any] | None = None) -> Params:
        """All parameters, the given ones (text or numbers) parsed and checked, the others at their defaults.

        Raises ParameterError, one line, for an unknown name or a value out of range.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in given or {}:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ParameterError(f"target {self.name} has no parameter {name!r} (it has {', '.join(known)}){hint}")
        values = {name: p.parse((given or {}).get(name, p.default)) for name, p in known.items()}
        params = MappingProxyType(values)
        try:
            self.space(params)
        except ParameterError:
            raise
        except ValueError as error:
            raise ParameterError(f"target {self.name}: {error}") from error
        return params


def evaluate(target: Target, params: Params, case: Case) -> Measurement:
    """Value of one admissible case, by the exact implementations.

    Raises InadmissibleError if the case is not in the target's space.
    """
    target.space(params).check(case)
    # Overflow and NaN are values like any other here.
    with np.errstate(all="ignore"):
        outcome = target.question.evaluate(params, case.batch())
    return Measurement(
        float(outcome.value[0]),
        float(outcome.noise[0]),
        target.measure(params),
        {name: float(values[0]) for name, values in outcome.detail.items()},
    )
