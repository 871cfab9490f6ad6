"""How long it takes until something happens: imports, the first value of a search, compiling, replaying a corpus.

    python benchmarks/startup.py [--repeats 5] [--entries 1000] [--compiled softmax ...] [--json]

Every figure is of a fresh process, the median of the repetitions (the least in brackets), with what the process itself
says where only a part of it is meant. Compiling is measured twice, with an empty and a filled cache of compiled
screens (in a folder made for it, in the place of the user's). The entries that are replayed are made from one search.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import click
import numpy as np

from diffuzz import targets
from diffuzz.cases.case import Case
from diffuzz.corpus import files
from diffuzz.corpus.record import record
from diffuzz.searching.search import search

COMPILED = ("softmax", "rmsnorm", "matvec", "chain")
FIRST = """
import time; started = time.perf_counter()
from diffuzz import search, targets
first = []
def found(case):
    if not first: first.append(time.perf_counter() - started)
search(targets.get({name!r}), seconds=2, seed=0, on_found=found)
print(first[0])
"""
COMPILE = """
import time
from diffuzz import targets
from diffuzz.cases.draws import structured
from diffuzz.judging.problem import open_problem
from diffuzz.searching.objective import Budget, Objective
from diffuzz.searching.screen import compile_screen
import numpy as np
objective = Objective(open_problem(targets.get({name!r})), Budget(1.0))
batch = structured(objective.space, np.random.default_rng(0), objective.rows)
import jax
started = time.perf_counter()
compile_screen(objective.problem, objective.rows)(batch)()
print(time.perf_counter() - started)
"""
REPLAY = """
import sys, time; started = time.perf_counter()
from diffuzz import replay
results = replay([{folder!r}])
assert all(result.status == "as recorded" for result in results), results[0]
assert not {{"jax", "hypothesis"}} & set(sys.modules)
print(time.perf_counter() - started)
"""


def fresh(code: str, repeats: int, environment: dict[str, str]) -> tuple[float, float]:
    """(median, least) of the seconds that the code prints, in processes of its own."""
    printed = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True
        )
        printed.append(float(done.stdout.split()[-1]))
    return statistics.median(printed), min(printed)


def command(arguments: list[str], repeats: int, environment: dict[str, str]) -> tuple[float, float]:
    """(median, least) of the seconds that a whole command takes."""
    took = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], env=os.environ | environment, capture_output=True, check=True)
        took.append(time.perf_counter() - started)
    return statistics.median(took), min(took)


def a_corpus(folder: Path, entries: int) -> None:
    """So many entries: one witness at as many scales of its activation."""
    target = targets.get("matvec")
    found = search(target, seconds=1, seed=0)
    entry = record(found)
    for number in range(entries):
        x = entry.case["x"] / np.abs(entry.case["x"]).max() * np.float32(1 + 15 * number / entries)
        case = Case(dict(entry.case.arrays) | {"x": x})
        measured = found.problem.measured(case)
        verdict = found.problem.verdict(measured)
        other = attrs.evolve(entry, case=case, value=measured.value, noise=measured.noise, verdict=verdict)
        files.save(other, folder, always=True)


def measurements(repeats: int, entries: int, compiled: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Seconds, median and least, by what was measured."""
    timed = "import time; started = time.perf_counter()\n{}\nprint(time.perf_counter() - started)"
    with tempfile.TemporaryDirectory() as scratch:
        cache = {"XDG_CACHE_HOME": str(Path(scratch) / "cache")}
        folder = Path(scratch) / "corpus"
        a_corpus(folder, entries)
        figures: dict[str, Callable[[], tuple[float, float]]] = {
            "import diffuzz": lambda: fresh(timed.format("import diffuzz"), repeats, cache),
            "import diffuzz, its targets": lambda: fresh(timed.format("from diffuzz import targets"), repeats, cache),
            "python -c pass": lambda: command(["-c", "pass"], repeats, cache),
            "python -m diffuzz --help": lambda: command(["-m", "diffuzz", "--help"], repeats, cache),
            "search: first value of softmax": lambda: fresh(FIRST.format(name="softmax"), repeats, cache),
            "search: first value of matvec": lambda: fresh(FIRST.format(name="matvec"), repeats, cache),
            f"replay of {entries} entries": lambda: fresh(REPLAY.format(folder=str(folder)), repeats, cache),
        }
        results = {name: measure() for name, measure in figures.items()}
        for name in compiled:
            empty = {"XDG_CACHE_HOME": str(Path(scratch) / f"empty-{name}")}
            results[f"compile {name}, nothing cached"] = fresh(COMPILE.format(name=name), 1, empty)
            results[f"compile {name}, cached"] = fresh(COMPILE.format(name=name), repeats, empty)
    return results


@click.command()
@click.option("--repeats", default=5, show_default=True, help="Processes for each figure.")
@click.option("--entries", default=1000, show_default=True, help="Entries that are replayed.")
@click.option("--compiled", multiple=True, default=COMPILED, show_default=True, help="Targets to compile (repeatable).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def main(repeats: int, entries: int, compiled: tuple[str, ...], as_json: bool) -> None:
    """Print how long starting takes."""
    results: dict[str, Any] = measurements(repeats, entries, compiled)
    if as_json:
        figures = {name: {"median": median, "least": least} for name, (median, least) in results.items()}
        click.echo(json.dumps({"startup_s": figures}))
        return
    for name, (median, least) in results.items():
        click.echo(f"{name:36}{median:9.3f} s  ({least:.3f})")


if __name__ == "__main__":
    main()
