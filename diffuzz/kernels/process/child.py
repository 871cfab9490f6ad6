"""The code of a worker's process: it calls one function with the arrays that its client has put into shared memory.

The client is diffuzz.kernels.process.worker. It sends an opening message and then one message for each batch (the two
tuples that ``work`` receives); the process answers each with True, once it is ready or the result is in the memory, or
with a Failure.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import mmap
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from typing import Literal, TextIO, TypeAlias

import numpy as np

from diffuzz.kernels.process.channel import LONGEST_TEXT, EndedError, Failure, ResultError, Served, SkippedError, raised
from diffuzz.registry import located, one_line

# What answers a request: (request, arrays, room for the result) to the result, which may be that room. A request is
# whatever the client and the function agree on; the result may be wrong, so it is checked.
Function: TypeAlias = Callable[[object, dict[str, np.ndarray], np.ndarray], object]
# An array in the shared memory: name, dtype, shape, and offset in bytes.
Placed: TypeAlias = tuple[str, str, tuple[int, ...], int]
# What a request holds: what the function is asked, the arrays, the result (dtype, shape of a row, offset), the size of
# the memory, the limit in seconds, and whether rows are run one by one.
Asked: TypeAlias = tuple[object, list[Placed], tuple[str, tuple[int, ...], int], int, float, bool]
# Options of prctl, of Linux only.
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def adopt_orphans(on_death: signal.Signals) -> None:
    """Whoever loses its parent among this process's descendants becomes its child, and ``on_death`` is what this
    process gets when its own parent ends; where the system can do that.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.prctl(_PR_SET_PDEATHSIG, int(on_death), 0, 0, 0)
        library.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def work(parent: int, connection_file: int, memory_file: int, output_file: int) -> None:
    """The life of a process: open, then answer requests until the client closes the connection.

    Arguments are the number of the process that this one was forked from, and file descriptors: of the connection, of
    the shared memory, and of a file that takes what the function writes to standard output and error.
    """
    import faulthandler
    import resource

    adopt_orphans(signal.SIGKILL)
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc: memory of one call's arrays is kept for those of the next.
        library.mallopt(-3, 2**28)
        library.mallopt(-1, 2**29)
    if os.getppid() != parent:
        # It died before it could be said that this process ends with it.
        return
    # A process group of its own, so that processes which the function starts can be ended with it; those that leave
    # the group stay its descendants.
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stream in (1, 2):
        os.dup2(output_file, stream)
    os.close(output_file)
    # What was said before a crash is in the file, and not lost in a buffer, of Python or of the C library.
    for text in (sys.stdout, sys.stderr):
        if isinstance(text, io.TextIOWrapper):
            text.reconfigure(line_buffering=True, errors="backslashreplace")
    with contextlib.suppress(OSError, AttributeError, ValueError):
        library.setvbuf(ctypes.c_void_p.in_dll(library, "stdout"), None, 1, 0)
    faulthandler.enable()
    connection_file, memory_file = raised(connection_file), raised(memory_file)
    served = Served(socket.socket(fileno=connection_file))
    # What the function forks is not a worker: it can neither answer nor be asked.
    os.register_at_fork(after_in_child=served.end.close)
    with contextlib.suppress(EndedError, BrokenPipeError, ConnectionResetError):
        _serve(served, memory_file)
    # The client has gone. The function may have stopped the server, which has work to do now.
    with contextlib.suppress(OSError):
        os.kill(parent, signal.SIGCONT)


def _serve(served: Served, memory_file: int) -> None:
    own = os.getpid()
    opening = pickle.loads(served.receive())
    served.token, folder, environment, path, opener, argument = opening
    try:
        os.chdir(folder)
        os.environ.update(environment)
        sys.path[:] = path
        module, _, name = opener.partition(":")
        function = getattr(importlib.import_module(module), name)(argument)
    except BaseException as error:
        _flush()
        # Longer than that of a call: it may quote another, and say where that was.
        served.send(Failure("raised", one_line(error, LONGEST_TEXT)))
        return
    served.send(True)
    memory = mmap.mmap(memory_file, 0)
    while True:
        asked: Asked = pickle.loads(served.receive())
        try:
            if asked[3] > len(memory):
                memory = mmap.mmap(memory_file, asked[3])
            said = _answer(function, memory, asked, own)
        except (MemoryError, OSError) as error:
            # Of this process's own doing: it has no room for the memory that the client has.
            said = Failure("out of memory", one_line(error))
        if said is not True:
            _flush()
        served.send(said)


def _flush() -> None:
    """Everything that was said is in the file."""
    streams: tuple[TextIO | None, ...] = (sys.stdout, sys.stderr)
    for stream in streams:
        # The function may have put anything in their place.
        with contextlib.suppress(Exception):
            if stream is not None:
                stream.flush()
    with contextlib.suppress(Exception):
        ctypes.CDLL(None).fflush(None)


def _answer(function: Function, memory: mmap.mmap, asked: Asked, own: int) -> Failure | Literal[True]:
    request, layout, result, _, timeout, one_by_one = asked
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
            failure = _run_one(function, request, part, out[row : row + step], own)
            if failure is not None:
                return failure
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _run_one(
    function: Function, request: object, part: dict[str, np.ndarray], out: np.ndarray, own: int
) -> Failure | None:
    # The function may write to its arguments: they are copies.
    try:
        got = np.asarray(function(request, part, out))
    except MemoryError as error:
        return Failure("out of memory", located(error))
    except ResultError as error:
        return Failure("garbage", str(error))
    except SkippedError as error:
        return Failure("skipped", str(error))
    except BaseException as error:  # also what is no Exception, as those of test frameworks are
        return Failure("raised", located(error))
    finally:
        if os.getpid() != own:
            # A process that the function has forked, and that has come back from it: its result is not asked for.
            os._exit(0)
    if got.shape != out.shape or got.dtype != out.dtype:
        wanted, given = (f"{a.dtype}{list(a.shape)}" for a in (out, got))
        return Failure("garbage", f"returns {given}, where {wanted} is needed")
    if got is not out:
        out[...] = got
    return None


def array_at(memory: mmap.mmap, dtype: str, shape: tuple[int, ...], offset: int) -> np.ndarray:
    """An array whose data is the shared memory from ``offset`` bytes on."""
    return np.ndarray(shape, dtype, memory, offset)
