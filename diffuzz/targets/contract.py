"""Contracts: what an implementation of an operation promises, and how large its error may be."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import attrs
import numpy as np

from diffuzz import kernels
from diffuzz.cases import domain
from diffuzz.cases.space import Space
from diffuzz.cases.text import array_text
from diffuzz.kernels import Implementation
from diffuzz.kernels.process.channel import ResultError
from diffuzz.targets.outcome import Arrays
from diffuzz.targets.parameter import Parameter, Params

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32, Shaped

    from diffuzz.targets.derived import Derived

# A function that is judged. Its arguments are those that Contract.signature says.
Function: TypeAlias = Callable[..., np.ndarray]


def narrowed(space: Callable[[Params], Space]) -> Callable[[Params], Space]:
    """``space``, with the restrictions among its parameters; see diffuzz.cases.domain."""
    return lambda params: domain.restricted(space(params), params)


@attrs.frozen
class Call:
    """One call of a function: its arguments."""

    positional: tuple[object, ...]
    named: Mapping[str, object] = attrs.field(factory=dict)

    def by_name(self, names: Sequence[str]) -> dict[str, object]:
        """The arguments by their names, of which those in ``names`` are the first; others are argument_4 and so on."""
        found = {
            (names[place] if place < len(names) else f"argument_{place + 1}"): value
            for place, value in enumerate(self.positional)
        }
        return found | dict(self.named)


class _CalledError(Exception):
    """Ends what calls a function, once it has called it."""

    def __init__(self, call: Call) -> None:
        super().__init__("called")
        self.call = call


@attrs.frozen
class Scalar:
    """A scalar argument of a function, for which an array of the case stands that has one number.

    array                     the array, which is what a case and an entry of the corpus hold
    name                      the argument, as the contract's signature names it
    value(params, numbers)    what the function is called with, float64[b], for the numbers int32[b] of the array
    """

    array: str
    name: str
    value: Callable[[Params, Int32[np.ndarray, " b"]], Float64[np.ndarray, " b"]]

    def of(self, params: Params, arrays: Arrays) -> Float64[np.ndarray, " b"]:
        """The value of the argument for each row of a batch."""
        numbers = np.asarray(arrays[self.array])
        return np.asarray(self.value(params, numbers.reshape(len(numbers), -1)[:, 0]))


@attrs.frozen
class Result:
    """Shape and dtype of one result of a function that is called with one case.

    ``dtype`` is a name of NumPy or ml_dtypes. Indices may have any integer dtype.
    """

    shape: tuple[int, ...]
    dtype: str

    def admits(self, array: np.ndarray) -> bool:
        """Whether a function may return this array."""
        integers = self.dtype.startswith(("int", "uint", "bool")) and array.dtype.kind in "iub"
        return array.shape == self.shape and (integers or str(array.dtype) == self.dtype)

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def checked(function: Function, expected: Sequence[Result], *, batched: bool = False) -> Function:
    """``function``, whose results are packed: float64 numbers of all of them, one after the other; of each case of a
    batch, if it is called with whole batches.

    It raises ResultError where a call returns other shapes or dtypes than those expected.
    """

    def packed(*positional: object, **named: object) -> np.ndarray:
        rows = (len(next(one for one in positional if isinstance(one, np.ndarray))),) if batched else ()
        wanted = [Result((*rows, *one.shape), one.dtype) for one in expected]
        got: object = function(*positional, **named)
        listed: Sequence[object] = [got]
        if isinstance(got, tuple) or (isinstance(got, list) and len(wanted) > 1):
            listed = got
        arrays = [np.asarray(one) for one in listed]
        if len(arrays) != len(wanted) or not all(map(Result.admits, wanted, arrays)):
            given = [Result(one.shape, str(one.dtype)) for one in arrays]
            raise ResultError(f"returns {_listed(given)}, where {_listed(wanted)} is needed")
        return np.concatenate([one.astype(np.float64).reshape(*rows, -1) for one in arrays], axis=-1)

    # Whoever looks at its signature sees that of the function.
    packed.__wrapped__ = function  # type: ignore[attr-defined]
    return packed


def _listed(results: Sequence[Result]) -> str:
    return ", ".join(map(str, results)) or "nothing"


@attrs.frozen
class Contract:
    """What a user's function must do to take the place of the implementation under test, and its largest error.

    signature                        the arguments and the result of the function, in words
    parameters                       the parameters of the contract; the functions below take these and no others
    space(params)                    the cases that implementations are called with
    call(params, function, arrays)   calls the user's function on a batch, as ``signature`` says
    run(params, arrays, kernels)     the same operation by the implementation ``kernels``
    kernels(params)                  names of the implementations that have the operation (see diffuzz.kernels.get);
                                     the first is the reference
    starts(params, rng, count)       constructions in ``space`` that are likely to show an error, or None; optional

    Two kinds of contract say which results are right. All functions below give arrays shaped like the result.

    An error bound: ``allowance(params, arrays)`` is the a-priori bound of |result - exact| for the stated arithmetic
    (see diffuzz.analysis and diffuzz.targets.error_bounds). Where it is the largest of several forms of a formula,
    ``first_allowance`` may be that of the first form alone: what keeps it needs no other. ``rounding``, if given, is
    the part of it that does not depend on a choice of the implementation, such as how it quantises.

    A result fixed to the bit, if ``allowance`` is None: the result must equal the reference's. ``accepts(params,
    arrays, result)``, if given, says instead which elements are right. ``allows`` says which elements some choice that
    the arithmetic leaves open, such as the rule for ties, could give.

    ``batched`` says that one call of the function gets a whole batch, whose rows it might mix up. ``scalars`` are the
    scalar arguments for which an array of the case stands: the function is called once for each of their values.
    ``result_format(params)`` is the block format of a result that consists of bytes of blocks.

    ``results(params, arrays)``, if given, says what the function returns for one case: several results, or other dtypes
    than float32. ``call`` then gets a function whose results are packed (see ``checked``), and so are all results here,
    float64[b, n]. ``settled(params, arrays, result)`` gives the exact result in the place of each number that is right
    for another reason, such as the index of one of two equal numbers.

    ``derived`` has the reference as a function of jax.numpy, where the error bound follows from one.
    """

    signature: str
    parameters: tuple[Parameter, ...]
    space: Callable[[Params], Space] = attrs.field(converter=narrowed)
    call: Callable[[Params, Function, Arrays], Shaped[np.ndarray, "b ..."]]
    run: Callable[[Params, Arrays, Implementation], Shaped[np.ndarray, "b ..."]]
    kernels: Callable[[Params], tuple[str, ...]]
    allowance: Callable[[Params, Arrays], Float64[np.ndarray, "b ..."]] | None = None
    first_allowance: Callable[[Params, Arrays], Float64[np.ndarray, "b ..."]] | None = None
    rounding: Callable[[Params, Arrays], Float64[np.ndarray, "b ..."]] | None = None
    accepts: Callable[[Params, Arrays, np.ndarray], Bool[np.ndarray, "b ..."]] | None = None
    allows: Callable[[Params, Arrays, np.ndarray], Bool[np.ndarray, "b ..."]] | None = None
    starts: Callable[[Params, np.random.Generator, int], dict[str, np.ndarray] | None] | None = None
    batched: bool = True
    scalars: tuple[Scalar, ...] = ()
    result_format: Callable[[Params], str] | None = None
    results: Callable[[Params, Arrays], tuple[Result, ...]] | None = None
    settled: Callable[[Params, Arrays, np.ndarray], np.ndarray] | None = None
    derived: Derived | None = None

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the arguments of the function, as the signature has them."""
        return tuple(re.findall(r"(\w+)\s*:", self.signature.partition("(")[2].rpartition("->")[0] or self.signature))

    def calls(self, params: Params, arrays: Arrays) -> tuple[Call, ...]:
        """The calls of the function that are made for a batch."""
        made: list[Call] = []
        like = self.reference(params, arrays)

        def recorder(*positional: object, **named: object) -> np.ndarray:
            made.append(Call(tuple(map(_copied, positional)), {name: _copied(one) for name, one in named.items()}))
            return like if self.results is None or self.batched else like[len(made) - 1]

        self.call(params, recorder, {name: np.array(array) for name, array in arrays.items()})
        return tuple(made)

    def first_call(self, params: Params, arrays: Arrays) -> Call | None:
        """The first call of the function that is made for a batch; None if there is none."""

        def recorder(*positional: object, **named: object) -> np.ndarray:
            raise _CalledError(
                Call(tuple(map(_copied, positional)), {name: _copied(one) for name, one in named.items()})
            )

        try:
            self.call(params, recorder, {name: np.array(array) for name, array in arrays.items()})
        except _CalledError as called:
            return called.call
        return None

    def given(self, params: Params, arrays: Arrays) -> dict[str, object]:
        """The arguments of the first call for a batch, by name."""
        call = self.first_call(params, arrays)
        return {} if call is None else call.by_name(self.arguments)

    def narrowable(self, params: Params) -> tuple[str, ...]:
        """What a user can narrow (see diffuzz.cases.domain), as the signature names it."""
        scalars = {scalar.array: scalar.name for scalar in self.scalars}
        return tuple(scalars.get(name, name) for name in domain.names(self.space(params), batched=self.batched))

    def with_scalars(self, given: Mapping[str, object]) -> dict[str, object]:
        """``given`` parameters, in which restrictions of a scalar argument are those of the array that stands for it:
        ``--fix eps=1e-5`` is ``--param eps=1e-5 --fix eps_exponent=0``. Raises DomainError.
        """
        found = dict(given)
        for scalar in self.scalars:
            for kind in domain.KINDS:
                key = f"{kind}:{scalar.name}"
                if key in found:
                    found |= self._restricted(scalar, key, found.pop(key), found)
        return found

    def _restricted(self, scalar: Scalar, key: str, value: object, given: Mapping[str, object]) -> dict[str, object]:
        parsed = domain.parsed(key, value)
        (one,) = domain.restrictions({key: parsed})
        if one.step != 1:
            raise domain.DomainError(f"{one.text}: multiples of sizes can be asked for, and {scalar.name} is a number")
        if one.low == one.high:
            return {scalar.name: one.low, f"fix:{scalar.array}": 0}
        params = {p.name: p.parse(given.get(p.name, p.default)) for p in self.parameters}
        spec = self.space(params)[scalar.array]
        numbers = np.arange(int(spec.low), int(spec.high) + 1, dtype=np.int32)
        values = scalar.of(params, {scalar.array: numbers[:, None]})
        inside = numbers[(values >= one.low) & (values <= one.high)]
        if not inside.size:
            tried = ", ".join(_shortest(each) for each in np.unique(values))
            raise domain.DomainError(f"nothing is left of {scalar.name} ({tried}) with {one.text}")
        return {f"range:{scalar.array}": f"{inside[0]}:{inside[-1]}"}

    def instead(self, params: Params, arrays: Arrays) -> dict[str, str]:
        """What a report shows for an array of a case, where the function was called with something else: a scalar
        argument, ``eps = 1e-06``, in the shortest text that reads back as the same number; other numbers, such as -inf
        for a masked logit; nothing for an array that is in these numbers. ``arrays`` is a batch of the one case.
        """
        shown = {one.array: f"{one.name} = {_shortest(one.of(params, arrays)[0])}" for one in self.scalars}
        given = self.given(params, arrays)
        if given and set(self.arguments) == set(given):
            shown |= {name: "" for name in arrays if name not in given and name not in shown}
        for name, value in given.items():
            if name not in arrays or name in shown or not isinstance(value, np.ndarray):
                continue
            own = np.asarray(arrays[name])
            if value.size == own.size and value.dtype == own.dtype and value.tobytes() != own.tobytes():
                shown[name] = array_text(name, value.reshape(own.shape[1:]))
        return shown

    def domain(self, params: Params) -> dict[str, str]:
        """The same for a domain: ``eps in [1e-09, 0.001]``."""
        return {one.array: f"{one.name} in {self._ends(params, one)}" for one in self.scalars}

    def _ends(self, params: Params, scalar: Scalar) -> str:
        spec = self.space(params)[scalar.array]
        ends = scalar.of(params, {scalar.array: np.array([[spec.low], [spec.high]], np.int32)})
        return f"[{_shortest(ends.min())}, {_shortest(ends.max())}]"

    def exact(self, params: Params, arrays: Arrays) -> Float64[np.ndarray, "b ..."]:
        """The result of the mathematical function, computed in float64."""
        return self.run(params, arrays, kernels.get("exact"))

    def place(self, params: Params, arrays: Arrays, element: int) -> str:
        """Where an element of the result of a batch of one case is, in words; of packed results in which, and where."""
        results = () if self.results is None else self.results(params, arrays)
        for number, one in enumerate(results, 1):
            size = int(np.prod(one.shape))
            if element < size:
                where = ", ".join(str(int(index)) for index in np.unravel_index(element, one.shape))
                where = where if len(one.shape) == 1 else f"[{where}]"
                return f"element {where}" + (f" of result {number}" if len(results) > 1 else "")
            element -= size
        return f"element {element}"

    def reference(self, params: Params, arrays: Arrays) -> Shaped[np.ndarray, "b ..."]:
        """The result of the reference, the first of ``kernels(params)``; in float32 where only ``exact`` is there and
        results are not packed.
        """
        result = np.asarray(self.run(params, arrays, kernels.get(self.kernels(params)[0])))
        if self.results is not None:
            return result
        return result.astype(np.float32) if result.dtype == np.float64 else result


def _copied(value: object) -> object:
    """An argument as it was when the function was called: an array may be used again for another call."""
    return np.array(value) if isinstance(value, np.ndarray) else value


def _shortest(value: np.float64) -> str:
    """The shortest text that reads back as the same float64."""
    return repr(float(value)).removesuffix(".0")
