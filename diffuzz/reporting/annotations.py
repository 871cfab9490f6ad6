"""Annotations: commands to a workflow of GitHub, ``::error file=...,line=...,title=...::message``.

GitHub shows them beside the lines of a change. Its runner reads them in both streams of a step.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from diffuzz.escaping import escaped
from diffuzz.reporting.finding import LEVELS, Finding, problems
from diffuzz.reporting.sarif import relative

_COMMANDS = {"error": "error", "warning": "warning", "note": "notice"}
# GitHub shows so many of each kind for a step.
MOST = 10


def lines(findings: Iterable[Finding], root: Path) -> list[str]:
    """A line for each problem, the worst first; files below ``root``, that of the repository, are named from there.

    Of more than GitHub shows the last says how many there are.
    """
    found = problems(findings)
    shown = []
    for level in LEVELS[:-1]:
        those = [one for one in found if one.level == level]
        most = MOST if len(those) <= MOST else MOST - 1
        shown += [_line(one, root) for one in those[:most]]
        if left := len(those) - most if len(those) > most else 0:
            shown.append(f"::{_COMMANDS[level]} title=diffuzz::and {left} more, which the summary of the job has")
    return shown


def _line(one: Finding, root: Path) -> str:
    properties = {}
    if one.place is not None:
        properties = {"file": relative(one.place.file, root) or one.place.file, "line": str(one.place.line or 1)}
    properties["title"] = f"diffuzz {one.rule}"
    named = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    said = [one.message, *([f"To see it: {one.command}"] if one.command else [])]
    return f"::{_COMMANDS[one.level]} {named}::{_data(said)}"


def _data(said: list[str]) -> str:
    """The message: its lines, and nothing else that ends a command."""
    return "%0A".join(escaped(line).replace("%", "%25") for line in said)


def _property(value: str) -> str:
    return escaped(value).replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
