"""Operations: one function of jax.numpy with declared tensors is all of a target.

    import jax.numpy as jnp
    from diffuzz import operation, tensor

    @operation(
        x=tensor("b n", max_abs=1e4),
        gain=tensor("n", low=-4, high=4),
        sizes={"n": (1, 1025), "b": (1, 5)},
    )
    def scaled_norm(x, gain, *, eps=1e-5):
        "RMSNorm with a gain."
        return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps) * gain

    python -m diffuzz search --target my_ops.py:scaled_norm --candidate my_kernels.py:scaled_norm

What follows from the function:

    the exact result and the error bound of a function that is judged: diffuzz.targets.derived
    the claim of the target: that a drift of the first floating-point input is amplified more than five times. The worst
    direction of a drift is solved from the derivatives of the function. The value has no proven bound unless ``bound``
    gives one, so the claim is CONFIRMED or UNRESOLVED.

The function is traced for one case and mapped over a batch (jax.vmap), so it may be any function of jax.numpy, jax.nn
and jax.lax whose control flow does not depend on the numbers. Its parameters, what follows ``*``, are Python values.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from diffuzz import formats, kernels
from diffuzz.cases.ranges import dtype_of, float32_range, has_infinity
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.kernels import Implementation
from diffuzz.targets import derived, perturbations
from diffuzz.targets.amplification import Amplification
from diffuzz.targets.contract import Contract, Function, Scalar, checked
from diffuzz.targets.derived import Arguments, Derived
from diffuzz.targets.error_bounds import UNIT
from diffuzz.targets.lazily import lazily as lazily
from diffuzz.targets.outcome import Arrays, Bound
from diffuzz.targets.parameter import Parameter, Params
from diffuzz.targets.target import Target
from diffuzz.targets.tensors import BATCH as BATCH
from diffuzz.targets.tensors import Sizes, Tensor, checked_sizes, dims_of
from diffuzz.targets.tensors import tensor as tensor

if TYPE_CHECKING:
    from jaxtyping import Float64

    from diffuzz.targets.amplification import Evaluated

DELTA = Parameter("delta", 0.00077, "size of the perturbation, relative", low=1e-6, high=0.5)
PERTURBATION = Parameter("perturbation", "componentwise", "model of the perturbation", choices=perturbations.MODELS)
FORMAT = "format"
# A claim of amplification is that the drift grows more than this.
THRESHOLD = 5.0
# The relative size of the least drifting input, below its largest: a vector of zeros has no relative drift.
_LEAST_PEAK, _LEAST_OTHER_PEAK = 2.0**-20, 2.0**-80
# NumPy of other machines differs by some float64 ULP, and the value of a small drift by 1 / delta times that.
_TOLERANCE = 1e-6
# A varied parameter is multiplied by 10^j, j within this of 0.
_DECADES = 3
_FILE_MODULE = "diffuzz_file_"
# Names of parameters that every operation has.
_TAKEN = frozenset(one.name for one in (*derived.ARITHMETIC, DELTA, PERTURBATION))


@attrs.frozen(eq=False)
class Operation:
    """A function of jax.numpy, declared by ``operation``. It can still be called; ``target`` is what is searched."""

    function: Callable[..., Any]
    name: str
    tensors: Mapping[str, Tensor]
    optional: frozenset[str]
    sizes: Mapping[str, Sizes]
    usual: Mapping[str, int]
    parameters: tuple[Parameter, ...]
    varied: tuple[str, ...]
    reference_only: tuple[str, ...]
    resolved: Mapping[str, Callable[[Params, Mapping[str, int]], object]]
    forms: tuple[Callable[..., Any], ...]
    _threshold: float
    _bound: Callable[[Params], Bound] | None
    _cost: float
    _result: str
    target: Target = attrs.field(init=False)

    @target.default
    def _made(self) -> Target:
        return _target(self)

    def __call__(self, *positional: object, **named: object) -> Any:
        """The reference itself."""
        return self.function(*positional, **named)

    def present(self, p: Params) -> dict[str, Tensor]:
        """The tensors that cases have under these parameters."""
        return {name: one for name, one in self.tensors.items() if name not in self.optional or p[name]}

    def format_of(self, name: str, p: Params) -> str | None:
        """The block format of a tensor that has one."""
        return None if self.tensors[name].format is None else str(p[FORMAT])


def operation(
    *,
    sizes: Mapping[str, object] = MappingProxyType({}),
    usual: Mapping[str, int] = MappingProxyType({}),
    parameters: Sequence[Parameter] = (),
    varied: Sequence[str] = (),
    reference_only: Sequence[str] = (),
    resolved: Mapping[str, Callable[[Params, Mapping[str, int]], object]] = MappingProxyType({}),
    forms: Sequence[Callable[..., Any]] = (),
    bound: Callable[[Params], Bound] | None = None,
    threshold: float = THRESHOLD,
    cost: float = 4.0,
    result: str = "",
    name: str | None = None,
    **tensors: Tensor,
) -> Callable[[Callable[..., Any]], Operation]:
    """Declare a function of jax.numpy as an operation, which is a target like any built-in one.

    tensors          a ``tensor(...)`` for each array argument, by its name; one after ``*`` with the default None is
                     optional: a parameter of its name, false by default, says whether cases have it
    sizes            ranges of dimensions, (least, largest) or (least, largest, step); (1, 1025), and (1, 5) for the
                     batch b, if left out. The least may be the name of a parameter, the largest that of a dimension.
    usual            sizes that most cases have, of dimensions for which they should not be found by halving the largest
                     until a case has 4096 elements
    parameters       Parameter objects for those parameters of the function whose default does not say it all
    varied           float parameters that a search varies, by 10^-3 to 10^3, because implementations forget them
    reference_only   parameters that choose the reference, and that a candidate is not called with
    resolved         what a candidate is called with for a parameter whose default stands for something else, as a scale
                     of 0 does for 1 / sqrt(d): by its name, a function of the parameters and of the sizes of dimensions
    forms            other formulas that are allowed; the error bound is the largest of all
    bound            a proven bound of the amplification: a function of the parameters
    threshold        the T of the claim that a drift is amplified more than T times
    cost             operations per element of a case
    result           names and dimensions of the results, for people: "values[b, k], indices[b, k]"
    name             the name of the target; by default that of the function, after that of its file

    Raises ValueError, one line that begins with the name of the function, for what does not fit together.
    """

    def declare(function: Callable[..., Any]) -> Operation:
        own = name or _name(function)
        try:
            return _declared(function, own)
        except ValueError as error:
            raise ValueError(f"operation {own}: {error}") from error

    def _declared(function: Callable[..., Any], own: str) -> Operation:
        arguments = inspect.signature(function).parameters
        positional = [one.name for one in arguments.values() if one.kind is not one.KEYWORD_ONLY]
        keyword = {one.name: one.default for one in arguments.values() if one.kind is one.KEYWORD_ONLY}
        for one, declared in tensors.items():
            if not isinstance(declared, Tensor):
                raise ValueError(f"{one}={declared!r}: a tensor(...) is needed")
            if one not in arguments:
                raise ValueError(f"the function has no argument {one!r} (it has {', '.join(arguments)})")
        if missing := [one for one in positional if one not in tensors]:
            raise ValueError(f"a tensor is needed for the argument {missing[0]!r}; parameters follow *")
        optional = frozenset(one for one in keyword if one in tensors)
        if wrong := [one for one in optional if keyword[one] is not None]:
            raise ValueError(f"the optional tensor {wrong[0]!r} needs the default None")
        known = {one.name: one for one in parameters}
        if not isinstance(sizes, Mapping):
            raise ValueError(f"sizes={sizes!r:.80}: ranges by the names of dimensions are needed")
        if not isinstance(forms, (tuple, list)) or not all(callable(one) for one in forms):
            raise ValueError(f"forms={forms!r:.80}: a tuple of functions is needed")
        if bound is not None and not callable(bound):
            raise ValueError(f"bound={bound!r:.80}: a function of the parameters is needed, which returns a Bound")
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
            raise ValueError(f"threshold={threshold!r:.80}: a number is needed")
        if taken := [one for one in keyword if one in _TAKEN]:
            raise ValueError(f"the parameter {taken[0]!r} is one that every operation has: choose another name")
        asked = []
        for one, default in keyword.items():
            if one in tensors:
                asked.append(Parameter(one, False, f"true: cases have {one}, too", later=True))
            elif one in known:
                if known[one].default != default:
                    raise ValueError(
                        f"the parameter {one!r} has the default {default!r} in the function and "
                        f"{known[one].default!r} in parameters="
                    )
                asked.append(known.pop(one))
            else:
                asked.append(_parameter(one, default))
        if known:
            raise ValueError(f"the function has no parameter {next(iter(known))!r} after *")
        for one in (*varied, *reference_only, *resolved):
            if one not in keyword or one in tensors:
                raise ValueError(f"there is no parameter {one!r} after *")
        for one in varied:
            if not isinstance(keyword[one], float):
                raise ValueError(f"the varied parameter {one!r} needs a float as its default")
        stored = [one.format for one in tensors.values() if one.format is not None]
        if stored:
            asked.append(Parameter(FORMAT, stored[0] or "", "block format of the weights", choices=formats.names))
        if not any(one.is_float for place, one in tensors.items() if place not in optional):
            raise ValueError("a tensor of floating-point numbers is needed, of which a drift may be amplified")
        return Operation(
            function=function,
            name=own,
            tensors=MappingProxyType({one: tensors[one] for one in (*positional, *keyword) if one in tensors}),
            optional=optional,
            sizes=MappingProxyType(checked_sizes(tensors, sizes, [one.name for one in asked], usual)),
            usual=MappingProxyType(dict(usual)),
            parameters=tuple(asked),
            varied=tuple(varied),
            reference_only=tuple(reference_only),
            resolved=MappingProxyType(dict(resolved)),
            forms=tuple(forms),
            threshold=threshold,
            bound=bound,
            cost=cost,
            result=result,
        )

    return declare


def _name(function: Callable[..., Any]) -> str:
    """Name of the target: that of the function, in a file of a user after that of the file."""
    if function.__module__.startswith(_FILE_MODULE):
        return f"{Path(function.__code__.co_filename).stem}.{function.__name__}"
    return function.__name__


def _parameter(name: str, default: object) -> Parameter:
    if not isinstance(default, (bool, int, float, str)):
        raise ValueError(f"the parameter {name!r} needs a default that is a number, true or false, or text")
    return Parameter(name, default, "parameter of the function")


def _target(op: Operation) -> Target:
    drifting = next(name for name, one in op.tensors.items() if one.is_float and name not in op.optional)
    reference = Derived(
        lambda p: _bound_to(op, p), lambda p: _forms(op, p), lambda p, arrays: _arguments(op, p, arrays)
    )
    scalars = tuple(Scalar(f"{name}_exponent", name, _varied(name)) for name in op.varied)
    summary = (inspect.getdoc(op.function) or op.name).partition("\n")[0].rstrip(".")
    return Target(
        name=op.name,
        summary=summary,
        parameters=(*op.parameters, DELTA, PERTURBATION),
        space=lambda p: _drifting_space(op, p, drifting),
        question=Amplification(
            lambda p, arrays, module: _evaluated(op, reference, p, arrays, module),
            lambda p: (drifting,),
            norm=2,
            conditioned=True,
        ),
        measure=lambda p: f"(||dy||_2/||y||_2) / ({p['perturbation']} drift of {drifting})",
        bound=lambda p: None if op._bound is None else op._bound(p),
        claim=f"{op.name} amplifies a drift of {drifting}",
        threshold=lambda p: op._threshold,
        tolerance=_TOLERANCE,
        cost=op._cost,
        contract=Contract(
            signature=_signature(op),
            parameters=(*op.parameters, *derived.ARITHMETIC),
            space=lambda p: _space(op, p),
            call=lambda p, f, arrays: _call(op, p, f, arrays),
            run=lambda p, arrays, module: _run(op, reference, p, arrays, module),
            kernels=lambda p: ("exact", "xla"),
            allowance=reference.allowance,
            first_allowance=reference.first_allowance if op.forms else None,
            results=reference.results,
            derived=reference,
            settled=reference.settled,
            scalars=scalars,
            batched=False,
        ),
    )


def _signature(op: Operation) -> str:
    arrays = [one.text(name) for name, one in op.tensors.items() if name not in op.optional]
    given = [p for p in op.parameters if p.name not in op.reference_only and p.name not in (*op.optional, FORMAT)]
    named = [f"{p.name}: {type(p.default).__name__}" for p in given]
    named += [f"{op.tensors[name].text(name)} | None" for name in op.tensors if name in op.optional]
    arguments = ", ".join([*arrays, *(["*", *named] if named else [])])
    return f"f({arguments}) -> {op._result or 'what the reference returns'}"


def _varied(name: str) -> Callable[[Params, np.ndarray], Float64[np.ndarray, " b"]]:
    return lambda p, exponents: p[name] * 10.0 ** exponents.astype(np.float64)


def _dims(op: Operation, p: Params) -> dict[str, Dim]:
    present = op.present(p)
    multiples = {
        one.dims[-1]: formats.get(str(p[FORMAT])).block_size for one in present.values() if one.format is not None
    }
    return dims_of(
        present, {name: op.sizes[name] for one in present.values() for name in one.dims}, multiples, p, op.usual
    )


def _space(op: Operation, p: Params) -> Space:
    """The cases that candidates are called with."""
    dims, dtype = _dims(op, p), p.get("dtype", "float32")
    specs = [one.spec(name, dims, dtype, op.format_of(name, p)) for name, one in op.present(p).items()]
    row = Dim("row", 1, fixed=True)
    specs += [
        TensorSpec(f"{name}_exponent", kind="positions", shape=(row,), low=-_DECADES, high=_DECADES)
        for name in op.varied
    ]
    return Space(tuple(specs))


def _drifting_space(op: Operation, p: Params, drifting: str) -> Space:
    """The cases of the claim: those of one call, and the direction in which an input moves."""
    specs = []
    for spec in _space(op, p).tensors:
        if spec.name == drifting:
            spec = attrs.evolve(spec, smallest_peak=max(abs(spec.low), abs(spec.high)) * _LEAST_PEAK)
            moved = TensorSpec(
                f"{drifting}_direction", kind="direction", shape=spec.shape, low=-1.0, high=1.0,
                smallest_peak=_LEAST_PEAK,
            )  # fmt: skip
            specs += [spec, moved]
        elif spec.name not in {f"{name}_exponent" for name in op.varied}:
            if spec.kind in ("activations", "logits"):
                # XLA reads subnormal numbers as 0, so a screen would not see an array of nothing else.
                spec = attrs.evolve(spec, smallest_peak=max(abs(spec.low), abs(spec.high)) * _LEAST_OTHER_PEAK)
            specs.append(spec)
    return Space(tuple(specs))


def _sizes(op: Operation, p: Params, arrays: Arrays) -> dict[str, int]:
    """The sizes of the dimensions of a batch, as functions see them: none above the one that it ends at."""
    found: dict[str, int] = {}
    for name, one in op.present(p).items():
        shape = list(np.shape(arrays[name])[1:])
        if one.format is not None:
            block = formats.get(op.format_of(name, p) or "")
            shape[-1] = shape[-1] // block.type_size * block.block_size
        found |= dict(zip(one.dims, shape, strict=True))
    ends = {name: most for name, (_, most, _) in op.sizes.items() if isinstance(most, str) and name in found}
    return found | {name: min(found[name], found[most]) for name, most in ends.items()}


def _given(op: Operation, p: Params, arrays: Arrays, xp: ArrayModule = np) -> dict[str, AnyArray]:
    """What functions are called with for a batch, by name, in the dtypes of the case."""
    sizes = _sizes(op, p, arrays)
    dtype = p.get("dtype", "float32")
    given = {}
    for name, one in op.present(p).items():
        # No number is below this one, and so none becomes an infinity that the dtype would make NaN.
        least = -np.inf
        if one.minus_infinity and has_infinity(dtype):
            low, high = one.range_in(dtype)
            least = float(
                float32_range(TensorSpec(name, kind="activations", shape=(), low=low, high=high, holds=dtype))[0]
            )
        array = one.given(arrays[name], sizes, least, xp, op.format_of(name, p))
        given[name] = array.astype(bool) if one.dtype == "bool" else array
    return given


def _scalars(op: Operation, p: Params, arrays: Arrays) -> dict[str, Float64[np.ndarray, " b"]]:
    """The varied parameters of each case."""
    return {
        name: _varied(name)(
            p, np.asarray(arrays[f"{name}_exponent"]).reshape(len(arrays[f"{name}_exponent"]), -1)[:, 0]
        )
        for name in op.varied
        if f"{name}_exponent" in arrays
    }


def _call(op: Operation, p: Params, f: Function, arrays: Arrays) -> np.ndarray:
    """Results of a function that is called once for each case."""
    given, scalars = _given(op, p, arrays), _scalars(op, p, arrays)
    dtype = dtype_of(p["dtype"])
    for name, one in op.present(p).items():
        if one.is_float:
            given[name] = given[name].astype(dtype)
    static = {
        one.name: p[one.name]
        for one in op.parameters
        if one.name not in op.reference_only and one.name not in (*op.optional, FORMAT)
    }
    static |= {name: value(p, _sizes(op, p, arrays)) for name, value in op.resolved.items()}
    # What a function names among its arguments, and the case does not have.
    static |= {name: None for name in op.optional - set(given) if name in _named_by(f)}
    results = []
    for case in range(len(next(iter(given.values())))):
        # Copies, each of its own: a function may keep what it is given, or write to it.
        positional = [np.array(array[case]) for name, array in given.items() if name not in op.optional]
        named = {name: np.array(array[case]) for name, array in given.items() if name in op.optional}
        own = static | {name: float(values[case]) for name, values in scalars.items()}
        results.append(np.array(f(*positional, **own, **named)))
    return np.stack(results)


def _named_by(f: Function) -> set[str]:
    """Names of the arguments of a function, as far as it says them."""
    try:
        return set(inspect.signature(f).parameters)
    except (TypeError, ValueError):
        # One of a library that is compiled.
        return set()


def _arguments(op: Operation, p: Params, arrays: Arrays) -> Arguments:
    """What the reference is called with for a batch: float64 numbers, then the varied parameters."""
    given, errors = [], {}
    for place, (name, array) in enumerate(_given(op, p, arrays).items()):
        if op.tensors[name].format is not None:
            array, errors[place] = _dequantised(str(p[FORMAT]), np.asarray(array))
        given.append(np.asarray(array, np.float64) if array.dtype.kind == "f" else np.asarray(array))
    scalars = list(_scalars(op, p, arrays).values())
    constants = frozenset(range(len(given), len(given) + len(scalars)))
    return Arguments((*given, *scalars), errors, constants)


def _dequantised(fmt: str, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The exact weights, and the error of a float32 dequantiser: three roundings at most, each relative to a term."""
    rows = blocks.reshape(-1, blocks.shape[-1])
    weights = kernels.get("exact").dequantize(fmt, rows)
    from diffuzz.kernels import fused

    terms = fused.terms(fmt, rows, offsets=True)
    shape = (*blocks.shape[:-1], weights.shape[-1])
    return weights.reshape(shape), 3 * UNIT * (1 + 4 * UNIT) * terms.reshape(shape)


