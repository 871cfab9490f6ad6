"""``diffuzz check``: every step of a run, recomputed from the inputs that the run itself dumped.

    report = check(model, dump)
    report.verdict, report.policies, report.culprits

Nothing is compared with another engine, and errors do not add up from step to step: a step is held against the bound of
its own arithmetic on its own inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import count

import attrs

from diffuzz import interruption
from diffuzz.models import architectures, blas
from diffuzz.models.checking import agreeing, culprits, judging, known, policies, spans
from diffuzz.models.checking.culprits import Culprit, Settled
from diffuzz.models.checking.judging import Judged
from diffuzz.models.checking.known import Known
from diffuzz.models.checking.spans import Span
from diffuzz.models.dump import Dump, check_against
from diffuzz.models.forward import Weights
from diffuzz.models.model import Model, ModelError
from diffuzz.models.operations.attention import Mixture, Scores
from diffuzz.models.operations.product import Product
from diffuzz.models.sequence import Sequence
from diffuzz.telling import Count, Phase, tell

WRONG, RIGHT = "CONFIRMED", "FALSIFIED"
# Taps that are held in float64 at a time.
_HELD = 64
_THREADS = 2
# Bytes of dequantised weights that are kept.
_KEPT = 1 << 28


@attrs.frozen(eq=False)
class Report:
    """What a check found.

    steps          of the model
    checked        how many of them a judged span covers
    policies       the arithmetic of each op, or what is known of one that is not described
    missing        taps that the dump does not have
    culprits       the most certain first
    judged         every span, in the order of the steps
    """

    steps: int
    checked: int
    policies: Mapping[str, str]
    missing: tuple[str, ...]
    culprits: tuple[Culprit, ...]
    judged: tuple[Judged, ...]
    unknown: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """CONFIRMED: a step is wrong. FALSIFIED: every step keeps its bound."""
        return WRONG if any(each.certain for each in self.culprits) else RIGHT


@attrs.define(eq=False)
class _Begun:
    """Counts the spans that are begun, in threads, and tells it."""

    total: int
    _count: Iterator[int] = attrs.field(init=False, factory=count)

    def one(self) -> None:
        """One more is begun."""
        tell(Count(next(self._count), self.total))


@attrs.frozen(eq=False)
class _Taps(Mapping[str, Known]):
    """The taps of a dump, loaded when they are asked for."""

    names: frozenset[str]
    load: Callable[[str], Known]

    def __getitem__(self, tap: str) -> Known:
        return self.load(tap)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@blas.one_thread()
def check(model: Model, dump: Dump, *, seed: int = 0) -> Report:
    """Judge every step of a dump.

    Raises ModelError if the dump is of another model or has nothing that can be judged.
    """
    check_against(dump, model)
    sequence = known.sequence_of(dump)
    steps = architectures.steps(model, past=sequence.past > 0)
    by_tap = {step.tap: step for step in steps}
    names = known.names(dump)
    taps = _Taps(names, lru_cache(maxsize=_HELD)(lambda tap: known.get(dump, tap, by_tap)))
    found = spans.spans(steps, names)
    if not found:
        raise ModelError("the dump has no tap that can be judged: each needs the taps before it")
    exact = [span for span in found if len(span.steps) == 1 and not any(_narrow(dump, tap) for tap in span.inputs)]
    rest = [span for span in found if span not in exact]
    tell(Phase("checking steps"))
    begun = _Begun(len(found))
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            settle = partial(_settle, taps=taps, sequence=sequence, begun=begun)
            settled = [each for group in pool.map(settle, _groups(exact)) for each in group]
            chosen = {policies.group_of(each.judged.span.last): _name(each.judged) for each in settled}
            weights = Weights(_KEPT)
            policies.of_spans(rest, lambda span: taps, sequence, weights, chosen, taps.load)
            policies.of_the_most(rest, taps, sequence, chosen)
            judge = partial(
                _judged, taps=taps, sequence=sequence, weights=weights, chosen=chosen, seed=seed, begun=begun
            )
            judged = [each for each in pool.map(judge, rest) if each]
        except BaseException:
            # What was not begun is left, as after Ctrl-C.
            pool.shutdown(cancel_futures=True)
            raise
    agreed = agreeing.ratios((each.judged.span.last for each in settled if each.wrong), taps)
    of_steps, strange = culprits.of_steps(settled, judged, agreed)
    of_spans, stranger = culprits.of_spans(judged, culprits.products_undescribed(settled, judged))
    order = {step.tap: index for index, step in enumerate(steps)}
    everything = sorted([each.judged for each in settled] + judged, key=lambda each: order[each.span.last.tap])
    return Report(
        len(steps),
        len({step.tap for each in everything for step in each.span.steps}),
        _named(chosen, strange | stranger),
        tuple(step.tap for step in steps if step.tap not in names),
        tuple(
            sorted(
                of_steps + of_spans, key=lambda each: (not each.certain, -each.ratio, order[each.judged.span.last.tap])
            )
        ),
        tuple(everything),
        dump.unknown,
    )


def _narrow(dump: Dump, tap: str) -> bool:
    array = dump.taps.get(tap)
    return array is not None and array.dtype.itemsize < 4


def _groups(exact: list[Span]) -> list[list[Span]]:
    groups: dict[str, list[Span]] = {}
    for span in exact:
        groups.setdefault(policies.group_of(span.last), []).append(span)
    return list(groups.values())


def _settle(group: list[Span], taps: Mapping[str, Known], sequence: Sequence, begun: _Begun) -> list[Settled]:
    """The steps of a group in its arithmetic, which is found from some of them."""
    every: dict[str, list[Judged]] = {}
    for span in policies.spread_over(group):
        interruption.check()
        every[span.last.tap] = _in_all(span, taps, sequence)
    if not any(every.values()):
        return []
    _add_unusual(group, every, taps, sequence)
    name = policies.of_single(each for each in every.values() if each)
    settled = []
    for span in group:
        interruption.check()
        begun.one()
        tap = span.last.tap
        try:
            one = next(each for each in every[tap] if _name(each) == name) if tap in every else judging.judge(
                span, taps, {span.last.op: name}, sequence, taps[tap])  # fmt: skip
        except (spans.UnsupportedError, StopIteration):
            continue
        elsewhere = None
        if not one.inside:
            others = every[tap] if tap in every else _in_all(span, taps, sequence)
            elsewhere = next((each for each in others if each.inside), None)
        settled.append(Settled(one, elsewhere))
    return settled


def _add_unusual(
    group: list[Span], every: dict[str, list[Judged]], taps: Mapping[str, Known], sequence: Sequence
) -> None:
    """Add arithmetics that few engines have to the samples, where most samples are outside of all others and one of
    these holds for some.
    """
    operation = group[0].last.operation
    if not isinstance(operation, Product | Scores | Mixture):
        return
    samples = [span for span in group if every.get(span.last.tap) and not every[span.last.tap][0].blank]
    outside = [span for span in samples if not any(each.inside for each in every[span.last.tap])]
    if 2 * len(outside) <= len(samples):
        return
    for span in outside:
        interruption.check()
        found = judging.judge_all(span, taps, sequence, taps[span.last.tap], operation.unusual)
        if holding := tuple(_name(each) for each in found if each.inside and not each.blank):
            for other in samples:
                every[other.last.tap] += judging.judge_all(other, taps, sequence, taps[other.last.tap], holding)
            return


def _in_all(span: Span, taps: Mapping[str, Known], sequence: Sequence) -> list[Judged]:
    try:
        return judging.judge_all(span, taps, sequence, taps[span.last.tap])
    except spans.UnsupportedError:
        return []


def _judged(
    span: Span,
    *,
    taps: Mapping[str, Known],
    sequence: Sequence,
    weights: Weights,
    chosen: Mapping[str, str],
    seed: int,
    begun: _Begun,
) -> Judged | None:
    interruption.check()
    begun.one()
    got = taps[span.last.tap]
    try:
        judged = judging.judge(span, taps, policies.by_op(span, chosen), sequence, got)
    except spans.UnsupportedError:
        return None
    return judging.with_spread(judged, taps, sequence, got, weights, seed)


def _name(judged: Judged) -> str:
    return judged.arithmetics[judged.span.last.op]


def _named(chosen: Mapping[str, str], strange: Mapping[str, float]) -> dict[str, str]:
    """The arithmetics, with those that are not described in words."""
    return {group: f"not described, about {strange[group]:.1g} from {name}" if group in strange else name
            for group, name in chosen.items()}  # fmt: skip
