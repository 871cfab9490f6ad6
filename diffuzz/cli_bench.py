"""``python -m diffuzz bench``: measure diffuzz itself."""

from __future__ import annotations

from pathlib import Path

import click

from diffuzz.options import JSON, PARAMS, SECONDS, SHARE, given_parameters, print_json, print_text, unfinished


@click.group("bench", no_args_is_help=False)
def bench() -> None:
    """Measure diffuzz itself."""


@bench.command("mutants")
@click.argument("names", nargs=-1)
@click.option("--budget", type=SECONDS, default="10s", show_default=True, help="Time to search for each function.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of everything random.")
@JSON
def mutants_command(names: tuple[str, ...], budget: float, seed: int, as_json: bool) -> int:
    """Search wrong kernels (and correct ones) as candidates: which are killed, and would ggml's tests see them."""
    from diffuzz.bench import mutation

    planned = len(mutation.named_mutants(names or None))
    rows = mutation.score(budget, seed, names or None)
    interrupted = len(rows) < planned
    if as_json:
        print_json(mutation.as_json(rows, interrupted=interrupted))
    elif rows:
        print_text(mutation.as_text(rows))
    return unfinished(len(rows), planned, "functions") if interrupted else 0


@bench.command("engines")
@click.option("--target", "names", multiple=True, metavar="NAME", help="Compare on this target (repeatable) [all].")
@PARAMS
@click.option(
    "--engine", "competitors", multiple=True, metavar="NAME", help="Compare this engine or peer (repeatable) [all]."
)
@click.option("--budget", type=SECONDS, default="10s", show_default=True, help="Time for each run, compiling aside.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of everything random.")
@click.option("--seeds", type=click.IntRange(1, 1000), default=1, show_default=True, help="Runs, of which the median.")
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), help="Draw best so far against time.")
@JSON
def engines_command(
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
    from diffuzz.bench import engines

    if picture is not None:
        from diffuzz.bench import picture as drawing

        drawing.check(picture)
    chosen = [targets.get(name) for name in names or targets.names()]
    planned = len(chosen) * len(engines.check(competitors or None)) * seeds
    tables = engines.compare(
        chosen,
        given_parameters(settings),
        seconds=budget,
        seeds=range(seed, seed + seeds),
        competitors=competitors or None,
        on_table=None if as_json else lambda table: print_text(engines.as_text(table)),
    )
    done = sum(len(table.runs) for table in tables)
    if picture is not None and tables:
        drawing.draw(tables, budget, picture)
    if as_json:
        print_json(engines.as_json(tables, budget, interrupted=done < planned))
    else:
        print_text(engines.summary(tables))
    return unfinished(done, planned, "runs") if done < planned else 0


@bench.command("witnesses")
@click.option("--target", "names", multiple=True, metavar="NAME", help="Minimise on this target (repeatable) [all].")
@PARAMS
@click.option("--budget", type=SECONDS, default="3s", show_default=True, help="Time to search each target.")
@click.option(
    "--minimising", type=SECONDS, default="5s", show_default=True, help="Time for each way to minimise what was found."
)
@click.option("--keep", type=SHARE, default=0.999, show_default=True, help="Share of the value to keep.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of the search.")
@JSON
def witnesses_command(
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
    from diffuzz.bench import witnesses

    chosen = [targets.get(name) for name in names or targets.names()]
    tables = witnesses.compare(
        chosen,
        given_parameters(settings),
        seconds=budget,
        minimising=minimising,
        keep=keep,
        seed=seed,
        on_table=None if as_json else lambda table: print_text(witnesses.as_text(table)),
    )
    interrupted = len(tables) < len(chosen)
    if as_json:
        numbers = {"seconds": budget, "minimising": minimising, "keep": keep}
        print_json(witnesses.as_json(tables, **numbers, seed=seed, interrupted=interrupted))
    else:
        print_text(witnesses.summary(tables))
    return unfinished(len(tables), len(chosen), "targets") if interrupted else 0
