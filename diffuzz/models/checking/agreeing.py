"""Products that read the same activations, where the arithmetic of these is not described.

Whatever an engine reads instead of x (codes of some other kind, say), q, k and v read the same x', and so do gate and
up. Together they have more rows than x' has elements, so that x' can be had from their results by least squares, and
the results agree with it as well as float32 sums do: a wrong row, a wrong number, or a product that read something else
stands out, though nobody knows what x' is to be. Where the weights are rounded, or sums are narrow, nothing agrees, and
nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import interruption
from diffuzz.models.checking.known import Known
from diffuzz.models.operations import weights
from diffuzz.models.operations.product import Product
from diffuzz.models.operations.rounding import FLUSHED, gamma
from diffuzz.models.step import Step

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

# So many more rows than columns there have to be, for what agrees to be no accident.
_MORE_ROWS = 1.2
# Rows that activations are found from, in multiples of the columns.
_FIT = 8
# Rows that are left out, one after another, until the others agree.
_LEFT_OUT = 12
# Roundings of a sum besides those of its products: of weights, restored activations and the bias.
_ROUNDINGS = 16


@attrs.frozen(eq=False)
class _Rows:
    """Rows of one or more products: x' of each token is looked for with ``weight`` x' = ``result``."""

    weight: Float64[np.ndarray, "m k"]
    result: Float64[np.ndarray, "n m"]
    bias: Float64[np.ndarray, " m"]
    owner: np.ndarray

    def some(self, rows: Bool[np.ndarray, " m"]) -> _Rows:
        """These of the rows."""
        return _Rows(self.weight[rows], self.result[:, rows], self.bias[rows], self.owner[rows])

    def found(self) -> Float64[np.ndarray, "n k"] | None:
        """x' by least squares, None where rows are too few or too much alike."""
        m, k = self.weight.shape
        if m < _MORE_ROWS * k:
            return None
        try:
            return np.linalg.solve(self.weight.T @ self.weight, (self.result @ self.weight).T).T
        except np.linalg.LinAlgError:
            return None

    def ratios(self, x: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, "n m"]:
        """How far each result is from that of x, by what float32 sums allow."""
        made = x @ self.weight.T
        allowed = gamma(x.shape[1] + _ROUNDINGS) * (np.abs(x) @ np.abs(self.weight).T + np.abs(self.bias)) + FLUSHED
        return np.asarray(np.abs(self.result - made) / allowed)


def ratios(steps: Iterable[Step], known: Mapping[str, Known]) -> dict[str, float]:
    """By tap, the largest ratio of an error to what is allowed, of products that agree with others or do not. A product
    is not there if it cannot be said.
    """
    groups: dict[str, list[Step]] = {}
    for step in steps:
        if isinstance(step.operation, Product) and _usable(step, known):
            groups.setdefault(step.inputs[0], []).append(step)
    found: dict[str, float] = {}
    for members in groups.values():
        interruption.check()
        rows = _rows(members, known)
        if len(rows.weight) < _MORE_ROWS * rows.weight.shape[1]:
            continue
        with np.errstate(all="ignore"):
            x = _agreed(rows, len(members), known[members[0].inputs[0]].value)
            if x is not None:
                every = rows.ratios(x).max(axis=0)
                found |= {step.tap: float(every[rows.owner == index].max()) for index, step in enumerate(members)}
    return found


def _usable(step: Step, known: Mapping[str, Known]) -> bool:
    tap = known[step.tap]
    return tap.rows is None and tap.error is None and bool(np.isfinite(tap.value).all())


def _rows(members: list[Step], known: Mapping[str, Known]) -> _Rows:
    """All rows of the products, of a large one as many as are needed, from first to last."""
    parts = []
    for index, step in enumerate(members):
        product = step.operation
        assert isinstance(product, Product)
        count, k = product.weight.shape
        some = np.arange(count) if count <= _FIT * k else np.unique(np.linspace(0, count - 1, _FIT * k).astype(int))
        weight = np.concatenate([
            part.values[some[(some >= part.start) & (some < part.stop)] - part.start].astype(np.float64)
            for part in weights.parts(product.weight)
        ])  # fmt: skip
        bias = np.zeros(len(some)) if product.bias is None else product.bias[some].astype(np.float64)
        parts.append((weight, known[step.tap].value[:, some] - bias, bias, np.full(len(some), index)))
    weight, result, bias, owner = zip(*parts, strict=True)
    return _Rows(np.concatenate(weight), np.concatenate(result, axis=1), np.concatenate(bias), np.concatenate(owner))


def _agreed(rows: _Rows, products: int, read: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, "n k"] | None:
    """The activations that all rows agree on, or else those of all products but one, the nearest to what is ``read``,
    or those of all rows but a few.
    """
    everything = np.ones(len(rows.owner), bool)
    for choices in ([everything], [rows.owner != index for index in range(products) if products > 1]):
        found = []
        for kept in choices:
            some = rows.some(kept)
            x = some.found()
            if x is not None and some.ratios(x).max() <= 1:
                found.append(x)
        if found:
            # One product alone may agree with itself on activations that have a hole, where its sums lack some.
            return min(found, key=lambda x: float(np.linalg.norm(x - read)))
    left = everything
    for _ in range(_LEFT_OUT):
        some = rows.some(left)
        x = some.found()
        if x is None:
            return None
        worst = some.ratios(x).max(axis=0)
        if worst.max() <= 1:
            return x
        left = left.copy()
        left[np.flatnonzero(left)[int(np.argmax(worst))]] = False
    return None
