"""Workers: a process of its own for code that may crash, hang, or use up all memory.

    with Worker("diffuzz.judging.candidate:serve", "my_kernels.py:f", timeout=10.0) as worker:
        ran = worker.run(request, {"x": x}, shape=(256,), dtype="float32")
        ran.result, ran.failures                    float32[b, 256], {row: Failure}

The process calls ``opener(argument)`` once, which returns a function. For each batch it calls that function with
``(request, arrays, out)``, where ``out`` is room for the result in shared memory; the function returns the result,
which may be ``out``. All arrays and the result have a leading batch axis.

Whatever goes wrong becomes a Failure of a row and never harms the caller: where a batch fails, its rows are run one by
one, and the process is started again as often as that takes.

Processes are forked from a server (diffuzz.kernels.process.forkserver) and run diffuzz.kernels.process.child; the
protocol is in diffuzz.kernels.process.channel. What the code in a process writes to standard output and error goes to
a log, whose last lines are a part of each failure. Whatever it does to descriptors, to its parent or to itself, a
client waits no longer than its limits, and when a process ends, or its client does, what it has started ends as well
(on Linux; elsewhere, what has stayed in its process group). Needs a system with ``fork``.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import pickle
import signal
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeAlias

import attrs
import numpy as np

from diffuzz import interruption, registry
from diffuzz.escaping import unwrapped
from diffuzz.kernels.process import channel, forkserver
from diffuzz.kernels.process.channel import KINDS, Client, EndedError, Failure, GarbageError, Kind, kept
from diffuzz.kernels.process.child import Asked, Placed, array_at
from diffuzz.kernels.process.files import last_lines, last_text, log_file, memory_file, reserved
from diffuzz.kernels.process.forkserver import ResourceError, Server, WorkerError

__all__ = ["KINDS", "Failure", "Kind", "Ran", "ResourceError", "RowsFailedError", "Worker", "WorkerError"]

# After so many failures of single rows the rest of a batch is skipped.
_FAILURES_PER_BATCH = 8
# Opening may import a lot, and the first call may compile a lot. So their limit is _FIRST_CALL times the timeout, but
# at most _MOST_FIRST seconds, or the timeout if that is more.
_FIRST_CALL, _MOST_FIRST = 6, 30.0
# How often a call is repeated whose process was killed by SIGKILL: probably from outside, and not by the code in it.
_ATTEMPTS = 5
# Once a row has hung, others have _PATIENCE times what the slowest good call took, at least _LEAST_PATIENCE seconds.
_PATIENCE, _LEAST_PATIENCE = 20.0, 1.0
# Seconds between two looks of a waiting client at the memory and the output of the process.
_GLANCE = 0.05
# Bytes of the log: between calls, and while one is made.
_MOST_OUTPUT = 2**20
# Seconds for a process to end by itself that has closed its connection.
_ENDS_BY_ITSELF = 0.5
# The folder of diffuzz: tracebacks through it are not about the user's code.
_PACKAGE = Path(__file__).parents[2]
_ALIGNMENT = 64
# The first bytes of the shared memory hold the number of the row that is being run.
_HEADER = _ALIGNMENT
# What a call gives: the result; or how many rows were done, the failure of the next (or of all), and the results of
# those that were done.
_Answer: TypeAlias = np.ndarray | tuple[int, Failure, np.ndarray]


@attrs.frozen
class Ran:
    """What a batch gave: ``result[b, ...]``, which is zero in the rows of ``failures`` and ``skipped``.

    Rows in ``skipped`` were not run, because too many others had failed. ``passing`` is a failure of the batch that did
    not come again when its rows were run one by one: it is one of the batch as a whole, or happened by chance.
    """

    result: np.ndarray
    failures: dict[int, Failure]
    skipped: frozenset[int] = frozenset()
    passing: Failure | None = None


class RowsFailedError(RuntimeError):
    """Rows of a batch have no result. ``ran`` has the results of the others, and the failures."""

    def __init__(self, ran: Ran) -> None:
        row, failure = next(iter(ran.failures.items()))
        super().__init__(f"row {row}: {failure}")
        self.ran = ran


@attrs.define
class Worker:
    """A process that runs one function; see the module's docstring. It starts with the first batch.

    ``opener`` is ``module:function``; ``argument`` and requests are pickled. ``timeout`` is the limit of one call in
    seconds; opening and the first call have more. ``memory`` is the limit of resident memory in bytes, by default half
    of the machine's; it is not enforced where there is no ``/proc``. ``starts`` counts the processes started.
    ``packages`` are imported once for all processes, if they can be.
    ``environment`` has variables that the processes have from their beginning on, before NumPy is imported.
    """

    opener: str
    argument: object
    timeout: float = attrs.field(default=10.0, kw_only=True)
    memory: int = attrs.field(factory=lambda: _physical_memory() // 2, kw_only=True)
    packages: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    environment: Mapping[str, str] = attrs.field(factory=dict, kw_only=True)
    starts: int = attrs.field(init=False, default=0)
    _process: _Process | None = attrs.field(init=False, default=None)
    _longest: float = attrs.field(init=False, default=0.0)
    _hangs: bool = attrs.field(init=False, default=False)
    # Kinds of failures that were seen in a fresh process and that leave the process usable.
    _seen: set[Kind] = attrs.field(init=False, factory=set)
    # Reduced after a batch that failed although no row of it fails alone: it was too large or too slow.
    _rows_per_call: int = attrs.field(init=False, default=2**62)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, if there is one; the next batch starts another."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    @property
    def running(self) -> bool:
        """Whether there is a process; else the next batch starts one."""
        return self._process is not None

    def run(
        self,
        request: object,
        arrays: Mapping[str, np.ndarray],
        *,
        shape: tuple[int, ...],
        dtype: str,
        compiles: bool = False,
    ) -> Ran:
        """The result of a batch, ``dtype[b, *shape]``, with the failures of rows that have none. One that ``compiles``
        something has as much time as the first call.

        Raises WorkerError if the process cannot be opened: its opener raised an exception, took too long, or ended the
        process. Raises ResourceError if the system has no room for a process, or for the arrays.
        """
        total = len(next(iter(arrays.values())))
        result: np.ndarray | None = None
        failures: dict[int, Failure] = {}
        passing: Failure | None = None
        start = 0
        while start < total:
            rows: slice[int, int, None] = slice(start, min(start + self._rows_per_call, total))
            alone = rows.stop - rows.start == 1
            answer: _Answer | None = None
            if alone or not self._hangs:
                # After a hang, a batch is not tried: it would probably hang too, without saying in which row.
                part = {name: array[rows] for name, array in arrays.items()}
                answer = self._call(request, part, shape, dtype, compiles=compiles)
            if isinstance(answer, np.ndarray) and rows == slice(0, total):
                # The usual case: there is nothing to put together.
                return Ran(answer, {})
            if result is None:
                result = np.zeros((total, *shape), dtype)
            if isinstance(answer, np.ndarray):
                result[rows] = answer
                start = rows.stop
                continue
            before = len(failures)
            if answer is not None and answer[1].kind == "hung" and alone:
                # A row that was alone need not be run again.
                failures[start], self._hangs, start = answer[1], True, rows.stop
                continue
            start = self._one_by_one(request, arrays, rows, result, failures, compiles)
            if start < rows.stop or len(failures) >= _FAILURES_PER_BATCH:
                return Ran(result, failures, frozenset(range(start, total)), passing)
            if answer is not None and len(failures) == before:
                passing = answer[1]
                if passing.kind in ("hung", "out of memory"):
                    self._rows_per_call = max(1, (rows.stop - rows.start) // 2)
        return Ran(np.zeros((0, *shape), dtype) if result is None else result, failures, frozenset(), passing)

    def _one_by_one(
        self,
        request: object,
        arrays: Mapping[str, np.ndarray],
        rows: slice[int, int, None],
        result: np.ndarray,
        failures: dict[int, Failure],
        compiles: bool,
    ) -> int:
        """Run ``rows`` one by one; write their results to ``result`` and their failures to ``failures``.

        Returns the first row that was skipped after too many failures, or the end of ``rows``.
        """
        start, tries = rows.start, 0
        shape, dtype = result.shape[1:], str(result.dtype)
        while start < rows.stop and tries < (1 if self._hangs else _FAILURES_PER_BATCH):
            part = {name: array[start : rows.stop] for name, array in arrays.items()}
            answer = self._call(request, part, shape, dtype, one_by_one=True, compiles=compiles)
            if isinstance(answer, np.ndarray):
                result[start : rows.stop] = answer
                return rows.stop
            done, failure, good = answer
            row = start + done
            result[start:row] = good
            start, tries = row + 1, tries + 1
            if failure.kind != "hung" and failure.kind not in self._seen:
                # A process may be killed from outside, and its state may have been spoilt by an earlier row. So the row
                # has failed only if it fails again, alone, in a fresh process.
                self.close()
                part = {name: array[row:start] for name, array in arrays.items()}
                again = self._call(request, part, shape, dtype, compiles=compiles)
                for _ in range(_ATTEMPTS):
                    if isinstance(again, np.ndarray) or not again[1].killed:
                        break
                    again = self._call(request, part, shape, dtype, compiles=compiles)
                if isinstance(again, np.ndarray):
                    result[row] = again[0]
                    continue
                failure = again[1]
                self._seen |= {failure.kind} & {"raised", "garbage", "skipped"}
            self._hangs |= failure.kind == "hung"
            failures[row] = failure
        return start

    @property
    def _first_timeout(self) -> float:
        return max(self.timeout, min(_FIRST_CALL * self.timeout, _MOST_FIRST))

    @property
    def _first_rule(self) -> str:
        """Where the limit of opening and of the first call comes from: it is not what the user has set."""
        if self._first_timeout == self.timeout:
            return "the timeout"
        if self._first_timeout < _MOST_FIRST:
            return f"{_FIRST_CALL} times the timeout of {self.timeout:.3g} s"
        return f"{_FIRST_CALL} times the timeout of {self.timeout:.3g} s, but at most {_MOST_FIRST:.3g} s"

    def _started(self) -> _Process:
        for attempt in range(_ATTEMPTS + 1):
            started = _Process.start(self.opener, self.argument, self._first_timeout, self.environment, self.packages)
            if isinstance(started, _Process):
                return started
            if started.killed and attempt < _ATTEMPTS:
                continue
            said = started.text if started.kind == "raised" else str(started)
            if started.kind == "hung":
                said = f"loading took more than {self._first_timeout:.3g} s ({self._first_rule})"
                said += f"; it wrote: {started.wrote[-1]}" if started.wrote else ""
            raise WorkerError(said)
        raise AssertionError

    def _call(
        self,
        request: object,
        arrays: Mapping[str, np.ndarray],
        shape: tuple[int, ...],
        dtype: str,
        *,
        one_by_one: bool = False,
        compiles: bool = False,
    ) -> _Answer:
        """Run a batch as a whole or, in one call, row by row; a failure ends the process unless it can go on."""
        first = self._process is None
        if self._process is None:
            self.starts += 1
            self._process = self._started()
        # ``why`` explains a limit that is not the timeout.
        timeout, why = self.timeout, ""
        if self._hangs:
            timeout = min(timeout, max(_LEAST_PATIENCE, _PATIENCE * self._longest))
            if timeout < self.timeout:
                why = f" (the limit was {self.timeout:.3g} s until a call took longer)"
        elif compiles or (self.starts == 1 and first):
            timeout = self._first_timeout
            why = f" of the first call{' of a shape' if compiles else ''} ({self._first_rule})"
        started = time.monotonic()
        try:
            answer = self._process.call(request, arrays, shape, dtype, timeout, self.memory, one_by_one)
        except BaseException:
            # Interrupted: the next call must not read the answer to this one.
            self.close()
            raise
        if isinstance(answer, np.ndarray):
            if not one_by_one:
                self._longest = max(self._longest, time.monotonic() - started)
            return answer
        done, failure, good = answer
        if failure.kind in ("crashed", "hung", "out of memory"):
            # What has sent something unreadable counts as crashed.
            self.close()
        if failure.kind == "hung":
            failure = attrs.evolve(failure, text=failure.text + why)
        return done, failure, good


@attrs.define
class _Process:
    """One process: its number, the server that it was forked from, the connection to it, descriptors of the files that
    hold the shared memory and what it writes, and the memory itself.
    """

    pid: int
    server: Server
    client: Client
    file: int
    output: int
    memory: mmap.mmap
    # The row that is being run, or was when the last call ended: a process that hangs may go on meanwhile.
    _row: int = attrs.field(init=False, default=0)

    @classmethod
    def start(
        cls,
        opener: str,
        argument: object,
        timeout: float,
        variables: Mapping[str, str],
        packages: tuple[str, ...] = (),
    ) -> _Process | Failure:
        """A process that has opened, or the failure to do so. Raises WorkerError if none can be started."""
        # First: on a system without fork the rest cannot be had either.
        forkserver.server(variables)
        files: list[int] = []
        try:
            ours, theirs = channel.pair()
            files += [kept(memory_file()), kept(log_file())]
        except OSError as error:
            raise ResourceError(
                f"no process can be started ({error.strerror}): look at the limits (ulimit -a)"
            ) from error
        try:
            file, output = files
            memory = _reserved(file, _HEADER)
            modules = (*packages, opener.partition(":")[0])
            server, pid = _forked(modules, [theirs.fileno(), file, output], variables)
        except BaseException:
            ours.close()
            for each in files:
                os.close(each)
            raise
        finally:
            theirs.close()
        process = cls(pid, server, Client(ours, pid), file, output, memory)
        try:
            # Folder, environment and path may have changed since the server was started.
            environment = {name: value for name, value in os.environ.items() if name != forkserver.MARK}
            environment |= variables
            opening = (process.client.token, os.getcwd(), environment, registry.search_path(), opener, argument)
            said = process._asked(pickle.dumps(opening), timeout, 2**62)
            if said is not True:
                said = process._told(said, 0)
        except BaseException:
            process.kill()
            raise
        if said is not True:
            process.kill()
            return said
        return process

    def call(
        self,
        request: object,
        arrays: Mapping[str, np.ndarray],
        shape: tuple[int, ...],
        dtype: str,
        timeout: float,
        memory: int,
        one_by_one: bool,
    ) -> _Answer:
        """As Worker._call; ``timeout`` is for the batch, or for each row where they are run one by one."""
        total = len(next(iter(arrays.values())))
        place = _HEADER
        layout: list[Placed] = []
        for name, array in arrays.items():
            layout.append((name, array.dtype.str, array.shape, place))
            place = _aligned(place + array.nbytes)
        result = np.dtype(dtype).itemsize * total * math.prod(shape)
        if place + result > len(self.memory):
            # The old map stays until no array uses it.
            self.memory = _reserved(self.file, place + result)
        for (_, kind, extent, offset), array in zip(layout, arrays.values(), strict=True):
            np.copyto(array_at(self.memory, kind, extent, offset), array)
        out = array_at(self.memory, np.dtype(dtype).str, (total, *shape), place)
        counter = array_at(self.memory, "<i8", (1,), 0)
        counter[0] = 0
        before = os.fstat(self.output).st_size
        if before > _MOST_OUTPUT:
            os.ftruncate(self.output, 0)
            before = 0
        asked: Asked = (request, layout, (dtype, shape, place), len(self.memory), timeout, one_by_one)
        said = self._asked(pickle.dumps(asked), timeout, memory, counter if one_by_one else None, total)
        if said is True:
            return out.copy()
        # The code in the process may have written anything there.
        done = min(max(self._row, 0), total - 1) if one_by_one else 0
        return done, self._told(said, before), out[:done].copy()

    def _asked(
        self, message: bytes, timeout: float, memory: int, counter: np.ndarray | None = None, rows: int = 1
    ) -> Failure | Literal[True] | None:
        """The answer of the process to a message; None if it has ended; a Failure if it takes too long or too much
        memory, or sends what is no answer.

        With a counter, which holds the number of the row being run, each of ``rows`` has the whole timeout.
        """
        hung = Failure("hung", f"no result after {timeout:.3g} s")
        try:
            if not self.client.send(message, timeout):
                return hung
            self._row, deadline = 0, time.monotonic() + timeout
            while True:
                interruption.check()
                said = self.client.receive(min(_GLANCE, timeout))
                if said is not None:
                    self._row = 0 if counter is None else int(counter[0])
                    return said
                # After the wait, in which rows were done: what follows is of the row that runs now. Only forwards,
                # whatever the code in the process writes there: so there is an end.
                now_at = 0 if counter is None else int(counter[0])
                if self._row < now_at < rows:
                    self._row, deadline = now_at, time.monotonic() + timeout
                if (used := _resident(self.pid)) > memory:
                    return Failure("out of memory", f"{used / 2**30:.1f} GiB used, more than {memory / 2**30:.1f} GiB")
                if time.monotonic() > deadline:
                    return hung
                if os.fstat(self.output).st_size > 64 * _MOST_OUTPUT:
                    os.ftruncate(self.output, 0)
        except EndedError:
            self._row = 0 if counter is None else int(counter[0])
            return None
        except GarbageError:
            return Failure("crashed", "it wrote to a file descriptor that it had not opened, the connection to diffuzz")

    def _told(self, said: Failure | None, before: int) -> Failure:
        """A failure, or how the process ended, with what it wrote last, after the first ``before`` bytes."""
        return attrs.evolve(said or self._ended(before), wrote=last_lines(self.output, before))

    def _ended(self, before: int) -> Failure:
        """How the process ended, with the last line that it wrote."""
        try:
            status, killed = self.server.wait(self.pid, _ENDS_BY_ITSELF)
        except WorkerError:
            return Failure(
                "crashed", "SIGKILL (together with its parent, the process that diffuzz starts workers from)"
            )
        code = os.waitstatus_to_exitcode(status)
        if killed:
            # It went on; so it has closed what was not its own, or become another program.
            how = "it closed a file descriptor that it had not opened, the connection to diffuzz"
        elif code >= 0:
            how = f"ended with exit status {code}"
        else:
            how = f"signal {-code}"
            with contextlib.suppress(ValueError):
                how = signal.Signals(-code).name
            how += " (killed by the system, perhaps because memory ran out)" if -code == signal.SIGKILL else ""
        words = _last_words(last_text(self.output, before))
        return Failure("crashed", how + (f": {words}" if words else ""))

    def kill(self) -> None:
        """Kill the process and what it has started, and close its connection and files."""
        # After a fork of the client, the process belongs to the parent.
        if self.server.client == os.getpid():
            self.client.kill()
            try:
                self.server.wait(self.pid, 0)
            except WorkerError:
                self.server.sweep()
        self.client.close()
        for file in (self.file, self.output):
            with contextlib.suppress(OSError):
                os.close(file)


def _forked(modules: tuple[str, ...], files: list[int], variables: Mapping[str, str]) -> tuple[Server, int]:
    """A process of the server; where that has ended meanwhile, of another. Raises WorkerError."""
    server = forkserver.server(variables)
    try:
        return server, server.fork(modules, files)
    except ResourceError:
        raise
    except WorkerError:
        if server.alive():
            raise
    server = forkserver.server(variables)
    return server, server.fork(modules, files)


def _reserved(file: int, size: int) -> mmap.mmap:
    try:
        return reserved(file, size)
    except OSError as error:
        raise ResourceError(
            f"{size / 2**20:.1f} MiB of memory to share with a process cannot be had ({error.strerror}): free memory, "
            "look at the limits of the system (ulimit -a), or choose smaller parameters"
        ) from error


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _physical_memory() -> int:
    if not hasattr(os, "sysconf"):
        # Nor is there a fork, which is said when a process is started.
        return 2**62
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _resident(pid: int) -> int:
    """Resident memory of a process, and of what its first thread has started, such as the program of a candidate."""
    used = 0
    with contextlib.suppress(OSError, IndexError):
        used = int(_words(f"/proc/{pid}/statm")[1]) * mmap.PAGESIZE
        used += sum(_resident(int(child)) for child in _words(f"/proc/{pid}/task/{pid}/children"))
    return used


def _words(path: str) -> list[bytes]:
    """The words of a file of the kernel's. By its descriptor: this runs several times a second while a batch is waited
    for, and Python complains about a file object that Ctrl-C leaves open between its opening and its closing.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 1 << 16).split()
    finally:
        os.close(descriptor)


def _last_words(text: str) -> str:
    """The last line that the code itself wrote, and the line of Python where it ended, if faulthandler wrote one."""
    own, fatal, trace = text.partition("Fatal Python error")
    lines = [" ".join(line.split()) for line in own.splitlines() if line.strip()]
    places = [" ".join(line.split()) for line in (fatal + trace).splitlines() if line.lstrip().startswith("File ")]
    # The last one is that of the server, which is in no file.
    places = [place for place in places if place != 'File "<string>", line 1 in <module>']
    elsewhere = (f'"{_PACKAGE}{os.sep}', f'"{sysconfig.get_path("stdlib")}{os.sep}')
    ours = [place for place in places if "site-packages" in place or not any(folder in place for folder in elsewhere)]
    return unwrapped("; ".join([*lines[-1:], *ours[:1]])[:400])
