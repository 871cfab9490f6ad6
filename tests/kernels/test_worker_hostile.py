"""Workers whose code does to descriptors, to its parent and to the system what it should not: it hangs nobody, fools
nobody, and leaves nobody behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from diffuzz.kernels.process import forkserver
from diffuzz.kernels.process.worker import Failure, Ran, ResourceError, Worker

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="orphans are adopted on Linux only")

SOURCE = r"""
import ctypes, os, pickle, signal, subprocess, sys, time
import numpy as np

TOP = 4096

class Bomb:
    def __reduce__(self):
        return (open, (os.environ["BOMB"], "w"))

class Odd(BaseException):
    pass

def each(action):
    for file in range(3, TOP):
        try:
            action(file)
        except OSError:
            pass

def daemon():
    # Twice, so that it has neither this parent nor this session.
    noted, end = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            note(end)
            time.sleep(600)
        os._exit(0)
    os.wait()
    os.read(noted, 1)

def note(end=None):
    with open(os.environ["PIDS"], "a") as file:
        file.write(f"{os.getpid()}\n")
    if end is not None:
        os.write(end, b"x")

def opened(how):
    def answer(request, arrays, out):
        x = arrays["x"]
        if (x[:, 0] >= 1e6).any():
            act(how, arrays, out)
        return x.sum(axis=1)
    return answer

def act(how, arrays, out):
    if how == "writes": each(lambda file: os.write(file, b"garbage"))
    if how == "sends a pickle": each(lambda file: os.write(file, pickle.dumps(Bomb())))
    if how == "closes": os.closerange(3, TOP); time.sleep(600)
    if how == "closes a few": os.closerange(3, 512)
    if how == "duplicates": each(lambda file: os.dup2(0, file)); time.sleep(600)
    if how == "truncates": each(lambda file: os.ftruncate(file, 0))
    if how == "says much": os.write(1, b"\x1b[31m" * 1000); os.write(2, b"\n")
    if how == "C library": ctypes.CDLL(None).printf(b"from C\n")
    if how == "closes standard streams": os.closerange(0, 3)
    if how == "no streams": sys.stdout = sys.stderr = None
    if how == "stops": os.kill(os.getpid(), signal.SIGSTOP)
    if how == "stops its parent": os.kill(os.getppid(), signal.SIGSTOP)
    if how == "stops its parent and hangs": os.kill(os.getppid(), signal.SIGSTOP); time.sleep(600)
    if how == "terminates its parent": os.kill(os.getppid(), signal.SIGTERM); os.kill(os.getppid(), signal.SIGHUP)
    if how == "kills its parent": os.kill(os.getppid(), signal.SIGKILL); time.sleep(600)
    if how == "kills its group": os.killpg(0, signal.SIGTERM)
    if how == "forks": os.fork()
    if how == "forks and crashes":
        noted, end = os.pipe()
        if os.fork() == 0:
            note(end); time.sleep(600)
        os.read(noted, 1); os.abort()
    if how == "becomes another": os.execv("/bin/sleep", ["sleep", "600"])
    if how == "daemon": daemon()
    if how == "session": subprocess.Popen(["sleep", "600"], start_new_session=True, preexec_fn=note)
    if how == "daemon and crashes": daemon(); os.abort()
    if how == "daemon and hangs": daemon(); time.sleep(600)
    if how == "daemon and stops its parent": daemon(); os.kill(os.getppid(), signal.SIGSTOP)
    if how == "daemon, stops its parent and hangs": daemon(); os.kill(os.getppid(), signal.SIGSTOP); time.sleep(600)
    if how == "odd": raise Odd("\x1b[31mred\x1b[0m\xa0\u202e\ud800")
    if how == "counter":
        memory = out
        while isinstance(memory, np.ndarray): memory = memory.base
        memory = memoryview(memory)
        memory[:8] = (-5).to_bytes(8, "little", signed=True)
        raise ValueError("counted")
    if how == "talks and raises": print("first\n\nlast \x1b[2J"); raise ValueError("no")
    if how == "talks and hangs": sys.stdout.write("no line break"); sys.stdout.flush(); time.sleep(600)
    if how == "talks and aborts": ctypes.CDLL(None).printf(b"said by C\n"); os.abort()
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hostile_kernels.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("BOMB", str(tmp_path / "bomb"))
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))


