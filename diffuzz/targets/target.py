"""Targets: what can be searched. A target is an operation with the space of its inputs, a measure, a claim and, if one
is proven, a bound.

A target asks one of two questions:

    Amplification   one function, an input and a small change of it: relative output drift / relative input drift
    Drift           two implementations of one operation and one input: the distance of their results, in a
                    norm-relative measure

Each target is a file that defines ``TARGET``. The file is in ``diffuzz/targets/``, or in a package that offers it under
the entry point group ``diffuzz.targets``, or anywhere else and named as ``FILE.py:TARGET`` (see
:mod:`diffuzz.registry`). A target with a ``Contract`` can also judge a user's own function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs
import numpy as np

from diffuzz.cases import domain
from diffuzz.cases.space import Space
from diffuzz.targets.amplification import Amplification
from diffuzz.targets.contract import Contract, narrowed
from diffuzz.targets.drift import Drift
from diffuzz.targets.outcome import Bound
from diffuzz.targets.parameter import Parameter, ParameterError, Params, parsed

# The tolerance of a target, unless it says why its values are less certain than that; and that of entries about it.
LARGEST_TOLERANCE = 1e-3


@attrs.frozen
class Target:
    """One operation to search; ``diffuzz/targets/rmsnorm.py`` is a commented example.

    name, summary                the name on the command line, and one line about the target
    parameters                   the parameters of the target's own question, which the functions below take
    space(params)                the admissible cases
    question                     an Amplification or a Drift
    measure(params)              the measure in words, printed with every value
    bound(params)                the proven upper bound of the value over the space, or None
    claim                        the claim that is searched for a counterexample or a proof, in words
    threshold(params)            the default T of the claim "value > T"
    tolerance                    the relative difference within which a replay on another machine has the same value: 0
                                 if every bit is fixed, a few float64 ULP of noise if the C library takes part
    cost                         operations per element of a case in one evaluation, relative to those of a norm
    starts(params, rng, count)   a batch of constructions that are known to come close to the bound, or
                                 None; optional
    contract                     what a user's function must promise; None if the target judges none
    engine                       the engine that ``auto`` is for the target's own question, where one evaluation takes
                                 so long that the usual ones have nothing to offer
    keep                         the share of its value that a case keeps while it is minimised, unless another is given
    reading(params, case)        lines that say what the case means, for people
    """

    name: str
    summary: str
    parameters: tuple[Parameter, ...]
    space: Callable[[Params], Space] = attrs.field(converter=narrowed)
    question: Amplification | Drift
    measure: Callable[[Params], str]
    bound: Callable[[Params], Bound | None]
    claim: str
    threshold: Callable[[Params], float]
    tolerance: float = 0.0
    cost: float = 1.0
    starts: Callable[[Params, np.random.Generator, int], dict[str, np.ndarray] | None] | None = None
    contract: Contract | None = None
    engine: str = ""
    keep: float = 0.999
    reading: Callable[[Params, Mapping[str, np.ndarray]], list[str]] | None = None

    @property
    def declared(self) -> tuple[Parameter, ...]:
        """All parameters, without repetitions: those of the question, then those of the contract."""
        judging = () if self.contract is None else self.contract.parameters
        return tuple({one.name: one for one in (*self.parameters, *judging)}.values())

    def params(self, given: Mapping[str, object] | None = None) -> Params:
        """The parameters of the target's own question: ``given`` (text or numbers) parsed, the others by default.

        A given parameter that only the contract has is checked and left out. Raises ParameterError for an unknown name,
        a value out of range, or values that do not fit together.
        """
        return self._bound(self.parameters, self.space, given)

    def contract_params(self, given: Mapping[str, object] | None = None) -> Params:
        """The same for the parameters of the contract. Raises ParameterError, and TypeError if there is no contract."""
        if self.contract is None:
            raise TypeError(f"target {self.name} has no contract")
        try:
            given = self.contract.with_scalars(given or {})
        except domain.DomainError as error:
            raise ParameterError(f"target {self.name}: {error}") from error
        return self._bound(self.contract.parameters, self.contract.space, given)

    def _bound(
        self, parameters: Sequence[Parameter], space: Callable[[Params], Space], given: Mapping[str, object] | None
    ) -> Params:
        params = parsed(self.name, parameters, self.declared, given or {})
        try:
            space(params)
        except ParameterError:
            raise
        except ValueError as error:
            raise ParameterError(f"target {self.name}: {error}") from error
        return params
