"""Evaluations per second of a screen by length and batch size, and where its time goes: on the way to the device,
there, and on the way back.

    python benchmarks/batch_size.py [--target T ...] [--n 256 ...] [--rows 64 ...] [--seconds 0.3] [--json]

A screen is what searches run: the value of each row, and for an amplification the perturbation solved for it. The batch
starts in NumPy and ends there. Targets without a parameter n are measured at their own size. "share" is the part of a
whole call that the device computes in; bytes are those of the batch and of what comes back.
"""

from __future__ import annotations

import json
from typing import Any

import click
import numpy as np
from throughput import best_of

from diffuzz import targets
from diffuzz.cases import draws
from diffuzz.judging.problem import open_problem
from diffuzz.searching.screen import compile_screen, configured_jax, traceable


def measure(jax: Any, name: str, n: int | None, rows: int, seconds: float) -> dict[str, Any] | None:
    """One line of the table; None for a target without a screen."""
    target = targets.get(name)
    problem = open_problem(target, {} if n is None else {"n": n})
    space = problem.space
    screen = compile_screen(problem, rows)
    if screen is None:
        return None
    batch = draws.structured(space, np.random.default_rng(0), rows)
    with np.errstate(all="ignore"):
        values, refined = screen(batch)()
        whole = best_of(lambda: screen(batch)(), seconds)
        with jax.enable_x64(True):
            there = {key: jax.device_put(array) for key, array in batch.items()}
            into = best_of(lambda: [jax.device_put(array).block_until_ready() for array in batch.values()], seconds / 4)
            # The same on arrays that are there already, without fetching what comes of it.
            compiled = jax.jit(traceable(jax, problem))
            jax.block_until_ready(compiled(there))
            computing = best_of(lambda: jax.block_until_ready(compiled(there)), seconds)
    moved = sum(a.nbytes for a in batch.values()) + values.nbytes
    moved += sum(a.nbytes for key, a in refined.items() if a is not batch[key])
    return {
        "target": name,
        "n": n,
        "rows": rows,
        "per_s": rows / whole,
        "ms": whole * 1e3,
        "into_ms": into * 1e3,
        "device_ms": computing * 1e3,
        "share": computing / whole,
        "mib": moved / 2**20,
    }


@click.command()
@click.option("--target", "names", multiple=True, help="Which targets [default: all].")
@click.option("--n", "lengths", multiple=True, type=int, default=(256, 1024, 4096, 16384), show_default=True)
@click.option("--rows", "batches", multiple=True, type=int, default=(64, 256, 1024, 4096), show_default=True)
@click.option("--most", default=2**26, show_default=True, help="Elements of a batch at most; larger ones are left out.")
@click.option("--seconds", default=0.3, show_default=True, help="Time for each figure.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def main(
    names: tuple[str, ...],
    lengths: tuple[int, ...],
    batches: tuple[int, ...],
    most: int,
    seconds: float,
    as_json: bool,
) -> None:
    """Print evaluations per second by length and batch size."""
    jax = configured_jax()
    found = []
    if not as_json:
        click.echo(f"{jax.devices()[0]}\n")
        click.echo(
            f"{'target':14}{'n':>7}{'rows':>7}{'per s':>14}{'ms':>10}{'in ms':>10}{'device ms':>11}{'share':>8}"
            f"{'MiB':>9}"
        )
    for name in names or targets.names():
        target = targets.get(name)
        has_length = any(parameter.name == "n" for parameter in target.parameters) and name not in (
            "dot-order",
            "matmul",
        )
        for n in lengths if has_length else (None,):
            elements = target.space(target.params({} if n is None else {"n": n})).elements
            for rows in batches:
                line = measure(jax, name, n, rows, seconds) if elements * rows <= most else None
                if line is None:
                    continue
                found.append(line)
                if not as_json:
                    click.echo(
                        f"{name:14}{n or '':>7}{rows:7}{line['per_s']:14,.0f}{line['ms']:10.3f}{line['into_ms']:10.3f}"
                        f"{line['device_ms']:11.3f}{100 * line['share']:6.0f} %{line['mib']:9.2f}"
                    )
    if as_json:
        click.echo(json.dumps({"device": str(jax.devices()[0]), "batch_size": found}))


if __name__ == "__main__":
    main()
