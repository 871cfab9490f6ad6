"""Which steps are wrong, and which are the odd ones out.

A step outside the bound of every arithmetic is **wrong**. A step inside is **suspect** if it is the odd one out: if its
error, as a share of what rounding may make, is 8 times that of the same op in the typical layer, or if it has another
arithmetic than the same op elsewhere. Where most layers of an op are outside, a little and alike, the engine has an
arithmetic that is not described here: then none of them is wrong, and only the odd ones are suspect, and those in which
one column or number stands out as in no other layer.

Where several steps are one span, or inputs are known in f16 or bf16 only, a step is also suspect if it is 8 times as
far from its value as the farthest replicate of any layer is, whose numbers were moved by a float32 ULP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Several
from types import MappingProxyType
from typing import TypeVar

import attrs
import numpy as np

from diffuzz.models.checking.judging import Judged
from diffuzz.models.checking.policies import group_of, kind_of, middle
from diffuzz.models.operations.product import Product
from diffuzz.models.operations.sum import Sum

T = TypeVar("T")

ODD = 8.0
# A typical share of what rounding usually makes is at least this: results may be exact.
_SMALL = 0.0025
# The largest relative error of an arithmetic that is not described: 8-bit activations make 1 %, those with one
# scale for a row of outliers, and 4-bit ones, 10 %.
_UNDESCRIBED = 0.15
# Fewer steps of one op are compared with those of the same kind of operation.
_FEW = 3
# How much more than in any other layer the farthest column, or number, of a step may stand out: seven arithmetics on a
# random qwen2 and four on SmolLM2 reached 1.7 and 2.1.
_COLUMN, _NUMBER = 2.5, 3.0
# The relative error of a token that is one or two units in the last place of float32: odd or not, it is no fault.
_LAST_BITS = 1.5e-7
# Relative distances that float32 explains anywhere.
_NEAR = 1e-6


@attrs.frozen(eq=False)
class Culprit:
    """A step, or steps that are one span, at fault.

    ratio      how many times its error is what is allowed, or, of a suspect, what is usual
    certain    whether it is outside the bound of every arithmetic
    because    why, in words
    """

    judged: Judged
    ratio: float
    certain: bool
    because: str
    span: tuple[str, ...]

    @property
    def layer(self) -> int | None:
        """The layer, None outside layers."""
        return self.judged.span.last.layer

    @property
    def op(self) -> str:
        """The op whose tap is off."""
        return self.judged.span.last.op


@attrs.frozen(eq=False)
class Settled:
    """A step in the arithmetic of its op, and, where it is outside of that, in the one that holds for it, if any."""

    judged: Judged
    elsewhere: Judged | None = None

    @property
    def wrong(self) -> bool:
        """Whether no arithmetic holds."""
        return not self.judged.inside and self.elsewhere is None


def _stands_out(judged: Judged, others: Several[Judged]) -> bool:
    """Whether a column, or a number, is farther off than in every other layer: in an arithmetic not described."""
    column, number = (max(sizes) for sizes in zip(*((each.column, each.number) for each in others), strict=True))
    return bool(judged.column > _COLUMN * max(column, 1.0) or judged.number > _NUMBER * max(number, 1.0))


def products_undescribed(settled: Iterable[Settled], spans: Iterable[Judged]) -> bool:
    """Whether most of the products are outside of every arithmetic, be they steps or in spans."""
    outside = [
        each.wrong for each in settled if isinstance(each.judged.span.last.operation, Product) and not each.judged.blank
    ]
    for item in spans:
        if any(isinstance(step.operation, Product) for step in item.span.steps) and item.spread is not None:
            apart, others = item.spread
            outside.append(not item.inside or bool((apart > ODD * np.maximum(others.max(axis=0), _NEAR)).any()))
    return len(outside) >= _FEW and 2 * sum(outside) > len(outside)


def of_steps(
    settled: Iterable[Settled], spans: Iterable[Judged] = (), agreeing: Mapping[str, float] = MappingProxyType({})
) -> tuple[list[Culprit], dict[str, float]]:
    """The culprits among steps, and the typical relative error of each group whose arithmetic is not described.
    ``agreeing`` has, of products in such an arithmetic, whether they agree with those that read the same: a ratio.
    """
    items = list(settled)
    found, undescribed = [], {}
    products = products_undescribed(items, spans)
    groups = _grouped(items, lambda item: group_of(item.judged.span.last))
    ops = _grouped(items, lambda item: item.judged.span.last.op)
    kinds = _grouped(items, lambda item: kind_of(item.judged.span.last))
    for name, members in groups.items():
        last = members[0].judged.span.last
        peers = next((each for each in (members, ops[last.op]) if len(each) >= _FEW), kinds[kind_of(last)])
        peers = [each for each in peers if not each.judged.blank] or peers
        typical = _undescribed(peers)
        if typical is None and products and isinstance(members[0].judged.span.last.operation, Product):
            mine = float(np.median([each.judged.typical for each in members if not each.judged.blank] or [0.0]))
            typical = mine if mine <= _UNDESCRIBED else None
        if typical is not None:
            undescribed[name] = float(np.median([each.judged.typical for each in members]))
        share = middle([each.judged.share for each in peers if typical is not None or each.judged.inside])
        rms = middle([each.judged.rms for each in peers if typical is not None or each.judged.inside])
        for each in members:
            judged = each.judged
            odd = max(judged.share / max(share, _SMALL), judged.rms / max(rms, _SMALL / 8))
            others = (
                []
                if typical is None
                else [peer.judged for peer in ops[last.op] if peer is not each and not peer.judged.blank]
            )
            if each.wrong and (typical is None or np.isinf(judged.worst)):
                found.append(_culprit(judged, judged.worst, True, "outside the bound of every arithmetic"))
            elif each.elsewhere is not None and typical is None:
                other = next(iter(each.elsewhere.arithmetics.values()))
                found.append(_culprit(judged, judged.worst, False, f"computed in {other}, unlike the other layers"))
            elif typical is not None and judged.span.last.tap in agreeing:
                ratio = agreeing[judged.span.last.tap]
                if ratio > 1:
                    found.append(_culprit(judged, ratio, False, "it disagrees with the rows that read the same"))
            elif len(others) + 1 >= _FEW and _stands_out(judged, others):
                found.append(
                    _culprit(judged, max(odd, 1.0), False, "a column or number stands out as in no other layer")
                )
            elif odd > ODD and len(peers) >= _FEW and judged.relative > _LAST_BITS:
                found.append(_culprit(judged, odd, False, "the odd one out among its layers"))
    return found, undescribed


def of_spans(items: Several[Judged], products: bool) -> tuple[list[Culprit], dict[str, float]]:
    """The culprits among spans, and the typical relative error of spans that hold an arithmetic not described.
    ``products`` says whether that of products is known not to be.
    """
    found, undescribed = [], {}
    groups = _grouped(items, lambda item: " ".join((*item.span.ops, str(len(item.span.inputs)))))
    scores = {
        id(item): score for members in groups.values() for item, score in zip(members, _scores(members), strict=True)
    }

    def strange_among(peers: Several[Judged]) -> bool:
        far = sum(not item.inside or scores[id(item)] > ODD for item in peers)
        alike = _alike([item for item in peers if not item.inside], peers)
        return len(peers) >= _FEW and (2 * far > len(peers) or alike)

    # An arithmetic of all products also holds where there are few spans of a form.
    with_products = [item for item in items if any(isinstance(step.operation, Product) for step in item.span.steps)]
    for members in groups.values():
        of_products = any(members[0] is item for item in with_products)
        peers = members if len(members) >= _FEW else with_products if of_products else list(items)
        typical = float(np.median([item.typical for item in members]))
        usual = float(np.median([scores[id(item)] for item in peers]))
        strange = typical <= _UNDESCRIBED and ((of_products and products) or strange_among(peers))
        if strange:
            undescribed[members[0].span.last.op] = typical
        for item in members:
            score = scores[id(item)]
            if item.broken or (not item.inside and not strange):
                ratio = np.inf if item.broken else item.worst
                found.append(_culprit(item, ratio, True, "outside the bound of every arithmetic"))
            elif score > ODD * max(usual, 1.0):
                found.append(_culprit(item, score / max(usual, 1.0), False, "farther off than replicates are"))
    return _merged(found, items), undescribed


def _scores(members: Several[Judged]) -> list[float]:
    """How far each is from its value, in spreads of replicates: the most of all ways of ``judging.distances``. A spread
    is that of the farthest replicate of all members.
    """
    spreads = [each.spread for each in members if each.spread is not None]
    if not spreads:
        return [0.0] * len(members)
    widths = {others.shape[1] for _, others in spreads}
    # An engine may have a code on the other side of a tie where none of the step's own replicates has one.
    pooled = {
        width: np.max([others.max(axis=0) for _, others in spreads if others.shape[1] == width], axis=0)
        for width in widths
    }
    scores = []
    for each in members:
        if each.spread is None:
            scores.append(0.0)
            continue
        apart, others = each.spread
        own = np.maximum(pooled[others.shape[1]], 1e-12)
        scores.append(float((apart / own).max()))
    return scores


def _merged(found: list[Culprit], items: Several[Judged]) -> list[Culprit]:
    """One culprit instead of several whose spans share steps: the steps that all of them have and no span that is right
    has, or else those that all have.
    """
    merged: list[Culprit] = []
    left = sorted(found, key=lambda each: (not each.certain, -each.ratio))
    flagged = {id(each.judged) for each in found}
    right = {step.tap for item in items if id(item) not in flagged for step in item.span.steps}
    while left:
        first = left.pop(0)
        taps = [step.tap for step in first.judged.span.steps]
        same = [each for each in left if {step.tap for step in each.judged.span.steps} & set(taps)]
        left = [each for each in left if each not in same]
        for each in same:
            theirs = {step.tap for step in each.judged.span.steps}
            taps = [tap for tap in taps if tap in theirs] or taps
        taps = [tap for tap in taps if tap not in right] or taps
        ops = tuple(step.op for step in first.judged.span.steps if step.tap in taps)
        merged.append(attrs.evolve(first, span=ops))
    return merged


def _culprit(judged: Judged, ratio: float, certain: bool, because: str) -> Culprit:
    return Culprit(judged, ratio, certain, because, judged.span.ops)


def _undescribed(peers: Several[Settled]) -> float | None:
    """The typical relative error of an arithmetic that is not described; None if most are inside of a known one."""
    typical = float(np.median([each.judged.typical for each in peers]))
    outside = [each.judged for each in peers if each.wrong]
    strange = len(peers) >= _FEW and (2 * len(outside) > len(peers) or _alike(outside, [each.judged for each in peers]))
    return typical if strange and typical <= _UNDESCRIBED else None


def _alike(outside: Several[Judged], peers: Several[Judged]) -> bool:
    """Whether those outside of a bound are no farther off than all others nearly are: of an engine whose arithmetic is
    a little coarser than one that is described, such as products in tf32, some layers are just inside.

    A sum of two numbers has one rounding, so that all that are right are as near to the bound as can be.
    """
    if not outside or isinstance(peers[0].span.last.operation, Sum):
        return False
    usual = middle([each.worst for each in peers])
    return usual > 1 / ODD and all(each.worst <= ODD * usual for each in outside)


def _grouped(items: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
