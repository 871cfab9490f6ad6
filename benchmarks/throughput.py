"""Evaluations per second of every target: the exact NumPy evaluation, the compiled screen, and what a round of
evolution costs in all.

    python benchmarks/throughput.py [--target T ...] [--json] [--seconds 1]

Each figure is the best of several repetitions within the time, on structured random batches of the objective's own
size; compile times are the first call of a screen in this process (a persistent cache makes later processes quicker);
the last column is the most memory that the process has had so far, JAX and all.
Shared machines are noisy: compare within one run.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import attrs
import click
import numpy as np

from diffuzz import targets
from diffuzz.cases import draws
from diffuzz.judging.problem import open_problem
from diffuzz.searching import engines
from diffuzz.searching.objective import Budget, Objective
from diffuzz.searching.screen import compile_screen


def best_of(call: Callable[[], Any], seconds: float) -> float:
    """Least seconds of one call, over as many calls as fit."""
    least, ends = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < ends or least == float("inf"):
        started = time.perf_counter()
        call()
        least = min(least, time.perf_counter() - started)
    return least


def measure(name: str, given: dict[str, Any], seconds: float) -> dict[str, Any]:
    """One line of the table."""
    problem = open_problem(targets.get(name), given)
    objective = Objective(problem, Budget(1e9))
    batch = draws.structured(objective.space, np.random.default_rng(0), objective.rows)
    with np.errstate(all="ignore"):
        exact = objective.rows / best_of(lambda: problem.evaluate(batch), seconds)
        started = time.perf_counter()
        screen = compile_screen(problem, objective.rows)
        if screen is not None:
            screen(batch)()
        compiled = time.perf_counter() - started
        screened = None if screen is None else objective.rows / best_of(lambda: screen(batch)(), seconds)
    return {
        "target": name,
        "params": given,
        "rows": objective.rows,
        "exact_per_s": exact,
        "screen_per_s": screened,
        "first_screen_s": compiled,
        "evolution_per_s": evolution(name, given, seconds),
        "peak_mib_so_far": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        / (2**20 if sys.platform == "darwin" else 2**10),
    }


def evolution(name: str, given: dict[str, Any], seconds: float) -> float:
    """Evaluations per second of the evolutionary engine, moves and confirmation included, without stopping at the
    bound.
    """
    problem = attrs.evolve(open_problem(targets.get(name), given), bound=None)
    objective = Objective(problem, Budget(math.inf))
    objective.use_screen(compile_screen(problem, objective.rows))
    rounds = engines.get("evolution")(objective, np.random.default_rng(0))
    next(rounds)
    done, started = objective.evaluations, time.perf_counter()
    while time.perf_counter() - started < seconds:
        next(rounds)
    return (objective.evaluations - done) / (time.perf_counter() - started)


CASES: list[tuple[str, dict[str, Any]]] = [
    *[(name, {}) for name in targets.names()],
    *[("rmsnorm", {"n": n}) for n in (1024, 4096, 16384)],
    *[("matvec", {"n": n}) for n in (1024, 4096, 16384)],
    *[("softmax", {"n": n}) for n in (256, 4096)],
]


@click.command()
@click.option("--seconds", default=1.0, show_default=True, help="Time for each figure.")
@click.option("--target", "names", multiple=True, help="Which targets, with default parameters [default: the list].")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def main(seconds: float, names: tuple[str, ...], as_json: bool) -> None:
    """Print the throughput of every target."""
    rows = [measure(name, given, seconds) for name, given in [(name, {}) for name in names] or CASES]
    if as_json:
        click.echo(json.dumps({"throughput": rows}))
        return
    click.echo(
        f"{'target':24}{'rows':>6}{'exact/s':>12}{'screen/s':>12}{'evolution/s':>12}{'first screen':>14}{'peak':>12}"
    )
    for row in rows:
        label = row["target"] + "".join(f" {key}={value}" for key, value in row["params"].items())
        screened = "-" if row["screen_per_s"] is None else f"{row['screen_per_s']:,.0f}"
        click.echo(
            f"{label:24}{row['rows']:6}{row['exact_per_s']:12,.0f}{screened:>12}{row['evolution_per_s']:12,.0f}"
            f"{row['first_screen_s']:12.2f} s{row['peak_mib_so_far']:8.0f} MiB"
        )


if __name__ == "__main__":
    main()
