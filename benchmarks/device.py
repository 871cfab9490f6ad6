"""Evaluations per second of the engine that draws and changes cases on the device, beside the engine that does so on
the host, and the batch at which the device is busy.

    python benchmarks/device.py
    python benchmarks/device.py --seconds 2 matvec attention chain

Both go through the objective, confirmation included, in turn. Compiling is not counted. For each size of batch there is
the rate of the compiled program alone: where it stops growing the device is busy.
"""

from __future__ import annotations

import argparse
import math
import time

import attrs
import numpy as np

from diffuzz import targets
from diffuzz.judging.problem import open_problem
from diffuzz.searching import engines
from diffuzz.searching.engines import device
from diffuzz.searching.objective import Budget, Objective
from diffuzz.searching.screen import compile_screen, configured_jax


def rate_of(objective: Objective, name: str, seconds: float) -> float:
    """Evaluations per second of an engine, after a round that compiles."""
    rounds = engines.started(name, objective.for_engine(name), np.random.default_rng(0))
    next(rounds)
    before, began = objective.evaluations, time.perf_counter()
    while time.perf_counter() - began < seconds:
        next(rounds)
    return (objective.evaluations - before) / (time.perf_counter() - began)


def program_rate(objective: Objective, rows: int, seconds: float) -> float:
    """Evaluations per second of the program alone, with so many children a generation."""
    jax = configured_jax()
    program = device.compiled(jax, objective, rows)
    assert program is not None
    population, values = device._first(objective, np.random.default_rng(0))
    with jax.enable_x64(True):
        key = jax.random.key(0, impl="rbg")
        population, values, key = jax.block_until_ready(program(population, values, key))
        made, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            population, values, key = jax.block_until_ready(program(population, values, key))
            made += rows * device.GENERATIONS
        return made / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=("matvec", "attention", "chain"))
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--largest", type=int, default=2**20, help="children of a generation at most")
    given = parser.parse_args()
    jax = configured_jax()
    print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}")
    for name in given.targets:
        # Without a bound, at which a search would stop.
        problem = attrs.evolve(open_problem(targets.get(name), {}), bound=None)
        rates = {}
        for engine in ("evolution", "device"):
            objective = Objective(problem, Budget(math.inf))
            objective.use_screen(compile_screen(problem, objective.rows))
            rates[engine] = rate_of(objective, engine, given.seconds)
        said = "  ".join(f"{engine} {rate:,.0f}/s" for engine, rate in rates.items())
        print(f"{name:12} {said}  ratio {rates['device'] / rates['evolution']:.2f}")
        rows, most = objective.rows, min(given.largest, device.MOST_ELEMENTS // objective.space.elements)
        while rows <= most:
            print(f"{'':12} {rows:9,} rows  {program_rate(objective, rows, given.seconds):,.0f}/s", flush=True)
            rows *= device.GROWTH


if __name__ == "__main__":
    main()
