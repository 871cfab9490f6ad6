"""``diffuzz bench faults``: how many planted faults ``diffuzz check`` names, and how many right runs it flags.

What counts as named is stricter where more is dumped. With all taps in float32 the culprits have to be the faulty
steps and nothing else; with taps in f16 the first culprit has to be one; with six taps a layer its span has to hold
the faulty step; with outputs of layers only it has to be of the faulty layer. A fault that changes no number by more
than ``NOTHING`` of its token's size, which is what roundings do, is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import attrs
import numpy as np

from diffuzz.models import architectures, checking, sequence
from diffuzz.models.forward import Weights
from diffuzz.models.model import Model
from diffuzz.models.operations.product import Product
from diffuzz.models.sequence import Sequence
from diffuzz.models.step import Step
from diffuzz.studies.faults import baselines, engines, faults, running
from diffuzz.studies.faults.engines import Engine
from diffuzz.studies.faults.running import ALL, HALF, OUTPUTS, SIX, Taps
from diffuzz.studies.faults.site import Fault

NOTHING = 2e-6
TOKENS = 7


@attrs.frozen
class Setting:
    """What is measured: engines, what they dump, how many faults a run has, and the mark for the share that is named
    (issue 12, "Localisation").
    """

    name: str
    engines: tuple[Engine, ...]
    level: str
    mark: float
    faults: int = 1


_CODES_AND_FLOATS = engines.DESCRIBED[:3]
SETTINGS = (
    Setting("all taps, products f32 or q8", _CODES_AND_FLOATS, ALL, 0.98),
    Setting("all taps, unusual arithmetics", engines.UNUSUAL, ALL, 0.90),
    Setting("all taps, unknown arithmetics", engines.UNDESCRIBED, ALL, 0.90),
    Setting("all taps, two faults", _CODES_AND_FLOATS, ALL, 0.90, faults=2),
    Setting("f16 taps", engines.DESCRIBED, HALF, 0.60),
    Setting("six taps a layer", _CODES_AND_FLOATS, SIX, 0.85),
    Setting("l_out only", _CODES_AND_FLOATS, OUTPUTS, 0.85),
)


@attrs.frozen
class Row:
    """One run: where its faults are (none in a control), what the check says, and what others say.

    effect     of the faults on their taps, the smallest; ``floor`` and ``logits`` are how far the logits of a right
               build, and those of this run, are from those of the right engine
    """

    setting: str
    engine: str
    faults: tuple[str, ...]
    taps: tuple[str, ...]
    effect: float
    logits: float
    floor: float
    culprits: tuple[str, ...]
    named: bool
    others: Mapping[str, bool]
    seconds: float

    @property
    def control(self) -> bool:
        """Whether it is right."""
        return not self.taps


def score(
    model: Model,
    *,
    count: int,
    seed: int,
    settings: tuple[Setting, ...] = SETTINGS,
    finished: Callable[[], bool] = lambda: False,
) -> Iterator[Row]:
    """``count`` faults and the controls of each setting. It ends early when ``finished`` says so."""
    steps = architectures.steps(model)
    rng = np.random.default_rng([seed, 12])
    vocabulary = next(step.operation.weight.rows for step in steps[::-1] if isinstance(step.operation, Product))
    ran = _Runs(model, steps, sequence.of_tokens(rng.integers(0, vocabulary, TOKENS).tolist()), seed)
    for setting in settings:
        for engine in setting.engines:
            for index, build in enumerate((engine, *ran.builds(engine))):
                if finished():
                    return
                yield ran.control(setting, build, index)
        drawn = faults.drawn(steps, count * setting.faults, np.random.default_rng([seed, len(setting.name)]))
        for index in range(len(drawn) // setting.faults):
            if finished():
                return
            chosen = drawn[index * setting.faults : (index + 1) * setting.faults]
            row = ran.faulty(setting, setting.engines[index % len(setting.engines)], chosen, index)
            if row is not None:
                yield row


@attrs.define(eq=False)
class _Runs:
    """Runs of one model over one sequence; right ones are kept."""

    model: Model
    steps: tuple[Step, ...]
    sequence: Sequence
    seed: int
    _weights: Weights = attrs.field(init=False)
    _right: dict[Engine, Taps] = attrs.field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        self._weights = running.prepared(self.steps)

    def builds(self, engine: Engine) -> tuple[Engine, ...]:
        return engines.builds(engine, self.seed)

    def right(self, engine: Engine) -> Taps:
        """The taps of a right run."""
        if engine not in self._right:
            made = running.run(self.steps, self.sequence, engine, self._weights)
            assert made is not None
            if len(self._right) >= 4:
                self._right.pop(next(iter(self._right)))
            self._right[engine] = made.taps
        return self._right[engine]

    def _checked(self, engine: Engine, taps: Taps, level: str, index: int) -> tuple[checking.Report, float]:
        start = time.perf_counter()
        dump = running.dump(self.model, self.sequence, engine, taps, level, index)
        return checking.check(self.model, dump), time.perf_counter() - start

    def control(self, setting: Setting, build: Engine, index: int) -> Row:
        report, seconds = self._checked(build, self.right(build), setting.level, index)
        found = tuple(each.judged.span.last.tap for each in report.culprits)
        return Row(setting.name, build.name, (), (), 0.0, 0.0, 0.0, found, not found, {}, seconds)

    def faulty(self, setting: Setting, engine: Engine, chosen: list[tuple[Fault, Step]], index: int) -> Row | None:
        """None where a fault cannot be there, or changes nothing."""
        right = self.right(engine)
        planted = {
            step.tap: (fault, np.random.default_rng([self.seed, index, place]))
            for place, (fault, step) in enumerate(chosen)
        }
        made = running.run(self.steps, self.sequence, engine, self._weights, before=right, faults=planted)
        if made is None or made.effect < NOTHING:
            return None
        report, seconds = self._checked(engine, made.taps, setting.level, index)
        healthy = self.right(self.builds(engine)[0])
        dumped = running.dump(self.model, self.sequence, engine, made.taps, setting.level, index).taps
        first = [step.tap for step in self.steps if step.tap in planted]
        others = {
            name: tap is not None and self._holds(tap, first[0], dumped) and setting.faults == 1
            for name, tap in baselines.blamed(self.steps, dumped, healthy).items()
        }
        return Row(
            setting.name,
            engine.name,
            tuple(fault.name for fault, _ in chosen),
            tuple(planted),
            made.effect,
            _apart(made.taps["logits"], right["logits"]),
            _apart(healthy["logits"], right["logits"]),
            tuple(each.judged.span.last.tap for each in report.culprits),
            named(setting.level, report, tuple(planted)),
            others,
            seconds,
        )

    def _holds(self, blamed: str, fault: str, dumped: Taps) -> bool:
        """Whether the blamed tap is the first that is dumped of the faulty step, or after it."""
        order = [step.tap for step in self.steps]
        return blamed == next((tap for tap in order[order.index(fault) :] if tap in dumped), None)


def named(level: str, report: checking.Report, taps: tuple[str, ...]) -> bool:
    """Whether a report names the steps of these taps, as the module says."""
    if not report.culprits:
        return False
    first = report.culprits[0]
    if level == ALL:
        return {each.judged.span.last.tap for each in report.culprits} == set(taps)
    if level == HALF:
        return first.judged.span.last.tap in taps
    if level == SIX:
        return any(step.tap in taps and step.op in first.span for step in first.judged.span.steps)
    return any(step.tap in taps for step in first.judged.span.steps)


def _apart(got: np.ndarray, right: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        share = np.linalg.norm(got.astype(np.float64) - right) / max(float(np.linalg.norm(right)), 1e-300)
    return float(np.inf if np.isnan(share) else share)


@attrs.frozen
class Rate:
    """How a setting went: faults named of those planted, controls flagged, and what others name."""

    setting: Setting
    planted: int
    named: int
    below_floor: int
    named_below_floor: int
    controls: int
    flagged: int
    others: Mapping[str, int]

    @property
    def met(self) -> bool:
        """Whether it reaches its mark, with no control flagged."""
        return self.flagged == 0 and self.named >= self.setting.mark * self.planted


def rates(rows: list[Row], settings: tuple[Setting, ...] = SETTINGS) -> list[Rate]:
    """The rates of the settings that have rows."""
    found = []
    for setting in settings:
        mine = [row for row in rows if row.setting == setting.name]
        wrong = [row for row in mine if not row.control]
        controls = [row for row in mine if row.control]
        hidden = [row for row in wrong if row.logits <= 2 * row.floor]
        if not mine:
            continue
        found.append(
            Rate(
                setting,
                len(wrong),
                sum(row.named for row in wrong),
                len(hidden),
                sum(row.named for row in hidden),
                len(controls),
                sum(not row.named for row in controls),
                {name: sum(row.others[name] for row in wrong) for name in baselines.METHODS},
            )
        )
    return found
