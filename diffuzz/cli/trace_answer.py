"""What two runs are to each other, in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffuzz.cli.check_text import first_wrong, in_what, name_of, odd_text, wrong_text

if TYPE_CHECKING:
    from diffuzz.models.step import Step
    from diffuzz.models.tracing import Side, Trace

SIDES = ("A", "B")
# A drift up to so many times the floor is noise: tokens differ, and so do replicates.
NOISE = 4.0


def answer(traced: Trace) -> str:
    """What two runs are to each other, in one line: what is wrong with either comes first."""
    said = [text for label, side in labelled(traced) if (text := _off(label, side))]
    if traced.wrong:
        return " ".join(said)
    return " ".join([*said, _unlike(traced)])


def _off(label: str, side: Side) -> str:
    """What is wrong with a run, and where it makes NaN or infinity; empty if it does neither."""
    first = first_wrong(side.report)
    if first is not None:
        return f"{label} is wrong at {name_of(first)}: {wrong_text(side.report, first)}{odd_text(side.odd, first)}."
    return f"{label}: {odd_text(side.odd, None).removeprefix('; ')}." if side.odd is not None else ""


def _unlike(traced: Trace) -> str:
    """What the difference of two runs is worth, neither of which is wrong."""
    if traced.same:
        return f"both runs are the same, bit for bit, at all {len(traced.drifts)} taps that both have."
    suspects = [f"{name_of(side.report.culprits[0])} of {label} is suspect"
                for label, side in labelled(traced) if side.report.culprits]  # fmt: skip
    bounds = f"both keep their bounds{_in_what(traced)}"
    but = f", but {_and(suspects)}" if suspects else ""
    if any(side.odd for side in traced.sides):
        return f"Where numbers are due, {bounds}{but}."
    return f"{bounds}{but}: {_because(traced)}."


def _in_what(traced: Trace) -> str:
    """The steps that were judged, unless these are all, each by itself."""
    a, b = (in_what(side.report) for side in traced.sides)
    if a == b:
        return f", in {a}" if a else ""
    return "".join(f", {label} in {text or 'all steps'}" for label, text in (("A", a), ("B", b)))


def _because(traced: Trace) -> str:
    a, b = (prices(side) for side in traced.sides)
    only = [(label, [price for price in mine if price not in others])
            for label, mine, others in (("A", a, b), ("B", b, a))]  # fmt: skip
    parts = [f"{_and(mine)} in {label}" for label, mine in only if mine]
    shared = [price for price in a if price in b]
    if parts:
        price = f"the difference is the price of {' and of '.join(parts)}"
        small = shared and traced.excess is not None and traced.excess <= NOISE
        return f"{price}, within the noise of {_and(shared)}, which both have" if small else price
    times_it = f"{traced.excess:.2g} times " if traced.excess is not None and traced.excess > NOISE else ""
    if a:
        return f"the difference is {times_it}the noise of {_and(a)}, which both have"
    return f"the difference is {times_it or 'that of '}float32 rounding"


def prices(side: Side) -> list[str]:
    """What a run does otherwise than in float32, in words."""
    from diffuzz.models.tracing import floor

    given = floor.arithmetics_of(side.report)
    steps = {step.tap: step for judged in side.report.judged for step in judged.span.steps}
    found = [_price(steps[tap], name) for tap, name in given.items() if name != "f32"]
    found += [f"an arithmetic of {group.partition(' ')[0]} that is not described"
              for group, name in side.report.policies.items() if name.startswith("not described")]  # fmt: skip
    return list(dict.fromkeys(found))


def _price(step: Step, name: str) -> str:
    from diffuzz.models.operations.attention import Mixture, Scores
    from diffuzz.models.operations.embedding import Embedding
    from diffuzz.models.operations.glu import Glu
    from diffuzz.models.operations.norm import Norm
    from diffuzz.models.operations.product import Product
    from diffuzz.models.operations.sum import Sum

    kind = name.partition(" ")[0]
    if isinstance(step.operation, Product):
        if name.endswith(" weights"):
            return name.replace(",", " activations and")
        return "q8 activations with scales in f32" if name == "q8, f32 scale" else f"{name} activations"
    if isinstance(step.operation, Scores | Mixture):
        return f"an {kind} KV cache" if kind in ("f16", "int8") else f"a {kind} KV cache"
    if isinstance(step.operation, Glu):
        return f"an f16 table of {step.operation.activation}"
    if isinstance(step.operation, Norm | Sum):
        return f"an {kind} residual" if kind == "f16" else f"a {kind} residual"
    return f"a {kind} scale of the embeddings" if isinstance(step.operation, Embedding) else f"{step.op} in {name}"


def _and(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def labelled(traced: Trace) -> list[tuple[str, Side]]:
    return list(zip(SIDES, traced.sides, strict=True))
