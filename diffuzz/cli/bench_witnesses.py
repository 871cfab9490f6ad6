"""``diffuzz bench witnesses``: minimised witnesses beside what others make of the same cases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import (
    JSON,
    PARAMS,
    SECONDS,
    SEED,
    SHARE,
    TARGETS,
    VERBOSITY,
    given_parameters,
    print_json,
    print_text,
    target_named,
    unfinished,
)
from diffuzz.cli.tables import table as grid
from diffuzz.corpus.spelling import json_number

if TYPE_CHECKING:
    from diffuzz.studies.witnesses.comparison import Row, Table


@click.command("witnesses")
@TARGETS
@PARAMS
@click.option("--budget", type=SECONDS, default="3s", show_default=True, help="Time to search each target.")
@click.option(
    "--minimising", type=SECONDS, default="5s", show_default=True, help="Time for each way to minimise what was found."
)
@click.option("--keep", type=SHARE, default=0.999, show_default=True, help="Share of the value to keep.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed of the search.")
@VERBOSITY
@JSON
def command(
    names: tuple[str, ...],
    settings: tuple[tuple[str, str], ...],
    budget: float,
    minimising: float,
    keep: float,
    seed: int,
    as_json: bool,
) -> int:
    """Compare minimised witnesses with what ddmin and Hypothesis's shrinker make of the same cases."""
    from diffuzz import targets
    from diffuzz.studies.witnesses import comparison

    chosen = [target_named(name) for name in names or targets.names()]
    tables = comparison.compare(
        chosen,
        given_parameters(settings),
        seconds=budget,
        minimising=minimising,
        keep=keep,
        seed=seed,
        on_table=None if as_json else lambda table: print_text(witnesses_text(table)),
    )
    interrupted = len(tables) < len(chosen)
    if as_json:
        numbers = {"seconds": budget, "minimising": minimising, "keep": keep}
        print_json(witnesses_json(tables, **numbers, seed=seed, interrupted=interrupted))
    else:
        print_text(witnesses_summary(tables))
    return unfinished(len(tables), len(chosen), "targets") if interrupted else 0


def witnesses_json(
    tables: Iterable[Table], *, seconds: float, minimising: float, keep: float, seed: int, interrupted: bool = False
) -> dict[str, object]:
    """Everything that was measured; ``interrupted`` if some targets are missing."""
    import attrs

    from diffuzz.corpus.environment import device, environment

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
                "value": json_number(table.value),
                "rows": [attrs.asdict(row) for row in table.rows],
            }
            for table in tables
        ],
        "interrupted": interrupted,
        "environment": environment() | device(),
    }


def witnesses_text(table: Table) -> str:
    """The table of one target."""
    if not table.rows:
        return f"{table.target}: nothing above zero was found\n"
    sizes = ("elements", "bits", "runs", "levels", "characters", "value kept", "seconds", "evaluations")
    rows = [(row.way, *_cells(row), row.problem or ("" if row.finished else "time is up")) for row in table.rows]
    headings = (f"{table.target} {table.value:.6g}", *sizes, "")
    return "\n".join(grid(headings, rows, justify="right", first=24, wraps=False)) + "\n"


def _cells(row: Row) -> list[str]:
    if row.problem:
        return [""] * 8
    import attrs

    size = [f"{count:,}" for count in attrs.astuple(row.size)]
    return [*size, f"{100 * row.share:.2f} %", f"{row.seconds:.2f}", f"{row.evaluations:,}"]


def witnesses_summary(tables: Iterable[Table]) -> str:
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