def worker(how: str, timeout: float = 1.0) -> Worker:
    return Worker("hostile_kernels:opened", how, timeout=timeout)


def batch(rows: int = 5, bad: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    x = np.ones((rows, 3), np.float32)
    x[list(bad), 0] = 1e6
    return {"x": x}


def run(one: Worker, arrays: dict[str, np.ndarray]) -> Ran:
    return one.run(None, arrays, shape=(), dtype="float32")


def right(ran: Ran, arrays: dict[str, np.ndarray]) -> bool:
    """Whether every row that did not fail has its result."""
    rows = [row for row in range(len(ran.result)) if row not in ran.failures and row not in ran.skipped]
    return bool((ran.result[rows] == arrays["x"][rows].sum(axis=1)).all())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids: list[int], seconds: float = 20.0) -> bool:
    """Whether all processes end within some seconds."""
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(map(alive, pids))


def noted(count: int) -> list[int]:
    """The numbers that processes have written, once there are so many."""
    file, deadline = Path(os.environ["PIDS"]), time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if len(words := file.read_text().split()) >= count:
                return [int(word) for word in words]
        time.sleep(0.01)
    raise AssertionError("nothing was started")


@pytest.mark.parametrize(
    "how",
    [
        "writes", "sends a pickle", "closes a few", "truncates", "says much", "C library", "closes standard streams",
        "no streams", "stops its parent", "terminates its parent", "forks",
    ],
)  # fmt: skip
def test_what_does_no_harm(how: str, tmp_path: Path) -> None:
    """The function's results are taken as they are, in the same batch and in the next ones."""
    with worker(how, timeout=10.0) as one:
        for arrays in (batch(bad=(2,)), batch(3), batch(5000, bad=(4999,)), batch(1)):
            ran = run(one, arrays)
            assert ({}, None) == (ran.failures, ran.passing)
            assert right(ran, arrays)
        assert 1 == one.starts
    assert not (tmp_path / "bomb").exists()


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ("closes", "crashed", "it closed a file descriptor that it had not opened"),
        ("duplicates", "crashed", "it closed a file descriptor that it had not opened"),
        ("becomes another", "crashed", "it closed a file descriptor that it had not opened"),
        ("stops", "hung", "no result after "),
        ("stops its parent and hangs", "hung", "no result after "),
        ("kills its parent", "crashed", "SIGKILL"),
        ("kills its group", "crashed", "SIGTERM"),
        ("forks and crashes", "crashed", "SIGABRT"),
        ("odd", "raised", r"Odd: \x1b[31mred\x1b[0m\xa0\u202e\ud800"),
        ("counter", "raised", "ValueError: counted"),
    ],
)
def test_what_is_a_failure(how: str, kind: str, text: str) -> None:
    """It is one of its row, said in one line that controls nothing, in about the time of the limits; what comes next is
    right.
    """
    with worker(how) as one:
        run(one, batch())
        started = time.monotonic()
        arrays = batch(bad=(2,))
        ran = run(one, arrays)
        took = time.monotonic() - started
        assert [2] == list(ran.failures)
        assert (kind, True) == (ran.failures[2].kind, ran.failures[2].text.startswith(text))
        assert ran.failures[2].text.isprintable()
        assert right(ran, arrays)
        assert took < 30
        assert right(run(one, batch(7)), batch(7))


@pytest.mark.parametrize("how", ["daemon", "session", "daemon and crashes", "daemon and hangs", "forks and crashes"])
def test_a_normal_end_leaves_nobody(how: str) -> None:
    """What a function has started ends with its process, in whatever session it is, and whoever its parent was."""
    with worker(how) as one, worker("other") as other:
        run(other, batch())
        run(one, batch(1, bad=(0,)))
        started = noted(1)
    assert gone(started)


