"""Where in a tap an error is: which tokens, heads and rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.models import architectures
from diffuzz.models.checking import judging, known, spans
from diffuzz.models.checking.culprits import Culprit
from diffuzz.models.checking.known import Known
from diffuzz.models.dump import Dump
from diffuzz.models.model import Model
from diffuzz.models.operations.attention import Mixture
from diffuzz.models.operations.rope import Rope

if TYPE_CHECKING:
    from jaxtyping import Float64


@attrs.frozen
class Places:
    """Where the errors of a culprit are that are at least half as large, by what is allowed, as its largest one.

    tokens    their indices
    heads     of scores, probabilities and taps by heads; else None
    rows      of a head, or of the whole tap: the indices of its last axis
    worst     the index of the largest error
    got, expected, allowed    of that element
    """

    tokens: tuple[int, ...]
    heads: tuple[int, ...] | None
    rows: tuple[int, ...]
    worst: tuple[int, ...]
    got: float
    expected: float
    allowed: float


def of(model: Model, dump: Dump, culprit: Culprit) -> Places:
    """The places of a culprit of a check of this dump."""
    sequence = known.sequence_of(dump)
    steps = {step.tap: step for step in architectures.steps(model, past=sequence.past > 0)}
    span = culprit.judged.span
    taps = {tap: known.get(dump, tap, steps) for tap in span.inputs}
    got = known.get(dump, span.last.tap, steps)
    made = spans.estimate(span, taps, culprit.judged.arithmetics, sequence, got)
    share = judging.ratios(got, made)
    size = _head_size(span)
    if size is not None:
        share = np.moveaxis(share.reshape(len(share), -1, size), 1, 0)
    worst = np.unravel_index(int(np.argmax(share)), share.shape)
    where = np.argwhere(share >= share[worst] / 2 if np.isfinite(share[worst]) else np.isinf(share))
    tokens = where[:, -2] if got.rows is None else got.rows[where[:, -2]]
    flat = tuple(int(i) for i in worst)
    if size is not None:
        flat = (flat[1], flat[0] * size + flat[2])
    return Places(
        _distinct(tokens),
        _distinct(where[:, 0]) if share.ndim == 3 else None,
        _distinct(where[:, -1]),
        flat,
        float(got.value[flat]),
        float(made.value[flat]),
        float(_allowed(got, made.allowed)[flat]),
    )


def _allowed(got: Known, allowed: Float64[np.ndarray, " ..."]) -> Float64[np.ndarray, " ..."]:
    return allowed if got.error is None else allowed + got.error


def _head_size(span: spans.Span) -> int | None:
    """The elements of a head, where the tap has heads side by side."""
    operation = span.last.operation
    if isinstance(operation, Rope):
        return operation.size
    if isinstance(operation, Mixture):
        return operation.size
    return None


def _distinct(indices: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unique(indices))
