"""``diffuzz replay``: every entry of the corpus measured again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import (
    BAD_INPUT,
    CANDIDATE,
    DEFAULT_CORPUS,
    JSON,
    LIBRARY,
    TIMEOUT,
    complain,
    files,
    print_json,
    print_text,
)
from diffuzz.cli.tables import json_number

if TYPE_CHECKING:
    from diffuzz.corpus.replay import Replayed


@click.command("replay")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@CANDIDATE
@TIMEOUT
@LIBRARY
@files
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write a JUnit report, too.")
@JSON
def command(
    paths: tuple[Path, ...],
    candidate: str | None,
    timeout: float,
    library: str | None,
    junit: Path | None,
    as_json: bool,
) -> int:
    """Measure every entry of the corpus again and compare with what it recorded [default: corpus/]."""
    from diffuzz.corpus.replay import exit_code, replay
    from diffuzz.judging.candidate import check_name
    from diffuzz.judging.question import Judge

    if junit is not None:
        _check_writable(junit)
    judged = None if candidate is None else Judge(candidate, timeout=timeout)
    if candidate is not None:
        check_name(candidate)
    results = replay(paths or (DEFAULT_CORPUS,), judged, library)
    if as_json:
        print_json(replay_json(results))
    else:
        print_text(replay_text(results))
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


def replay_json(results: list[Replayed]) -> dict[str, object]:
    """The object of ``replay --json``."""
    return {
        "replayed": len(results),
        "as_recorded": sum(result.status == "as recorded" for result in results),
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


def replay_text(results: list[Replayed]) -> str:
    """One line for each entry, whatever its file is called, and a count."""
    from diffuzz.cases.text import printable

    width = max(len(str(result.path)) for result in results)
    status = max(len(result.status) for result in results) + 1
    # The message of what was not measured begins with the file, which stands before it here.
    lines = [
        printable(
            f"{result.status:{status}} {result.path!s:{width}}  {result.message.removeprefix(f'{result.path}: ')}"
        )
        for result in results
    ]
    good = sum(result.status == "as recorded" for result in results)
    seconds = sum(result.seconds for result in results)
    lines.append(f"{good} of {len(results)} entries replayed as recorded, in {seconds:.2f} s")
    return "\n".join(lines) + "\n"


def junit_xml(results: list[Replayed]) -> str:
    """JUnit XML: a test case for each entry; a changed one is a failure, one that could not be replayed an error."""
    from xml.etree import ElementTree

    from diffuzz.cases.text import printable

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
            classname=printable(result.path.parent.name),
            name=printable(result.path.stem),
            time=f"{result.seconds:.3f}",
        )
        if result.status != "as recorded":
            kind = "failure" if result.status == "changed" else "error"
            ElementTree.SubElement(case, kind, message=printable(result.message))
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"
