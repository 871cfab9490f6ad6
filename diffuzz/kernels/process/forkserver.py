"""The server that the processes of workers are forked from: one for each client, started with the first worker.

It has imported NumPy and little else, so that a new process costs milliseconds and inherits no threads. It also ends
the processes, and whatever they have started: it and each worker adopt the orphans among their descendants (on Linux),
so a child of the server that is no worker belongs to a worker that has ended. It ends when its client does, because
the socket between them is closed then, or because it has another parent; and it leaves nobody behind.

Code in a worker may stop or kill its parent, which is this server. A server that is stopped is continued, one that has
ended or does not answer is replaced, and what it leaves behind is found by a variable of its environment.

An order is a line of JSON, ``[number, "fork", modules]`` with three descriptors or ``[number, "wait", pid, seconds]``;
the answer is ``[number, result, text]``.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import attrs

from diffuzz.kernels.process.channel import kept, pair
from diffuzz.kernels.process.child import adopt_orphans, work
from diffuzz.kernels.process.files import last_lines, log_file

MARK = "DIFFUZZ_WORKERS"
# Seconds for an answer. Forking imports what the process needs, which may take long on a machine that is busy; ending a
# process takes as long as the system needs for that.
_FORKING, _ENDING = 120.0, 15.0
# A server that was continued so often is stopped by somebody who does not want it.
_MOST_CONTINUED = 20
# Seconds that killing all of what a worker has left behind may take, and what may be asked of a server that has ended.
_SWEEPING = 5.0
# As that of sysexits.h.
_SOFTWARE_ERROR = 70


class WorkerError(RuntimeError):
    """A process that cannot be started or opened; the message is one line that says why."""


class ResourceError(WorkerError):
    """What the system refuses: another process, or memory to share with it."""


@attrs.define
class Server:
    """The server's process, the client's end of the socket to it, and the client's process number.

    ``mark`` is in the environment of all that it has started; ``log`` takes what the server itself has to say.
    """

    process: subprocess.Popen[bytes]
    control: socket.socket
    client: int
    mark: str
    log: int
    _orders: int = attrs.field(init=False, default=0)
    _got: bytes = attrs.field(init=False, default=b"")
    _lock: threading.Lock = attrs.field(init=False, factory=threading.Lock)

    def fork(self, modules: Sequence[str], files: list[int]) -> int:
        """The number of a new process, which has imported ``modules`` and has these files (see ``child.work``).

        Raises ResourceError if there can be no other process, WorkerError if the server has ended.
        """
        pid, why = self._ask(["fork", list(modules)], _FORKING, files)
        if pid < 0:
            raise ResourceError(f"no process can be started ({why}): look at the limits of the system (ulimit -a)")
        return pid

    def wait(self, pid: int, seconds: float) -> tuple[int, bool]:
        """The status with which a process ends, and whether it had to be killed for that, after so many seconds; with
        all that it has started. Raises WorkerError if the server has ended.
        """
        status, how = self._ask(["wait", pid, seconds], seconds + _ENDING)
        return status, how == "killed"

    def alive(self) -> bool:
        """Whether the server is there."""
        return self.process.poll() is None

    def end(self) -> None:
        """End the server, by force if need be, and all that it has started."""
        self.control.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        try:
            self.process.wait(_SWEEPING + 1)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.returncode != 0:
            self.sweep()
        os.close(self.log)
        self.log = -1

    def sweep(self) -> None:
        """Kill what a server that has not ended by itself has left behind."""
        until = time.monotonic() + _SWEEPING
        while (found := _marked(self.mark)) and time.monotonic() < until:
            for pid in found:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)

    def _ask(self, order: list[object], seconds: float, files: Sequence[int] = ()) -> tuple[int, str]:
        with self._lock:
            self._orders += 1
            try:
                line = json.dumps([self._orders, *order]).encode() + b"\n"
                socket.send_fds(self.control, [line], files)
                return self._answer(time.monotonic() + seconds)
            except (OSError, EOFError):
                pass
        said = last_lines(self.log, 0) if self.log >= 0 else ()
        raise WorkerError("the process that starts workers has ended" + (f": {said[-1]}" if said else ""))

    def _answer(self, until: float) -> tuple[int, str]:
        poll, continued = select.poll(), 0
        poll.register(self.control.fileno(), select.POLLIN)
        while True:
            if poll.poll(50):
                more = self.control.recv(4096)
                if not more:
                    raise EOFError
                *lines, self._got = (self._got + more).split(b"\n")
                for line in lines:
                    number, result, text = json.loads(line)
                    # Others are the answers to orders that were interrupted.
                    if number == self._orders:
                        return result, text
                continue
            if _state(self.process.pid) in ("T", "t"):
                os.kill(self.process.pid, signal.SIGCONT)
                continued += 1
            if time.monotonic() > until or continued > _MOST_CONTINUED:
                self.process.kill()
                self.process.wait()
                self.sweep()
                raise EOFError


# By the variables that are asked for.
_servers: dict[frozenset[tuple[str, str]], Server] = {}
_NO_VARIABLES: Mapping[str, str] = MappingProxyType({})
# Servers of other environments that there are at once.
_MOST_SERVERS = 8
# How variables end that say how many threads a library starts.
_THREADS = "_NUM_THREADS"


def server(variables: Mapping[str, str] = _NO_VARIABLES) -> Server:
    """The server of this process, in whose environment these ``variables`` are, too; started if there is none.

    Without variables that say how many threads a library starts, those that the server imports start none.

    Raises WorkerError on a system without ``fork``, ResourceError if there can be no other process.
    """
    if not hasattr(os, "fork"):
        raise WorkerError(
            "candidates and the ggml library run in a process of their own, which needs a system with fork: Linux, or "
            f"macOS (this is {sys.platform})"
        )
    key = frozenset(variables.items())
    found = _servers.get(key)
    # After a fork of the client, the server belongs to the parent.
    if found is not None and found.client == os.getpid():
        if found.alive():
            return found
        _ended(key)
    others = [other for other in _servers if other and other != key]
    for other in others[: max(0, len(others) - _MOST_SERVERS + 1)]:
        _ended(other)
    _servers[key] = _started(variables)
    return _servers[key]


def _started(variables: Mapping[str, str]) -> Server:
    mark = f"{os.getpid()}-{os.urandom(8).hex()}"
    try:
        ours, theirs = pair()
        log = kept(log_file())
    except OSError as error:
        raise _refused(error) from error
    one_thread = not any(name.endswith(_THREADS) for name in variables)
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; "
        f"serve({theirs.fileno()}, {os.getpid()}, {one_thread})"
    )
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # What it says is quoted where it ends, and standard error of the client may be closed.
            stderr=log,
            pass_fds=[theirs.fileno()],
            env=os.environ | variables | {MARK: mark},
            # Ctrl-C is for the client, which ends the server by closing its end of the socket.
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        os.close(log)
        raise _refused(error) from error
    finally:
        theirs.close()
    # An order is far smaller than what a socket holds, so it waits only where the server has not read for long.
    ours.settimeout(_ENDING)
    return Server(process, ours, os.getpid(), mark, log)


def _refused(error: OSError) -> ResourceError:
    return ResourceError(f"no process can be started ({error.strerror}): look at the limits of the system (ulimit -a)")


@atexit.register
def _stop() -> None:
    """End the servers that are this process's, and wait until they have gone."""
    for key in tuple(_servers):
        _ended(key)


