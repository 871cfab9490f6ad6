"""The server that the processes of workers are forked from: one for each client, started with the first worker.

It has imported NumPy and little else, so that a new process costs milliseconds and inherits no threads. It also reaps
the processes that have ended. It ends when its client does, because the socket between them is closed then.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import attrs

from diffuzz.kernels.process.child import work


class WorkerError(RuntimeError):
    """A process that cannot be started or opened; the message is one line that says why."""


@attrs.define
class Server:
    """The server's process, the client's end of the socket to it, and the client's process number."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    client: int

    def fork(self, module: str, files: list[int]) -> int:
        """The number of a new process, which has imported ``module`` and has these files (see ``child.work``)."""
        return self._ask(["fork", module], files)

    def wait(self, pid: int) -> int:
        """The status with which a process ends, killed after half a second; that of SIGKILL for an unknown one."""
        return self._ask(["wait", pid])

    def _ask(self, order: list[str | int], files: Sequence[int] = ()) -> int:
        try:
            socket.send_fds(self.control, [json.dumps(order).encode()], files)
            said = self.control.recv(64)
        except (BrokenPipeError, ConnectionResetError):
            said = b""
        if not said:
            raise WorkerError("the process that starts workers has ended")
        return int(said)


_the_server: Server | None = None


def running() -> Server | None:
    """The server of this process, or None if it has none that is alive."""
    found = _the_server
    # After a fork of the client, the server belongs to the parent.
    return found if found and found.client == os.getpid() and found.process.poll() is None else None


def server() -> Server:
    """The server of this process, started if there is none. Raises WorkerError on a system without ``fork``."""
    global _the_server
    if not hasattr(os, "fork"):
        raise WorkerError("candidates run in a process of their own, which needs a system with fork (Linux, macOS)")
    if (found := running()) is not None:
        return found
    _stop()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve({theirs.fileno()})"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        # Ctrl-C is for the client, which ends the server by closing its end of the socket.
        start_new_session=True,
    )
    theirs.close()
    _the_server = Server(process, ours, os.getpid())
    return _the_server


@atexit.register
def _stop() -> None:
    """End the server, if it is this process's, and wait until it has gone."""
    global _the_server
    if _the_server is not None and _the_server.client == os.getpid():
        _the_server.control.close()
        _the_server.process.wait()
    _the_server = None


def serve(control_file: int) -> None:
    """The server's main function. Neither the server nor a forked process returns from it."""
    control = socket.socket(fileno=control_file)
    with _one_thread():
        importlib.import_module("numpy.linalg")
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        _serve(control)
    # A client that was killed has not ended the server, so it ends itself.
    os._exit(0)


def _serve(control: socket.socket) -> None:
    while True:
        message, files, _, _ = socket.recv_fds(control, 4096, 3)
        if not message:
            return
        order, what = json.loads(message)
        if order == "wait":
            control.send(str(_reap(what)).encode())
            continue
        # Imported once, for all processes. If it cannot be imported, the process reports the error.
        with contextlib.suppress(Exception):
            importlib.import_module(what)
        pid = os.fork()
        if pid == 0:
            control.close()
            with contextlib.suppress(BaseException):
                work(*files)
            os._exit(0)
        for file in files:
            os.close(file)
        control.send(str(pid).encode())


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


def _reap(pid: int) -> int:
    """The status of a process that has closed its connection, so it should end soon; it is killed if it does not."""
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
