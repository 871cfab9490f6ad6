"""``diffuzz report``: what was found, for CI and to be sent: SARIF, annotations, a summary, a page."""

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
    files,
    print_json,
    print_text,
    report,
)
from diffuzz.cli.saving import HTML, check_writable, files_named, written

if TYPE_CHECKING:
    from diffuzz.cli.report_page import Given
    from diffuzz.corpus.candidates import Candidates
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
@HTML
@CANDIDATE
@ARRAYS
@TIMEOUT
@LIBRARY
@LONGEST
@files
@ANNOTATIONS
@VERBOSITY
@JSON
def command(
    results: tuple[Path, ...],
    sarif: Path | None,
    summary: Path | None,
    html: Path | None,
    candidates: tuple[str, ...],
    arrays: str | None,
    device: str | None,
    timeout: float,
    library: str | None,
    longest: float,
    annotations: bool | None,
    as_json: bool,
) -> int:
    """Report what was found: RESULTS are entries and folders of a corpus, which are replayed (the functions of
    --candidate are judged anew), folders of campaigns, and files (or - for standard input) of what search, replay,
    check, matrix, claims and campaign print with --json [default: corpus/].
    """
    from diffuzz.campaigns import folder
    from diffuzz.corpus import candidates as named
    from diffuzz.reporting import finding
    from diffuzz.reporting import sarif as sarifs
    from diffuzz.reporting import summary as summaries

    for option, file in (("--sarif", sarif), ("--summary", summary), ("--html", html)):
        if file is not None:
            given_files = [path for path in results if path != _STDIN and path.is_file()]
            given_files += [own for path in results if folder.is_campaign(path) for own in folder.files(path)]
            check_writable(option, file, *given_files, *files_named(*candidates, library))
    check_arrays(candidates, arrays, device)
    judged = named.parse(candidates, timeout, arrays, device)
    campaigns = [path for path in results if folder.is_campaign(path)]
    others = [path for path in results if path not in campaigns]
    replayed = [path for path in others if path != _STDIN and _is_corpus(path)] if results else [DEFAULT_CORPUS]
    given: list[Given] = []
    if replayed:
        given += _replayed(replayed, judged, library, longest)
    given += map(_campaign, campaigns)
    for path in others:
        if path not in replayed:
            given += _read(path)
    found = [finding for one in given for finding in one.findings]
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
    if html is not None:
        failed |= _page(html, given, found, judged, library, longest)
    if of_job := os.environ.get("GITHUB_STEP_SUMMARY"):
        failed |= _added(Path(of_job), page + "\n")
    return failed or finding.exit_code(found)


def _is_corpus(path: Path) -> bool:
    """Whether a path is a folder or an entry, which are replayed, and not a file of results."""
    from diffuzz.corpus.recognising import begins_like_an_entry, named_like_an_entry

    return path.is_dir() or named_like_an_entry(path) or begins_like_an_entry(path)


def _replayed(paths: Sequence[Path], judged: Candidates | None, library: str | None, longest: float) -> Iterator[Given]:
    from diffuzz.cli.replay import replay_json
    from diffuzz.cli.report_page import Given
    from diffuzz.corpus.replay import replay
    from diffuzz.reporting import reading

    for one in replay(paths, judged, library, longest=longest, judge=True):
        yield Given(reading.findings(replay_json([one])), replayed=one)


def _campaign(path: Path) -> Given:
    """What a campaign has found so far. Raises JournalError."""
    from diffuzz.campaigns import folder
    from diffuzz.cli.campaign import status_json
    from diffuzz.cli.report_page import Given
    from diffuzz.reporting import reading

    said = status_json(folder.read(path), None)
    return Given(reading.findings(said), result=said, place=str(path))


def _read(path: Path) -> Iterator[Given]:
    """What a file of results, or standard input, has. Raises ResultError, OSError."""
    from diffuzz.cli.report_page import Given
    from diffuzz.reporting import reading

    for one in reading.read(_text(path), "standard input" if path == _STDIN else str(path)):
        yield Given(one.findings, result=one.result, place=one.place)


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


def _page(
    file: Path,
    given: Sequence[Given],
    found: Sequence[Finding],
    judged: Candidates | None,
    library: str | None,
    longest: float,
) -> int:
    """Write the page; 0, or the exit code, with a line on stderr."""
    from diffuzz.cli import report_page

    try:
        text = report_page.page(given, found, judged, library, longest)
    except report_page.UnshownError as error:
        return complain(f"--html {file}: {error}", BAD_INPUT)
    return written("--html", file, text)


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