def _bound_to(op: Operation, p: Params, function: Callable[..., Any] | None = None) -> derived.Reference:
    """The reference, or another form of it, with its parameters, as a function of arrays and varied parameters."""
    static = tuple((one.name, p[one.name]) for one in op.parameters if one.name not in (*op.optional, FORMAT))
    return _bound_to_static(op, function or op.function, static, tuple(op.present(p)), "dtype" in p)


# Traces are remembered by the function, so the same parameters must give the same function.
@lru_cache(maxsize=256)
def _bound_to_static(
    op: Operation,
    function: Callable[..., Any],
    static: tuple[tuple[str, Any], ...],
    names: tuple[str, ...],
    judged: bool,
) -> derived.Reference:
    varied = op.varied if judged else ()

    def reference(*arguments: AnyArray) -> object:
        by_name = dict(zip((*names, *varied), arguments, strict=True))
        positional = [by_name[name] for name in names if name not in op.optional]
        named = {name: value for name, value in by_name.items() if name in op.optional or name in varied}
        return function(*positional, **(dict(static) | named))

    reference.__name__ = op.name
    return reference


def _forms(op: Operation, p: Params) -> list[derived.Reference]:
    return [_bound_to(op, p, form) for form in op.forms]


def _run(
    op: Operation, reference: Derived, p: Params, arrays: Arrays, module: Implementation
) -> Float64[np.ndarray, "b n"]:
    """Packed results of an implementation: the exact ones, those of XLA, or of a function of the operation's name."""
    if module in (kernels.get("exact"), kernels.get("xla")):
        return reference.run(p, arrays, module, None)
    own = getattr(module, op.name.rpartition(".")[2])
    return _call(op, p, checked(own, reference.results(p, arrays)), arrays)


