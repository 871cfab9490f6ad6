"""Workers: a process of its own for code that may crash, hang, or eat all memory.

    with Worker("diffuzz.candidate:serve", "my_kernels.py:f", timeout=10.0) as worker:
        ran = worker.run(request, {"x": x}, shape=(256,), dtype="float32")
        ran.result, ran.failures                    float32[b, 256], {row: Failure}

The process calls ``opener(argument)`` once, and what that returns with ``(request, arrays)`` for each batch. All arrays
have a leading batch axis, and so has the result. What goes wrong is a Failure of a row, never of the caller: where a
batch fails, its rows are run one by one, and the process is started again as often as it takes.

Processes are forked from a server that has imported NumPy and little else, so that a new one costs milliseconds and
inherits no threads. Arrays travel in shared memory. The server ends when its client does, and each process when the
server does; one that is busy then has a clock of its own that ends it. Needs a system with ``fork``.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import json
import math
import mmap
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Literal

import attrs
import numpy as np

Kind = Literal["crashed", "hung", "out of memory", "raised", "garbage"]
KINDS: tuple[Kind, ...] = ("crashed", "hung", "out of memory", "raised", "garbage")

# What one batch may fail with, row by row, before the rest of it is left alone.
_FAILURES_PER_BATCH = 8
# Opening may import a lot, and the first call compile a lot: they get this many times the timeout.
_FIRST_CALL = 6
# Once a row is known to hang, others get this many times what the slowest good call took, and at least so many seconds.
_PATIENCE, _LEAST_PATIENCE = 20.0, 1.0
# How often a waiting client looks at memory and output.
_GLANCE = 0.05
_MOST_OUTPUT = 2**20
_ALIGNMENT = 64
# The first bytes of the shared memory hold the number of the row that is being run.
_HEADER = _ALIGNMENT


class WorkerError(RuntimeError):
    """A process that cannot even be opened: the message is one line, and says why."""


@attrs.frozen
class Failure:
    """Why a row has no result: ``kind``, and one line with the signal, the exception, or what was wrong."""

    kind: Kind
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


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

    ``timeout`` is in seconds for one call; ``memory`` in bytes of resident memory (where ``/proc`` tells), half of the
    machine's by default. The process starts with the first batch.
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
            start = self._one_by_one(request, arrays, rows, result, failures)
            if start < rows.stop or len(failures) >= _FAILURES_PER_BATCH:
                return Ran(result, failures, frozenset(range(start, total)), passing)
            if len(failures) == before:
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
                again = self._call(request, {name: array[row:start] for name, array in arrays.items()}, shape, dtype)
                if isinstance(again, np.ndarray):
                    result[row] = again[0]
                    continue
                failure = again[1]
                self._seen |= {failure.kind} & {"raised", "garbage"}
            self._hangs |= failure.kind == "hung"
            failures[row] = failure
        return start

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
            self._process = _Process.start(self.opener, self.argument, _FIRST_CALL * self.timeout)
        timeout = self.timeout
        if self._hangs:
            timeout = min(timeout, max(_LEAST_PATIENCE, _PATIENCE * self._longest))
        elif self.starts == 1 and first:
            timeout *= _FIRST_CALL
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
        if answer[1].kind in ("crashed", "hung", "out of memory"):
            self.close()
        return answer


@attrs.define
class _Process:
    """One process: its number, the connection to it, the memory shared with it, and the file of what it writes."""

    pid: int
    connection: Connection
    file: int
    output: int
    memory: mmap.mmap

    @classmethod
    def start(cls, opener: str, argument: Any, timeout: float) -> _Process:
        import fcntl

        ours, theirs = socket.socketpair()
        file, output = _unlinked_file(), _unlinked_file()
        # So that truncating it leaves no hole.
        fcntl.fcntl(output, fcntl.F_SETFL, fcntl.fcntl(output, fcntl.F_GETFL) | os.O_APPEND)
        os.ftruncate(file, _HEADER)
        try:
            pid = _server().fork(opener.partition(":")[0], [theirs.fileno(), file, output])
        finally:
            theirs.close()
        process = cls(pid, Connection(ours.detach()), file, output, mmap.mmap(file, _HEADER))
        try:
            # The server has those of the time when it was started.
            process.connection.send((os.getcwd(), dict(os.environ), sys.path, opener, argument))
            said = process._wait(timeout, 2**62)
        except BaseException:
            process.kill()
            raise
        if said is None or isinstance(said, Failure):
            failure = said or process._ended()
            process.kill()
            raise WorkerError(f"{failure.kind}: {failure.text}" if failure.kind != "raised" else failure.text)
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
            np.copyto(_array(self.memory, kind, extent, offset), array)
        out = _array(self.memory, np.dtype(dtype).str, (total, *shape), place)
        counter = _array(self.memory, "<i8", (1,), 0)
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
            # With a counter, each row has the whole time for itself.
            now_at = 0 if counter is None else int(counter[0])
            if now_at != row:
                row, deadline = now_at, time.monotonic() + timeout
            if self.connection.poll(_GLANCE):
                try:
                    return self.connection.recv()
                except (EOFError, ConnectionResetError):
                    return None
                except Exception as error:  # whatever the process wrote there, it is no message
                    return Failure("garbage", f"the process sent something unreadable: {_one_line(error)}")
            if (used := _resident(self.pid)) > memory:
                return Failure("out of memory", f"{used / 2**30:.1f} GiB used, more than {memory / 2**30:.1f} GiB")
            if time.monotonic() > deadline:
                return Failure("hung", f"no result after {timeout:.3g} s")
            if os.fstat(self.output).st_size > 64 * _MOST_OUTPUT:
                os.ftruncate(self.output, 0)

    def _ended(self, before: int = 0) -> Failure:
        """How the process ended, and what it said last."""
        status = _server().wait(self.pid)
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
        server = _running_server()
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


def _array(memory: mmap.mmap, dtype: str, shape: tuple[int, ...], offset: int) -> np.ndarray:
    return np.ndarray(shape, dtype, memory, offset)


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


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _last_words(text: str) -> str:
    """The last line that the code itself wrote, and the place in Python where it ended, if faulthandler knew."""
    own, fatal, trace = text.partition("Fatal Python error")
    lines = [" ".join(line.split()) for line in own.splitlines() if line.strip()]
    places = [" ".join(line.split()) for line in (fatal + trace).splitlines() if line.lstrip().startswith("File ")]
    elsewhere = (f'"{os.path.dirname(__file__)}{os.sep}', f'"{sysconfig.get_path("stdlib")}{os.sep}')
    ours = [place for place in places if "site-packages" in place or not any(folder in place for folder in elsewhere)]
    return "; ".join([*lines[-1:], *ours[:1]])[:400]


# The server: one for each client process, started when the first worker is.


@attrs.define
class _Server:
    """The process that processes are forked from."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    client: int

    def fork(self, module: str, files: list[int]) -> int:
        """The number of a new process, which has imported ``module`` and has these files."""
        return self._ask(["fork", module], files)

    def wait(self, pid: int) -> int:
        """The status with which a process has ended, if need be by force; that of SIGKILL for one that is not known."""
        return self._ask(["wait", pid])

    def _ask(self, order: list[Any], files: Sequence[int] = ()) -> int:
        try:
            socket.send_fds(self.control, [json.dumps(order).encode()], files)
            said = self.control.recv(64)
        except (BrokenPipeError, ConnectionResetError):
            said = b""
        if not said:
            raise WorkerError("the process that starts workers has ended")
        return int(said)


