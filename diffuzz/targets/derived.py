"""Derived contracts: exact results and error bounds that follow from the reference, a function of jax.numpy.

The error bound of a result is that of :mod:`diffuzz.analysis`: a running error analysis over the function's own jaxpr,
under the arithmetic that the parameters state. Where several ``forms`` of the formula are allowed, it is the largest of
their bounds. Cases of a batch are independent, so the function is traced for one case and mapped over the batch.

Results are packed: the numbers of all results of a case, one after the other, in float64, which holds the numbers of
every dtype and every index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import attrs
import numpy as np

from diffuzz import kernels as _kernels
from diffuzz.cases.ranges import dtype_of, largest_of
from diffuzz.kernels import Implementation
from diffuzz.kernels.process.channel import ResultError
from diffuzz.targets.contract import Function, Result
from diffuzz.targets.outcome import Arrays
from diffuzz.targets.parameter import Parameter, Params

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

    from diffuzz.analysis.arithmetic import Arithmetic
    from diffuzz.analysis.estimate import Estimate
    from diffuzz.analysis.jaxpr import Traced

AUTO = "auto"
_STORED = ("float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "float64")
_COMPUTED = (AUTO, "float32", "bfloat16", "float16", "float64", "tf32")
# What every target that judges a function takes.
ARITHMETIC = (
    Parameter("dtype", "float32", "dtype of the floating-point arguments and results", choices=_STORED, later=True),
    Parameter(
        "compute",
        AUTO,
        "dtype that intermediate results are rounded to; auto: float32 where dtype is narrower, else dtype",
        choices=_COMPUTED,
        later=True,
    ),
    Parameter("accumulate", AUTO, "dtype that sums are accumulated in; auto: compute", choices=_COMPUTED, later=True),
    Parameter("flush", True, "true: subnormal numbers may be flushed to zero", later=True),
)
# The same where arrays of results are float32, which holds the numbers of all these but float64.
HELD_BY_FLOAT32 = (
    attrs.evolve(ARITHMETIC[0], choices=tuple(name for name in _STORED if name != "float64")),
    *ARITHMETIC[1:],
)
# Numbers of a batch that are analysed at once, so that they stay in the cache of a processor.
_AT_ONCE = 2**14
# Analyses that are remembered: a batch that is judged is asked for its results and for their bounds.
_REMEMBERED = 8

# The arguments of the function for a batch: float64, integer or bool arrays [cases, ...], and by their places the
# errors that they come with, and whether they are constants that implementations round.
Reference: TypeAlias = Callable[..., object]


@attrs.frozen
class Arguments:
    """What a reference is called with for a batch of cases.

    ``arrays`` have a leading axis of cases. ``errors`` are those that an argument comes with, by its place, as a
    dequantised weight does. ``constants`` are places of numbers that implementations round to what they compute in.
    """

    arrays: tuple[np.ndarray, ...]
    errors: Mapping[int, np.ndarray] = attrs.field(factory=dict)
    constants: frozenset[int] = frozenset()

    def part(self, rows: slice) -> Arguments:
        """Those of some cases."""
        return attrs.evolve(
            self,
            arrays=tuple(one[rows] for one in self.arrays),
            errors={place: error[rows] for place, error in self.errors.items()},
        )


def arithmetic(p: Params) -> Arithmetic:
    """The arithmetic that the parameters ``ARITHMETIC`` state. Raises ValueError, one line, for one that is none."""
    from diffuzz.analysis.arithmetic import Arithmetic

    compute, accumulate = (None if p[name] == AUTO else p[name] for name in ("compute", "accumulate"))
    return Arithmetic.of(p["dtype"], compute=compute, accumulate=accumulate, flush=p["flush"])


def unflushed(p: Params) -> Params:
    """The same parameters where nothing is flushed: for a target that has a rule of its own for what underflows, which
    counts once what is flushed at one step or at the next.
    """
    return {**p, "flush": False}


def largest(p: Params) -> float:
    """The largest number of the dtype."""
    return largest_of(p["dtype"])


def narrow(name: str, function: Function) -> Function:
    """``function``, whose results are of the dtype ``name``, with results of float32. It raises ResultError where a
    result is of another dtype.
    """

    def wide(*positional: object) -> np.ndarray:
        got = np.asarray(function(*positional))
        if name != "float32" and str(got.dtype) != name:
            raise ResultError(f"returns {got.dtype}{list(got.shape)}, where {name} is needed")
        return got if name == "float32" else got.astype(np.float32)

    return wide


def stored(
    p: Params, exact: Float64[np.ndarray, " ..."], error: Float64[np.ndarray, " ..."]
) -> Float64[np.ndarray, " ..."]:
    """The error of a result of this error once it is stored in the dtype; infinite beyond its largest number."""
    storage = arithmetic(p).storage
    if p["dtype"] == "float32":
        return error
    size = np.abs(exact) + error
    rounded = error + np.maximum(storage.unit * size, storage.smallest_subnormal / 2)
    return np.where(size * (1 + storage.unit) <= storage.largest, rounded, np.inf)


def implementations(p: Params, all_of_them: Sequence[str]) -> tuple[str, ...]:
    """Those of the implementations that compute in the arithmetic that is asked for: all in float32, else the exact
    one, and XLA, which computes in any.
    """
    return tuple(all_of_them) if in_float32(p) else tuple(name for name in all_of_them if name in ("exact", "xla"))


def in_float32(p: Params) -> bool:
    """Whether everything is computed and stored in float32."""
    return all(p[name] in (AUTO, "float32") for name in ("dtype", "compute", "accumulate"))


@attrs.frozen
class _Analysed:
    """The estimates of the results for parts of a batch, and of the whole batch the values and the allowed errors."""

    parts: tuple[tuple[slice, list[Estimate]], ...]
    exact: Float64[np.ndarray, "b n"]
    allowance: Float64[np.ndarray, "b n"]


@attrs.frozen
class _Known:
    """An analysis, and what it follows from: parameters, and names, types, shapes and bytes of the arrays."""

    params: dict[str, object]
    shapes: tuple[tuple[str, str, tuple[int, ...]], ...]
    content: list[bytes]
    analysed: _Analysed


@attrs.define
class Derived:
    """The functions of a contract that follow from a reference.

    function(params)             the reference with its parameters, a function of the arrays of one case
    forms(params)                other formulas of it that are allowed
    arguments(params, arrays)    what they are called with for a batch
    of_batches                   whether they are functions of a whole batch, which is quicker to trace than one of a
                                 case that is mapped over the batch
    """

    function: Callable[[Params], Reference]
    forms: Callable[[Params], Sequence[Reference]]
    arguments: Callable[[Params, Arrays], Arguments]
    of_batches: bool = False
    _shapes: dict[object, tuple[Result, ...]] = attrs.field(init=False, factory=dict, repr=False)
    _known: tuple[_Known, ...] = attrs.field(init=False, default=(), repr=False)

    def traced(self, p: Params, given: Arguments) -> Traced:
        """The reference traced for these arguments of a batch."""
        return _traced(self.function(p), given, self.of_batches)

    def results(self, p: Params, arrays: Arrays) -> tuple[Result, ...]:
        """Shape and dtype of each result of one case; they follow from the shapes of its arrays."""
        key = (tuple(sorted(p.items())), tuple((name, array.shape[1:]) for name, array in arrays.items()))
        if key not in self._shapes:
            # A part, which is traced anyway.
            _, first = next(in_parts(self.arguments(p, arrays)))
            traced = _traced(self.function(p), first, self.of_batches)
            self._shapes[key] = tuple(
                Result(shape[1:], p["dtype"] if dtype == "float" else dtype)
                for shape, dtype in zip(traced.out_shapes, traced.out_dtypes, strict=True)
            )
        return self._shapes[key]

    def in_float64(self, p: Params, arrays: Arrays) -> tuple[Float64[np.ndarray, "b n"], Float64[np.ndarray, "b n"]]:
        """The floating-point results in float64, and the error of that evaluation."""
        from diffuzz.analysis.arithmetic import Arithmetic

        given = attrs.evolve(self.arguments(p, arrays), errors={})
        estimates = [
            one
            for one in _bounds(self.function(p), given, Arithmetic.of("float64"), self.of_batches)
            if one.value.dtype.kind == "f"
        ]
        if not estimates:
            raise ValueError(
                "the results are integers or truth values, which have no drift: give --candidate or --kernels"
            )
        return packed([one.value for one in estimates]), packed([one.allowed() for one in estimates])

    def exact(self, p: Params, arrays: Arrays) -> Float64[np.ndarray, "b n"]:
        """The exact results, in float64."""
        return self._analysed(p, arrays).exact

    def first_allowance(self, p: Params, arrays: Arrays) -> Float64[np.ndarray, "b n"]:
        """The largest error of the reference as written; infinite where the arithmetic promises nothing."""
        return self._analysed(p, arrays).allowance

    def allowance(self, p: Params, arrays: Arrays) -> Float64[np.ndarray, "b n"]:
        """The largest error of all forms; infinite where the arithmetic promises nothing of one of them."""
        allowed = self.first_allowance(p, arrays)
        forms = self.forms(p)
        if not forms:
            return allowed
        given, stated = self.arguments(p, arrays), arithmetic(p)
        # The shapes that are traced anyway.
        _, first = next(in_parts(given))
        needed = _traced(self.function(p), first, self.of_batches).out_shapes
        for form in forms:
            if (shapes := _traced(form, first, self.of_batches).out_shapes) != needed:
                of_form, of_function = (", ".join(str(list(one[1:])) for one in each) for each in (shapes, needed))
                raise ValueError(f"forms: one of them returns {of_form}, where the operation returns {of_function}")
            parts = []
            for (_, own), (_, part) in zip(self._analysed(p, arrays).parts, in_parts(given), strict=True):
                estimates = _bounds(form, part, stated, self.of_batches)
                parts.append(packed([one.allowed_of(other) for one, other in zip(own, estimates, strict=True)]))
            allowed = np.fmax(allowed, np.concatenate(parts))
        return allowed

    def run(
        self, p: Params, arrays: Arrays, module: Implementation, operation: Callable[[], np.ndarray] | None
    ) -> Float64[np.ndarray, "b n"]:
        """Packed results of an implementation: the exact ones; those of the reference compiled by XLA, where the
        arithmetic is another than float32 or there is no ``operation``; or else of ``operation``.
        """
        if module is _kernels.get("exact"):
            return self.exact(p, arrays)
        if module is _kernels.get("xla") and (operation is None or not in_float32(p)):
            return self.compiled(p, arrays)
        if operation is None:
            raise TypeError("an operation of these kernels is needed")
        return packed([np.asarray(operation())])

    def compiled(self, p: Params, arrays: Arrays) -> Float64[np.ndarray, "b n"]:
        """Packed results of the reference compiled by XLA: arguments of ``dtype`` are converted to ``compute``, and the
        results back.
        """
        import jax

        from diffuzz.kernels import xla

        xla.start()
        given, stated = self.arguments(p, arrays), arithmetic(p)
        storage = dtype_of(p["dtype"])
        computing = dtype_of(stated.compute if stated.compute != "tf32" else "float32")
        with jax.enable_x64("float64" in (p["dtype"], stated.compute)):
            # Numbers that are not stored, an eps or a dequantised weight, are converted once.
            stored = [place not in given.constants and place not in given.errors for place in range(len(given.arrays))]
            inputs = [
                one if one.dtype != np.float64 else (one.astype(storage) if first else one).astype(computing)
                for one, first in zip(given.arrays, stored, strict=True)
            ]
            got = jax.tree.leaves(_jitted(self.function(p), self.of_batches)(*inputs))
            results = [np.asarray(one.astype(storage) if one.dtype == computing else one) for one in got]
        return packed([one.astype(np.float64) for one in results])

    def settled(self, p: Params, arrays: Arrays, result: np.ndarray) -> Float64[np.ndarray, "b n"]:
        """``result`` with the exact index in the place of each that is as good, as those of equal numbers are."""
        settled = np.array(result, np.float64)
        for rows, estimates in self._analysed(p, arrays).parts:
            place = 0
            for one in estimates:
                count = int(np.prod(one.value.shape[1:]))
                if one.choices is not None:
                    got = settled[rows, place : place + count].reshape(one.value.shape)
                    settled[rows, place : place + count] = one.settled(got).reshape(-1, count)
                place += count
        return settled

    def certain(self, p: Params, arrays: Arrays) -> Bool[np.ndarray, "b n"]:
        """Which elements of the packed results can be one number only, up to its error: all but the indices that others
        could stand for.
        """
        parts = []
        for _, estimates in self._analysed(p, arrays).parts:
            found = []
            for one in estimates:
                certain = np.ones(one.value.shape, bool)
                if one.choices is not None:
                    options = one.options()
                    certain = ~certain if options is None else np.asarray((options == one.value).all(axis=0))
                found.append(certain.reshape(len(one.value), -1))
            parts.append(np.concatenate(found, axis=1))
        return np.concatenate(parts)

    def _analysed(self, p: Params, arrays: Arrays) -> _Analysed:
        """The analysis of a batch; the last few are remembered, by all that they follow from."""
        shapes = tuple((name, array.dtype.str, array.shape) for name, array in arrays.items())
        # Bytes are compared faster than they are hashed.
        content = [array.tobytes() for array in arrays.values()]
        for known in self._known:
            if known.shapes == shapes and known.content == content and known.params == p:
                return known.analysed
        analysed = self._analyse(p, self.arguments(p, arrays))
        # Another tuple, because another thread may be looking through this one.
        self._known = (_Known(dict(p), shapes, content, analysed), *self._known[: _REMEMBERED - 1])
        return analysed

    def _analyse(self, p: Params, given: Arguments) -> _Analysed:
        stated, function = arithmetic(p), self.function(p)
        parts, exact, allowance = [], [], []
        for rows, part in in_parts(given):
            estimates = _bounds(function, part, stated, self.of_batches)
            parts.append((rows, estimates))
            exact.append(packed([one.value for one in estimates]))
            allowance.append(packed([one.allowed() for one in estimates]))
        right, allowed = (each[0] if len(each) == 1 else np.concatenate(each) for each in (exact, allowance))
        # Nothing is promised of a result that is no number.
        without = np.isnan(right) | np.isnan(allowed)
        return _Analysed(tuple(parts), right, np.where(without, np.inf, allowed) if without.any() else allowed)


@lru_cache(maxsize=64)
def _jitted(reference: Reference, of_batches: bool) -> Callable[..., object]:
    import jax

    return jax.jit(reference if of_batches else jax.vmap(reference))


def in_parts(given: Arguments) -> Iterator[tuple[slice, Arguments]]:
    """The cases of a batch, so many at a time that they stay in the cache of a processor."""
    rows = len(given.arrays[0])
    least = -(-sum(one.size for one in given.arrays) // _AT_ONCE)
    # Parts of one size where there is such a number of them: each size is traced.
    count = next((count for count in range(least, 2 * least) if count and rows % count == 0), least)
    step = max(1, -(-rows // max(1, count)))
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        yield part, given.part(part)


def _traced(function: Reference, given: Arguments, of_batches: bool) -> Traced:
    return _traced_for(function, tuple((one.shape, one.dtype.char) for one in given.arrays), of_batches)


# Traces are kept by jaxpr.trace as well, but to look for one there takes as long as to walk over a few equations.
@lru_cache(maxsize=512)
def _traced_for(function: Reference, arrays: tuple[tuple[tuple[int, ...], str], ...], of_batches: bool) -> Traced:
    from diffuzz.analysis import jaxpr

    stand_ins = [np.broadcast_to(np.zeros((), dtype), shape) for shape, dtype in arrays]
    traced = jaxpr.trace(function, stand_ins, batched=() if of_batches else range(len(stand_ins)))
    if not traced.out_shapes:
        raise jaxpr.AnalysisError(f"{getattr(function, '__name__', 'the function')}: it returns no array")
    return traced


def _bounds(function: Reference, given: Arguments, stated: Arithmetic, of_batches: bool) -> list[Estimate]:
    from diffuzz.analysis import jaxpr

    return jaxpr.bound(
        _traced(function, given, of_batches), given.arrays, stated, errors=given.errors, constants=given.constants
    )


def packed(results: Sequence[np.ndarray]) -> Float64[np.ndarray, "b n"]:
    """The numbers of all results of each case, one after the other."""
    flat = [np.asarray(one, np.float64).reshape(len(one), -1) for one in results]
    return flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1)
