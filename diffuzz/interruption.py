"""Ctrl-C at safe places: the command line's SIGINT sets a flag, and whoever is at a good place to stop looks at it.

    with deferred():
        ...
        check()             raises KeyboardInterrupt if Ctrl-C was pressed

Python raises KeyboardInterrupt wherever it happens to be. Halfway through an import of jax that leaves a module which
cannot be imported again (or crashes the process), and in a callback of the garbage collector it is printed and lost.
A second Ctrl-C before a safe place has come is raised at once all the same, so that nothing is without an end.

Where nobody has asked for this, as in a library, SIGINT does what it did, and ``check`` does nothing.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

_pending = False


@contextlib.contextmanager
def deferred(afterwards: signal.Handlers | None = None) -> Iterator[None]:
    """Ctrl-C is raised by ``check``, by the second one at the latest; then SIGINT does what it did, or ``afterwards``.

    Nothing changes where SIGINT is ignored (as under nohup) or somebody else's, and outside the main thread.
    """
    global _pending
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return
    try:
        signal.signal(signal.SIGINT, _remember)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if afterwards is None else afterwards)
        _pending = False


def _remember(number: int, frame: FrameType | None) -> Any:
    global _pending
    if _pending:
        # The first one still stands: this one may be lost where it is raised.
        raise KeyboardInterrupt
    _pending = True


def check() -> None:
    """Raise KeyboardInterrupt, once, if Ctrl-C was pressed."""
    global _pending
    if _pending:
        _pending = False
        raise KeyboardInterrupt
