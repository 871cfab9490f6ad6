"""Where slices are done: processes of this machine, a Dask cluster, or any executor of concurrent.futures.

    local              as many processes as the machine has cores, or ``--jobs``
    dask:local         a Dask cluster of this machine, which ends with the campaign
    dask://HOST:PORT   the Dask cluster of a scheduler
    MODULE:FUNCTION    what a function returns: an executor, such as mpi4py.futures.MPIPoolExecutor's or executorlib's

Whatever the place, a slice is done by ``in_process``, in a process of its own with one core: one that crashes, hangs or
takes all memory ends neither a worker of a cluster nor the campaign. The text of a task is all that is sent, and that
of its outcome all that comes back.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from typing import IO, Any

import attrs

from diffuzz.escaping import escaped
from diffuzz.registry import one_line

# Memory of a GPU as it is needed, where JAX would take most of it at once: several processes share the device.
SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
# One core a slice, whatever library computes; NPROC is XLA's.
ONE_CORE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC"), "1")
# Tasks after which a process is replaced: compiled programs add up in it.
_MOST_TASKS = 50
_LONGEST_TEXT = 300
_LONGEST_START = 30.0


class PlaceError(ValueError):
    """A place that there is not, or that cannot be reached; one line."""


@attrs.define(eq=False)
class _Process:
    """A process that does one task after the other."""

    running: subprocess.Popen[str]
    said: IO[bytes]
    tasks: int = 0
    overdue: bool = False

    @classmethod
    def started(cls) -> _Process:
        said = tempfile.TemporaryFile()  # noqa: SIM115, closed by end()
        running = subprocess.Popen(
            [sys.executable, "-m", "diffuzz.campaigns.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, encoding="utf-8",
            # A Ctrl-C is for the campaign, which ends this itself.
            env=SHARED | os.environ | ONE_CORE, start_new_session=True,
        )  # fmt: skip
        return cls(running, said)

    def ask(self, text: str, limit: float) -> str:
        """What comes of a task; nothing if the process ends before, or within ``limit`` seconds does not answer."""
        assert self.running.stdin is not None
        assert self.running.stdout is not None
        self.tasks += 1
        timer = threading.Timer(limit, self._is_overdue)
        timer.daemon = True
        timer.start()
        try:
            self.running.stdin.write(text + "\n")
            self.running.stdin.flush()
            return self.running.stdout.readline()
        except (OSError, ValueError):
            return ""
        finally:
            timer.cancel()

    def _is_overdue(self) -> None:
        self.overdue = True
        self.end()

    def end(self) -> None:
        """End it and all that it has started, if that has not ended."""
        with suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self.running.pid, signal.SIGKILL)
            else:
                self.running.kill()

    def how(self, limit: float) -> str:
        """How it ended, in words, with the last line that it wrote."""
        self.end()
        code = self.running.wait()
        if self.overdue:
            how = f"took more than {limit:.0f} s"
        elif code < 0:
            how = f"was ended by signal {-code}"
        else:
            how = f"ended with exit code {code}"
        self.said.seek(max(0, self.said.seek(0, os.SEEK_END) - 4096))
        lines = self.said.read().decode("utf-8", "replace").strip().splitlines()
        return f"{how}: {escaped(lines[-1])[:_LONGEST_TEXT]}" if lines and not self.overdue else how

    def close(self) -> None:
        """End it, and give back what it has."""
        self.end()
        self.running.wait()
        for stream in (self.running.stdin, self.running.stdout, self.said):
            with suppress(OSError, ValueError):
                if stream is not None:
                    stream.close()


_lock = threading.Lock()
_idle: list[_Process] = []
_busy: list[_Process] = []


def in_process(text: str, limit: float) -> str:
    """What comes of a task that is done in a process of its own, as JSON: the status ``died`` and how, if the process
    ended, or was ended after ``limit`` seconds.
    """
    with _lock:
        process = _idle.pop() if _idle else _Process.started()
        _busy.append(process)
    try:
        answer = process.ask(text, limit)
    finally:
        with _lock:
            # Not where all were ended meanwhile.
            known = process in _busy
            if known:
                _busy.remove(process)
    if answer.endswith("\n") and known and process.tasks < _MOST_TASKS:
        with _lock:
            _idle.append(process)
    else:
        how = "" if answer.endswith("\n") else process.how(limit)
        process.close()
        if how:
            return json.dumps({"status": "died", "why": how})
    return answer


def end_processes() -> None:
    """End the processes of this one, also those that are at work."""
    with _lock:
        idle, busy = [*_idle], [*_busy]
        _idle.clear()
        _busy.clear()
    for process in busy:
        # Closed by who waits for its answer.
        process.end()
    for process in idle:
        process.close()


@attrs.define(eq=False)
class Place:
    """Where slices are done: so many at once, in ``slots``. Used in a with statement."""

    name: str
    slots: int
    _open: Callable[[], tuple[Executor, Callable[[], None]]]
    _executor: Executor | None = None
    _close: Callable[[], None] | None = None
    # What ends the cluster that was started for it.
    end: Callable[[], None] | None = attrs.field(default=None, kw_only=True)

    def submit(self, text: str, limit: float) -> Future[str]:
        """Have a task done. Raises PlaceError."""
        try:
            if self._executor is None:
                self._executor, self._close = self._open()
            return self._executor.submit(in_process, text, limit)
        except (PlaceError, KeyboardInterrupt):
            raise
        except BaseException as error:
            # A function of others may raise SystemExit, too.
            raise PlaceError(f"--executor {self.name}: {one_line(error)}") from error

    def reopen(self) -> None:
        """Leave the executor; the next task gets another, as after a scheduler has restarted."""
        close, self._close, self._executor = self._close, None, None
        if close is not None:
            with suppress(Exception):
                close()

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        end_processes()
        self.reopen()
        if self.end is not None:
            with suppress(Exception):
                self.end()


def place(name: str, jobs: int | None) -> Place:
    """The place of this name, with so many ``jobs`` at once, if that is said. Raises PlaceError, ImportError."""
    if name == "local":
        slots = jobs or cores()

        def threads() -> tuple[Executor, Callable[[], None]]:
            pool = ThreadPoolExecutor(slots, thread_name_prefix="diffuzz")
            return pool, lambda: pool.shutdown(wait=True, cancel_futures=True)

        return Place(name, slots, threads)
    if name == "dask:local" or name.startswith("dask://"):
        return _dask(name, jobs)
    return _of_function(name, jobs)


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _dask(name: str, jobs: int | None) -> Place:
    try:
        import distributed
    except ImportError as error:
        raise ImportError(
            f"--executor {name} needs the package distributed: pip install 'diffuzz-kernels[dask]'"
        ) from error
    # What a scheduler says of workers that it has lost is said by the campaign, where it matters.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)

    def connected(to: Any) -> tuple[Executor, Callable[[], None]]:
        client = distributed.Client(to, timeout=_LONGEST_START, set_as_default=False)
        # Each slice is new, whatever was done before; a worker that is lost is told to the campaign.
        return client.get_executor(pure=False, retries=0), client.close

    if name == "dask:local":
        slots = jobs or cores()
        cluster = distributed.LocalCluster(
            n_workers=slots,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
        return Place(name, slots, lambda: connected(cluster), end=cluster.close)
    if re.fullmatch(r"dask://[^/\s]+:[0-9]{1,5}", name) is None:
        raise PlaceError(f"--executor {name}: dask://HOST:PORT is needed")
    address = "tcp://" + name.removeprefix("dask://")
    try:
        with distributed.Client(address, timeout=_LONGEST_START, set_as_default=False) as client:
            slots = jobs or sum(client.nthreads().values())
    except (OSError, ValueError) as error:
        raise PlaceError(f"--executor {name}: no scheduler answers there ({one_line(error)})") from error
    if not slots:
        raise PlaceError(f"--executor {name}: the scheduler has no workers yet; start some, or give --jobs")
    return Place(name, slots, lambda: connected(address))


def _of_function(name: str, jobs: int | None) -> Place:
    module, colon, function = name.partition(":")
    if not colon or not module or not function:
        raise PlaceError(
            f"--executor {name}: local, dask:local, dask://HOST:PORT or MODULE:FUNCTION is needed, a function that "
            "returns an executor"
        )
    if "" not in sys.path and os.getcwd() not in sys.path:
        # As `python -m` has it, wherever the command was found.
        sys.path.insert(0, os.getcwd())
    try:
        make = getattr(importlib.import_module(module), function)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # A module of others may raise anything.
        raise PlaceError(f"--executor {name}: {one_line(error)}, as seen from {os.getcwd()}") from error

    def made() -> tuple[Executor, Callable[[], None]]:
        executor = make()
        if not callable(getattr(executor, "submit", None)) or not callable(getattr(executor, "shutdown", None)):
            raise PlaceError(
                f"--executor {name}: it returns an object of type {type(executor).__name__}, which is no executor"
            )
        return executor, lambda: executor.shutdown(wait=False, cancel_futures=True)

    return Place(name, jobs or cores(), made)
