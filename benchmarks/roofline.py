"""How far a screen is from what the device could do: the roofline of one batch evaluation.

    python benchmarks/roofline.py [--target T ...] [--seconds 0.5]

For the value of each target's screen, a batch of the objective's own size: the operations and the bytes that XLA's cost
analysis counts in the compiled program; the bytes that have to move at least (the batch once in, the values once out);
the least time at the rates of this device, which are measured here, by JAX, with the same threads (a product of
matrices in float64, and the copy of an array that is far larger than any cache); the measured time; and the share of
the least time in it. Transcendental functions count as one operation each, and codes are unpacked by integer
operations: where the share is small, that is what the time goes into.
"""

from __future__ import annotations

from typing import Any

import click
import numpy as np
from throughput import best_of

from diffuzz import targets
from diffuzz.cases import draws
from diffuzz.judging.problem import open_problem
from diffuzz.searching.objective import Budget, Objective
from diffuzz.searching.screen import configured_jax


def rates(jax: Any, seconds: float) -> tuple[float, float]:
    """(operations per second, bytes per second) of this device, in float64."""
    xp = jax.numpy
    with jax.enable_x64(True):
        square = xp.ones((1024, 1024))
        product = jax.jit(lambda a: a @ a)
        product(square).block_until_ready()
        operations = 2 * 1024**3 / best_of(lambda: product(square).block_until_ready(), seconds)
        large = xp.ones(2**25)
        move = jax.jit(lambda a: a + 1)
        move(large).block_until_ready()
        moved = 2 * large.nbytes / best_of(lambda: move(large).block_until_ready(), seconds)
    return operations, moved


def measure(jax: Any, name: str, rate: tuple[float, float], seconds: float) -> str | None:
    """One line of the table; None for a target without a screen."""
    problem = open_problem(targets.get(name))
    value = problem.screen()
    if value is None:
        return None
    objective = Objective(problem, Budget(1.0))
    batch = draws.structured(objective.space, np.random.default_rng(0), objective.rows)
    with jax.enable_x64(True):
        given = {key: jax.numpy.asarray(array) for key, array in batch.items()}
        compiled = jax.jit(value).lower(given).compile()
        analysis = compiled.cost_analysis()
        analysis = analysis[0] if isinstance(analysis, list) else analysis
        took = best_of(lambda: compiled(given).block_until_ready(), seconds)
    operations = float(analysis.get("flops", 0.0)) + float(analysis.get("transcendentals", 0.0))
    least_bytes = sum(array.nbytes for array in batch.values()) + 8 * objective.rows
    least = max(operations / rate[0], least_bytes / rate[1])
    return (
        f"{name:14}{objective.rows:6}{operations / 1e6:10.2f}{analysis.get('bytes accessed', 0.0) / 2**20:10.2f}"
        f"{least_bytes / 2**20:10.3f}{least * 1e3:10.3f}{took * 1e3:10.3f}{100 * least / took:8.1f} %"
    )


@click.command()
@click.option("--target", "names", multiple=True, help="Which targets [default: all].")
@click.option("--seconds", default=0.5, show_default=True, help="Time for each figure.")
def main(names: tuple[str, ...], seconds: float) -> None:
    """Print the roofline of every screen."""
    jax = configured_jax()
    rate = rates(jax, seconds)
    click.echo(f"{jax.devices()[0]}: {rate[0] / 1e9:.1f} Gflop/s float64, {rate[1] / 2**30:.1f} GiB/s\n")
    click.echo(
        f"{'target':14}{'rows':>6}{'Mop':>10}{'MiB':>10}{'least MiB':>10}{'least ms':>10}{'ms':>10}{'share':>10}"
    )
    for name in names or targets.names():
        line = measure(jax, name, rate, seconds)
        if line is not None:
            click.echo(line)


if __name__ == "__main__":
    main()
