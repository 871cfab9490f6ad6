"""Whether shards of a campaign find what one run of the same total time finds, in a part of its time.

    python benchmarks/shards.py
    python benchmarks/shards.py --shards 8 --budget 120s --slice 1s

One run with one process; then as many shards, one after the other, each with one process: the longest of them is what
they take on as many cores, beside starting. Then two shards at once, and one run with one process again, on two cores.
Each writes to a folder of its own. For each: the findings, seconds of search by counting work, and those on the clock.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

WORDS = ("--targets", "all", "--jobs", "1", "--seed", "3", "--json")


def run(folder: Path, budget: str, first: str, shard: str) -> tuple[dict[str, Any], float]:
    """What a campaign says, and its seconds."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "diffuzz", "campaign", *WORDS, "--budget", budget, "--slice", first, "--shard", shard,
         "--into", str(folder / "campaign"), "--corpus", str(folder / "corpus")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1]), time.perf_counter() - began


def told(what: str, found: list[tuple[dict[str, Any], float]], clock: float) -> set[str]:
    """A line; the titles of the findings."""
    titles = {one["title"] for said, _ in found for one in said["jobs"] if one["finding"]}
    spent = [said["spent_s"] for said, _ in found]
    print(
        f"{what:34} {len(titles)} findings, {sum(spent):.0f} s of search in all, {max(spent):.1f} s the longest; "
        f"{clock:.0f} s on the clock",
        flush=True,
    )
    return titles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--budget", default="120s")
    parser.add_argument("--slice", default="1s")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, budget, first, count = Path(name), given.budget, given.slice, given.shards
        whole = run(folder / "whole", budget, first, "1/1")
        one = told("one run", [whole], whole[1])
        apart = [run(folder / "shards", budget, first, f"{number}/{count}") for number in range(1, count + 1)]
        several = told(f"{count} shards, one after the other", apart, max(clock for _, clock in apart))
        began = time.perf_counter()
        with ThreadPoolExecutor(2) as pool:
            both = list(pool.map(lambda number: run(folder / "two", budget, first, f"{number}/2"), (1, 2)))
        two = told("2 shards at once", both, time.perf_counter() - began)
        print(f"found by one run and not by {count} shards: {', '.join(sorted(one - several)) or 'nothing'}")
        print(f"found by one run and not by 2 shards: {', '.join(sorted(one - two)) or 'nothing'}")


if __name__ == "__main__":
    main()
