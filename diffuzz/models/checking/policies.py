"""Which arithmetic an engine uses for each op: one for all layers, found from what it computed.

Steps whose inputs are known exactly are estimated in every arithmetic; the one that holds for most layers is the op's.
For steps between known taps the arithmetics that are still open are tried one kind after another, products first, and
the one is taken whose results are nearest to the known taps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from diffuzz.models.checking import judging, spans
from diffuzz.models.checking.judging import Judged
from diffuzz.models.checking.known import Known
from diffuzz.models.checking.spans import Span
from diffuzz.models.forward import Weights
from diffuzz.models.operations.product import Product
from diffuzz.models.operations.rounding import UNIT
from diffuzz.models.sequence import Sequence
from diffuzz.models.step import Step

if TYPE_CHECKING:
    from jaxtyping import Float64

T = TypeVar("T")
# Layers that an arithmetic is looked for in.
SAMPLES = 5
# So many times as near has another arithmetic to be than the usual one, and roundings nearer than this do not count.
_NEARER, _SMALL = 8.0, 1.0
# Another arithmetic has to be this much nearer than the usual one, and one that is this near is not doubted.
_CLEARLY, _EXPLAINED = 0.9, 4e-6
_ROUNDS = 2
Load = Callable[[str], Known]


def group_of(step: Step) -> str:
    """Steps that share an arithmetic: the op and, of a product, the format of its weights, on which ggml's choice
    depends.
    """
    if isinstance(step.operation, Product):
        return f"{step.op} {step.operation.weight.format}"
    return step.op


def kind_of(step: Step) -> str:
    """Steps whose arithmetics are chosen together where they cannot be told apart: by operation, products by the format
    that ggml quantises their activations to.
    """
    if isinstance(step.operation, Product):
        return f"Product {step.operation.partner}"
    return "cache" if "f16 cache" in step.operation.arithmetics else type(step.operation).__name__


def middle(numbers: list[float]) -> float:
    """The median, and of an even count the lower of the two in the middle: of two or four layers, half may have faults.
    0 of none.
    """
    return sorted(numbers)[(len(numbers) - 1) // 2] if numbers else 0.0


def spread_over(items: list[T], most: int = SAMPLES) -> list[T]:
    """Some of the items, evenly from the first to the last."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def of_single(judged: Iterable[list[Judged]]) -> str:
    """The arithmetic of a group from samples of its steps, each in every arithmetic: the one that most are inside of;
    of those that as many are, the first; and if none is inside of any, the one that the typical step is nearest to.
    """
    every = list(judged)
    names = [next(iter(each.arithmetics.values())) for each in every[0]]
    samples = [sample for sample in every if not sample[0].blank] or every
    inside = [sum(sample[i].inside for sample in samples) for i in range(len(names))]
    if max(inside):
        # The bound of one may hold the results of another; then they are nearer to what that other one makes.
        as_many = [i for i, count in enumerate(inside) if count == max(inside)]
        near = [middle([max(sample[i].rms, _SMALL) for sample in samples]) for i in as_many]
        return names[next(i for i, rms in zip(as_many, near, strict=True) if rms <= _NEARER * min(near))]
    return names[int(np.argmin([middle([sample[i].relative for sample in samples]) for i in range(len(names))]))]


