"""What runs in a worker's process: one function, called with the arrays that its client has put into shared memory.

The client is diffuzz.worker, which says what the messages are for. Nothing here comes back to the client but a Failure,
or True once the result is in the memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import mmap
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Literal

import attrs
import numpy as np

Kind = Literal["crashed", "hung", "out of memory", "raised", "garbage"]
# What answers a request: (request, arrays, room for the result) to the result, which may be that room.
Function = Callable[[Any, dict[str, np.ndarray], np.ndarray], Any]
KINDS: tuple[Kind, ...] = ("crashed", "hung", "out of memory", "raised", "garbage")
# Characters of what an exception says.
_LONGEST_TEXT = 400


@attrs.frozen
class Failure:
    """Why a row has no result: ``kind``, and one line with the signal, the exception, or what was wrong."""

    kind: Kind
    text: str

    @property
    def killed(self) -> bool:
        """Whether it looks like somebody else's doing."""
        return self.kind == "crashed" and self.text.startswith("SIGKILL")

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


# How long either side asks again before it sleeps, in seconds: to wake a processor takes as long as a small batch.
AWAKE = 2e-4


def readiness(connection: Connection) -> Callable[[float], bool]:
    """A function that waits so many seconds for a message, at first without sleeping: whether there is one.

    Connection.poll makes a new select.poll for each call, which takes as long as a small batch.
    """
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)

    def ready(seconds: float) -> bool:
        until = time.perf_counter() + min(AWAKE, seconds)
        while time.perf_counter() < until:
            if poll.poll(0):
                return True
            # Whoever is to write the message may be waiting for this very processor.
            os.sched_yield()
        return bool(poll.poll(1000 * seconds))

    return ready


def work(connection_file: int, memory_file: int, output_file: int) -> None:
    """A process: open, then answer requests until there are no more."""
    import faulthandler
    import resource

    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        # PR_SET_PDEATHSIG, Linux only.
        library.prctl(1, int(signal.SIGKILL))
        # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc: the memory of one call's arrays is there for the next one's.
        library.mallopt(-3, 2**28)
        library.mallopt(-1, 2**29)
    # A group of its own, so that what it starts ends with it.
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for stream in (1, 2):
        os.dup2(output_file, stream)
    faulthandler.enable()
    connection = Connection(connection_file)
    folder, environment, path, opener, argument = connection.recv()
    os.chdir(folder)
    os.environ.update(environment)
    sys.path[:] = path
    try:
        module, _, name = opener.partition(":")
        function = getattr(importlib.import_module(module), name)(argument)
    except (Exception, SystemExit) as error:
        connection.send(Failure("raised", one_line(error)))
        return
    connection.send(True)
    memory = mmap.mmap(memory_file, 0)
    ready = readiness(connection)
    while True:
        ready(AWAKE)
        try:
            request, layout, result, size, timeout, one_by_one = connection.recv()
        except EOFError:
            return
        if size > len(memory):
            memory = mmap.mmap(memory_file, size)
        connection.send(_answer(function, request, memory, layout, result, timeout, one_by_one))


def _answer(
    function: Function,
    request: Any,
    memory: mmap.mmap,
    layout: list[tuple[str, str, tuple[int, ...], int]],
    result: tuple[str, tuple[int, ...], int],
    timeout: float,
    one_by_one: bool,
) -> Failure | bool:
    arrays = {name: array_at(memory, kind, extent, offset) for name, kind, extent, offset in layout}
    total = len(next(iter(arrays.values())))
    dtype, shape, place = result
    out = array_at(memory, dtype, (total, *shape), place)
    counter = array_at(memory, "<i8", (1,), 0)
    step = 1 if one_by_one else total
    try:
        for row in range(0, total, step):
            counter[0] = row
            # Ends a process whose client has gone while it was busy; a client that waits is sooner.
            signal.setitimer(signal.ITIMER_REAL, 2 * timeout + 10)
            part = {name: array[row : row + step] for name, array in arrays.items()}
            failure = _run_one(function, request, part, out[row : row + step])
            if failure is not None:
                return failure
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _run_one(function: Function, request: Any, part: dict[str, np.ndarray], out: np.ndarray) -> Failure | None:
    # The function may write to its arguments: they are its own copies already.
    try:
        got = np.asarray(function(request, part, out))
    except MemoryError as error:
        return Failure("out of memory", one_line(error))
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        return Failure("raised", one_line(error))
    if got.shape != out.shape or got.dtype != out.dtype:
        wanted, given = (f"{a.dtype}{list(a.shape)}" for a in (out, got))
        return Failure("garbage", f"returns {given}, where {wanted} is needed")
    if got is not out:
        out[...] = got
    return None


def array_at(memory: mmap.mmap, dtype: str, shape: tuple[int, ...], offset: int) -> np.ndarray:
    """A view of the memory."""
    return np.ndarray(shape, dtype, memory, offset)


def one_line(error: BaseException) -> str:
    """Type and message of an exception, without line breaks, and cut short if it goes on and on."""
    text = " ".join(str(error).split())
    text = text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
