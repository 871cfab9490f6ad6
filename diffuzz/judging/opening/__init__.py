"""Opening: from the name of a candidate, as a user gives it, to the function.

    FILE.py:FUNCTION          a function of Python                           diffuzz.judging.opening.python_file
    FILE.so:SYMBOL            one of C, by diffuzz.h; also .dylib, .dll      diffuzz.judging.opening.library
    run: PROGRAM ARGUMENT     a program that answers frames                  diffuzz.judging.opening.program

A function of Python is called as its contract says. What is called otherwise has to be told more, such as the names
of its arguments and the shapes of its results: it is bound to a ``Signature``, which makes a function of Python of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from diffuzz.judging.opening.foreign import Signature
from diffuzz.judging.opening.named import (
    RUN,
    CandidateError,
    LibraryFunction,
    Program,
    PythonFunction,
    UnloadableError,
    check_handing,
    check_name,
    is_python,
    parse,
)
from diffuzz.judging.question import Function

__all__ = [
    "RUN",
    "Bind",
    "CandidateError",
    "LibraryFunction",
    "Program",
    "PythonFunction",
    "Signature",
    "UnloadableError",
    "check_handing",
    "check_name",
    "is_python",
    "load",
    "parse",
]

# Makes a function of Python of what was opened.
Bind: TypeAlias = Callable[[Signature], Function]


def load(specification: str) -> Bind:
    """What ``specification`` names: a file is run, a library loaded, or a program started.

    Only for a process of its own (see diffuzz.kernels.process). Raises CandidateError: it is not there, has no such
    function, is of another version, or fails.
    """
    match parse(specification):
        case PythonFunction() as named:
            from diffuzz.judging.opening import python_file

            function = python_file.load(named)
            return lambda signature: function
        case LibraryFunction() as named:
            from diffuzz.judging.opening import library

            symbol = library.load(named)
            return lambda signature: signature.bound(symbol)
        case Program() as named:
            from diffuzz.judging.opening import program

            running = program.started(named)
            return lambda signature: signature.bound(running)
