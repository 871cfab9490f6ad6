"""Ctrl-C at safe places: the handler of SIGINT sets a flag, which the program checks where it can stop.

    with deferred():
        ...
        check()             raises KeyboardInterrupt if Ctrl-C was pressed

Without this, Python raises KeyboardInterrupt at an arbitrary place. In the middle of an import of jax that leaves a
module which cannot be imported again, or crashes the process; in a callback of the garbage collector the exception is
printed and lost.

The second Ctrl-C is raised at once, even if no safe place has been reached, so that every program can be ended. Within
``held``, for what must not be left half done, it is the fifth.

Outside ``deferred``, as in a library, SIGINT is not touched and ``check`` does nothing.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

# The number of the Ctrl-C that is raised at once: outside and within ``held``.
_IMPATIENT, _DESPERATE = 2, 5
# Ctrl-C pressed since ``check`` last raised.
_presses = 0
_held = 0


@contextlib.contextmanager
def deferred(afterwards: signal.Handlers | None = None) -> Iterator[None]:
    """A context in which the first Ctrl-C is raised by ``check``; then SIGINT has its old handler, or ``afterwards``.

    Nothing changes where SIGINT is ignored (as under nohup) or has a handler of its own, and outside the main thread.
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
    # A KeyboardInterrupt in a callback need not be printed, because ``check`` raises another.
    sys.unraisablehook = lambda lost: None if lost.exc_type is KeyboardInterrupt else hook(lost)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if afterwards is None else afterwards)
        sys.unraisablehook = hook
        _presses = 0


def _remember(number: int, frame: FrameType | None) -> None:
    global _presses
    _presses += 1
    if _presses >= (_DESPERATE if _held else _IMPATIENT):
        raise KeyboardInterrupt


@contextlib.contextmanager
def held() -> Iterator[None]:
    """A context for what must not be left half done, such as the import of jax."""
    global _held
    _held += 1
    try:
        yield
    finally:
        _held -= 1


def requested() -> bool:
    """Whether Ctrl-C was pressed, and no safe place was reached since."""
    return _presses > 0


def check() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed since the last call that raised."""
    global _presses
    if _presses:
        _presses = 0
        raise KeyboardInterrupt
