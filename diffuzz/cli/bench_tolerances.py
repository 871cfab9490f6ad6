"""``diffuzz bench tolerances``: how sharp derived bounds are, beside tables of tolerances."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import JSON, SEED, VERBOSITY, print_json, print_text, unfinished
from diffuzz.cli.tables import table
from diffuzz.corpus.spelling import json_number

if TYPE_CHECKING:
    from diffuzz.studies.tolerances.measuring import Row, Tabled

_TABLES = ("torch", "kernelbench", "ggml")


@click.command("tolerances")
@click.argument("names", nargs=-1, metavar="[OPERATION]...")
@click.option(
    "--cases",
    type=click.IntRange(min=1),
    default=50_000,
    show_default=True,
    help="Simulated results, spread over operations and arithmetics.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed.")
@VERBOSITY
@JSON
def command(names: tuple[str, ...], cases: int, seed: int, as_json: bool) -> int:
    """Hold simulated implementations against the derived bounds, and against tables of tolerances."""
    from diffuzz.studies.tolerances import measuring

    planned = len(names or measuring.operations()) * len(measuring.ARITHMETICS)
    rows = measuring.measured(names, cases=cases, seed=seed)
    interrupted = len(rows) < planned
    if as_json:
        print_json(tolerances_json(rows, seed=seed, interrupted=interrupted))
    elif rows:
        print_text(tolerances_text(rows))
    if interrupted:
        return unfinished(len(rows), planned, "rows")
    return 1 if any(row.outside for row in rows) else 0


def tolerances_json(rows: list[Row], *, seed: int, interrupted: bool = False) -> dict[str, object]:
    """The counts, and every row; ``interrupted`` if some are missing."""
    from diffuzz.corpus.environment import environment

    return {
        "seed": seed,
        "cases": sum(row.cases for row in rows),
        "numbers": sum(row.numbers for row in rows),
        "outside": sum(row.outside for row in rows),
        "rows": [
            {
                "operation": row.operation,
                "arithmetic": row.arithmetic,
                "cases": row.cases,
                "numbers": row.numbers,
                "found": json_number(row.found),
                "directed": json_number(row.directed),
                "outside": row.outside,
                "unpromised": row.unpromised,
                "tables": {
                    one.name: {"allows": json_number(one.share), "rejects": one.rejected / max(1, one.cases)}
                    for one in row.tables
                },
            }
            for row in rows
        ],
        "interrupted": interrupted,
        "environment": environment(),
    }


def tolerances_text(rows: list[Row]) -> str:
    """The table, and a line of totals."""
    headings = ("operation", "arithmetic", "cases", "found", "directed", "outside", *_TABLES)
    cells = [
        (
            row.operation,
            row.arithmetic,
            f"{row.cases:,}",
            f"{row.found:.2f}",
            f"{row.directed:.2f}",
            str(row.outside),
            *(_cell(next((one for one in row.tables if one.name == name), None)) for name in _TABLES),
        )
        for row in rows
    ]
    lines = [
        *table(headings, cells, width=150),
        "",
        f"{sum(row.cases for row in rows):,} simulated results ({sum(row.numbers for row in rows):,} numbers), "
        f"{sum(row.outside for row in rows)} outside the derived bound",
        "found, directed   largest error / derived bound: roundings by chance, and turned to make it large",
        "torch and others  median of what the table allows / derived bound, and how many correct results it rejects",
    ]
    return "\n".join(lines) + "\n"


def _cell(one: Tabled | None) -> str:
    if one is None or math.isnan(one.share):
        return ""
    rejected = one.rejected / max(1, one.cases)
    return f"{one.share:.3g}x" + (f" ({100 * rejected:.1f} %)" if rejected else "")
