"""How long a person waits for the witness of a wrong kernel: the default command, start of Python included.

    python benchmarks/first_witness.py [--every 8] [--seed 0] [--budget 10s] [--json]

Every eighth of the project's mutants (diffuzz.studies.mutants) is handed in as a file, as a user's function would be:

    python -m diffuzz search --target T --candidate FILE.py:function --budget 10s --seed 0

Prints, for each, the seconds of the whole command and what ended the search, and then median, 95 % and most over all.
The file imports the mutants of this package, which a user's own would not: that takes some 0.1 s, which are counted.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from diffuzz.studies.mutants.mutants import Mutant, mutants

SOURCE = """from diffuzz.studies.mutants.mutants import mutants

function = next(mutant.function for mutant in mutants() if mutant.name == {name!r})
"""


def one(mutant: Mutant, folder: Path, budget: str, seed: int) -> tuple[float, str, str]:
    """(seconds of the command, its verdict, what ended its search) for one mutant."""
    file = folder / "mutant.py"
    file.write_text(SOURCE.format(name=mutant.name))
    command = [sys.executable, "-m", "diffuzz", "search", "--target", mutant.target, "--candidate", f"{file}:function"]
    for name, value in mutant.params.items():
        # A restriction of the domain, such as multiple:n, is an option of its own.
        option, _, restricted = name.rpartition(":")
        given = str(value).lower() if isinstance(value, bool) else value
        command += [f"--{option or 'param'}", f"{restricted}={given}"]
    command += ["--budget", budget, "--seed", str(seed), "--corpus", str(folder / "corpus"), "--json"]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    took = time.perf_counter() - started
    if done.returncode not in (0, 1):
        raise click.ClickException(f"{mutant.name}: exit code {done.returncode}: {done.stderr.strip()}")
    said = json.loads(done.stdout)
    return took, said["verdict"], said["stopped_by"]


@click.command()
@click.option("--every", type=click.IntRange(min=1), default=8, show_default=True, help="Take each eighth mutant.")
@click.option("--seed", default=0, show_default=True)
@click.option("--budget", default="10s", show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(every: int, seed: int, budget: str, as_json: bool) -> None:
    """Measure, and print one line for each mutant and one for all."""
    wrong = [mutant for mutant in mutants() if not mutant.correct][::every]
    rows: list[tuple[float, str, str, str]] = []
    for mutant in wrong:
        with tempfile.TemporaryDirectory() as folder:
            took, verdict, stopped = one(mutant, Path(folder), budget, seed)
        rows.append((took, verdict, stopped, mutant.name))
        if not as_json:
            print(f"{took:6.2f} s  {verdict:10}  {stopped:14}  {mutant.name}", flush=True)
    times = sorted(row[0] for row in rows)
    summary = {
        "mutants": len(rows),
        "confirmed": sum(row[1] == "CONFIRMED" for row in rows),
        "median": round(statistics.median(times), 2),
        "95 %": round(times[min(math.ceil(0.95 * len(times)), len(times)) - 1], 2),
        "most": round(times[-1], 2),
    }
    if as_json:
        print(json.dumps({"summary": summary, "rows": rows}))
        return
    print(
        f"{summary['confirmed']} of {summary['mutants']} confirmed; seconds of the whole command: median "
        f"{summary['median']}, 95 % {summary['95 %']}, most {summary['most']}"
    )


if __name__ == "__main__":
    main()
