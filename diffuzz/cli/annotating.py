"""Annotations of GitHub beside the report of a command: the option, and when they are printed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from diffuzz.reporting.finding import Finding

ANNOTATIONS = click.option(
    "--annotations/--no-annotations",
    "annotations",
    default=None,
    help="Print problems as annotations of GitHub, too, on stderr [default: in its workflows, without --json].",
)


def repository() -> Path:
    """The folder that files are named from: that of the repository in a workflow of GitHub, else the current one."""
    return Path(os.environ.get("GITHUB_WORKSPACE") or ".")


def annotated(wanted: bool | None, as_json: bool) -> bool:
    """Whether annotations are printed. With --json it is a program that reads, and reports itself."""
    return wanted if wanted is not None else os.environ.get("GITHUB_ACTIONS") == "true" and not as_json


def annotate(wanted: bool | None, as_json: bool, results: Callable[[], Iterable[Mapping[str, object]]]) -> None:
    """Print the annotations of what a command found, where they are wanted; ``results`` gives its JSON objects."""
    if not annotated(wanted, as_json):
        return
    from diffuzz.reporting import reading

    print_annotations([finding for result in results() for finding in reading.findings(result)])


def print_annotations(findings: Iterable[Finding]) -> None:
    """The annotations on stderr: the last line of stdout belongs to --json."""
    from diffuzz.cli.options import print_error
    from diffuzz.reporting import annotations

    print_error("".join(f"{line}\n" for line in annotations.lines(findings, repository())))
