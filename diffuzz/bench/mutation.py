"""The mutation score: which mutants a search kills, how soon, and what ggml's own tests say about them.

    rows = score(seconds=10, seed=0)
    print(as_text(rows))

Each function is searched as ``search --target T --candidate F`` with no more parameters than its user has to give. The
search ends at the first value above the limit, and that witness is minimised. A control is searched for the whole
budget. Beside it stand the criteria of test-quantize-fns and test-backend-ops (diffuzz.bench.ggml_criteria), the latter
in RUNS runs with inputs of their own.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from diffuzz import engines, interruption, report, simplicity, targets
from diffuzz.bench import ggml_criteria
from diffuzz.bench.mutants import Mutant, mutants
from diffuzz.candidate import named, with_candidate
from diffuzz.case import Case
from diffuzz.minimise import minimise
from diffuzz.objective import Budget, BudgetSpentError, Found, Objective
from diffuzz.search import WORK_PER_SECOND
from diffuzz.target import evaluate

# Runs of test-backend-ops, whose inputs are random.
RUNS = 5
# What a minimised witness has to show is that the function is wrong, not how wrong it can be.
KEEP = 1e-6
MINIMISING = 5.0


@attrs.frozen
class Row:
    """What a search and ggml's criteria made of one function.

    ``seconds`` and ``evaluations`` are those until the first value above the limit (of the whole search for one that
    was not killed); ``runs`` and ``levels`` the size of the minimised witness, over all its arrays and fields;
    ``named`` the implementation that the witness shows to be wrong. ``ops`` is the number of failed runs of RUNS.
    """

    name: str
    target: str
    params: dict[str, Any]
    wrong: str
    source: str
    correct: bool
    killed: bool
    value: float
    seconds: float
    evaluations: int
    runs: int | None
    levels: int | None
    named: str | None
    fns: bool | None
    ops: int


def score(
    seconds: float,
    seed: int,
    names: Iterable[str] | None = None,
    *,
    on_row: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Search every mutant and control, or those whose name is in ``names``, ``seconds`` at most each; the rows that
    are finished if the user interrupts.

    Raises ValueError for a name that there is not.
    """
    rows: list[Row] = []
    for mutant in named_mutants(names):
        try:
            interruption.check()
            row = one(mutant, seconds, seed)
        except KeyboardInterrupt:
            break
        rows.append(row)
        if on_row:
            on_row(row)
    return rows


def named_mutants(names: Iterable[str] | None) -> list[Mutant]:
    """Those of these names, or all. Raises ValueError for a name that there is not."""
    known = {mutant.name: mutant for mutant in mutants()}
    chosen = list(known) if names is None else list(names)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ValueError(f"name={unknown[0]!r}: no mutant or control has this name")
    return [known[name] for name in chosen]


def one(mutant: Mutant, seconds: float, seed: int) -> Row:
    """The row of one mutant or control."""
    objective = searched(mutant, seconds, seed)
    found = witness(objective)
    case, detail = (None, {}) if found is None else _minimised(objective, found)
    best = found or objective.best
    runs, levels = (None, None) if case is None else _size(objective, case)
    rng = np.random.default_rng(seed)
    return Row(
        name=mutant.name,
        target=mutant.target,
        params=dict(mutant.params),
        wrong=mutant.wrong,
        source=mutant.source,
        correct=mutant.correct,
        killed=found is not None,
        value=best.value if best else 0.0,
        seconds=found.seconds if found else objective.seconds,
        evaluations=found.evaluations if found else objective.evaluations,
        runs=runs,
        levels=levels,
        named=None if found is None else named(detail, found.value, objective.target.limit(objective.params)),
        fns=ggml_criteria.fns_kills(mutant),
        ops=sum(ggml_criteria.ops_kills(mutant, rng) for _ in range(RUNS)),
    )


def searched(mutant: Mutant, seconds: float, seed: int) -> Objective:
    """The search that ``diffuzz.search.search`` makes for this candidate, until the first value above the limit."""
    target = targets.get(mutant.target)
    params = target.params(mutant.params)
    judged = with_candidate(target, params, mutant.function, mutant.name)

    objective = Objective(judged, params, Budget(seconds, seconds * WORK_PER_SECOND), enough=judged.limit(params))
    # A candidate runs in NumPy alone, so there is no screen to compile.
    with contextlib.suppress(BudgetSpentError):
        for _ in engines.get("auto")(objective, np.random.default_rng(seed)):
            pass
    return objective