_the_server: _Server | None = None


def _running_server() -> _Server | None:
    server = _the_server
    # After a fork of the client, its server belongs to the parent.
    return server if server and server.client == os.getpid() and server.process.poll() is None else None


def _server() -> _Server:
    global _the_server
    if not hasattr(os, "fork"):
        raise WorkerError("candidates run in a process of their own, which needs a system with fork (Linux, macOS)")
    if (server := _running_server()) is not None:
        return server
    _stop()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    code = f"import sys; sys.path[:] = {sys.path!r}; from diffuzz.worker import _serve; _serve({theirs.fileno()})"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        # Ctrl-C is the client's; it ends the server by closing its end.
        start_new_session=True,
    )
    theirs.close()
    _the_server = _Server(process, ours, os.getpid())
    return _the_server


@atexit.register
def _stop() -> None:
    """End the server, if it is this process's, and wait until it has gone."""
    global _the_server
    if _the_server is not None and _the_server.client == os.getpid():
        _the_server.control.close()
        _the_server.process.wait()
    _the_server = None


def _serve(control_file: int) -> None:
    """The server's loop; forked processes do not return from it."""
    control = socket.socket(fileno=control_file)
    with _one_thread():
        importlib.import_module("numpy.linalg")
    while True:
        message, files, _, _ = socket.recv_fds(control, 4096, 3)
        if not message:
            os._exit(0)
        order, what = json.loads(message)
        if order == "wait":
            control.send(str(_reap(what)).encode())
            continue
        # Once, for all processes; one that cannot be imported is reported by the process.
        with contextlib.suppress(Exception):
            importlib.import_module(what)
        pid = os.fork()
        if pid == 0:
            control.close()
            with contextlib.suppress(BaseException):
                _work(*files)
            os._exit(0)
        for file in files:
            os.close(file)
        control.send(str(pid).encode())


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """What is imported meanwhile starts no threads, which would not survive a fork."""
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def _reap(pid: int) -> int:
    """The status of a process that has closed its connection, which is soon followed by its end."""
    try:
        for _ in range(250):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return status
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
        return os.waitpid(pid, 0)[1]
    except (ChildProcessError, ProcessLookupError):
        return int(signal.SIGKILL)


def _work(connection_file: int, memory_file: int, output_file: int) -> None:
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
        connection.send(Failure("raised", _one_line(error)))
        return
    connection.send(True)
    memory = mmap.mmap(memory_file, 0)
    while True:
        try:
            request, layout, result, size, timeout, one_by_one = connection.recv()
        except EOFError:
            return
        if size > len(memory):
            memory = mmap.mmap(memory_file, size)
        connection.send(_answer(function, request, memory, layout, result, timeout, one_by_one))


def _answer(
    function: Callable[[Any, dict[str, np.ndarray]], Any],
    request: Any,
    memory: mmap.mmap,
    layout: list[tuple[str, str, tuple[int, ...], int]],
    result: tuple[str, tuple[int, ...], int],
    timeout: float,
    one_by_one: bool,
) -> Failure | bool:
    arrays = {name: _array(memory, kind, extent, offset) for name, kind, extent, offset in layout}
    total = len(next(iter(arrays.values())))
    dtype, shape, place = result
    out = _array(memory, dtype, (total, *shape), place)
    counter = _array(memory, "<i8", (1,), 0)
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


def _run_one(
    function: Callable[[Any, dict[str, np.ndarray]], Any], request: Any, part: dict[str, np.ndarray], out: np.ndarray
) -> Failure | None:
    # The function may write to its arguments: they are its own copies already.
    try:
        got = np.asarray(function(request, part))
    except MemoryError as error:
        return Failure("out of memory", _one_line(error))
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        return Failure("raised", _one_line(error))
    if got.shape != out.shape or got.dtype != out.dtype:
        wanted, given = (f"{a.dtype}{list(a.shape)}" for a in (out, got))
        return Failure("garbage", f"returns {given}, where {wanted} is needed")
    out[...] = got
    return None
