"""Contracts: what an implementation of an operation promises, and how large its error may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import attrs
import numpy as np

from diffuzz import kernels
from diffuzz.cases.space import Space
from diffuzz.kernels import Implementation
from diffuzz.targets.outcome import Arrays
from diffuzz.targets.parameter import Parameter, Params

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Shaped

# A function that is judged. Its arguments are those that Contract.signature says.
Function: TypeAlias = Callable[..., np.ndarray]


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
    (see diffuzz.targets.error_bounds). ``rounding``, if given, is the part of it that does not depend on a choice of
    the implementation, such as how it quantises.

    A result fixed to the bit, if ``allowance`` is None: the result must equal the reference's. ``accepts(params,
    arrays, result)``, if given, says instead which elements are right. ``allows`` says which elements some choice that
    the arithmetic leaves open, such as the rule for ties, could give.

    ``batched`` says that one call of the function gets a whole batch, whose rows it might mix up. ``scalars`` names
    arrays of the case that stand for a scalar argument: the function is called once for each of their values.
    ``result_format(params)`` is the block format of a result that consists of bytes of blocks.
    """

    signature: str
    parameters: tuple[Parameter, ...]
    space: Callable[[Params], Space]
    call: Callable[[Params, Function, Arrays], Shaped[np.ndarray, "b ..."]]
    run: Callable[[Params, Arrays, Implementation], Shaped[np.ndarray, "b ..."]]
    kernels: Callable[[Params], tuple[str, ...]]
    allowance: Callable[[Params, Arrays], Float64[np.ndarray, "b ..."]] | None = None
    rounding: Callable[[Params, Arrays], Float64[np.ndarray, "b ..."]] | None = None
    accepts: Callable[[Params, Arrays, np.ndarray], Bool[np.ndarray, "b ..."]] | None = None
    allows: Callable[[Params, Arrays, np.ndarray], Bool[np.ndarray, "b ..."]] | None = None
    starts: Callable[[Params, np.random.Generator, int], dict[str, np.ndarray] | None] | None = None
    batched: bool = True
    scalars: tuple[str, ...] = ()
    result_format: Callable[[Params], str] | None = None

    def exact(self, params: Params, arrays: Arrays) -> Float64[np.ndarray, "b ..."]:
        """The result of the mathematical function, computed in float64."""
        return self.run(params, arrays, kernels.get("exact"))

    def reference(self, params: Params, arrays: Arrays) -> Shaped[np.ndarray, "b ..."]:
        """The result of the reference, the first of ``kernels(params)``; in float32 where only ``exact`` is there."""
        result = np.asarray(self.run(params, arrays, kernels.get(self.kernels(params)[0])))
        return result.astype(np.float32) if result.dtype == np.float64 else result