def of_spans(
    found: list[Span],
    known: Callable[[Span], Mapping[str, Known]],
    sequence: Sequence,
    weights: Weights,
    chosen: dict[str, str],
    get: Load,
) -> None:
    """Complete ``chosen``, the arithmetic by group, for all groups of the spans' steps."""
    open_: dict[str, list[Step]] = {}
    for span in found:
        for step in span.steps:
            if group_of(step) not in chosen:
                open_.setdefault(kind_of(step), []).append(step)
    for steps in open_.values():
        for step in steps:
            chosen.setdefault(group_of(step), _usual_first(steps[0])[0])
    kinds = sorted(open_.items(), key=lambda each: not each[0].startswith("Product"))
    # What hides behind another kind's arithmetic is seen once that one is known.
    for _ in range(_ROUNDS):
        before = dict(chosen)
        explained = True
        for _, steps in kinds:
            groups = {group_of(step) for step in steps}
            samples = _samples([span for span in found if any(group_of(step) in groups for step in span.steps)])
            names = _usual_first(steps[0])
            now = chosen[group_of(steps[0])]
            best, nearest = names[0], np.inf
            for name in sorted(names, key=lambda name: name != now):
                each = _distances(samples, known, sequence, weights, chosen | dict.fromkeys(groups, name), get)
                # A sample with a fault is as far in every arithmetic, so only ratios count: a mean of logarithms.
                apart = float(np.exp(np.mean(np.log(each)))) if len(each) else 0.0
                if apart < _CLEARLY * nearest:
                    best, nearest = name, apart
                if len(each) == 0 or each.max() <= _EXPLAINED:
                    break
            else:
                explained = False
            chosen.update(dict.fromkeys(groups, best))
        if explained or chosen == before:
            break


def of_the_most(found: list[Span], known: Mapping[str, Known], sequence: Sequence, chosen: dict[str, str]) -> None:
    """Change the arithmetic of an op whose taps are known, but narrowly, where another one holds for more of its steps:
    one layer may tell arithmetics apart that are alike in the others. Distances tell those of products.
    """
    groups: dict[str, list[Span]] = {}
    for span in found:
        if len(span.steps) == 1 and not isinstance(span.last.operation, Product):
            groups.setdefault(group_of(span.last), []).append(span)
    for group, members in groups.items():
        best, most = chosen[group], -1
        for name in sorted(members[0].last.operation.arithmetics, key=lambda name: name != best):
            inside = sum(_inside(span, known, sequence, name) for span in members)
            if inside > most:
                chosen[group], most = name, inside
            if most == len(members):
                break


def _inside(span: Span, known: Mapping[str, Known], sequence: Sequence, name: str) -> bool:
    try:
        return judging.judge(span, known, {span.last.op: name}, sequence, known[span.last.tap]).inside
    except spans.UnsupportedError:
        return True


def _usual_first(step: Step) -> tuple[str, ...]:
    """The arithmetics of a step, with codes before floats where there are both."""
    names = step.operation.arithmetics
    return tuple(sorted(names, key=lambda name: name != "q8")) if "q8" in names else names


def _samples(found: list[Span]) -> list[Span]:
    """Spans of each shape, evenly over the layers."""
    shapes: dict[tuple[str, ...], list[Span]] = {}
    for span in found:
        shapes.setdefault(span.ops, []).append(span)
    return [span for same in shapes.values() for span in spread_over(same, 3)]


def _distances(
    samples: list[Span],
    known: Callable[[Span], Mapping[str, Known]],
    sequence: Sequence,
    weights: Weights,
    chosen: Mapping[str, str],
    get: Load,
) -> Float64[np.ndarray, " some"]:
    """How far the samples are from what these arithmetics make, none of them nearer than float32 is."""
    apart = []
    for span in samples:
        names = by_op(span, {**defaults(span), **chosen})
        if not all(np.isfinite(each.value).all() for each in (get(span.last.tap), *(get(tap) for tap in span.inputs))):
            continue
        try:
            made = spans.value(span, known(span), names, sequence, weights)
        except spans.UnsupportedError:
            continue
        got = get(span.last.tap)
        apart.append(judging.apart(made if got.rows is None else made[got.rows], got, span, sequence))
    return np.maximum(apart, UNIT)


def defaults(span: Span) -> dict[str, str]:
    """The usual arithmetic of each group of a span."""
    return {group_of(step): _usual_first(step)[0] for step in span.steps}


def by_op(span: Span, chosen: Mapping[str, str]) -> dict[str, str]:
    """The arithmetics of a span's steps by op, from those by group."""
    return {step.op: chosen[group_of(step)] for step in span.steps}
