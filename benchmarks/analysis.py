"""What a bound costs: the running error analysis of a batch against its evaluation in float64 alone.

    python benchmarks/analysis.py [--rows 256] [--repeats 20] [--operation softmax ...]

Both walk over the same equations in NumPy, in alternation; the ratio is that of the medians. The batch is analysed in
parts that stay in the cache of a processor, as a search does it. ``new shape`` is the time for a shape that was not
seen before: it is traced, and nothing is compiled.
"""

from __future__ import annotations

import statistics
import time

import click
import numpy as np

from diffuzz import targets
from diffuzz.analysis import jaxpr
from diffuzz.cases import draws
from diffuzz.targets.derived import arithmetic, in_parts

OPERATIONS = ("softmax", "rmsnorm", "layer_norm", "gelu", "swiglu", "rope", "attention", "matmul", "top_k", "cumsum")
COLUMNS = f"{'operation':14}{'numbers':>10}{'float64 ms':>12}{'bound ms':>10}{'ratio':>7}{'new shape ms':>14}"


def measured(name: str, rows: int, repeats: int) -> str:
    """A line of the table."""
    contract = targets.get(name).contract
    if contract is None or contract.derived is None:
        raise click.BadParameter(f"{name} has no derived bound")
    params = targets.get(name).contract_params()
    batch = draws.structured(contract.space(params), np.random.default_rng(0), rows)
    stated = arithmetic(params)
    parts = [part for _, part in in_parts(contract.derived.arguments(params, batch))]
    began = time.perf_counter()
    traces = [contract.derived.traced(params, part) for part in parts]
    traced = (time.perf_counter() - began) / len({tuple(one.shape for one in part.arrays) for part in parts})
    values, bounds = [], []
    with np.errstate(all="ignore"):
        for _ in range(repeats):
            for times, analysed in ((values, False), (bounds, True)):
                began = time.perf_counter()
                for part, trace in zip(parts, traces, strict=True):
                    if analysed:
                        jaxpr.bound(trace, part.arrays, stated, errors=part.errors, constants=part.constants)
                    else:
                        jaxpr.evaluate(trace, part.arrays)
                times.append(time.perf_counter() - began)
    value, bound = statistics.median(values), statistics.median(bounds)
    numbers = sum(array.size for array in batch.values())
    ms = 1e3
    return f"{name:14}{numbers:>10}{value * ms:>12.3f}{bound * ms:>10.3f}{bound / value:>7.2f}{traced * ms:>14.1f}"


@click.command()
@click.option("--rows", default=256, help="Cases of a batch.", show_default=True)
@click.option("--repeats", default=20, help="Times that each is measured.", show_default=True)
@click.option("--operation", "operations", multiple=True, help="Only these.")
def main(rows: int, repeats: int, operations: tuple[str, ...]) -> None:
    """Print the table."""
    print(COLUMNS)
    for name in operations or OPERATIONS:
        print(measured(name, rows, repeats), flush=True)


if __name__ == "__main__":
    main()
