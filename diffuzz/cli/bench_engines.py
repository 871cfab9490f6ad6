"""``diffuzz bench engines``: the engines against each other and against what people use instead."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import (
    FILE,
    JSON,
    PARAMS,
    SECONDS,
    SEED,
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
    from diffuzz.studies.engines.tournament import Run, Table


@click.command("engines")
@TARGETS
@PARAMS
@click.option(
    "--engine", "competitors", multiple=True, metavar="NAME", help="Compare this engine or peer (repeatable) [all]."
)
@click.option("--budget", type=SECONDS, default="10s", show_default=True, help="Time for each run, compiling aside.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed.")
@click.option("--seeds", type=click.IntRange(1, 1000), default=1, show_default=True, help="Runs, of which the median.")
@click.option("--picture", type=FILE, help="Draw best so far against time.")
@VERBOSITY
@JSON
def command(
    names: tuple[str, ...],
    settings: tuple[tuple[str, str], ...],
    competitors: tuple[str, ...],
    budget: float,
    seed: int,
    seeds: int,
    picture: Path | None,
    as_json: bool,
) -> int:
    """Compare the engines, alone and together, with what people use instead, on equal time."""
    from diffuzz import targets
    from diffuzz.studies.engines import tournament

    if picture is not None:
        from diffuzz.studies.engines import picture as drawing

        drawing.check(picture)
    chosen = [target_named(name) for name in names or targets.names()]
    planned = len(chosen) * len(tournament.check(competitors or None)) * seeds
    tables = tournament.compare(
        chosen,
        given_parameters(settings),
        seconds=budget,
        seeds=range(seed, seed + seeds),
        competitors=competitors or None,
        on_table=None if as_json else lambda table: print_text(engines_text(table)),
    )
    done = sum(len(table.runs) for table in tables)
    if picture is not None and tables:
        drawing.draw(tables, budget, picture)
    if as_json:
        print_json(engines_json(tables, budget, interrupted=done < planned))
    else:
        print_text(engines_summary(tables))
    return unfinished(done, planned, "runs") if done < planned else 0


def engines_json(tables: list[Table], seconds: float, *, interrupted: bool = False) -> dict[str, object]:
    """Everything that was measured: per target the medians, and every run with its history; ``interrupted`` if some
    are missing.
    """
    from diffuzz.corpus.environment import device, environment

    return {
        "budget_s": seconds,
        "targets": [_table_json(table) for table in tables],
        "summary": {"targets": len(tables), **_counts(tables)},
        "interrupted": interrupted,
        "environment": environment() | device(),
    }


def _table_json(table: Table) -> dict[str, object]:
    return {
        "target": table.target,
        "params": dict(table.params),
        "measure": table.measure,
        "bound": None if table.bound is None else json_number(table.bound.value),
        "best": json_number(table.best),
        "auto_level": table.level,
        "finished": table.finished,
        "engines": [
            {
                "engine": engine,
                "value": json_number(table.median(engine)),
                "fraction": json_number(table.fraction(table.median(engine))),
                "arrival_s": json_number(table.arrival(engine)),
            }
            for engine in table.engines
        ],
        "runs": [_run_json(run) for run in table.runs],
    }


def _run_json(run: Run) -> dict[str, object]:
    import attrs

    return attrs.asdict(run) | {
        "value": json_number(run.value),
        "history": [[at, json_number(value)] for at, value in run.history],
    }


def _counts(tables: list[Table]) -> dict[str, int]:
    """What auto reached, over the targets where it was compared with all."""
    from diffuzz.studies.engines.tournament import ARRIVED

    compared = [table for table in tables if table.of("auto") and table.finished]
    limited = [table for table in compared if table.bound and table.bound.value > 0]
    return {
        "auto_compared": len(compared),
        "auto_level": sum(table.level is True for table in compared),
        "limits_above_zero": len(limited),
        "auto_at_99_percent_of_limit": sum(table.fraction(table.median("auto")) >= ARRIVED for table in limited),
    }


def engines_text(table: Table) -> str:
    """The table of one target, and whether auto is level with the best."""
    from diffuzz.studies.engines.tournament import names

    share = "of bound" if table.bound else "of best"
    headings = (table.target, "best value", share, "evals/s", "99 % after", "compiling", "")
    rows = [_cells(table, engine) for engine in table.engines]
    lines = grid(headings, rows, justify="right", first=max(map(len, names())), wraps=False)
    return "\n".join([*lines, *_remarks(table), ""]) + "\n"


def _cells(table: Table, engine: str) -> list[str]:
    runs = table.of(engine)
    if not runs:
        problem = next(run.problem for run in table.runs if run.engine == engine)
        return [engine, "", "", "", "", "", textwrap.shorten(problem or "", 76, placeholder=" ...")]
    import statistics

    value, arrival = table.median(engine), table.arrival(engine)
    rate = statistics.median(run.evaluations / max(run.seconds, 1e-9) for run in runs)
    return [
        engine,
        f"{value:.7g}",
        f"{100 * table.fraction(value):.2f} %",
        f"{rate:,.0f}",
        "" if math.isinf(arrival) else f"{arrival:.2g} s",
        f"{statistics.median(run.compiling for run in runs):.1f} s",
        "reached the bound" if all(run.stopped == "bound reached" for run in runs) else "",
    ]


def _remarks(table: Table) -> list[str]:
    bound = table.bound
    lines = [f"bound {bound.value:.7g} ({bound.because})" if bound else "no bound is proven: shares of the best"]
    if not table.finished:
        lines.append(f"interrupted after {len(table.runs)} of {table.planned} runs")
    if table.level is not None:
        leader = max(table.engines, key=table.median)
        share = 1.0 if table.median("auto") == table.best else table.median("auto") / table.best
        lines.append(
            "auto is level with the best" if table.level else f"auto falls behind {leader}, {100 * share:.2f} % of it"
        )
    return lines


def engines_summary(tables: list[Table]) -> str:
    """The counts, in words; nothing where auto was not compared."""
    counts = _counts(tables)
    if not counts["auto_compared"]:
        return ""
    return (
        f"auto is level with the best on {counts['auto_level']} of {counts['auto_compared']} targets, and reaches 99 % "
        f"of the bound on {counts['auto_at_99_percent_of_limit']} of the {counts['limits_above_zero']} whose bound is "
        "above zero\n"
    )
