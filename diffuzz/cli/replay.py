"""``diffuzz replay``: every entry of the corpus measured again."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import (
    BAD_INPUT,
    CANDIDATE,
    DEFAULT_CORPUS,
    FILE,
    JSON,
    LIBRARY,
    LONGEST,
    PLACE,
    TIMEOUT,
    complain,
    files,
    print_json,
    print_text,
    report,
)
from diffuzz.cli.tables import json_number

if TYPE_CHECKING:
    from diffuzz.corpus.replay import Replayed


@click.command("replay")
@click.argument("paths", nargs=-1, type=PLACE)
@CANDIDATE
@TIMEOUT
@LIBRARY
@LONGEST
@files
@click.option("--junit", type=FILE, help="Write a JUnit report, too.")
@click.option(
    "--upgrade",
    is_flag=True,
    help="Write entries of older versions that replay as recorded in the format of this one; numbers stay as they are.",
)
@JSON
def command(
    paths: tuple[Path, ...],
    candidates: tuple[str, ...],
    timeout: float,
    library: str | None,
    longest: float,
    junit: Path | None,
    upgrade: bool,
    as_json: bool,
) -> int:
    """Measure every entry of the corpus again and compare with what it recorded [default: corpus/]."""
    from diffuzz.corpus import candidates as named
    from diffuzz.corpus import files as store
    from diffuzz.corpus.replay import exit_code, replay

    if junit is not None:
        _check_writable(junit)
    judged = named.parse(candidates, timeout)
    results = replay(paths or (DEFAULT_CORPUS,), judged, library, longest=longest)
    good = [result.path for result in results if result.status == "as recorded"]
    renewed = [path for path in good if upgrade and store.upgrade(path)]
    recorded = {store.candidate_of(result.path) for result in results} if candidates else set()
    left = named.unused(judged, [name for name in recorded if name is not None])
    if as_json:
        print_json(replay_json(results, left))
    else:
        print_text(replay_text(results, left) + (f"{len(renewed)} of them written again\n" if upgrade else ""))
    if junit is not None:
        try:
            junit.write_text(junit_xml(results), encoding="utf-8")
        except OSError as error:
            return complain(f"--junit {junit}: cannot be written ({error.strerror})", BAD_INPUT)
    return exit_code(results)


def _check_writable(file: Path) -> None:
    """Raise click.UsageError before any work is done for a file that cannot be written; leaves none behind."""
    if not file.parent.is_dir():
        raise click.UsageError(f"--junit {file}: there is no folder {file.parent}; make it first")
    writable = os.access(file, os.W_OK) if os.path.lexists(file) else os.access(file.parent, os.W_OK | os.X_OK)
    if not writable:
        raise click.UsageError(f"--junit {file}: cannot be written; choose another file")


def replay_json(results: list[Replayed], unused: Sequence[str] = ()) -> dict[str, object]:
    """The object of ``replay --json``; ``unused`` are candidates of which there was no entry."""
    from diffuzz.corpus.replay import needed

    return {
        "replayed": len(results),
        "as_recorded": sum(result.status == "as recorded" for result in results),
        "needed_candidates": list(needed(results)),
        "unused_candidates": list(unused),
        "results": [
            {
                "path": str(result.path),
                "status": result.status,
                "message": result.message,
                "value": None if result.value is None else json_number(result.value),
                "verdict": None if result.verdict is None else result.verdict.value,
            }
            for result in results
        ],
    }


def replay_text(results: list[Replayed], unused: Sequence[str] = ()) -> str:
    """One line for each entry, whatever its file is called, a count, and the candidates that were not there, or are for
    no entry.
    """
    from diffuzz.corpus.replay import needed

    width = max(len(str(result.path)) for result in results)
    status = max(len(result.status) for result in results) + 1
    # The message of what was not measured begins with the file, which stands before it here.
    lines = [
        f"{result.status:{status}} {result.path!s:{width}}  {result.message.removeprefix(f'{result.path}: ')}"
        for result in results
    ]
    good = sum(result.status == "as recorded" for result in results)
    seconds = sum(result.seconds for result in results)
    lines.append(f"{good} of {len(results)} entries replayed as recorded, in {seconds:.2f} s")
    for name, count in needed(results).items():
        lines.append(f"{count} not replayed without the candidate: --candidate {shlex.quote(name)}")
    lines += [f"not used, because no entry was found with it: --candidate {name}" for name in unused]
    return report(lines)


def junit_xml(results: list[Replayed]) -> str:
    """JUnit XML: a test case for each entry; a changed one is a failure, one that could not be replayed an error."""
    from xml.etree import ElementTree

    from diffuzz.escaping import escaped

    suite = ElementTree.Element(
        "testsuite",
        name="diffuzz replay",
        tests=str(len(results)),
        failures=str(sum(result.status == "changed" for result in results)),
        errors=str(sum(result.status not in ("as recorded", "changed") for result in results)),
        time=f"{sum(result.seconds for result in results):.3f}",
    )
    for result in results:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=escaped(result.path.parent.name),
            name=escaped(result.path.stem),
            time=f"{result.seconds:.3f}",
        )
        if result.status != "as recorded":
            kind = "failure" if result.status == "changed" else "error"
            ElementTree.SubElement(case, kind, message=escaped(result.message))
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"
