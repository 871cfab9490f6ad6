"""The code of a worker's process: it calls one function with the arrays that its client has put into shared memory.

The client is diffuzz.kernels.process.worker. It sends an opening message and then one message for each batch (the two
tuples that ``work`` receives); the process answers each with True, once it is ready or the result is in the memory, or
with a Failure.
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
from typing import Literal, TypeAlias

import attrs
import numpy as np

from diffuzz.registry import one_line

Kind = Literal["crashed", "hung", "out of memory", "raised", "garbage"]
# What answers a request: (request, arrays, room for the result) to the result, which may be that room. A request is
# whatever the client and the function agree on; the result may be wrong, so it is checked.
Function: TypeAlias = Callable[[object, dict[str, np.ndarray], np.ndarray], object]
# An array in the shared memory: name, dtype, shape, and offset in bytes.
Placed: TypeAlias = tuple[str, str, tuple[int, ...], int]
KINDS: tuple[Kind, ...] = ("crashed", "hung", "out of memory", "raised", "garbage")


@attrs.frozen
class Failure:
    """Why a row has no result: its kind, and one line of text with the signal, the exception or the wrong result."""

    kind: Kind
    text: str

    @property
    def killed(self) -> bool:
        """Whether the process was killed by SIGKILL, which is probably not the fault of the code that ran in it."""
        return self.kind == "crashed" and self.text.startswith("SIGKILL")

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


# How long either side polls before it sleeps, in seconds: waking a processor takes as long as a small batch.
AWAKE = 2e-4


def readiness(connection: Connection) -> Callable[[float], bool]:
    """A function that waits for a message for a number of seconds, and returns whether there is one.

    It polls for AWAKE seconds before it sleeps. (Connection.poll would make a new select.poll object for each call,
    which takes as long as a small batch.)
    """
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)

    def ready(seconds: float) -> bool:
        until = time.perf_counter() + min(AWAKE, seconds)
        while time.perf_counter() < until:
            if poll.poll(0):
                return True
            # The writer of the message may be waiting for this processor.
            os.sched_yield()
        return bool(poll.poll(1000 * seconds))

    return ready


def work(connection_file: int, memory_file: int, output_file: int) -> None:
    """The life of a process: open, then answer requests until the client closes the connection.

    Arguments are file descriptors: of the connection, of the shared memory, and of a file that takes what the function
    writes to standard output and error.
    """
    import faulthandler
    import resource

    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        # PR_SET_PDEATHSIG, Linux only.
        library.prctl(1, int(signal.SIGKILL))
        # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc: memory of one call's arrays is kept for those of the next.
        library.mallopt(-3, 2**28)
        library.mallopt(-1, 2**29)
    # A process group of its own, so that processes which the function starts can be ended with it.
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
    request: object,
    memory: mmap.mmap,
    layout: list[Placed],
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
            # Ends a busy process whose client has gone; a client that is still there ends it sooner.
            signal.setitimer(signal.ITIMER_REAL, 2 * timeout + 10)
            part = {name: array[row : row + step] for name, array in arrays.items()}
            failure = _run_one(function, request, part, out[row : row + step])
            if failure is not None:
                return failure
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _run_one(function: Function, request: object, part: dict[str, np.ndarray], out: np.ndarray) -> Failure | None:
    # The function may write to its arguments: they are copies.
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
    """An array whose data is the shared memory from ``offset`` bytes on."""
    return np.ndarray(shape, dtype, memory, offset)