def test_others_are_left_alone() -> None:
    """What another worker has started, and what has lost its parent there, lives on until that worker ends."""
    with worker("daemon") as one:
        run(one, batch(1, bad=(0,)))
        (daemon,) = noted(1)
        with worker("daemon and crashes") as other:
            run(other, batch(1, bad=(0,)))
        assert gone([pid for pid in noted(2) if pid != daemon])
        assert alive(daemon)
    assert gone([daemon])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(
    "what", ["daemon and hangs", "session", "daemon and stops its parent", "daemon, stops its parent and hangs"]
)
def test_a_client_that_is_killed_leaves_nobody(how: signal.Signals, what: str, tmp_path: Path) -> None:
    """Server, worker, and all that the worker has started end with the client."""
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import time\nimport numpy as np\nfrom diffuzz.kernels.process import forkserver\n"
        "from diffuzz.kernels.process.worker import Worker\n"
        f"one = Worker('hostile_kernels:opened', {what!r}, timeout=60.0)\n"
        "one.run(2.0, {'x': np.zeros((1, 2), np.float32)}, shape=(), dtype='float32')\n"
        "print(one._process.pid, forkserver.server().process.pid, flush=True)\n"
        "one.run(2.0, {'x': np.full((1, 2), 1e6, np.float32)}, shape=(), dtype='float32')\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as client:
        try:
            assert client.stdout is not None
            pids = [int(word) for word in client.stdout.readline().split()]
            pids += noted(1)
            assert 3 == len(pids)
            assert all(map(alive, pids))
        finally:
            client.send_signal(how)
    assert gone(pids)


def test_a_client_ends_beside_a_server_that_is_stopped(tmp_path: Path) -> None:
    """A function that has stopped its parent does not keep the client from ending, nor anybody alive."""
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import numpy as np\nfrom diffuzz.kernels.process import forkserver\n"
        "from diffuzz.kernels.process.worker import Worker\n"
        "one = Worker('hostile_kernels:opened', 'stops its parent', timeout=60.0)\n"
        "one.run(2.0, {'x': np.full((1, 2), 1e6, np.float32)}, shape=(), dtype='float32')\n"
        "print(one._process.pid, forkserver.server().process.pid, flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (0, "") == (done.returncode, done.stderr)
    assert gone([int(word) for word in done.stdout.split()])


def test_a_client_that_is_forked_leaves_the_process_to_its_parent() -> None:
    """Closing a worker in a process that the client has forked ends nothing."""
    with worker("other") as one:
        run(one, batch())
        with warnings.catch_warnings():
            # Of a test before this one JAX may have left threads, of which the child uses none.
            warnings.simplefilter("ignore")
            pid = os.fork()
        if pid == 0:
            one.close()
            os._exit(0)
        os.waitpid(pid, 0)
        assert right(run(one, batch(3)), batch(3))
        assert 1 == one.starts


def test_a_worker_outlives_its_server() -> None:
    """One whose server has ended, and been replaced for another worker, starts again with the new one."""
    with worker("other") as one, worker("daemon") as other:
        run(one, batch())
        server = forkserver.server()
        server.process.kill()
        server.process.wait()
        run(other, batch())
        assert right(run(one, batch(3)), batch(3))
        one.close()
        assert right(run(one, batch(4)), batch(4))


def test_a_server_that_is_killed_leaves_nobody() -> None:
    """What its workers had started is found, and ended, when the next worker is needed."""
    with worker("session") as one:
        run(one, batch(1, bad=(0,)))
        assert one._process is not None
        pids = [*noted(1), one._process.pid]
        server = forkserver.server()
        server.process.kill()
        server.process.wait()
        assert right(run(one, batch()), batch())
        assert forkserver.server() is not server
        assert gone(pids)


