"""Ctrl-C at safe places: the command line's SIGINT sets a flag, and whoever is at a good place to stop looks at it.

    with deferred():
        ...
        check()             raises KeyboardInterrupt if Ctrl-C was pressed

Python raises KeyboardInterrupt wherever it happens to be. Halfway through an import of jax that leaves a module which
cannot be imported again (or crashes the process), and in a callback of the garbage collector it is printed and lost.
A second Ctrl-C before a safe place has come is raised at once all the same, so that nothing is without an end; where
that would break what cannot be mended (``held``), the fifth.

Where nobody has asked for this, as in a library, SIGINT does what it did, and ``check`` does nothing.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

# How many are raised where they come, as a rule and within ``held``.
_IMPATIENT, _DESPERATE = 2, 5
# Of Ctrl-C, since the last that was raised by ``check``.
_presses = 0
_held = 0


@contextlib.contextmanager
def deferred(afterwards: signal.Handlers | None = None) -> Iterator[None]:
    """Ctrl-C is raised by ``check``, by the second one at the latest; then SIGINT does what it did, or ``afterwards``.

    Nothing changes where SIGINT is ignored (as under nohup) or somebody else's, and outside the main thread.
    """
    global _presses
    before, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    if before is not signal.default_int_handler:
        yield
        return
    try:
        signal.signal(signal.SIGINT, _remember)
    except ValueError:
        yield
        return
    # One that is lost in a callback is not lost: ``check`` raises another.
    sys.unraisablehook = lambda lost: None if lost.exc_type is KeyboardInterrupt else hook(lost)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if afterwards is None else afterwards)
        sys.unraisablehook = hook
        _presses = 0


def _remember(number: int, frame: FrameType | None) -> Any:
    global _presses
    _presses += 1
    if _presses >= (_DESPERATE if _held else _IMPATIENT):
        raise KeyboardInterrupt


@contextlib.contextmanager
def held() -> Iterator[None]:
    """For what must not be left half done, such as the import of jax."""
    global _held
    _held += 1
    try:
        yield
    finally:
        _held -= 1


def check() -> None:
    """Raise KeyboardInterrupt, once, if Ctrl-C was pressed."""
    global _presses
    if _presses:
        _presses = 0
        raise KeyboardInterrupt
