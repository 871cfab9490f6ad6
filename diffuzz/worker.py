"""Workers: a process of its own for code that may crash, hang, or eat all memory.

    with Worker("diffuzz.candidate:serve", "my_kernels.py:f", timeout=10.0) as worker:
        ran = worker.run(request, {"x": x}, shape=(256,), dtype="float32")
        ran.result, ran.failures                    float32[b, 256], {row: Failure}

The process calls ``opener(argument)`` once, and what that returns with ``(request, arrays, out)`` for each batch; the
result is what it returns, which may be ``out``, room for it in shared memory. All arrays have a leading batch axis, and
so has the result. What goes wrong is a Failure of a row, never of the caller: where a
batch fails, its rows are run one by one, and the process is started again as often as it takes.

Processes are forked from a server (diffuzz.forkserver) and do what diffuzz.working says. Arrays travel in shared
memory. The server ends when its client does, and each process when the server does; one that is busy then has a clock
of its own that ends it. Needs a system with ``fork``.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import signal
import socket
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import attrs
import numpy as np

from diffuzz import forkserver, interruption
from diffuzz.forkserver import WorkerError
from diffuzz.working import KINDS, Failure, Kind, array_at, one_line, readiness

__all__ = ["KINDS", "Failure", "Kind", "Ran", "RowsFailedError", "Worker", "WorkerError"]

# What one batch may fail with, row by row, before the rest of it is left alone.
_FAILURES_PER_BATCH = 8
# Opening may import a lot, and the first call compile a lot: they get this many times the timeout, up to so many
# seconds, or the timeout if that is more.
_FIRST_CALL, _MOST_FIRST = 6, 30.0
# How often a process that was killed from outside is given another chance: code rarely does that to itself.
_ATTEMPTS = 5
# Once a row is known to hang, others get this many times what the slowest good call took, and at least so many seconds.
_PATIENCE, _LEAST_PATIENCE = 20.0, 1.0
# How often a waiting client looks at memory and output.
_GLANCE = 0.05
_MOST_OUTPUT = 2**20
_ALIGNMENT = 64
# The first bytes of the shared memory hold the number of the row that is being run.
_HEADER = _ALIGNMENT


@attrs.frozen
class Ran:
    """``result[b, ...]``, zero in the rows of ``failures``; rows in ``skipped`` were not run, after too many failures.

    ``passing`` is a failure that did not come again when its rows were run one by one: of the batch as a whole, or by
    chance, or from outside.
    """

    result: np.ndarray
    failures: dict[int, Failure]
    skipped: frozenset[int] = frozenset()
    passing: Failure | None = None


class RowsFailedError(RuntimeError):
    """Rows of a batch have no result; ``ran`` has those of the others, and the failures."""

    def __init__(self, ran: Ran) -> None:
        row, failure = next(iter(ran.failures.items()))
        super().__init__(f"row {row}: {failure}")
        self.ran = ran


@attrs.define
class Worker:
    """See the module's docstring. ``opener`` is ``module:function``; ``argument`` and requests are pickled.

    ``timeout`` is in seconds for one call, of which the first, and opening, get more; ``memory`` in bytes of resident
    memory (where ``/proc`` tells), half of the machine's by default. The process starts with the first batch.
    """

    opener: str
    argument: Any
    timeout: float = attrs.field(default=10.0, kw_only=True)
    memory: int = attrs.field(factory=lambda: _physical_memory() // 2, kw_only=True)
    starts: int = attrs.field(init=False, default=0)
    _process: _Process | None = attrs.field(init=False, default=None)
    _longest: float = attrs.field(init=False, default=0.0)
    _hangs: bool = attrs.field(init=False, default=False)
    # Kinds that have failed in a fresh process, and leave the process as it was.
    _seen: set[Kind] = attrs.field(init=False, factory=set)
    # Fewer once a batch has failed of which no row fails: it was too large, or too slow.
    _rows_per_call: int = attrs.field(init=False, default=2**62)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, if there is one; the next batch would start another."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def run(self, request: Any, arrays: Mapping[str, np.ndarray], *, shape: tuple[int, ...], dtype: str) -> Ran:
        """The result of a batch, ``dtype[b, *shape]``, or why rows have none.

        Raises WorkerError if the process cannot be opened (its opener raised, or it ended before it was ready).
        """
        total = len(next(iter(arrays.values())))
        result: np.ndarray | None = None
        failures: dict[int, Failure] = {}
        passing: Failure | None = None
        start = 0
        while start < total:
            rows = slice(start, min(start + self._rows_per_call, total))
            alone = rows.stop - rows.start == 1
            answer: np.ndarray | tuple[int, Failure, np.ndarray] | None = None
            if alone or not self._hangs:
                # Where rows are known to hang, a batch would, too, before it is known which.
                answer = self._call(request, {name: array[rows] for name, array in arrays.items()}, shape, dtype)
            if isinstance(answer, np.ndarray) and rows == slice(0, total):
                # Nearly always, and then there is nothing to put together.
                return Ran(answer, {})
            if result is None:
                result = np.zeros((total, *shape), dtype)
            if isinstance(answer, np.ndarray):
                result[rows] = answer
                start = rows.stop
                continue
            before = len(failures)
            if answer is not None and answer[1].kind == "hung" and alone:
                # A row that was alone has had its time.
                failures[start], self._hangs, start = answer[1], True, rows.stop
                continue
            start = self._one_by_one(request, arrays, rows, result, failures)
            if start < rows.stop or len(failures) >= _FAILURES_PER_BATCH:
                return Ran(result, failures, frozenset(range(start, total)), passing)
            if answer is not None and len(failures) == before:
                passing = answer[1]
                if passing.kind in ("hung", "out of memory"):
                    self._rows_per_call = max(1, (rows.stop - rows.start) // 2)
        return Ran(np.zeros((0, *shape), dtype) if result is None else result, failures, frozenset(), passing)

    def _one_by_one(
        self,
        request: Any,
        arrays: Mapping[str, np.ndarray],
        rows: slice,
        result: np.ndarray,
        failures: dict[int, Failure],
    ) -> int:
        """Write the results of the rows and their failures; the first row that was left alone, after too many."""
        start, tries = rows.start, 0
        shape, dtype = result.shape[1:], str(result.dtype)
        while start < rows.stop and tries < (1 if self._hangs else _FAILURES_PER_BATCH):
            part = {name: array[start : rows.stop] for name, array in arrays.items()}
            answer = self._call(request, part, shape, dtype, one_by_one=True)
            if isinstance(answer, np.ndarray):
                result[start : rows.stop] = answer
                return rows.stop
            done, failure, good = answer
            row = start + done
            result[start:row] = good
            start, tries = row + 1, tries + 1
            if failure.kind != "hung" and failure.kind not in self._seen:
                # Anybody can kill a process, and a state may have gone wrong long before: it has to fail again, of this
                # row alone, in a fresh one.
                self.close()
                part = {name: array[row:start] for name, array in arrays.items()}
                again = self._call(request, part, shape, dtype)
                for _ in range(_ATTEMPTS):
                    if isinstance(again, np.ndarray) or not again[1].killed:
                        break
                    again = self._call(request, part, shape, dtype)
                if isinstance(again, np.ndarray):
                    result[row] = again[0]
                    continue
                failure = again[1]
                self._seen |= {failure.kind} & {"raised", "garbage"}
            self._hangs |= failure.kind == "hung"
            failures[row] = failure
        return start

    @property
    def _first_timeout(self) -> float:
        return max(self.timeout, min(_FIRST_CALL * self.timeout, _MOST_FIRST))

    def _started(self) -> _Process:
        for attempt in range(_ATTEMPTS + 1):
            started = _Process.start(self.opener, self.argument, self._first_timeout)
            if isinstance(started, _Process):
                return started
            if started.kind == "hung":
                raise WorkerError(f"{started} of loading")
            if not started.killed or attempt == _ATTEMPTS:
                raise WorkerError(started.text if started.kind == "raised" else str(started))
        raise AssertionError

    def _call(
        self,
        request: Any,
        arrays: Mapping[str, np.ndarray],
        shape: tuple[int, ...],
        dtype: str,
        *,
        one_by_one: bool = False,
    ) -> np.ndarray | tuple[int, Failure, np.ndarray]:
        """The result; or how many rows were done, the failure of the next (or of all), and the results before it."""
        first = self._process is None
        if self._process is None:
            self.starts += 1
            self._process = self._started()
        # What is said of a limit that is not the one of any call.
        timeout, why = self.timeout, ""
        if self._hangs:
            timeout = min(timeout, max(_LEAST_PATIENCE, _PATIENCE * self._longest))
            if timeout < self.timeout:
                why = f" (less than the {self.timeout:.3g} s of a call, because it had hung before)"
        elif self.starts == 1 and first:
            timeout = self._first_timeout
            why = " of the first call"
        started = time.monotonic()
        try:
            answer = self._process.call(request, arrays, shape, dtype, timeout, self.memory, one_by_one)
        except BaseException:
            # Interrupted: what the process will say belongs to nobody.
            self.close()
            raise
        if isinstance(answer, np.ndarray):
            if not one_by_one:
                self._longest = max(self._longest, time.monotonic() - started)
            return answer
        done, failure, good = answer
        if failure.kind in ("crashed", "hung", "out of memory"):
            self.close()
        if failure.kind == "hung":
            failure = attrs.evolve(failure, text=failure.text + why)
        return done, failure, good


@attrs.define
class _Process:
    """One process: its number, the connection to it, the memory shared with it, and the file of what it writes."""

    pid: int
    connection: Connection
    file: int
    output: int
    memory: mmap.mmap
    _ready: Callable[[float], bool] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._ready = readiness(self.connection)

    @classmethod
    def start(cls, opener: str, argument: Any, timeout: float) -> _Process | Failure:
        """A process that has opened, or why it has not."""
        import fcntl

        ours, theirs = socket.socketpair()
        file, output = _unlinked_file(), _unlinked_file()
        # So that truncating it leaves no hole.
        fcntl.fcntl(output, fcntl.F_SETFL, fcntl.fcntl(output, fcntl.F_GETFL) | os.O_APPEND)
        os.ftruncate(file, _HEADER)
        try:
            pid = forkserver.server().fork(opener.partition(":")[0], [theirs.fileno(), file, output])
        finally:
            theirs.close()
        process = cls(pid, Connection(ours.detach()), file, output, mmap.mmap(file, _HEADER))
        try:
            # The server has those of the time when it was started.
            process.connection.send((os.getcwd(), dict(os.environ), sys.path, opener, argument))
            said = process._wait(timeout, 2**62)
        except (BrokenPipeError, ConnectionResetError):
            said = None
        except BaseException:
            process.kill()
            raise
        if said is None or isinstance(said, Failure):
            failure = said or process._ended()
            process.kill()
            return failure
        return process

    def call(
        self,
        request: Any,
        arrays: Mapping[str, np.ndarray],
        shape: tuple[int, ...],
        dtype: str,
        timeout: float,
        memory: int,
        one_by_one: bool,
    ) -> np.ndarray | tuple[int, Failure, np.ndarray]:
        """See Worker._call; ``timeout`` is that of a row where they are called one by one."""
        total = len(next(iter(arrays.values())))
        place = _HEADER
        layout: list[tuple[str, str, tuple[int, ...], int]] = []
        for name, array in arrays.items():
            layout.append((name, array.dtype.str, array.shape, place))
            place = _aligned(place + array.nbytes)
        result = np.dtype(dtype).itemsize * total * math.prod(shape)
        self._reserve(place + result)
        for (_, kind, extent, offset), array in zip(layout, arrays.values(), strict=True):
            np.copyto(array_at(self.memory, kind, extent, offset), array)
        out = array_at(self.memory, np.dtype(dtype).str, (total, *shape), place)
        counter = array_at(self.memory, "<i8", (1,), 0)
        counter[0] = 0
        if os.fstat(self.output).st_size > _MOST_OUTPUT:
            os.ftruncate(self.output, 0)
        before = os.fstat(self.output).st_size
        said: Failure | bool | None
        try:
            self.connection.send((request, layout, (dtype, shape, place), len(self.memory), timeout, one_by_one))
            said = self._wait(timeout, memory, counter if one_by_one else None)
        except (BrokenPipeError, ConnectionResetError):
            said = None
        if said is True:
            return out.copy()
        done = int(counter[0]) if one_by_one else 0
        return min(done, total - 1), said or self._ended(before), out[: min(done, total - 1)].copy()

    def _reserve(self, size: int) -> None:
        if size > len(self.memory):
            size = 1 << (size - 1).bit_length()
            os.ftruncate(self.file, size)
            # The old map stays until nobody looks at it.
            self.memory = mmap.mmap(self.file, size)

    def _wait(self, timeout: float, memory: int, counter: np.ndarray | None = None) -> Failure | Any:
        """What the process says next; None if it has ended; a Failure if it takes too long or too much."""
        row, deadline = -1, math.inf
        while True:
            interruption.check()
            # With a counter, each row has the whole time for itself.
            now_at = 0 if counter is None else int(counter[0])
            if now_at != row:
                row, deadline = now_at, time.monotonic() + timeout
            if self._ready(_GLANCE):
                try:
                    return self.connection.recv()
                except (EOFError, ConnectionResetError):
                    return None
                except Exception as error:  # whatever the process wrote there, it is no message
                    return Failure("garbage", f"the process sent something unreadable: {one_line(error)}")
            if (used := _resident(self.pid)) > memory:
                return Failure("out of memory", f"{used / 2**30:.1f} GiB used, more than {memory / 2**30:.1f} GiB")
            if time.monotonic() > deadline:
                return Failure("hung", f"no result after {timeout:.3g} s")
            if os.fstat(self.output).st_size > 64 * _MOST_OUTPUT:
                os.ftruncate(self.output, 0)

    def _ended(self, before: int = 0) -> Failure:
        """How the process ended, and what it said last."""
        status = forkserver.server().wait(self.pid)
        code = os.waitstatus_to_exitcode(status)
        said = os.pread(self.output, _MOST_OUTPUT, min(before, os.fstat(self.output).st_size))
        words = _last_words(said.decode(errors="replace"))
        if code >= 0:
            how = f"ended with exit status {code}"
        else:
            with contextlib.suppress(ValueError):
                how = signal.Signals(-code).name
                how += " (by the system, perhaps for want of memory)" if -code == signal.SIGKILL else ""
        return Failure("crashed", how + (f": {words}" if words else ""))

    def kill(self) -> None:
        """End the process at once, and give back what belongs to it."""
        server = forkserver.running()
        if server is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            with contextlib.suppress(WorkerError):
                server.wait(self.pid)
        self.connection.close()
        for file in (self.file, self.output):
            with contextlib.suppress(OSError):
                os.close(file)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _unlinked_file() -> int:
    """A file without a name, in memory where the system has a place for that."""
    folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.dup(file.fileno())


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except (OSError, IndexError):
        return 0


def _last_words(text: str) -> str:
    """The last line that the code itself wrote, and the place in Python where it ended, if faulthandler knew."""
    own, fatal, trace = text.partition("Fatal Python error")
    lines = [" ".join(line.split()) for line in own.splitlines() if line.strip()]
    places = [" ".join(line.split()) for line in (fatal + trace).splitlines() if line.lstrip().startswith("File ")]
    elsewhere = (f'"{os.path.dirname(__file__)}{os.sep}', f'"{sysconfig.get_path("stdlib")}{os.sep}')
    ours = [place for place in places if "site-packages" in place or not any(folder in place for folder in elsewhere)]
    return "; ".join([*lines[-1:], *ours[:1]])[:400]
