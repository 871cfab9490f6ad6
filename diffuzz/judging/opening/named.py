"""What the name of a candidate names, before anything of it is loaded."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path
from typing import TypeAlias

import attrs

from diffuzz.judging.handing import Handing, HandingError

# What begins the name of a program.
RUN = "run:"
FORMS = f"FILE.py:FUNCTION is needed, or FILE.so:SYMBOL, or '{RUN} PROGRAM ARGUMENT ...'"
_LIBRARY = re.compile(r".*\.(so(\.\d+)*|dylib|dll)", re.DOTALL)


class CandidateError(ValueError):
    """A candidate that cannot be loaded or called, or does not return an array of the right kind; one line."""


class UnloadableError(CandidateError):
    """A candidate whose file cannot be loaded here, or has no such function; one line."""


@attrs.frozen
class PythonFunction:
    """``FILE.py:FUNCTION``, which is ``specification``."""

    specification: str
    path: Path
    name: str


@attrs.frozen
class LibraryFunction:
    """``FILE.so:SYMBOL``, which is ``specification``."""

    specification: str
    path: Path
    symbol: str


@attrs.frozen
class Program:
    """``run: PROGRAM ARGUMENT ...``, which is ``specification``; its words are those that a shell would make of it."""

    specification: str
    words: tuple[str, ...]


Named: TypeAlias = PythonFunction | LibraryFunction | Program


def parse(specification: str) -> Named:
    """What a name is the name of. Raises CandidateError if it is none, UnloadableError if there is no such file."""
    if specification.startswith(RUN):
        return _program(specification)
    file, colon, name = specification.rpartition(":")
    if not (colon and file and name.isidentifier()):
        raise CandidateError(f"candidate {specification!r}: {FORMS}")
    path = Path(file)
    if not path.is_file():
        raise UnloadableError(f"candidate {specification}: there is no file {file}")
    if _LIBRARY.fullmatch(file):
        return LibraryFunction(specification, path, name)
    if path.suffix != ".py":
        raise CandidateError(
            f"candidate {specification}: {file} is not a Python file (its name must end in .py) and not a library "
            "(.so, .dylib, .dll)"
        )
    return PythonFunction(specification, path, name)


def check_name(specification: str) -> None:
    """Raise what ``parse`` raises."""
    parse(specification)


def check_handing(specification: str, handing: Handing) -> None:
    """Raise HandingError where other arrays than those of its interface are asked for, of what is not of Python."""
    if handing != Handing() and not is_python(specification):
        raise HandingError(
            f"arrays {handing}: they are for functions of Python; candidate {specification} gets its arrays as its "
            "interface says"
        )


def is_python(specification: str) -> bool:
    """Whether a name is that of a function of Python, wherever its file is."""
    return not specification.startswith(RUN) and specification.rpartition(":")[0].endswith(".py")


def _program(specification: str) -> Program:
    try:
        words = shlex.split(specification.removeprefix(RUN))
    except ValueError as error:
        raise CandidateError(f"candidate {specification!r}: its words cannot be told: {error}") from error
    if not words:
        raise CandidateError(f"candidate {specification!r}: {FORMS}")
    if shutil.which(words[0]) is None:
        said = "is no program that may be run" if os.path.exists(words[0]) else "is no program that is here"
        raise UnloadableError(f"candidate {specification}: {words[0]} {said}")
    return Program(specification, tuple(words))