def _ended(key: frozenset[tuple[str, str]]) -> None:
    found = _servers.pop(key)
    if found.client == os.getpid():
        found.end()


def _state(pid: int) -> str:
    """The letter of a process's state; empty where that cannot be told."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _marked(mark: str) -> list[int]:
    """Numbers of the processes with ``mark`` in their environment, but for zombies."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0") and _state(int(folder.name)) != "Z":
                found.append(int(folder.name))
    return found


def serve(control_file: int, client: int, one_thread: bool = True) -> None:
    """The server's main function. Neither the server nor a forked process returns from it."""
    control = socket.socket(fileno=control_file)
    # It ends with its client, and not because something that a worker runs tells its parent to.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    # A worker may have stopped this process when its client ends.
    adopt_orphans(signal.SIGCONT)
    with _one_thread() if one_thread else contextlib.nullcontext():
        importlib.import_module("numpy.linalg")
    live: set[int] = set()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        _serve(control, client, live)
    for pid in live:
        _kill(pid)
    _sweep(set())
    # A client that was killed has not ended the server, so it ends itself.
    os._exit(0)


def _serve(control: socket.socket, client: int, live: set[int]) -> None:
    poll = select.poll()
    poll.register(control.fileno(), select.POLLIN)
    got, files = b"", list[int]()
    while True:
        if not poll.poll(1000):
            if os.getppid() != client:
                # Killed, while somebody that it had forked keeps its end of the socket open.
                return
            continue
        more, new, _, _ = socket.recv_fds(control, 4096, 3)
        if not more:
            return
        got, files = got + more, files + new
        while b"\n" in got:
            line, _, got = got.partition(b"\n")
            number, order, *what = json.loads(line)
            if order == "wait":
                pid, seconds = what
                status, how = _reap(pid, seconds)
                live.discard(pid)
                _sweep(live)
                answer = [number, status, how]
            else:
                answer = [number, *_fork(control, what[0], files)]
                live |= {pid for pid in answer[1:2] if pid > 0}
                for file in files:
                    os.close(file)
                files = []
            control.sendall(json.dumps(answer).encode() + b"\n")


