"""Functions that are not of Python: what one call of them holds, and how they take the place of one that is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import attrs
import numpy as np

from diffuzz.cases import ranges
from diffuzz.judging.memory import Place
from diffuzz.judging.question import Function
from diffuzz.targets.contract import Call, Result

# The parameters of a call, which are not arrays.
Scalar: TypeAlias = int | float | bool | str


class RefusedError(RuntimeError):
    """A function said that it does not do this call, or that it has failed."""


@attrs.frozen
class Asked:
    """One call: ``inputs`` and ``parameters`` by name, and shapes and dtypes of the ``results`` that are wanted. Where
    memory is shared, ``places`` says where in it inputs and results lie, by their names.
    """

    operation: str
    inputs: Mapping[str, np.ndarray]
    parameters: Mapping[str, Scalar]
    results: Mapping[str, Result]
    places: Mapping[str, Place] = attrs.field(factory=dict)


# What does a call: its results, of the shapes and dtypes that were asked for.
Foreign: TypeAlias = Callable[[Asked], list[np.ndarray]]


@attrs.frozen
class Signature:
    """What a contract says of a function: the target's name, the names of its positional arguments, its results for
    one case, and whether one call gets a whole batch; and where inputs and results lie in memory, if that matters.
    """

    operation: str
    arguments: tuple[str, ...]
    results: tuple[Result, ...]
    batched: bool
    places: Mapping[str, Place] = attrs.field(factory=dict)

    def bound(self, foreign: Foreign) -> Function:
        """``foreign`` as a function that is called as the contract says."""

        def function(*positional: object, **named: object) -> object:
            arguments = Call(positional, named).by_name(self.arguments)
            inputs = {name: one for name, one in arguments.items() if isinstance(one, np.ndarray)}
            parameters = {name: _plain(one) for name, one in arguments.items() if name not in inputs}
            rows = (len(next(iter(inputs.values()))),) if self.batched else ()
            names = ("result",) if len(self.results) == 1 else [f"result_{i + 1}" for i in range(len(self.results))]
            results = {
                name: Result((*rows, *one.shape), one.dtype) for name, one in zip(names, self.results, strict=True)
            }
            got = foreign(Asked(self.operation, inputs, parameters, results, self.places))
            return got[0] if len(got) == 1 else tuple(got)

        return function


def _plain(value: object) -> Scalar:
    """A parameter as a number or a text of Python."""
    found = value.item() if isinstance(value, np.generic) else value
    if isinstance(found, (bool, int, float, str)):
        return found
    raise TypeError(
        f"a parameter of the type {type(value).__name__} cannot be handed to a function of another language"
    )


def dtype_of(name: str) -> np.dtype:
    """The dtype of that name: NumPy's, or that of ml_dtypes."""
    return np.dtype(name) if name.startswith(("int", "uint", "bool")) else ranges.dtype_of(name)
