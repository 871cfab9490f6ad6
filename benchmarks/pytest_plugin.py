"""What the pytest plugin costs a project that does not use it: ``pytest --collect-only`` with it, and without.

    python benchmarks/pytest_plugin.py [--tests 2000] [--pairs 9] [--json]

A suite is generated, in files of 40 tests with as many data files beside them, and collected in pairs of fresh
processes, with the plugin and with ``-p no:diffuzz``, in turns, each first as often as the other. A figure is the
processor time of the process, which shared machines disturb less than the clock; the ratio is the median over pairs.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click

IN_A_FILE = 40
TEST = "\n".join(f"def test_{number}(tmp_path):\n    assert tmp_path\n" for number in range(IN_A_FILE))
PYTEST = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]


def a_suite(folder: Path, tests: int) -> None:
    """``tests`` tests, with other files beside them, as a project has."""
    for number in range(tests // IN_A_FILE):
        part = folder / f"part_{number // 10}"
        part.mkdir(exist_ok=True)
        (part / f"test_{number}.py").write_text(TEST)
        (part / f"data_{number}.json").write_text("{}")


def seconds(folder: Path, options: list[str], tests: int) -> float:
    """Processor time of one collection, in a process of its own."""
    before = os.times()
    done = subprocess.run([*PYTEST, *options, "."], cwd=folder, capture_output=True, text=True, check=True)
    after = os.times()
    assert f"{tests} tests collected" in done.stdout, done.stdout[-300:]
    return after.children_user - before.children_user + after.children_system - before.children_system


@click.command()
@click.option("--tests", default=2000, show_default=True, help="Tests of the suite, a multiple of 40.")
@click.option("--pairs", default=9, show_default=True, help="Pairs of collections.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
def main(tests: int, pairs: int, as_json: bool) -> None:
    """Print what the plugin costs."""
    sides: dict[str, list[float]] = {"with": [], "without": []}
    with tempfile.TemporaryDirectory() as scratch:
        a_suite(Path(scratch), tests)
        # Compiles the tests.
        seconds(Path(scratch), [], tests)
        for pair in range(pairs):
            for side in ("with", "without") if pair % 2 else ("without", "with"):
                options = [] if side == "with" else ["-p", "no:diffuzz"]
                sides[side].append(seconds(Path(scratch), options, tests))
    ratios = [one / other for one, other in zip(sides["with"], sides["without"], strict=True)]
    found = {
        "tests": tests,
        "pairs": pairs,
        "with_s": statistics.median(sides["with"]),
        "without_s": statistics.median(sides["without"]),
        "ratio": statistics.median(ratios),
        "least_ratio": min(ratios),
        "largest_ratio": max(ratios),
    }
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{tests} tests, {pairs} pairs")
    click.echo(f"with the plugin     {found['with_s']:8.3f} s")
    click.echo(f"without it          {found['without_s']:8.3f} s")
    click.echo(f"ratio               {found['ratio']:8.3f}    ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
