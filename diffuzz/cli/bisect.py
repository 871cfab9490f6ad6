"""``diffuzz bisect``: the first of several builds that has a given witness."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffuzz.cli.options import (
    ARRAYS,
    JSON,
    LONGEST,
    PLACE,
    TIMEOUT,
    VERBOSITY,
    check_arrays,
    completed,
    print_json,
    print_text,
    report,
)

if TYPE_CHECKING:
    from diffuzz.campaigns.bisecting import Answer, Bisected

# What stands for the build in --candidate, --library and --before.
MARK = "{}"


@click.command("bisect")
@click.argument("entry", type=PLACE, shell_complete=completed("entries"))
@click.argument("builds", nargs=-1, required=True, metavar="BUILD BUILD ...", shell_complete=completed("files"))
@click.option(
    "--candidate",
    metavar="FUNCTION",
    help="The function of a build, {} for what the build is called: 'build-{}/kernels.so:norm' [default: each BUILD is "
    "one, of an entry that was found with a candidate].",
)
@click.option(
    "--library",
    metavar="PATH",
    help="The library of a build, in the same way [default: each BUILD is one, of an entry that compares kernels].",
)
@click.option(
    "--before",
    metavar="COMMAND",
    help="Run this in a shell before a build is asked, {} for what it is called: 'git checkout -q {} && make'. One for "
    "which it fails is passed over.",
)
@ARRAYS
@TIMEOUT
@LONGEST
@VERBOSITY
@JSON
def command(
    entry: Path,
    builds: tuple[str, ...],
    candidate: str | None,
    library: str | None,
    before: str | None,
    arrays: str | None,
    device: str | None,
    timeout: float,
    longest: float,
    quiet: bool,
    as_json: bool,
) -> int:
    """Find the first BUILD, of those that are given from the oldest to the newest, that shows the witness ENTRY.

    Each build that is asked is asked in a process of its own. One that cannot be asked is passed over.
    """
    from diffuzz.campaigns.bisecting import BisectError, bisect
    from diffuzz.cli.progress import line_printer
    from diffuzz.corpus import files
    from diffuzz.corpus.entry import Counterexample
    from diffuzz.judging.verdict import Verdict

    check_arrays(candidate, arrays, device)
    found = files.load_any(entry)
    if isinstance(found, Counterexample) and found.verdict is not Verdict.CONFIRMED:
        raise click.UsageError(f"{entry}: is no witness: its verdict is {found.verdict.value}")
    if found.candidate is None and found.kernels is None:
        raise click.UsageError(f"{entry}: is about the arithmetic, of which there are no builds")
    if candidate is None and library is None:
        candidate, library = (MARK, None) if found.candidate is not None else (None, MARK)
    if not any(MARK in given for given in (candidate, library, before) if given):
        raise click.UsageError(
            f"--candidate, --library, --before: {MARK} is in none of them, so all builds are the same"
        )
    options = {"candidate": candidate, "library": library, "arrays": arrays, "device": device}
    say = line_printer()
    reasons: dict[str, str] = {}

    def ask(build: str) -> Answer:
        if before is not None:
            # What a command prints is for people, and not part of the answer.
            done = subprocess.run(before.replace(MARK, shlex.quote(build)), shell=True, stdout=sys.stderr, check=False)
            if done.returncode:
                return told(build, "cannot be asked", f"--before ended with exit code {done.returncode}")
        words = [word for name, value in options.items() if value for word in (f"--{name}", value.replace(MARK, build))]
        words += ["--timeout", f"{timeout:g}s", "--longest", f"{longest:g}s"]
        line = [sys.executable, "-m", "diffuzz", "replay", str(entry), "--judge", "--json", *words]
        return told(build, *_answer(subprocess.run(line, capture_output=True, text=True, check=False)))

    def told(build: str, answer: Answer, why: str) -> Answer:
        reasons[build] = why
        if say is not None:
            say(f"{build}: {answer}: {why}")
        return answer

    try:
        result = bisect(builds, ask)
    except BisectError as error:
        last = next(reversed(reasons.values()), "")
        raise BisectError(f"{error}: {last}" if last else str(error)) from error
    if as_json:
        print_json(bisect_json(entry, result))
    else:
        print_text(bisect_text(result, quiet=quiet))
    return 0


def _answer(done: subprocess.CompletedProcess[str]) -> tuple[Answer, str]:
    """What a replay says of a build, and why."""
    try:
        (one,) = json.loads(done.stdout.splitlines()[-1])["results"]
    except (ValueError, IndexError, KeyError):
        lines = done.stderr.strip().splitlines()
        return "cannot be asked", lines[-1] if lines else f"exit code {done.returncode}"
    answers: dict[str, Answer] = {
        "wrong": "shows", "as recorded": "shows", "right": "does not show"
    }  # fmt: skip
    return answers.get(one["status"], "cannot be asked"), one["message"]


def bisect_json(entry: Path, found: Bisected) -> dict[str, Any]:
    """The object of ``bisect --json``."""
    return {
        "entry": str(entry),
        "first": found.first,
        "last_without": found.last,
        "perhaps": list(found.between),
        "asked": [{"build": build, "answer": answer} for build, answer in found.answers],
    }


def bisect_text(found: Bisected, *, quiet: bool = False) -> str:
    """The first build, and what the others that were asked said."""
    lines = [f"{found.first} is the first that shows it; {found.last} does not"]
    if found.between:
        lines[0] = f"{found.first} shows it, {found.last} does not; between them could not be asked: " + ", ".join(
            found.between
        )
    return report(lines if quiet else [*lines, *(f"  {build}: {answer}" for build, answer in found.answers)])
