"""Where a fault is planted: one step of an engine's run, with what the fault may take for what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Several
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.models.forward import Weights
from diffuzz.models.operations.product import Product
from diffuzz.models.sequence import Sequence
from diffuzz.models.step import Operation, Step
from diffuzz.studies.faults.engines import Engine, Weight

if TYPE_CHECKING:
    from jaxtyping import Float32


@attrs.frozen(eq=False)
class Site:
    """One step of a run.

    taps     every tap that the run has made so far
    steps    of the model, by tap
    rng      where in the step the fault is
    """

    engine: Engine
    step: Step
    inputs: tuple[Float32[np.ndarray, " ..."], ...]
    taps: Mapping[str, Float32[np.ndarray, " ..."]]
    steps: Mapping[str, Step]
    sequence: Sequence
    weights: Weights
    rng: np.random.Generator

    def computed(
        self,
        inputs: Several[Float32[np.ndarray, " ..."]] | None = None,
        *,
        operation: Operation | None = None,
        weight: Weight | None = None,
        sequence: Sequence | None = None,
    ) -> Float32[np.ndarray, " ..."]:
        """What the engine makes of this step, or of one that is a little different."""
        operation = self.step.operation if operation is None else operation
        if weight is None and isinstance(operation, Product):
            weight = self.weights.of(operation, np.dtype(np.float32))
        return self.engine.computed(
            operation,
            self.inputs if inputs is None else inputs,
            weight,
            self.sequence if sequence is None else sequence,
        ).copy()

    def weight(self) -> Weight:
        """A copy of the weights of a product, that may be changed."""
        assert isinstance(self.step.operation, Product)
        values, minimum = self.weights.of(self.step.operation, np.dtype(np.float32))
        return values.copy(), None if minimum is None else minimum.copy()

    def peer(self) -> Step | None:
        """The same op in another layer."""
        others = [each for each in self.steps.values() if each.op == self.step.op and each.tap != self.step.tap]
        return others[self.below(len(others))] if others else None

    def below(self, n: int) -> int:
        """A random number from 0 to n - 1."""
        return int(self.rng.integers(n))

    def token(self, first: int = 0) -> int:
        """One of the tokens from ``first`` on."""
        return first + self.below(len(self.sequence.tokens) - first)


@attrs.frozen(eq=False)
class Fault:
    """A kind of fault.

    ops      that it can be planted in
    plant    the result of the step with it; None where the step has nothing that it could be in
    """

    name: str
    ops: tuple[str, ...]
    plant: Callable[[Site], np.ndarray | None]
