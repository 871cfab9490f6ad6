"""``diffuzz report``: what was found, for CI: SARIF, annotations, a summary."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffuzz.cli.annotating import ANNOTATIONS, annotated, print_annotations, repository
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
from diffuzz.cli.saving import check_writable, written

if TYPE_CHECKING:
    from diffuzz.reporting.finding import Finding

_STDIN = Path("-")
# JSON of results: longer than any that a command prints.
_LARGEST_FILE = 2**26


@click.command("report")
@click.argument("results", nargs=-1, type=PLACE)
@click.option("--sarif", type=FILE, help="Write the problems in SARIF 2.1.0.")
@click.option(
    "--summary",
    type=FILE,
    help="Write a summary in Markdown. In a workflow of GitHub it is added to the page of the job, in any case.",
)
@CANDIDATE
@TIMEOUT
@LIBRARY
@LONGEST
@files
@ANNOTATIONS
@JSON
def command(
    results: tuple[Path, ...],
    sarif: Path | None,
    summary: Path | None,
    candidates: tuple[str, ...],
    timeout: float,
    library: str | None,
    longest: float,
    annotations: bool | None,
    as_json: bool,
) -> int:
    """Report what was found: RESULTS are entries and folders of a corpus, which are replayed (the functions of
    --candidate are judged anew), and files (or - for standard input) of what search, replay and check print with --json
    [default: corpus/].
    """
    from diffuzz.reporting import finding, reading
    from diffuzz.reporting import sarif as sarifs
    from diffuzz.reporting import summary as summaries

    for option, file in (("--sarif", sarif), ("--summary", summary)):
        if file is not None:
            check_writable(option, file)
    replayed = [path for path in results if path != _STDIN and _is_corpus(path)] if results else [DEFAULT_CORPUS]
    found: list[Finding] = []
    if replayed:
        found += _replayed(replayed, candidates, timeout, library, longest)
    for path in results:
        if path not in replayed:
            found += reading.read(_text(path), "standard input" if path == _STDIN else str(path))
    page = summaries.markdown(found, repository())
    if as_json:
        print_json(report_json(found))
    else:
        print_text(report_text(found))
    if annotated(annotations, as_json):
        print_annotations(found)
    failed = 0
    if sarif is not None:
        failed |= written("--sarif", sarif, json.dumps(sarifs.log(found, repository()), indent=1) + "\n")
    if summary is not None:
        failed |= written("--summary", summary, page)
    if of_job := os.environ.get("GITHUB_STEP_SUMMARY"):
        failed |= _added(Path(of_job), page + "\n")
    return failed or finding.exit_code(found)


def _is_corpus(path: Path) -> bool:
    """Whether a path is a folder or an entry, which are replayed, and not a file of results."""
    from diffuzz.corpus.recognising import begins_like_an_entry, named_like_an_entry

    return path.is_dir() or named_like_an_entry(path) or begins_like_an_entry(path)


def _replayed(
    paths: Sequence[Path], candidates: tuple[str, ...], timeout: float, library: str | None, longest: float
) -> Iterator[Finding]:
    from diffuzz.cli.replay import replay_json
    from diffuzz.corpus import candidates as named
    from diffuzz.corpus.replay import replay
    from diffuzz.reporting import reading

    done = replay(paths, named.parse(candidates, timeout), library, longest=longest, judge=True)
    yield from reading.findings(replay_json(done))


def _text(path: Path) -> str:
    """The text of a file, or of standard input. Raises ResultError, one line; OSError."""
    from diffuzz.reporting.reading import ResultError

    if path == _STDIN:
        data = sys.stdin.buffer.read(_LARGEST_FILE + 1)
    else:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    if len(data) > _LARGEST_FILE:
        raise ResultError(f"{path}: is larger than {_LARGEST_FILE} bytes; report fewer results at once")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ResultError(f"{path}: is not UTF-8 text (byte {error.start})") from error


def _added(file: Path, text: str) -> int:
    """Add to the page of a job, which other steps write to, too; 0, or the exit code, with a line on stderr."""
    try:
        with file.open("a", encoding="utf-8") as page:
            page.write(text)
    except OSError as error:
        return complain(f"GITHUB_STEP_SUMMARY {file}: cannot be written ({error.strerror})", BAD_INPUT)
    return 0


def report_json(found: Sequence[Finding]) -> dict[str, object]:
    """The object of ``report --json``."""
    import attrs

    return {
        "examined": len(found),
        "problems": sum(one.is_problem for one in found),
        "findings": [attrs.asdict(one) for one in found],
    }


def report_text(found: Sequence[Finding]) -> str:
    """A line for each problem, and how many there are."""
    from diffuzz.reporting.finding import problems
    from diffuzz.reporting.summary import headline

    lines = [f"{one.level:8} {one.rule}: {one.message}" for one in problems(found)]
    return report([*lines, headline(found)])
