"""A summary in Markdown: for the page of a job, or a comment on a pull request."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from diffuzz.escaping import escaped
from diffuzz.reporting.finding import Finding, problems
from diffuzz.reporting.sarif import relative

# GitHub takes a mebibyte, and nobody reads as much.
_MOST = 50
_MARKS = re.compile(r"([\\`*_\[\]#|~])")


def markdown(findings: Sequence[Finding], root: Path) -> str:
    """A heading with the answer, a table of the problems, and the lines that make them again."""
    found = problems(findings)
    lines = [f"## diffuzz: {headline(findings)}", ""]
    if found:
        lines += ["| | what | against | found | where |", "|---|---|---|---|---|"]
        lines += [_row(one, root) for one in found[:_MOST]]
        lines += ["", f"and {len(found) - _MOST} more", ""] if len(found) > _MOST else [""]
        commands = list(dict.fromkeys(one.command for one in found[:_MOST] if one.command))
        if commands:
            lines += ["<details><summary>To see them</summary>", "", *_fenced(commands), "", "</details>", ""]
    well = Counter(one.rule for one in findings if not one.is_problem)
    if well:
        lines += ["No problem found: " + ", ".join(f"{_plain(rule)} {count}" for rule, count in well.items()) + ".", ""]
    return "\n".join(lines)


def headline(findings: Sequence[Finding]) -> str:
    """How many problems there are of how many things."""
    found = Counter(one.level for one in problems(findings))
    total = f"{len(findings)} result" + ("" if len(findings) == 1 else "s")
    if not found:
        return f"{total}, no problem found"
    return ", ".join([total, *(f"{count} {level}" + ("" if count == 1 else "s") for level, count in found.items())])


def _row(one: Finding, root: Path) -> str:
    where = ""
    if one.place is not None:
        where = relative(one.place.file, root) or one.place.file
        where += f":{one.place.line}" if one.place.line is not None and not where.endswith(".json") else ""
    cells = [one.level, one.subject, one.rule, one.message, where]
    return "| " + " | ".join(_plain(cell) for cell in cells) + " |"


def _plain(text: str) -> str:
    """Text that is nothing but text: no markup, no end of a cell, and nobody is told of it by an @."""
    return _MARKS.sub(r"\\\1", html.escape(escaped(text), quote=False)).replace("@", "&#64;")


def _fenced(commands: Sequence[str]) -> list[str]:
    """Lines of code in a fence that is longer than any within."""
    longest = max((len(run) for line in commands for run in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}sh", *map(escaped, commands), fence]