def _fork(control: socket.socket, modules: list[str], files: list[int]) -> tuple[int, str]:
    """The number of a new process; or -1, and why there is none."""
    # Imported once, for all processes. If one cannot be imported, the process reports the error.
    for module in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        return -1, error.strerror or "unknown"
    if pid:
        return pid, ""
    status = 0
    try:
        control.close()
        work(parent, *files)
    except BaseException:
        # Into the log, from where the client quotes the last line.
        traceback.print_exc()
        status = _SOFTWARE_ERROR
    finally:
        os._exit(status)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Libraries that are imported in this context start no threads, which would not survive a fork."""
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def _kill(pid: int) -> None:
    """Kill a process and its group."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _reap(pid: int, seconds: float) -> tuple[int, str]:
    """The status of a process, and "killed" if it had to be killed, after ``seconds``; its group is killed, too."""
    until, how = time.monotonic() + seconds, ""
    try:
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                # Nobody has its number yet, as long as it has a group.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
                return status, how
            if time.monotonic() >= until:
                if how:
                    # Asleep in the kernel: it ends when it wakes up.
                    return int(signal.SIGKILL), how
                _kill(pid)
                until, how = time.monotonic() + _SWEEPING, "killed"
            time.sleep(0.001)
    except (ChildProcessError, ProcessLookupError):
        return int(signal.SIGKILL), ""


def _sweep(live: set[int]) -> None:
    """Kill every child that is no worker. Their children become ours, until there are none."""
    until = time.monotonic() + _SWEEPING
    while (others := _children() - live) and time.monotonic() < until:
        for pid in others:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for pid in others:
            with contextlib.suppress(ChildProcessError):
                while not os.waitpid(pid, os.WNOHANG)[0] and time.monotonic() < until:
                    time.sleep(0.0005)


def _children() -> set[int]:
    """Numbers of this process's children, so far as the system tells."""
    own = os.getpid()
    try:
        return {int(word) for word in Path(f"/proc/self/task/{own}/children").read_text().split()}
    except OSError:
        pass
    found = set()
    # A kernel without that list; where there is no /proc, none are found.
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            if int(file.read_text(errors="replace").rpartition(")")[2].split()[1]) == own:
                found.add(int(file.parent.name))
    return found
