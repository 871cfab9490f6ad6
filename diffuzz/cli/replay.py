"""``diffuzz replay``: every entry of the corpus measured again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffuzz.cli.annotating import ANNOTATIONS, annotate
from diffuzz.cli.options import (
    ARRAYS,
    BAD_INPUT,
    CANDIDATE,
    DEFAULT_CORPUS,
    FILE,
    JSON,
    LIBRARY,
    LONGEST,
    PLACE,
    TIMEOUT,
    VERBOSITY,
    check_arrays,
    complain,
    completed,
    files,
    print_json,
    print_text,
    report,
)
from diffuzz.cli.saving import check_writable, files_named, written
from diffuzz.corpus.spelling import json_number

if TYPE_CHECKING:
    from diffuzz.corpus.replay import Replayed


@click.command("replay")
@click.argument("paths", nargs=-1, type=PLACE, shell_complete=completed("entries"))
@CANDIDATE
@ARRAYS
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
@click.option(
    "--judge",
    is_flag=True,
    help="Of entries of a candidate, and with --library of kernels, ask whether it is right now, whatever was "
    "recorded: a mended one passes.",
)
@ANNOTATIONS
@VERBOSITY
@JSON
def command(
    paths: tuple[Path, ...],
    candidates: tuple[str, ...],
    arrays: str | None,
    device: str | None,
    timeout: float,
    library: str | None,
    longest: float,
    junit: Path | None,
    upgrade: bool,
    judge: bool,
    annotations: bool | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Measure every entry of the corpus again and compare with what it recorded [default: corpus/]."""
    from diffuzz.corpus import candidates as named
    from diffuzz.corpus import files as store
    from diffuzz.corpus.replay import exit_code, replay

    if junit is not None:
        given_files = (path for path in paths if path.is_file())
        check_writable("--junit", junit, *given_files, *files_named(*candidates, library))
    check_arrays(candidates, arrays, device)
    judged = named.parse(candidates, timeout, arrays, device)
    results = replay(paths or (DEFAULT_CORPUS,), judged, library, longest=longest, judge=judge)
    good = [result.path for result in results if result.status == "as recorded"]
    renewed = [path for path in good if upgrade and store.upgrade(path)]
    recorded = {store.candidate_of(result.path) for result in results} if candidates else set()
    left = named.unused(judged, [name for name in recorded if name is not None])
    if as_json:
        print_json(replay_json(results, left))
    else:
        for result in results:
            if result.status == "broken":
                complain(f"{result.path}: {result.message.removeprefix(f'{result.path}: ')}", BAD_INPUT)
        print_text(
            replay_text(results, left, quiet=quiet) + (f"{len(renewed)} of them written again\n" if upgrade else "")
        )
    annotate(annotations, as_json, lambda: [replay_json(results)])
    if junit is not None:
        failed = written("--junit", junit, junit_xml(results))
        if failed:
            return failed
    return exit_code(results)


def replay_json(results: list[Replayed], unused: Sequence[str] = ()) -> dict[str, object]:
    """The object of ``replay --json``; ``unused`` are candidates of which there was no entry."""
    from diffuzz.corpus.lost import Lost
    from diffuzz.corpus.replay import needed

    return {
        "replayed": len(results),
        "as_recorded": sum(result.status == "as recorded" for result in results),
        "right": sum(result.status == "right" for result in results),
        "needed_candidates": list(needed(results)),
        "unused_candidates": list(unused),
        "results": [
            {
                "path": str(result.path),
                "target": _target(result),
                "candidate": None if result.entry is None else result.entry.candidate,
                "property": result.entry.name if isinstance(result.entry, Lost) else None,
                "status": result.status,
                "message": result.message,
                "value": None if result.value is None else json_number(result.value),
                "verdict": None if result.verdict is None else result.verdict.value,
            }
            for result in results
        ],
    }


def _target(result: Replayed) -> str | None:
    """The target of an entry; of one that cannot be read, what its folder says."""
    if result.entry is not None:
        return result.entry.target
    return result.path.parent.name or None


def replay_text(results: list[Replayed], unused: Sequence[str] = (), *, quiet: bool = False) -> str:
    """One line for each entry that is one, or if ``quiet`` those that did not replay, whatever its file is called; a
    count; and the candidates that were not there, or are for no entry.
    """
    from diffuzz.corpus.replay import GOOD, needed

    entries = [result for result in results if result.status != "broken"]
    width = max((len(str(result.path)) for result in entries), default=0)
    status = max((len(result.status) for result in entries), default=0) + 1
    # The message of what was not measured begins with the file, which stands before it here.
    lines = [
        f"{result.status:{status}} {result.path!s:{width}}  {result.message.removeprefix(f'{result.path}: ')}"
        for result in entries
        if not quiet or result.status not in GOOD
    ]
    good, seconds = sum(result.status in GOOD for result in results), sum(result.seconds for result in results)
    how = "right, or as recorded" if any(result.status in ("right", "wrong") for result in results) else "as recorded"
    lines.append(f"{good} of {len(results)} entries replayed {how}, in {seconds:.2f} s")
    for name, count in needed(results).items():
        lines.append(f"{count} not replayed without the candidate: --candidate {shlex.quote(name)}")
    lines += [f"not used, because no entry was found with it: --candidate {name}" for name in unused]
    return report(lines)


def junit_xml(results: list[Replayed]) -> str:
    """JUnit XML: a test case for each entry; a changed or wrong one is a failure, one that could not be replayed an
    error.
    """
    from xml.etree import ElementTree

    from diffuzz.corpus.replay import GOOD
    from diffuzz.escaping import escaped

    failed = ("changed", "wrong")

    suite = ElementTree.Element(
        "testsuite",
        name="diffuzz replay",
        tests=str(len(results)),
        failures=str(sum(result.status in failed for result in results)),
        errors=str(sum(result.status not in GOOD and result.status not in failed for result in results)),
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
        if result.status not in GOOD:
            kind = "failure" if result.status in failed else "error"
            ElementTree.SubElement(case, kind, message=escaped(result.message))
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"