def _evaluated(op: Operation, reference: Derived, p: Params, arrays: Arrays, module: Implementation) -> Evaluated:
    """The floating-point results of a batch in one vector a case, its length, and what its rounding is relative to."""
    xp = module.xp
    if xp is np:
        values, errors = reference.in_float64(p, arrays)
        return _measured(values, errors, np)
    import jax

    given = [array.astype(float) if array.dtype.kind == "f" else array for array in _traceable(op, p, arrays, xp)]
    got = jax.vmap(_bound_to(op, p))(*given)
    several = got if isinstance(got, (tuple, list)) else (got,)
    flat = [one.reshape(one.shape[0], -1) for one in several if one.dtype.kind == "f"]
    values = xp.concatenate(flat, axis=1)
    return _measured(values, xp.zeros_like(values), xp)


def _traceable(op: Operation, p: Params, arrays: Arrays, xp: ArrayModule) -> list[AnyArray]:
    """What the reference is called with in a screen."""
    from diffuzz.kernels import xla

    made = []
    for name, array in _given(op, p, arrays, xp).items():
        if op.tensors[name].format is not None:
            fmt = formats.get(str(p[FORMAT]))
            weights = xla.dequantize(fmt.name, array.reshape(-1, fmt.type_size))
            array = weights.reshape(*array.shape[:-1], -1)
        made.append(array)
    return made


def _measured(values: AnyArray, errors: AnyArray, xp: ArrayModule) -> Evaluated:
    """The output, its scale ||y||_2, and the magnitude of its rounding, in the unit that Amplification asks for."""
    length = perturbations.norm(values, 2, xp)
    usable = xp.isfinite(length)
    # Twice an error of e is 32 * 2^-53 times a magnitude of this.
    magnitude = 2 * perturbations.norm(errors, 2, xp) / (32 * 2.0**-53)
    return xp.where(xp.isfinite(values), values, 0.0), xp.where(usable, length, 0.0), magnitude
