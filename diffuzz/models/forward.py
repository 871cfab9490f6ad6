"""A forward pass: every step of a model, in one arithmetic, and the taps that it makes.

    exact    float64
    apr      float32; weights are dequantised
    ggml     float32; activations are quantised to the format that ggml pairs with the weights' format

Sums are NumPy's, so a float32 pass has the semantics of its arithmetic and not the bits of one engine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import interruption
from diffuzz.models.operations.product import Product
from diffuzz.models.operations.rope import Rope
from diffuzz.models.sequence import Sequence
from diffuzz.models.step import Step

if TYPE_CHECKING:
    from jaxtyping import Float

Taps = dict[str, np.ndarray]
# What is done with a tap as soon as it is made; what it returns is what later steps read.
Touch = Callable[[str, np.ndarray], np.ndarray]
PASSES = ("exact", "apr", "ggml")
# Bytes of dequantised weights that are kept for further passes.
_KEPT = 1 << 30


@attrs.define(eq=False)
class Weights:
    """Dequantised weights, kept in float32 between passes as long as they fit into ``most`` bytes."""

    most: int = _KEPT
    _kept: dict[str, tuple[np.ndarray, np.ndarray | None]] = attrs.field(init=False, factory=dict)
    _size: int = attrs.field(init=False, default=0)
    _lock: threading.Lock = attrs.field(init=False, factory=threading.Lock)

    def of(self, product: Product, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray | None]:
        """What ``Product.multiplied`` needs."""
        values, minimum = self._found(product) or product.weight_values(np.dtype(np.float32))
        return values.astype(dtype, copy=False), None if minimum is None else minimum.astype(dtype, copy=False)

    def multiplied(
        self, product: Product, x: Float[np.ndarray, "... k"], arithmetic: str, sequence: Sequence
    ) -> Float[np.ndarray, "... rows"]:
        """The product, by weights that are kept, or, where they do not fit, dequantised a part at a time."""
        found = self._found(product)
        if found is None:
            return product.value((x,), arithmetic, sequence)
        return product.multiplied(x, arithmetic, found)

    def _found(self, product: Product) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Weights that are kept, or can be."""
        name, elements = product.weight.name, product.weight.rows * product.weight.columns
        # Passes in two threads ask for the same weights, one after the other.
        with self._lock:
            if name not in self._kept and self._size + 4 * elements <= self.most:
                self._kept[name] = product.weight_values(np.dtype(np.float32))
                self._size += 4 * elements
            return self._kept.get(name)


def arithmetic_of(step: Step, name: str) -> str:
    """The arithmetic of one step in the pass ``name``."""
    if name == "ggml" and isinstance(step.operation, Rope):
        return "recurrence"
    if name == "ggml" and isinstance(step.operation, Product):
        known = step.operation.arithmetics
        partner = step.operation.partner
        return "q8" if "q8" in known else partner if partner in known and partner is not None else "f32"
    return "f32"


def run(
    steps: tuple[Step, ...],
    sequence: Sequence,
    name: str,
    *,
    weights: Weights | None = None,
    taps: Mapping[str, np.ndarray] | None = None,
    arithmetics: Mapping[str, str] | None = None,
    touch: Touch | None = None,
) -> Iterator[tuple[Step, Float[np.ndarray, " ..."]]]:
    """Each step with its result, in order.

    ``taps`` are results that are there already, under their names, whose steps are left out. ``arithmetics`` says which
    arithmetic a tap, or an op in all layers, has instead of the pass's. ``touch`` is called with each tap. Arrays may
    have axes before the usual ones, for several runs at once. A result is let go when no later step reads it.
    """
    dtype = np.dtype(np.float64 if name == "exact" else np.float32)
    held = {tap: np.asarray(value, dtype) for tap, value in (taps or {}).items()}
    weights = Weights() if weights is None else weights
    given = arithmetics or {}
    last = {tap: index for index, step in enumerate(steps) for tap in step.inputs}
    for index, step in enumerate(steps):
        interruption.check()
        if step.tap in held:
            continue
        inputs = [held[tap] for tap in step.inputs]
        arithmetic = given.get(step.tap) or given.get(step.op) or arithmetic_of(step, name)
        operation = step.operation
        with np.errstate(all="ignore"):
            if isinstance(operation, Product):
                result = weights.multiplied(operation, inputs[0], arithmetic, sequence)
            else:
                result = operation.value(inputs, arithmetic, sequence).astype(dtype, copy=False)
        if touch is not None:
            result = touch(step.tap, result)
        yield step, result
        if step.tap in last:
            held[step.tap] = result
        for tap in step.inputs:
            if last[tap] <= index:
                held.pop(tap, None)


def taps_of(steps: tuple[Step, ...], sequence: Sequence, name: str, *, weights: Weights | None = None) -> Taps:
    """All taps of a pass."""
    return {step.tap: result for step, result in run(steps, sequence, name, weights=weights)}
