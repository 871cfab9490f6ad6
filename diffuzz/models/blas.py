"""The threads of the BLAS that NumPy's wheels bring along.

Two passes run in two threads here, so one thread for each product is right. OpenBLAS would take one for each core, and
they wait for each other by spinning: on cores with other things to do a pass took 2.7 times the CPU seconds.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

_FOLDERS = ("numpy.libs", "numpy/.dylibs")
_FUNCTIONS = ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Products of one thread each, in all threads of the process; nothing where NumPy has another BLAS."""
    found = _library()
    if found is None:
        yield
        return
    get, put = found
    before = get()
    put(1)
    try:
        yield
    finally:
        put(before)


@cache
def _library() -> tuple[ctypes._NamedFuncPointer, ctypes._NamedFuncPointer] | None:
    """What gets and sets the number of threads."""
    packages = Path(np.__file__).parents[1]
    for file in (file for folder in _FOLDERS for file in sorted((packages / folder).glob("*openblas*"))):
        try:
            library = ctypes.CDLL(str(file))
        except OSError:
            continue
        for name in _FUNCTIONS:
            if hasattr(library, name.format("set")):
                return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return None