def witness(objective: Objective) -> Found | None:
    """The value above the limit that a search ended with, or None."""
    best = objective.best
    return best if best and _above(best, objective.target.limit(objective.params)) else None


def _above(found: Found, limit: float) -> bool:
    return found.value - found.noise > limit


def _minimised(objective: Objective, found: Found) -> tuple[Case, Mapping[str, float]]:
    """The simplest case that still shows the function to be wrong, and what it measures."""
    target, params = objective.target, objective.params
    limit = target.limit(params)
    made = minimise(target, params, found.case, keep=KEEP, limit=limit, seconds=MINIMISING)
    if made.interrupted:
        raise KeyboardInterrupt
    return made.case, evaluate(target, params, made.case).detail


def _size(objective: Objective, case: Case) -> tuple[int, int]:
    """(runs of equal numbers, distinct numbers) of a case, summed over arrays and fields."""
    parts = simplicity.parts_of(objective.space)
    values = simplicity.split(parts, case.batch())
    flat = [values[part.name].reshape(-1) for part in parts]
    return (
        sum(1 + int((numbers[1:] != numbers[:-1]).sum()) for numbers in flat),
        sum(len(np.unique(numbers)) for numbers in flat),
    )


def as_json(rows: list[Row], *, interrupted: bool = False) -> dict[str, Any]:
    """The counts, and every row; ``interrupted`` if some are missing."""
    wrong, right = _apart(rows)
    return {
        "mutants": len(wrong),
        "killed": sum(row.killed for row in wrong),
        "controls": len(right),
        "flagged": sum(row.killed for row in right),
        "killed_by_test_quantize_fns": sum(bool(row.fns) for row in wrong),
        "killed_by_test_backend_ops": sum(row.ops == RUNS for row in wrong),
        "killed_by_test_backend_ops_in_some_runs": sum(0 < row.ops < RUNS for row in wrong),
        "rows": [attrs.asdict(row) | {"value": report.json_number(row.value), "ops_runs": RUNS} for row in rows],
        "interrupted": interrupted,
    }


def as_text(rows: list[Row]) -> str:
    """The table, and a line for each of the three judges."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "wrong", "found", "value", "seconds", "evaluations", "witness", "named", "fns", "ops"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(
            row.name + (f" ({row.source})" if row.source else ""),
            ("correct: " if row.correct else "") + row.wrong,
            "yes" if row.killed else "no",
            f"{row.value:.3g}",
            f"{row.seconds:.2f}",
            f"{row.evaluations:,}",
            "" if row.runs is None else f"{row.runs} runs, {row.levels} levels",
            row.named or "",
            "" if row.fns is None else "yes" if row.fns else "no",
            f"{row.ops}/{RUNS}",
        )
    console = Console(width=170, file=io.StringIO(), color_system=None)
    console.print(table)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    return "\n".join([*lines, "", *_summary(rows)]) + "\n"


def _summary(rows: list[Row]) -> list[str]:
    wrong, right = _apart(rows)
    times = sorted(row.seconds for row in wrong if row.killed)
    covered = [row for row in wrong if row.fns is not None]
    lines = [
        f"diffuzz            {sum(row.killed for row in wrong)} of {len(wrong)} mutants killed, "
        f"{sum(row.killed for row in right)} of {len(right)} controls flagged",
        f"test-quantize-fns  {sum(bool(row.fns) for row in covered)} of {len(covered)} (the others it does not test), "
        f"{sum(bool(row.fns) for row in right)} controls flagged",
        f"test-backend-ops   {sum(row.ops == RUNS for row in wrong)} of {len(wrong)}, "
        f"{sum(0 < row.ops < RUNS for row in wrong)} more in some runs, "
        f"{sum(row.ops > 0 for row in right)} controls flagged",
    ]
    if times:
        slow = times[min(math.ceil(0.95 * len(times)), len(times)) - 1]
        lines.append(
            f"time to kill       median {times[len(times) // 2]:.2f} s, 95 % {slow:.2f} s, most {times[-1]:.2f} s"
        )
    return lines


def _apart(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    return [row for row in rows if not row.correct], [row for row in rows if row.correct]
