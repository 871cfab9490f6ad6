"""Tolerances for a test of one's own: what a reference and a stated arithmetic allow, instead of a hand-picked rtol.

    exact, allowed = tolerance(f, x, y, dtype="bfloat16", compute="float32")
    assert_within_bound(got, f, x, y, dtype="bfloat16")

``f`` is a function of jax.numpy, or of torch where an argument is a torch tensor (then a torch.nn.Module, too), or an
operation (see diffuzz.targets.operation). The bound is that of a running error analysis of f (see diffuzz.analysis):
no implementation that keeps the arithmetic exceeds it, whatever the order of its sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from diffuzz.cases.ranges import HELD, dtype_of
from diffuzz.judging.handing.taking import array_of
from diffuzz.registry import one_line
from diffuzz.targets.operation import Operation

if TYPE_CHECKING:
    from diffuzz.analysis.arithmetic import Arithmetic
    from diffuzz.analysis.estimate import Estimate

_NARROW = ("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")


def tolerance(
    f: Callable[..., Any] | Operation,
    *inputs: object,
    dtype: str | None = None,
    compute: str | None = None,
    accumulate: str | None = None,
    flush: bool = True,
    **parameters: object,
) -> tuple[Any, Any]:
    """The exact result of ``f(*inputs, **parameters)``, and how far off an implementation may be, element by element.

    Both are float64 arrays of the shape of the result, or tuples of them where f has several. The error is infinite
    where the arithmetic promises nothing (an overflow, a division by what may be zero), and for an index 0, because an
    index is right or wrong; of equal numbers either index is right, which ``assert_within_bound`` knows.

    dtype        storage of floating-point inputs and results: float32, bfloat16, float16, float8_e4m3fn, float8_e5m2,
                 float64. By default that of a 16-bit or 8-bit input, else float32 (for torch that of the inputs).
                 Inputs that it does not hold are rounded to it.
    compute      every intermediate result is rounded to it; float32 by default where dtype is narrower, else dtype
    accumulate   sums are accumulated in it; by default compute
    flush        whether subnormal numbers may become zero

    Raises ValueError, one line: inputs of a wrong kind or shape, or a function that cannot be analysed.
    """
    estimates, several = _estimates(f, inputs, parameters, dtype, compute, accumulate, flush)
    exact, allowed = [one.value.astype(np.float64) for one in estimates], [one.allowed() for one in estimates]
    return (tuple(exact), tuple(allowed)) if several else (exact[0], allowed[0])


def assert_within_bound(
    got: object,
    f: Callable[..., Any] | Operation,
    *inputs: object,
    dtype: str | None = None,
    compute: str | None = None,
    accumulate: str | None = None,
    flush: bool = True,
    **parameters: object,
) -> None:
    """Raise AssertionError, one line, unless ``got`` is ``f(*inputs, **parameters)`` up to what the arithmetic allows.

    ``got`` is an array of NumPy, jax or torch, or anything that DLPack or NumPy takes; a tuple where f has several
    results. The line says where it is farthest outside, what is there, the exact result, and what is allowed. The
    arithmetic is that of ``tolerance``; a ``got`` of 16 or 8 bits is a ``dtype``, too, if none is given.

    Raises ValueError, one line, for results or inputs of a wrong number, shape or kind.
    """
    leaves = _leaves(got)
    returned = [_array(one, "got") for one in leaves]
    if dtype is None:
        dtype = next((_name(one) for one in returned if _name(one) in _NARROW), None)
    estimates, _ = _estimates(f, inputs, parameters, dtype, compute, accumulate, flush)
    if len(estimates) == 1 and all(isinstance(one, (bool, int, float)) for one in leaves):
        # A list of numbers is one array, and not as many results.
        returned = [_array(got, "got")]
    if len(returned) != len(estimates):
        raise ValueError(f"got has {_count(len(returned))}, where the function has {_count(len(estimates))}")
    for place, (one, estimate) in enumerate(zip(returned, estimates, strict=True)):
        which = f"result {place + 1}: " if len(estimates) > 1 else ""
        if one.shape != estimate.value.shape:
            raise ValueError(f"{which}got has shape {one.shape}, where {estimate.value.shape} is needed")
        _check(one.astype(np.float64), estimate, which)


def _leaves(got: object) -> list[object]:
    """The results in nested tuples and lists, such as (output, (hidden, cell)) of an LSTM."""
    return [leaf for one in got for leaf in _leaves(one)] if isinstance(got, (tuple, list)) else [got]


def _check(got: np.ndarray, estimate: Estimate, which: str) -> None:
    exact, allowed, times = estimate.value.astype(np.float64), estimate.allowed(), estimate.ratios(got)
    outside = times > 1
    if not outside.any():
        return
    worst = np.unravel_index(int(times.argmax()), times.shape)
    place = f"element {tuple(map(int, worst))}" if times.ndim else "the result"
    far = "" if np.isinf(times[worst]) else f", {times[worst]:.3g} times that far off"
    raise AssertionError(
        f"{which}{place} is {got[worst]:.9g}, where {exact[worst]:.9g} is exact and an error of {allowed[worst]:.3g} "
        f"is allowed{far}; {int(outside.sum())} of {outside.size} elements are outside the bound"
    )


def _count(results: int) -> str:
    return "one result" if results == 1 else f"{results} results"


def _estimates(
    f: Callable[..., Any] | Operation,
    inputs: Sequence[object],
    parameters: dict[str, Any],
    dtype: str | None,
    compute: str | None,
    accumulate: str | None,
    flush: bool,
) -> tuple[list[Estimate], bool]:
    """Estimates of the results of a function, and whether it returns several."""
    from diffuzz.analysis.arithmetic import Arithmetic

    if not callable(f):
        raise ValueError(f"f={f!r:.80}: a function is needed, of jax.numpy or of torch")
    if not isinstance(f, Operation) and any(type(one).__module__.partition(".")[0] == "torch" for one in inputs):
        return _of_torch(f, inputs, parameters, dtype, compute, accumulate, flush)
    arrays = [_array(one, f"input {place + 1}") for place, one in enumerate(inputs)]
    if not arrays:
        raise ValueError("an input is needed: the arrays that the function is called with")
    if dtype is None:
        dtype = next((_name(one) for one in arrays if _name(one) in _NARROW), "float32")
    stated = Arithmetic.of(dtype, compute=compute, accumulate=accumulate, flush=flush)
    with np.errstate(all="ignore"):
        stored = [one.astype(dtype_of(dtype)).astype(np.float64) if _name(one) in HELD else one for one in arrays]
    named = {name: _array(one, name) if hasattr(one, "__array__") else one for name, one in parameters.items()}
    return _bounds(f, stored, named, stated)


def _bounds(
    f: Callable[..., Any] | Operation, arrays: list[np.ndarray], named: dict[str, Any], stated: Arithmetic
) -> tuple[list[Estimate], bool]:
    from diffuzz.analysis import jaxpr

    function = f.function if isinstance(f, Operation) else f
    shapes = ", ".join(f"{one.dtype}{list(one.shape)}" for one in arrays)
    traced = {name: one for name, one in named.items() if isinstance(one, np.ndarray)}
    static = {name: one for name, one in named.items() if name not in traced}

    # A function of its own for each call, which is traced anew: what f refers to may have changed since. It is kept for
    # a while by the trace, and so must not hold on to arrays.
    count, names = len(arrays), tuple(traced)

    def bound_to(*arguments: object) -> object:
        return function(*arguments[:count], **static, **dict(zip(names, arguments[count:], strict=True)))

    # Messages are about the function of the user.
    bound_to.__name__ = bound_to.__qualname__ = getattr(function, "__name__", type(function).__name__)
    inputs = [*arrays, *(one.astype(np.float64) if _name(one) in HELD else one for one in traced.values())]
    try:
        trace = jaxpr.trace(bound_to, inputs)
    except jaxpr.AnalysisError:
        raise
    except Exception as error:  # a function of somebody else may fail in any way
        raise ValueError(f"the function cannot be called with {shapes}: {one_line(error)}") from error
    if not trace.out_shapes:
        raise ValueError(f"{bound_to.__name__}: it returns no array")
    estimates = jaxpr.bound(trace, inputs, stated)
    forms = f.forms if isinstance(f, Operation) else ()
    for form in forms:
        other, _ = _bounds(form, arrays, named, stated)
        estimates = [_wider(one, two) for one, two in zip(estimates, other, strict=True)]
    return estimates, len(trace.out_shapes) != 1


def _wider(one: Estimate, other: Estimate) -> Estimate:
    """The first, with the larger error of both."""
    return attrs.evolve(one, error=np.maximum(one.errors(), one.allowed_of(other)))


def _of_torch(
    f: Callable[..., Any],
    inputs: Sequence[object],
    parameters: dict[str, Any],
    dtype: str | None,
    compute: str | None,
    accumulate: str | None,
    flush: bool,
) -> tuple[list[Estimate], bool]:
    import diffuzz.analysis.aten as aten
    from diffuzz.analysis.arithmetic import Arithmetic

    if dtype is None:
        dtype = aten.dtype_of(f, inputs)
    stated = Arithmetic.of(dtype, compute=compute, accumulate=accumulate, flush=flush)
    _, estimates = aten.bound(f, inputs, stated, **parameters)
    return estimates, len(estimates) != 1


def _name(array: np.ndarray) -> str:
    return str(array.dtype)


def _array(value: Any, what: str) -> np.ndarray:
    """What NumPy or DLPack makes of an array. Raises ValueError, one line, where they make nothing of it."""
    try:
        array = array_of(value)
    except Exception as error:  # of any library
        raise ValueError(f"{what}: a {type(value).__name__} is no array: {one_line(error)}") from error
    if array.dtype.kind not in "biuf" and _name(array) not in _NARROW:
        raise ValueError(f"{what}: an array of numbers is needed, it is {array.dtype}")
    return array
