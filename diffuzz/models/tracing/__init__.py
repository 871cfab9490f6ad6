"""``diffuzz trace``: two runs over the same tokens, tap by tap: which of them is wrong, if any, and what their
difference is worth if none is.

    trace = compare(found, Run("A", dump_a), Run("B", dump_b))
    trace.sides[1].report.culprits, trace.drifts, trace.outputs

Each run is checked by itself, against the bounds of its own arithmetic, so that a difference convicts nobody: see
diffuzz.models.checking. Beside each difference stands the noise floor of its arithmetic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.models import architectures, blas, checking, not_finite
from diffuzz.models.checking import Report, known
from diffuzz.models.dump import Dump, check_against
from diffuzz.models.model import ModelError
from diffuzz.models.not_finite import NotFinite
from diffuzz.models.running import Opened
from diffuzz.models.tracing import attribution, drift, floor, outputs
from diffuzz.models.tracing.attribution import Attribution
from diffuzz.models.tracing.drift import Drift
from diffuzz.models.tracing.floor import Floor
from diffuzz.models.tracing.outputs import Outputs
from diffuzz.telling import Phase, parts, tell

if TYPE_CHECKING:
    from jaxtyping import Float64


@attrs.frozen(eq=False)
class Run:
    """A run under the name that its user has for it."""

    name: str
    dump: Dump


@attrs.frozen(eq=False)
class Side:
    """A run with what its check found, the floor of its arithmetic where that was measured, and the first of its steps
    that makes NaN or infinity.
    """

    run: Run
    report: Report
    floor: Floor | None
    odd: NotFinite | None

    @property
    def wrong(self) -> bool:
        """Whether a step is outside the bound of every arithmetic."""
        return self.report.verdict == checking.WRONG


@attrs.frozen(eq=False)
class Attributed:
    """The attribution of a side's drift from the exact result, and that of a replicate in its arithmetic."""

    side: int
    own: Attribution
    replica: Attribution


@attrs.frozen(eq=False)
class Trace:
    """What is known of two runs.

    drifts       at every tap that both have, in the order of the steps
    outputs      of the tokens in ``output_tokens``, whose logits both runs have and all are numbers; None without any
    attributed   if it was asked for; or why it cannot be had, in words
    only         taps that only one of the runs has
    by_engine    whether isolated drift is that of B's own engine, or else of our own pass in its arithmetic
    """

    sides: tuple[Side, Side]
    drifts: tuple[Drift, ...]
    outputs: Outputs | None
    output_tokens: tuple[int, ...]
    attributed: Attributed | str | None
    only: tuple[str, ...]
    by_engine: bool

    @property
    def wrong(self) -> bool:
        """Whether one of the sides is."""
        return any(side.wrong for side in self.sides)

    @property
    def same(self) -> bool:
        """Whether the runs agree bit for bit where both have a tap."""
        return all(not np.nan_to_num(each.accumulated, nan=0.0).any() for each in self.drifts)

    @property
    def excess(self) -> float | None:
        """How many times the floor the drift of the last tap is, for the median token; None without a floor."""
        last = self.drifts[-1]
        floor = self.floor_of(last.step.tap)
        there = ~np.isnan(last.accumulated) & ~last.massive
        if floor is None or not there.any():
            return None
        return float(np.median(last.accumulated[there]) / max(float(np.median(floor[there])), 1e-300))

    def floor_of(self, tap: str) -> Float64[np.ndarray, " n"] | None:
        """The floor at a tap: of each token the median of the replicates, and of two sides the larger one."""
        found = [
            np.median(side.floor.taps[tap], axis=0) for side in self.sides if side.floor and tap in side.floor.taps
        ]
        return np.max(found, axis=0) if found else None