def test_a_server_that_does_not_go_on_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is stopped again and again is ended after a while; the batch has its results from another."""
    with worker("other") as one:
        run(one, batch())
    server = forkserver.server()
    code = f"import os, signal, time\nwhile True: os.kill({server.process.pid}, signal.SIGSTOP); time.sleep(0.0005)"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as stopper:
        try:
            # Once it is at work.
            while forkserver._state(server.process.pid) != "T":
                time.sleep(0.01)
            with worker("other") as one:
                assert right(run(one, batch()), batch())
            assert not server.alive() or forkserver.server() is server
        finally:
            stopper.kill()


@pytest.mark.parametrize(
    ("how", "wrote"),
    [
        ("talks and raises", ("first", r"last \x1b[2J")),
        ("talks and hangs", ("no line break",)),
        ("talks and aborts", ("said by C",)),
        ("odd", ()),
    ],
)
def test_a_failure_quotes_what_was_said(how: str, wrote: tuple[str, ...]) -> None:
    """The last lines of its output, however it failed, fit to be printed; nothing that another call has said."""
    with worker("says much") as other:
        run(other, batch(1, bad=(0,)))
    with worker(how) as one:
        run(one, batch())
        assert wrote == run(one, batch(1, bad=(0,))).failures[0].wrote


def test_what_was_said_does_not_tell_failures_apart() -> None:
    """A hang is the same hang, whatever the function prints meanwhile."""
    assert Failure("hung", "no result", wrote=("a",)) == Failure("hung", "no result")


def test_no_room_for_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that says how much and what to do, and no SIGBUS, where the system has not so much memory to share."""

    def full(file: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    with worker("other") as one:
        run(one, batch())
        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(ResourceError, match=r"^0\.1 MiB of memory to share .* \(No space left on device"):
            run(one, batch(9000))
        monkeypatch.undo()


def test_a_small_folder_of_shared_memory() -> None:
    """A /dev/shm of 64 KiB does not matter, though a batch is larger."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\nimport numpy as np\n"
        "from diffuzz.kernels.process.worker import Worker\n"
        "with Worker('hostile_kernels:opened', '') as one:\n"
        "    x = np.ones((100_000, 3), np.float32)\n"
        "    print(one.run(None, {'x': x}, shape=(), dtype='float32').result.sum())\n"
    )
    mount = "mount -t tmpfs -o size=64k none /dev/shm"
    folder = str(Path(os.environ["PIDS"]).parent)
    separate = ["unshare", "--map-root-user", "--user", "--mount", "sh", "-c"]
    try:
        subprocess.run([*separate, mount], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("no folder can be mounted here")
    line = f'{mount} && exec "$0" -c "$1" "$2"'
    done = subprocess.run([*separate, line, sys.executable, code, folder], capture_output=True, text=True, timeout=120)
    assert ("300000.0\n", 0) == (done.stdout, done.returncode), done.stderr


@pytest.mark.parametrize("limit", ["RLIMIT_FSIZE", "RLIMIT_NPROC"])
def test_limits_of_the_system_are_one_line(limit: str, tmp_path: Path) -> None:
    """No process, or no memory to share with it: said as such, whatever the function would have done."""
    code = (
        "import os, resource, sys; sys.path.insert(0, sys.argv[1])\nimport numpy as np\n"
        "from diffuzz.kernels.process.worker import ResourceError, Worker\n"
        # Root has no limit of processes.
        "if os.getuid() == 0 and sys.argv[2] == 'RLIMIT_NPROC': os.setuid(65534)\n"
        "resource.setrlimit(getattr(resource, sys.argv[2]), (0, 0))\n"
        "try: Worker('hostile_kernels:opened', '').run(None, {'x': np.ones((9, 3))}, shape=(), dtype='float32')\n"
        "except ResourceError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), limit], cwd="/", capture_output=True, text=True, timeout=120
    )
    wanted = {
        "RLIMIT_FSIZE": "0.0 MiB of memory to share with a process cannot be had (File too large): free memory, ",
        "RLIMIT_NPROC": "no process can be started (Resource temporarily unavailable)",
    }
    assert done.stdout.startswith(wanted[limit]), done.stderr
    assert 1 == done.stdout.count("\n")
