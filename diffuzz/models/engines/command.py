"""Any command as an engine: ``run:CMD ...`` is run as ``CMD ... --model FILE --tokens 1,2,3 --dump OUT``.

The protocol, and what may go wrong, are in :mod:`diffuzz.models.driving`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffuzz.models.driving import TIMEOUT, Session
from diffuzz.models.engines import EngineError

if TYPE_CHECKING:
    from diffuzz.models.dump import Dump


def run(
    model: Path,
    tokens: Sequence[int],
    *,
    patch: Dump | None = None,
    batches: Sequence[int] = (),
    command: str = "",
    name: str = "",
    timeout: float = TIMEOUT,
) -> Dump:
    """One run in a process of its own. ``command`` is split as a shell would split it, but no shell runs it; messages
    call it ``name``. Raises EngineError.
    """
    with opened(model, command=command, name=name, timeout=timeout, several=False) as session:
        return session.run(tokens, patch, batches)


def opened(
    model: Path, *, command: str = "", name: str = "", timeout: float = TIMEOUT, several: bool = True
) -> Session:
    """The command for ``several`` runs, with ``--serve`` if it has that. Raises EngineError."""
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise EngineError(f"engine run:{command}: the command cannot be split into words ({error})") from error
    if not words:
        raise EngineError("engine run: name a command, such as 'run:python my_engine.py'")
    return Session(name or f"run:{command}", words, model, timeout=timeout, several=several)
