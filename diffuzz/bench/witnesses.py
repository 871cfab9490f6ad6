"""Witness sizes: what minimising makes of a found case, beside what people use instead.

    for table in compare([targets.get("softmax")], seconds=3, minimising=5, seed=0):
        print(as_text(table))

Of each target one case is searched for, and minimised in three ways. All must keep the same: an admissible case,
``keep`` of its value, no more noise than diffuzz allows itself, the verdict. What bounds a search and diffuzz.minimise
is work, as ever; the others have ``minimising`` seconds on the clock, or what diffuzz took if that is more.

    diffuzz     diffuzz.minimise
    ddmin       Zeller and Hildebrandt, Simplifying and Isolating Failure-Inducing Input, IEEE TSE 28 (2002), on the
                numbers of the case (of a block, of its fields): each is kept or reset to 0 (where 0 is inadmissible, to
                1), one test at a time
    hypothesis  Hypothesis's shrinker, handed the case as the failing example of a test that draws every number by
                itself, as hypothesis.extra.numpy does; its example database replays it, then it shrinks. A case of more
                than 8 KiB of choices is beyond it

The sizes are those of diffuzz.simplicity.Size.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import attrs
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from diffuzz import corpus, engines, interruption, report, simplicity
from diffuzz.bench import shrinking
from diffuzz.case import Case
from diffuzz.minimise import NOISE, PATIENCE, minimise
from diffuzz.objective import Budget, BudgetSpentError, Found, Objective
from diffuzz.screen import compile_screen
from diffuzz.search import WORK_PER_SECOND
from diffuzz.simplicity import Size
from diffuzz.space import Space
from diffuzz.target import Params, Target


@attrs.frozen
class Row:
    """What one way made of the case. ``share`` of the found value that is left; ``finished`` is False where time (or
    work) ran out; ``problem``, why it could not begin, or None.
    """

    way: str
    size: Size
    share: float = 1.0
    seconds: float = 0.0
    evaluations: int = 0
    finished: bool = True
    problem: str | None = None


@attrs.frozen
class Table:
    """One target: the value that was found (0 if there was none) and a row for each way, the found case first."""

    target: str
    params: Params
    measure: str
    value: float
    rows: tuple[Row, ...]


class _OverError(BaseException):
    """The time is up: no Exception, which Hypothesis would take for a failure."""


@attrs.define
class Judge:
    """Says of one case after the other whether it shows what ``found`` shows, and keeps the last one that did.

    Raises _OverError after ``seconds``.
    """

    target: Target
    params: Params
    found: Found
    keep: float
    limit: float
    seconds: float
    evaluations: int = 0
    best: Case = attrs.field(init=False)
    _space: Space = attrs.field(init=False)
    _deadline: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.best, self._space = self.found.case, self.target.space(self.params)
        self._deadline = time.monotonic() + self.seconds

    def __call__(self, case: Case) -> bool:
        """Whether the case keeps what has to be kept."""
        interruption.check()
        if time.monotonic() > self._deadline:
            raise _OverError
        if not self._space.admits(case):
            return False
        value, noise = self.measured(case)
        self.evaluations += 1
        good = self._good(value, noise)
        if good:
            self.best = case
        return good

    def measured(self, case: Case) -> tuple[float, float]:
        """Value and noise of the exact evaluation."""
        with np.errstate(all="ignore"):
            outcome = self.target.question.evaluate(self.params, case.batch())
        return float(outcome.value[0]), float(outcome.noise[0])

    def _good(self, value: float, noise: float) -> bool:
        found = self.found
        if math.isinf(found.value):
            return value == found.value
        quiet = noise <= max(found.noise, NOISE * value)
        sure = value - noise > self.limit or found.value - found.noise <= self.limit
        return math.isfinite(value) and value >= self.keep * found.value and quiet and sure


def compare(
    chosen: Sequence[Target],
    given: Mapping[str, Any] | None = None,
    *,
    seconds: float,
    minimising: float,
    keep: float = 0.999,
    seed: int = 0,
    on_table: Callable[[Table], None] | None = None,
) -> list[Table]:
    """A table for each of the targets; those that are finished if the user interrupts.

    Args:
        given: parameters of all the targets.
        seconds: budget of each search.
        minimising: seconds for each way of minimising; see above.
        keep: share of the value to keep.
        seed: of the search.

    Raises ParameterError before anything runs.
    """
    settings = [target.params(given) for target in chosen]
    tables: list[Table] = []
    for target, params in zip(chosen, settings, strict=True):
        try:
            table = one(target, params, seconds=seconds, minimising=minimising, keep=keep, seed=seed)
        except KeyboardInterrupt:
            break
        tables.append(table)
        if on_table:
            on_table(table)
    return tables


def one(target: Target, params: Params, *, seconds: float, minimising: float, keep: float, seed: int) -> Table:
    """Search, and minimise what was found in every way."""
    best = _found(target, params, seconds, seed)
    if best is None:
        return Table(target.name, params, target.measure(params), 0.0, ())
    space = target.space(params)
    rows = [Row("found", simplicity.size_of(space, best.case), seconds=best.seconds, evaluations=best.evaluations)]
    started = time.monotonic()
    ours = minimise(target, params, best.case, keep=keep, limit=target.limit(params), seconds=minimising)
    spent = time.monotonic() - started
    if ours.interrupted:
        raise KeyboardInterrupt
    size, share = simplicity.size_of(space, ours.case), _share(ours.value, best.value)
    rows.append(Row("diffuzz", size, share, spent, ours.evaluations, ours.finished))
    patience = max(minimising, spent)
    for way, peer in (("ddmin", _ddmin), ("hypothesis", shrinking.shrink)):
        judge = Judge(target, params, best, keep, target.limit(params), patience)
        started = time.monotonic()
        finished, problem = True, None
        try:
            peer(space, best.case, judge)
        except _OverError:
            finished = False
        except shrinking.TooLargeError as error:
            problem = str(error)
        spent = time.monotonic() - started
        share = _share(judge.measured(judge.best)[0], best.value)
        size = simplicity.size_of(space, judge.best)
        rows.append(Row(way, size, share, spent, judge.evaluations, finished, problem))
    return Table(target.name, params, target.measure(params), best.value, tuple(rows))


def _share(value: float, whole: float) -> float:
    return 1.0 if value == whole else value / whole


def _found(target: Target, params: Params, seconds: float, seed: int) -> Found | None:
    """The best case of the search that ``search --engine auto`` makes."""
    objective = Objective(target, params, Budget(PATIENCE * seconds, seconds * WORK_PER_SECOND))
    objective.screen = compile_screen(target, params, objective.rows)
    with suppress(BudgetSpentError):
        for _ in engines.get("auto")(objective, np.random.default_rng(seed)):
            pass
    return objective.best


def _ddmin(space: Space, case: Case, shows: Callable[[Case], bool]) -> None:
    parts = simplicity.parts_of(space)
    values = simplicity.split(parts, case.batch())
    defaults = {part.name: part.fit(np.zeros(1) if part.low <= 0 else np.ones(1)) for part in parts}
    flat = np.concatenate([np.ravel(values[part.name] != defaults[part.name]) for part in parts])
    ends = np.cumsum([values[part.name].size for part in parts])[:-1]

    def fails(kept: np.ndarray) -> bool:
        keeps = np.zeros(len(flat), bool)
        keeps[kept] = True
        chosen = {
            part.name: np.where(where.reshape(values[part.name].shape), values[part.name], defaults[part.name])
            for part, where in zip(parts, np.split(keeps, ends), strict=True)
        }
        return shows(Case({name: array[0] for name, array in simplicity.join(parts, chosen).items()}))

    ddmin(np.flatnonzero(flat), fails)


def ddmin(items: np.ndarray, fails: Callable[[np.ndarray], bool]) -> np.ndarray:
    """The algorithm ddmin: a subset of ``items`` that fails, and none of whose elements can be left out alone.

    ``fails(items)`` is taken for granted.
    """
    if not len(items) or fails(items[:0]):
        return items[:0]
    pieces = 2
    while len(items) > 1:
        subsets = np.array_split(items, pieces)
        smaller = next((subset for subset in subsets if fails(subset)), None)
        if smaller is not None:
            items, pieces = smaller, 2
            continue
        # Of two pieces each is the other's complement.
        complements = (np.setdiff1d(items, subset) for subset in subsets) if pieces > 2 else iter(())
        smaller = next((rest for rest in complements if fails(rest)), None)
        if smaller is not None:
            items, pieces = smaller, pieces - 1
        elif pieces < len(items):
            pieces = min(2 * pieces, len(items))
        else:
            break
    return items


# What is printed


def as_json(
    tables: Iterable[Table], *, seconds: float, minimising: float, keep: float, seed: int, interrupted: bool = False
) -> dict[str, Any]:
    """Everything that was measured; ``interrupted`` if some targets are missing."""
    return {
        "budget_s": seconds,
        "minimising_s": minimising,
        "keep": keep,
        "seed": seed,
        "targets": [
            {
                "target": table.target,
                "params": dict(table.params),
                "measure": table.measure,
                "value": report.json_number(table.value),
                "rows": [attrs.asdict(row) for row in table.rows],
            }
            for table in tables
        ],
        "interrupted": interrupted,
        "environment": corpus.environment() | corpus.device(),
    }


def as_text(table: Table) -> str:
    """The table of one target."""
    if not table.rows:
        return f"{table.target}: nothing above zero was found\n"
    grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column(f"{table.target} {table.value:.6g}", no_wrap=True, min_width=24)
    for heading in ("elements", "bits", "runs", "levels", "characters", "value kept", "seconds", "evaluations"):
        grid.add_column(heading, justify="right", no_wrap=True, min_width=len(heading))
    grid.add_column("", no_wrap=True)
    for row in table.rows:
        grid.add_row(row.way, *_cells(row), row.problem or ("" if row.finished else "time is up"))
    console = Console(width=160, file=io.StringIO(), color_system=None)
    console.print(grid)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> list[str]:
    if row.problem:
        return [""] * 8
    size = [f"{count:,}" for count in attrs.astuple(row.size)]
    return [*size, f"{100 * row.share:.2f} %", f"{row.seconds:.2f}", f"{row.evaluations:,}"]


def summary(tables: Iterable[Table]) -> str:
    """On how many targets diffuzz has the witness with the fewest elements, and with the fewest runs."""
    shown = [table for table in tables if table.rows]
    if not shown:
        return ""
    counts = [sum(_least(table, count) for table in shown) for count in ("elements", "bits", "runs", "levels")]
    return (
        f"of {len(shown)} targets, diffuzz has (or shares) the fewest elements on {counts[0]}, bits on {counts[1]}, "
        f"runs on {counts[2]}, levels on {counts[3]}\n"
    )


def _least(table: Table, count: str) -> bool:
    sizes = {row.way: getattr(row.size, count) for row in table.rows if row.problem is None}
    return bool(sizes["diffuzz"] == min(sizes.values()))
