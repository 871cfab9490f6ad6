"""A finding: one thing that was examined, how bad it is, and where it is."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import attrs

# The worst first; "none" is what is well.
Level = Literal["error", "warning", "note", "none"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note", "none")
# Exit codes, the worst first: bad input, a witness or a change, something that is missing, nothing.
_CODES = (2, 1, 3, 0)
# A file of a function that is longer is not read for the line.
_LARGEST_FILE = 2**20


@attrs.frozen
class Place:
    """A file, as it is named from the working directory, and a line of it where it is known, from 1."""

    file: str
    line: int | None = None


@attrs.frozen
class Finding:
    """One thing that was examined.

    ``rule`` is what it was held against, a target in the first place; ``subject`` what it was, such as a function or an
    entry; ``message`` one line that says what was found. ``code`` is the exit code of a command that finds it, and
    ``command`` the line that makes it again. ``place`` is where to look first, ``others`` what else belongs to it.
    """

    rule: str
    level: Level
    subject: str
    message: str
    code: int = 0
    place: Place | None = None
    others: tuple[Place, ...] = ()
    command: str | None = None

    @property
    def is_problem(self) -> bool:
        """Whether there is something to say about it."""
        return self.level != "none"


def problems(findings: Iterable[Finding]) -> list[Finding]:
    """Those of which something is to be said, the worst first."""
    return sorted((one for one in findings if one.is_problem), key=lambda one: LEVELS.index(one.level))


def exit_code(findings: Iterable[Finding]) -> int:
    """The worst of their codes."""
    codes = {one.code for one in findings}
    return next((code for code in _CODES if code in codes), 0)


def place_of_function(name: str) -> Place | None:
    """Where the function of ``FILE:NAME`` is: its line, if the file is one of Python that defines it at its top.

    The file is parsed, and never run. None if there is no such file.
    """
    file, _, function = name.rpartition(":")
    path = Path(file)
    try:
        if not file or not path.is_file():
            return None
        if path.suffix != ".py" or path.stat().st_size > _LARGEST_FILE:
            return Place(file)
        tree = ast.parse(path.read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return Place(file)
    return Place(file, next((node.lineno for node in tree.body if function in _defined(node)), None))


def _defined(node: ast.stmt) -> list[str]:
    """The names that a statement gives something to."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [alias.asname or alias.name for alias in node.names]
    return []
