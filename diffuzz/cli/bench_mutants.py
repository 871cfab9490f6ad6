"""``diffuzz bench mutants``: the mutation score."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import JSON, SECONDS, SEED, VERBOSITY, print_json, print_text, unfinished
from diffuzz.cli.tables import table
from diffuzz.corpus.spelling import json_number

if TYPE_CHECKING:
    from diffuzz.studies.mutants.scoring import Row


@click.command("mutants")
@click.argument("names", nargs=-1)
@click.option("--budget", type=SECONDS, default="10s", show_default=True, help="Time to search for each function.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed.")
@VERBOSITY
@JSON
def command(names: tuple[str, ...], budget: float, seed: int, as_json: bool) -> int:
    """Search wrong kernels (and correct ones) as candidates: which are killed, and would ggml's tests see them."""
    from diffuzz.cli.progress import line_printer
    from diffuzz.studies.mutants import scoring

    say = line_printer()
    on_row = None if say is None else lambda row: say(f"{row.name}: {'found' if row.killed else 'not found'}")
    planned = len(scoring.named_mutants(names or None))
    rows = scoring.score(budget, seed, names or None, on_row=on_row)
    interrupted = len(rows) < planned
    if as_json:
        print_json(mutants_json(rows, interrupted=interrupted))
    elif rows:
        print_text(mutants_text(rows))
    return unfinished(len(rows), planned, "functions") if interrupted else 0


def mutants_json(rows: list[Row], *, interrupted: bool = False) -> dict[str, object]:
    """The counts, and every row; ``interrupted`` if some are missing."""
    import attrs

    from diffuzz.studies.mutants.scoring import RUNS, apart

    wrong, right = apart(rows)
    return {
        "mutants": len(wrong),
        "killed": sum(row.killed for row in wrong),
        "controls": len(right),
        "flagged": sum(row.killed for row in right),
        "killed_by_test_quantize_fns": sum(bool(row.fns) for row in wrong),
        "killed_by_test_backend_ops": sum(row.ops == RUNS for row in wrong),
        "killed_by_test_backend_ops_in_some_runs": sum(0 < row.ops < RUNS for row in wrong),
        "rows": [attrs.asdict(row) | {"value": json_number(row.value), "ops_runs": RUNS} for row in rows],
        "interrupted": interrupted,
    }


def mutants_text(rows: list[Row]) -> str:
    """The table, and a line for each of the three judges."""
    headings = ("", "wrong", "found", "value", "seconds", "evaluations", "witness", "named", "fns", "ops")
    cells = [
        (
            row.name + (f" ({row.source})" if row.source else ""),
            ("correct: " if row.correct else "") + row.wrong,
            "yes" if row.killed else "no",
            f"{row.value:.3g}",
            f"{row.seconds:.2f}",
            f"{row.evaluations:,}",
            "" if row.runs is None else f"{row.runs} runs, {row.levels} levels",
            row.named or "",
            "" if row.fns is None else "yes" if row.fns else "no",
            f"{row.ops}/{_ops_runs()}",
        )
        for row in rows
    ]
    return "\n".join([*table(headings, cells, width=170), "", *_summary(rows)]) + "\n"


def _ops_runs() -> int:
    from diffuzz.studies.mutants.scoring import RUNS

    return RUNS


def _summary(rows: list[Row]) -> list[str]:
    from diffuzz.studies.mutants.scoring import RUNS, apart

    wrong, right = apart(rows)
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
