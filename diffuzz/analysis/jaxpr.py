"""Running error analysis of a function of jax.numpy, over its own jaxpr.

The function is traced in float64, so its Python constants are exact. Then its equations are walked with NumPy: each
number is carried as its exact value in float64 and a bound of the distance between it and what an implementation
computes (Higham, Accuracy and Stability of Numerical Algorithms, section 3.3). No equation is compiled, so another
shape costs no more than another trace.

    traced = trace(softmax, [jax.ShapeDtypeStruct((256, 64), "float32")], batched={0})
    [estimate] = bound(traced, [x], Arithmetic.of("bfloat16"))

A result whose traced dtype is float64 is rounded to the arithmetic's ``compute``; one that the function itself made
float32, bfloat16, float16 or float8 (by ``astype``) is rounded to that.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np

from diffuzz.analysis import control
from diffuzz.analysis.arithmetic import FORMATS, Arithmetic
from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.inlining import Program, inlined
from diffuzz.analysis.primitives import ENTRIES
from diffuzz.analysis.rounding import Bounds, Values
from diffuzz.analysis.rules import conversions
from diffuzz.analysis.walking import AnalysisError as AnalysisError
from diffuzz.analysis.walking import Roundings, distance_to, walk

_TRACES: collections.OrderedDict[Any, Traced] = collections.OrderedDict()
_KEPT_TRACES = 256
# Functions that were traced before and have no loops or branches of JAX. Each call of jax.numpy is a function that is
# compiled, and takes most of the time of a trace as such. Without compilation it is part of the caller, but loops and
# branches would be run by Python.
_STRAIGHT: collections.OrderedDict[Any, None] = collections.OrderedDict()


@attrs.frozen(eq=False)
class Traced:
    """A traced function. ``program`` has its equations; ``out_tree`` the structure of its result, with ``out_shapes``
    and ``out_dtypes`` for its leaves: "float" for results in the arithmetic's storage dtype, else the name of a dtype.
    ``in_floats`` says which inputs are such floats.
    """

    program: Program
    out_tree: Any
    out_shapes: tuple[tuple[int, ...], ...]
    out_dtypes: tuple[str, ...]
    in_shapes: tuple[tuple[int, ...], ...]
    in_floats: tuple[bool, ...]


def trace(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    *,
    batched: Collection[int] | int = (),
    named: Mapping[str, Any] | None = None,
) -> Traced:
    """The function traced for arguments of these shapes (arrays or jax.ShapeDtypeStructs, or trees of them).

    Float inputs are traced as float64, integers and truth values as they are. ``named`` are keyword arguments: arrays
    are traced too, after the others, and anything else is a constant. With ``batched`` (positions of arguments; 0 or ()
    for none) the function is one of a single row and is mapped over the leading axis of those arguments. A second trace
    of the same function for the same shapes costs nothing; as with jax.jit, what the function reads besides its
    arguments is what it read then. Raises AnalysisError where the function cannot be traced.
    """
    import jax
    import jax.numpy as jnp

    named = dict(named or {})
    mapped = frozenset() if isinstance(batched, int) else frozenset(batched)
    arrays = {name: value for name, value in named.items() if hasattr(value, "shape") and hasattr(value, "dtype")}
    static = {name: value for name, value in named.items() if name not in arrays}
    leaves, tree = jax.tree.flatten((tuple(arguments), arrays))
    specs = tuple(_spec(leaf) for leaf in leaves)
    key: Any
    try:
        # 1, 1.0 and true are equal, and so are zeros of both signs.
        constants = tuple((name, type(value), repr(value), value) for name, value in sorted(static.items()))
        key = (function, specs, tree, mapped, constants)
        # Another thread may drop it at any time.
        known = _TRACES.pop(key, None)
    except TypeError:
        key = known = None
    if known is not None:
        _TRACES[key] = known
        return known

    def called(positional: Any, keywords: Any) -> Any:
        if not mapped:
            return function(*positional, **keywords, **static)
        axes = tuple(0 if position in mapped else None for position in range(len(positional)))
        return jax.vmap(lambda *row: function(*row, **keywords, **static), in_axes=axes)(*positional)

    straight = key is not None and key[0] in _STRAIGHT
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.disable_jit(straight):
        struct: Any = jax.ShapeDtypeStruct
        structs = [struct(shape, jnp.dtype(dtype)) for shape, dtype in specs]
        try:
            closed, shapes = jax.make_jaxpr(called, return_shape=True)(*jax.tree.unflatten(tree, structs))
        except AnalysisError:
            raise
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise AnalysisError(
                f"{_name(function)}: cannot be traced by JAX: {type(error).__name__}: {first}"
            ) from error
    out, out_tree = jax.tree.flatten(shapes)
    traced = Traced(
        inlined(closed, {*ENTRIES, *control.ENTRIES}),
        out_tree,
        tuple(tuple(each.shape) for each in out),
        tuple("float" if each.dtype == np.float64 else str(each.dtype) for each in out),
        tuple(shape for shape, _ in specs),
        tuple(dtype == "float64" for _, dtype in specs),
    )
    if key is not None:
        if not {equation.primitive.name for equation in traced.program.eqns} & set(control.ENTRIES):
            _STRAIGHT[key[0]] = None
            if len(_STRAIGHT) > _KEPT_TRACES:
                _STRAIGHT.popitem(last=False)
        _TRACES[key] = traced
        if len(_TRACES) > _KEPT_TRACES:
            _TRACES.popitem(last=False)
    return traced


def evaluate(traced: Traced, inputs: Sequence[Any]) -> list[np.ndarray]:
    """The function's results in float64 (integers and truth values in their dtype), evaluated by NumPy: the same bits
    every time.

    Raises ValueError for inputs of other shapes, AnalysisError for a primitive without a rule.
    """
    values = Values()
    with np.errstate(all="ignore"):
        estimates = [Estimate(_array(traced, position, each)) for position, each in enumerate(_checked(traced, inputs))]
        results = walk(traced.program, traced.program.consts, estimates, Roundings(values))
    return [each.value for each in results]


def bound(
    traced: Traced,
    inputs: Sequence[Any],
    arithmetic: Arithmetic,
    *,
    exact_inputs: bool = True,
    constants: Collection[int] = (),
    errors: Mapping[int, np.ndarray] = MappingProxyType({}),
) -> list[Estimate]:
    """The function's exact results, and how far an implementation of this arithmetic may be from them.

    ``inputs`` are numbers that the storage dtype holds; with ``exact_inputs=False`` they are rounded to it first.
    Inputs at the positions ``constants`` (like an epsilon) are no stored numbers: implementations round them to
    ``compute``. The errors include the last rounding to the storage dtype. Raises as :func:`evaluate`.
    """
    with np.errstate(all="ignore"):
        rounding = Bounds.of(arithmetic)
        estimates = [
            _loaded(traced, position, each, arithmetic, rounding, exact_inputs, position in constants)
            for position, each in enumerate(_checked(traced, inputs))
        ]
        for position, error in errors.items():
            own = estimates[position]
            estimates[position] = attrs.evolve(own, error=own.errors() + error, nonnegative=False)
        results = walk(
            traced.program,
            traced.program.consts,
            estimates,
            Roundings(rounding, arithmetic, lambda number_format: Bounds.of(arithmetic, number_format)),
        )
        return [
            _without_nan(_stored(each, arithmetic, rounding) if dtype == "float" else each)
            for each, dtype in zip(results, traced.out_dtypes, strict=True)
        ]


def _loaded(
    traced: Traced,
    position: int,
    given: Any,
    arithmetic: Arithmetic,
    rounding: Bounds,
    exact: bool,
    constant: bool,
) -> Estimate:
    """An input as an implementation has it after loading it."""
    value = _array(traced, position, given)
    if not traced.in_floats[position]:
        return Estimate(value)
    size = np.abs(value)
    error: np.ndarray | None = None
    if constant or not arithmetic.computing.includes(arithmetic.storage):
        error = distance_to(arithmetic.computing, value)
    if not exact and not constant:
        own = distance_to(arithmetic.storage, value)
        error = own if error is None else error + own
    flushed = rounding.flushed
    if flushed and not arithmetic.storage.keeps_subnormals:
        small = (size < flushed) & (size > 0)
        if small.any():
            error = np.where(small, flushed, 0.0) if error is None else error + np.where(small, flushed, 0.0)
    return Estimate(value, error if error is not None and error.any() else None)


def _stored(a: Estimate, arithmetic: Arithmetic, rounding: Bounds) -> Estimate:
    """A result with its last rounding."""
    storage = arithmetic.storage
    if a.value.dtype != np.float64:
        return a
    if not storage.includes(arithmetic.computing):
        return conversions.stored(rounding, a, storage)
    return a


def _without_nan(a: Estimate) -> Estimate:
    """A result of which nothing is promised where it is NaN."""
    if a.value.dtype != np.float64 or not np.isnan(a.value).any():
        return a
    return attrs.evolve(a, error=np.where(np.isnan(a.value), np.inf, a.errors()))


def _checked(traced: Traced, inputs: Sequence[Any]) -> Sequence[Any]:
    if len(inputs) != len(traced.in_shapes):
        raise ValueError(f"{len(inputs)} inputs were given; the traced function takes {len(traced.in_shapes)}")
    return inputs


def _array(traced: Traced, position: int, given: Any) -> np.ndarray:
    array = np.asarray(given)
    if array.shape != traced.in_shapes[position]:
        raise ValueError(
            f"input {position} has the shape {array.shape}; it was traced with {traced.in_shapes[position]}"
        )
    return array.astype(np.float64) if traced.in_floats[position] else array


def _spec(leaf: Any) -> tuple[tuple[int, ...], str]:
    dtype = str(leaf.dtype) if hasattr(leaf, "dtype") else str(np.asarray(leaf).dtype)
    return tuple(np.shape(leaf)), "float64" if dtype in FORMATS else dtype


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)
