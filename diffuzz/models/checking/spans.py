"""Spans: steps that are judged together, because the taps between them are not known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.models.checking.known import Known
from diffuzz.models.forward import Weights
from diffuzz.models.operations.attention import Mixture, Probs, Scores
from diffuzz.models.operations.product import Product
from diffuzz.models.operations.rope import Rope
from diffuzz.models.operations.rounding import UNIT, gamma
from diffuzz.models.operations.sum import Sum
from diffuzz.models.sequence import Sequence
from diffuzz.models.step import Estimate, Step

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int

_WITH_KEYS = (Scores, Probs, Mixture)
REPLICATES, _MOST_REPLICATES = 8, 32
# Products of numbers that all replicates of a span may take.
_WORK = 2 * 10**8
# Bounds of more steps in a row, one upon the other, promise next to nothing.
_LONG = 6


class UnsupportedError(ValueError):
    """A span of which some taps are there for some tokens only, in a way that leaves nothing to judge."""


@attrs.frozen(eq=False)
class Span:
    """The steps from known taps, ``inputs``, to the next known one, the tap of the last step."""

    steps: tuple[Step, ...]
    inputs: tuple[str, ...]

    @property
    def last(self) -> Step:
        """The step whose tap is judged."""
        return self.steps[-1]

    @property
    def ops(self) -> tuple[str, ...]:
        """The ops of the steps, in order."""
        return tuple(step.op for step in self.steps)


def spans(steps: tuple[Step, ...], known: Set[str]) -> list[Span]:
    """Every step whose tap is known, with the steps before it whose taps are not."""
    by_tap = {step.tap: index for index, step in enumerate(steps)}
    found = []
    for index, step in enumerate(steps):
        if step.tap not in known:
            continue
        members, inputs, open_ = {index}, set(), list(step.inputs)
        while open_:
            tap = open_.pop()
            if tap in known or tap not in by_tap:
                inputs.add(tap)
            elif by_tap[tap] not in members:
                members.add(by_tap[tap])
                open_.extend(steps[by_tap[tap]].inputs)
        if inputs <= known:
            found.append(Span(tuple(steps[i] for i in sorted(members)), tuple(sorted(inputs))))
    return found


def estimate(
    span: Span, known: Mapping[str, Known], arithmetics: Mapping[str, str], sequence: Sequence, got: Known
) -> Estimate:
    """The estimate of the last tap, for the tokens that it is there for. ``arithmetics`` is by op.

    Raises UnsupportedError.
    """
    if len(span.steps) > _LONG:
        nothing = np.full(got.value.shape, np.inf)
        return Estimate(np.where(np.isfinite(got.value), got.value, 0.0), nothing, nothing)
    with np.errstate(all="ignore"):
        return _estimate(span, known, arithmetics, sequence, got)


def _estimate(
    span: Span, known: Mapping[str, Known], arithmetics: Mapping[str, str], sequence: Sequence, got: Known
) -> Estimate:
    held = {tap: known[tap] for tap in span.inputs}
    roundings = {
        step.tap: step.operation.roundings(arithmetics[step.op])
        for step in span.steps
        if isinstance(step.operation, Product)
    }
    for step in span.steps:
        inputs, rows = _aligned(step, [held[tap] for tap in step.inputs])
        final = step is span.last
        if final:
            inputs, rows = _only(inputs, rows, got.rows, step)
        values, errors = [each.value for each in inputs], [each.error for each in inputs]
        wanted = got.value if final and rows_equal(rows, got.rows) else None
        made = step.operation.estimate(values, errors, arithmetics[step.op], sequence, wanted)
        added = roundings.get(step.inputs[-1]) if isinstance(step.operation, Sum) else None
        if added is not None:
            # Nobody saw the product on its own, so it may have begun with the residual.
            more = gamma(added) * np.abs(values[0])
            made = attrs.evolve(made, allowed=made.allowed + more)
        if final:
            return made if rows_equal(rows, got.rows) else _picked(made, got.rows)
        # An error that is no number, such as infinity times zero, promises nothing.
        held[step.tap] = Known(made.value, np.where(np.isnan(made.allowed), np.inf, made.allowed), rows)
    raise AssertionError("a span has a last step")


def _aligned(step: Step, inputs: list[Known]) -> tuple[list[Known], Int[np.ndarray, " r"] | None]:
    """The inputs for the same tokens, and these."""
    some = next((each.rows for each in inputs if each.rows is not None), None)
    if some is None:
        return inputs, None
    if isinstance(step.operation, _WITH_KEYS) or not all(
        rows_equal(each.rows, some) for each in inputs if each.rows is not None
    ):
        raise UnsupportedError(step.tap)
    return [each if each.rows is not None else _rows_of(each, some) for each in inputs], some


def _only(
    inputs: list[Known], rows: Int[np.ndarray, " r"] | None, wanted: Int[np.ndarray, " r"] | None, step: Step
) -> tuple[list[Known], Int[np.ndarray, " r"] | None]:
    """The inputs for the tokens that the result is there for, where that can be had before the step."""
    if rows is not None and not rows_equal(rows, wanted):
        raise UnsupportedError(step.tap)
    if rows is None and wanted is not None and inputs and not isinstance(step.operation, _WITH_KEYS):
        return [_rows_of(each, wanted) for each in inputs], wanted
    return inputs, rows


def rows_equal(one: Int[np.ndarray, " r"] | None, other: Int[np.ndarray, " r"] | None) -> bool:
    """Whether two taps are there for the same tokens."""
    return one is other or (one is not None and other is not None and np.array_equal(one, other))


def _rows_of(each: Known, rows: Int[np.ndarray, " r"]) -> Known:
    return Known(each.value[rows], None if each.error is None else each.error[rows], rows)


def _picked(made: Estimate, rows: Int[np.ndarray, " r"] | None) -> Estimate:
    if rows is None or made.value.ndim != 2:
        raise UnsupportedError("")
    return Estimate(made.value[rows], made.allowed[rows], made.rounding[rows])


def replicates(
    span: Span,
    known: Mapping[str, Known],
    arithmetics: Mapping[str, str],
    sequence: Sequence,
    weights: Weights,
    rng: np.random.Generator,
) -> tuple[Float64[np.ndarray, " ..."], Float64[np.ndarray, "replicates ..."]]:
    """The last tap in float64, and several times with every number on the way, the inputs among them, moved by what
    float32 makes of it, or within what is known of it. Raises UnsupportedError.
    """
    count = _replicates(span, sequence)

    def moved(
        x: Float64[np.ndarray, "more ..."], error: Float64[np.ndarray, " ..."]
    ) -> Float64[np.ndarray, "more ..."]:
        noise = rng.uniform(-1, 1, x.shape)
        noise[0] = 0
        with np.errstate(invalid="ignore"):
            return np.asarray(x + noise * error)

    held = {}
    for tap in span.inputs:
        x, error = known[tap].value, known[tap].error
        whole = np.broadcast_to(x, (count + 1, *x.shape))
        held[tap] = moved(whole, 2 * UNIT * np.abs(x) if error is None else error)

    def touch(step: Step, x: Float64[np.ndarray, " ..."]) -> Float64[np.ndarray, "more ..."]:
        # Rows of the embedding have no inputs, and so no axis of replicates yet.
        x = x if step.inputs else np.broadcast_to(x, (count + 1, *x.shape))
        return moved(x, _rounding(step, x, sequence))

    made = _passed(span, known, held, arithmetics, sequence, weights, touch)
    return made[0], made[1:]


def spoiled(span: Span, known: Mapping[str, Known], sequence: Sequence) -> Bool[np.ndarray, " n"]:
    """Tokens whose result is no number because an input is none, whatever quantisers make of that: those themselves
    and, where keys are read, all from the first one on.
    """
    n = len(sequence.tokens)
    found = np.zeros(n, bool)
    for tap in span.inputs:
        x = known[tap].value
        if known[tap].rows is not None or x.shape[-2] != n:
            continue
        if x.ndim == 2:
            found |= ~np.isfinite(x).all(axis=-1)
        else:
            # Masked places may hold anything.
            window = next((getattr(step.operation, "window", None) for step in span.steps if tap in step.inputs), None)
            found |= (~np.isfinite(x) & sequence.visible(window)).any(axis=(0, -1))
    if found.any() and any(isinstance(step.operation, _WITH_KEYS) for step in span.steps):
        found[int(np.argmax(found)) :] = True
    return found


def _replicates(span: Span, sequence: Sequence) -> int:
    """More of them where that costs little."""
    size = sum(
        step.operation.weight.rows * step.operation.weight.shape[1]
        for step in span.steps
        if isinstance(step.operation, Product)
    )
    return int(np.clip(_WORK // max(1, size * len(sequence.tokens)), REPLICATES, _MOST_REPLICATES))


def _rounding(step: Step, x: Float64[np.ndarray, " ..."], sequence: Sequence) -> Float64[np.ndarray, " ..."]:
    """What float32 may make of a result on the way: a ULP or, where terms cancel, one of the usual size; of a rotation
    more at a high position, whose angle is rounded.
    """
    if isinstance(step.operation, Product | Scores | Mixture | Rope):
        with np.errstate(all="ignore"):
            usual = np.sqrt(np.mean(x * x, axis=-1, keepdims=True))
        turned = 1.0 + sequence.positions[:, None] if isinstance(step.operation, Rope) else 1.0
        terms = 4.0 if isinstance(step.operation, Product) else turned
        return np.asarray(2 * UNIT * (np.abs(x) + usual * terms))
    return np.asarray(2 * UNIT * np.abs(x))


def value(
    span: Span, known: Mapping[str, Known], arithmetics: Mapping[str, str], sequence: Sequence, weights: Weights
) -> Float64[np.ndarray, " ..."]:
    """The last tap in float64. Raises UnsupportedError."""
    held = {tap: known[tap].value for tap in span.inputs}
    return _passed(span, known, held, arithmetics, sequence, weights, lambda step, x: x)


def _passed(
    span: Span,
    known: Mapping[str, Known],
    held: dict[str, np.ndarray],
    arithmetics: Mapping[str, str],
    sequence: Sequence,
    weights: Weights,
    touch: Callable[[Step, np.ndarray], np.ndarray],
) -> Float64[np.ndarray, " ..."]:
    if any(known[tap].rows is not None for tap in span.inputs):
        raise UnsupportedError(span.last.tap)
    made = np.zeros(0)
    for step in span.steps:
        inputs = [held[tap] for tap in step.inputs]
        with np.errstate(all="ignore"):
            if isinstance(step.operation, Product):
                made = weights.multiplied(step.operation, inputs[0], arithmetics[step.op], sequence)
            else:
                made = step.operation.value(inputs, arithmetics[step.op], sequence)
            made = held[step.tap] = touch(step, made)
    return made