@blas.one_thread()
def compare(
    found: Opened, a: Run, b: Run, *, isolated: Dump | None = None, attribute: bool = False, seed: int = 0
) -> Trace:
    """Hold two runs of a model against each other.

    ``isolated`` is a run of B's engine in which A's taps replaced its own; without it, isolated drift is that of our
    own pass in B's arithmetic. Raises ModelError for runs of another model or of other tokens, and runs that have no
    tap in common, or none that can be judged.
    """
    for run in (a, b):
        try:
            check_against(run.dump, found.model)
        except ModelError as error:
            raise ModelError(f"{run.name}: {error}") from error
    drift.check_alike(a.dump, b.dump)
    if known.sequence_of(a.dump).past != known.sequence_of(b.dump).past:
        raise ModelError("the two runs had other numbers of tokens in their caches, so they cannot be compared")
    if known.sequence_of(a.dump).past:
        found = attrs.evolve(found, steps=architectures.steps(found.model, past=True))
    tell(Phase("comparing taps"))
    drifts = tuple(drift.of_taps(found, a.dump, b.dump))
    if not drifts:
        raise ModelError("the two runs have no tap in common")
    reports = [_checked(found, run, seed) for run in parts((a, b), "runs", lambda run: run.name)]
    tell(Phase("isolating steps"))
    alone = drift.isolated_by(found, a.dump, isolated) if isolated is not None else drift.isolated_in(
        found, a.dump, floor.pass_of(reports[1]), floor.arithmetics_of(reports[1]))  # fmt: skip
    tell(Phase("measuring the floor"))
    floors = _floors(found, a.dump, reports, seed)
    odd = [not_finite.first(found.steps, run.dump, report) for run, report in zip((a, b), reports, strict=True)]
    sides = (Side(a, reports[0], floors[0], odd[0]), Side(b, reports[1], floors[1], odd[1]))
    said, tokens = _outputs(a.dump, b.dump)
    if attribute:
        tell(Phase("attributing the drift"))
    return Trace(
        sides,
        tuple(attrs.evolve(each, isolated=alone.get(each.step.tap)) for each in drifts),
        said,
        tokens,
        _attributed(found, sides, seed) if attribute else None,
        tuple(
            step.tap for step in found.steps if (step.tap in known.names(a.dump)) != (step.tap in known.names(b.dump))
        ),
        isolated is not None,
    )


def _checked(found: Opened, run: Run, seed: int) -> Report:
    try:
        return checking.check(found.model, run.dump, seed=seed)
    except ModelError as error:
        raise ModelError(f"{run.name}: {error}") from error


def _floors(found: Opened, dump: Dump, reports: list[Report], seed: int) -> list[Floor | None]:
    """The floors of those sides that quantise; of float32 runs only if there is no other, as theirs is far below."""
    wanted = [floor.quantises(report) for report in reports]
    if not any(wanted):
        wanted = [True, True]
    past = drift.cached(dump, found)
    sequence = known.sequence_of(dump)
    made: dict[tuple[tuple[str, str], ...], Floor] = {}
    floors: list[Floor | None] = []
    for report, due in zip(reports, wanted, strict=True):
        key = tuple(floor.arithmetics_of(report).items())
        if due and key not in made:
            made[key] = floor.of(found, sequence, report, past, seed)
        floors.append(made[key] if due else None)
    return floors


def _outputs(a: Dump, b: Dump) -> tuple[Outputs | None, tuple[int, ...]]:
    """The outputs for the tokens whose logits both runs have, in numbers."""
    if "logits" not in a.taps or "logits" not in b.taps:
        return None, ()
    every = np.arange(len(a.tokens))
    rows = [np.asarray(dump.rows.get("logits", every)) for dump in (a, b)]
    both = np.intersect1d(rows[0], rows[1])
    if not len(both):
        return None, ()
    one, other = (_picked(dump.taps["logits"], mine, both) for dump, mine in zip((a, b), rows, strict=True))
    finite = np.isfinite(one).all(axis=1) & np.isfinite(other).all(axis=1)
    if not finite.any():
        return None, ()
    return outputs.compare(one[finite], other[finite]), tuple(both[finite].tolist())


def _picked(logits: np.ndarray, rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The rows of the tokens that are wanted; narrow types as float32."""
    order = np.argsort(rows)
    picked = logits[order[np.searchsorted(rows, wanted, sorter=order)]]
    return picked.astype(np.float32) if picked.dtype.itemsize == 2 else picked


def _attributed(found: Opened, sides: tuple[Side, Side], seed: int) -> Attributed | str:
    """Of B, unless only A quantises: what is then asked is where A's drift comes from."""
    chosen = 0 if floor.quantises(sides[0].report) and not floor.quantises(sides[1].report) else 1
    side = sides[chosen]
    # Another move than those of the floor.
    again = floor.replica(found, known.sequence_of(side.run.dump), side.report, side.run.dump, seed + 1)
    try:
        own, replica = attribution.attribute(found, side.run.dump, again)
    except ModelError as error:
        return str(error)
    return Attributed(chosen, own, replica)
