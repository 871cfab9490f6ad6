"""Workers: results to the bit, every way to fail told apart and of its row, nothing lost, and nobody left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from diffuzz.kernels.process import forkserver
from diffuzz.kernels.process import worker as process
from diffuzz.kernels.process.worker import Failure, Ran, Worker, WorkerError
from diffuzz.registry import one_line

BAD = 1e6
SOURCE = """
import ctypes, os, sys, time
import numpy as np

def opened(how):
    if how == "raises at once":
        raise RuntimeError("no\\nlibrary")
    if how == "ends at once":
        os._exit(3)
    state = {"calls": 0}

    def answer(request, arrays, out):
        state["calls"] += 1
        x = arrays["x"]
        if how == "fails from the third call on" and state["calls"] > 2:
            raise ValueError("worn out")
        if how == "only in company" and len(x) > 4:
            os.abort()
        if how == "slow" and len(x) > 4:
            time.sleep(60)
        if how == "writes to its arguments":
            total = x.sum(axis=1)
            x[:] = 7
            return total
        if how == "pid":
            return np.full(len(x), os.getpid(), np.float32)
        if (x[:, 0] >= 1e6).any():
            if how == "string_at": print("said before", flush=True); ctypes.string_at(0)
            if how == "abort": os.write(2, b"ASSERT failed\\n"); os.abort()
            if how == "_exit": os._exit(7)
            if how == "exit": sys.exit(3)
            if how == "raise": raise ValueError("x is\\nlarge")
            if how == "loop":
                while True: pass
            if how == "flood":
                while True: print("x" * 100000)
            if how == "memory":
                kept = []
                while True: kept.append(np.ones(2**22))
            if how == "MemoryError": raise MemoryError("no room")
            if how == "dtype": return x.sum(axis=1).astype(np.float64)
            if how == "shape": return x
            if how == "object": return None
            if how == "connection": os.closerange(3, 4096); time.sleep(60)
        return x.sum(axis=1) * np.float32(request)

    return answer
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad_kernels.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))


def worker(how: str, **more: float) -> Worker:
    return Worker("bad_kernels:opened", how, **({"timeout": 0.5, "memory": 2**30} | more))  # type: ignore[arg-type]


def batch(rows: int = 64, bad: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    x = np.random.default_rng(rows).random((rows, 24)).astype(np.float32)
    x[list(bad), 0] = BAD
    return {"x": x}


def run(one: Worker, arrays: dict[str, np.ndarray]) -> Ran:
    return one.run(2.0, arrays, shape=(), dtype="float32")


def right(arrays: dict[str, np.ndarray], ran: Ran) -> bool:
    """All rows that did not fail have their results, to the bit; the others are zero."""
    good = [row for row in range(len(ran.result)) if row not in ran.failures and row not in ran.skipped]
    bad = [row for row in range(len(ran.result)) if row not in good]
    sums = [arrays["x"][row : row + 1].sum(axis=1)[0] * np.float32(2) for row in good]
    return bool((ran.result[good] == np.array(sums, np.float32)).all() and (ran.result[bad] == 0).all())


def alive(pid: int) -> bool:
    """Whether the process is there, and is no zombie that waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(pid)


def test_results_are_those_of_the_function() -> None:
    """Small and large batches, of several shapes, in one process; the arguments stay as they were."""
    with worker("fine") as one:
        for rows in (1, 64, 3, 5000, 2):
            arrays = batch(rows)
            before = arrays["x"].copy()
            ran = run(one, arrays)
            assert (ran.failures, ran.skipped, ran.passing) == ({}, frozenset(), None)
            assert right(arrays, ran)
            assert (arrays["x"] == before).all()
        assert one.starts == 1


def test_arguments_are_copies() -> None:
    """A function may write to its arrays; the caller's stay as they were, and so do the results that it has."""
    with worker("writes to its arguments") as one:
        arrays = batch()
        before = arrays["x"].copy()
        first = run(one, arrays).result
        kept = first.copy()
        run(one, batch(65))
        assert (arrays["x"] == before).all()
        assert (first == kept).all()


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ("string_at", "crashed", "SIGSEGV: said before; File "),
        ("abort", "crashed", "SIGABRT: ASSERT failed; File "),
        ("_exit", "crashed", "ended with exit status 7"),
        ("exit", "raised", "SystemExit: 3"),
        ("raise", "raised", "ValueError: x is large"),
        ("memory", "out of memory", " GiB used, more than "),
        ("MemoryError", "out of memory", "MemoryError: no room"),
        ("dtype", "garbage", "returns float64[1], where float32[1] is needed"),
        ("shape", "garbage", "returns float32[1, 24], where float32[1] is needed"),
        ("object", "garbage", "returns object[], where float32[1] is needed"),
        ("connection", "crashed", "it closed a file descriptor that it had not opened"),
    ],
)
def test_failures_are_of_their_rows(how: str, kind: str, text: str) -> None:
    """Each bad row is named with what happened on it; all others have their results."""
    arrays = batch(bad=(17, 40))
    with worker(how, memory=2**28) as one:
        ran = run(one, arrays)
        assert sorted(ran.failures) == [17, 40]
        assert {failure.kind for failure in ran.failures.values()} == {kind}
        assert all(text in failure.text and "\n" not in failure.text for failure in ran.failures.values())
        assert right(arrays, ran)
        assert right(batch(5), run(one, batch(5)))


def test_memory_is_of_the_row_that_fills_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of one that was done while the client waited, as it does for long on a busy machine."""
    monkeypatch.setattr(process, "_GLANCE", 0.3)
    with worker("memory", memory=2**28, timeout=10) as one:
        ran = run(one, batch(bad=(17, 40)))
        assert (sorted(ran.failures), ran.passing) == ([17, 40], None)


@pytest.mark.parametrize("how", ["loop", "flood"])
def test_what_hangs_is_ended(how: str) -> None:
    """The first row that hangs is named, the rest of its batch left alone; the next batch is as if nothing had been."""
    arrays = batch(bad=(17, 40))
    with worker(how) as one:
        run(one, batch(3))
        ran = run(one, arrays)
        assert ran.failures == {17: Failure("hung", "no result after 0.5 s")}
        assert ran.skipped == frozenset(range(18, 64))
        assert right(arrays, ran)
        assert right(batch(5), run(one, batch(5)))


def test_what_a_hang_says() -> None:
    """The limit that was applied, and why it was not that of a call; a row that was alone is not called again."""
    with worker("loop", timeout=0.25) as one:
        started = time.monotonic()
        ran = run(one, batch(1, bad=(0,)))
        assert ran.failures == {
            0: Failure("hung", "no result after 1.5 s of the first call (6 times the timeout of 0.25 s)")
        }
        assert (one.starts, time.monotonic() - started < 3) == (1, True)
        assert run(one, batch(1, bad=(0,))).failures == {0: Failure("hung", "no result after 0.25 s")}
    with worker("loop", timeout=1.5) as one:
        run(one, batch(3))
        assert run(one, batch(1, bad=(0,))).failures == {0: Failure("hung", "no result after 1.5 s")}
        started = time.monotonic()
        text = "no result after 1 s (the limit was 1.5 s until a call took longer)"
        ran = run(one, batch(64, bad=(3,)))
        assert ran.failures == {3: Failure("hung", text)}
        # Row by row at once: the batch would only have hung as well.
        assert time.monotonic() - started < 1.9


@pytest.mark.parametrize(("timeout", "first"), [(0.5, 3.0), (10.0, 30.0), (60.0, 60.0)])
def test_the_first_call_has_more_time(timeout: float, first: float) -> None:
    """Six times as much, unless that is more than half a minute."""
    assert worker("fine", timeout=timeout)._first_timeout == first


def test_what_hangs_while_it_opens(tmp_path: Path) -> None:
    """It is an error, of loading."""
    (tmp_path / "never.py").write_text("while True: pass\n")
    with (
        Worker("never:opened", None, timeout=0.1) as one,
        pytest.raises(WorkerError, match=r"^loading took more than 0\.6 s \(6 times the timeout of 0\.1 s\)$"),
    ):
        run(one, batch())


def test_an_exception_that_goes_on_and_on() -> None:
    """What it says is cut; a failure is one line that people read."""
    assert len(one_line(ValueError("x" * 10**6))) < 500
    assert one_line(ValueError("x" * 10**6)).endswith("xxx ...")


def test_the_server_leaves_quietly() -> None:
    """A client that has gone before it is answered is no error to print."""
    ours, theirs = socket.socketpair()
    code = f"from diffuzz.kernels.process.forkserver import serve; serve({theirs.fileno()}, {os.getpid()})"
    with subprocess.Popen(
        [sys.executable, "-c", code], pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True
    ) as server:
        theirs.close()
        # No process of ours: answered at once, to nobody.
        ours.send(b'[1, "wait", 1, 0]\n')
        ours.close()
        assert (server.communicate(timeout=60)[1], server.returncode) == ("", 0)


def test_one_row_that_fails() -> None:
    """A batch of one row has nothing to isolate."""
    with worker("abort") as one:
        assert run(one, batch(1, bad=(0,))).failures[0].kind == "crashed"


def test_many_rows_that_fail() -> None:
    """After some failures the rest of a batch is left alone: it would take for ever."""
    with worker("abort") as one:
        ran = run(one, batch(64, bad=tuple(range(20, 60))))
        assert sorted(ran.failures) == list(range(20, 28))
        assert ran.skipped == frozenset(range(28, 64))


def test_a_failure_of_the_batch_is_of_no_row() -> None:
    """What only fails in company is said, and every row has its result."""
    arrays = batch()
    with worker("only in company") as one:
        ran = run(one, arrays)
        assert ran.passing is not None
        assert ran.passing.kind == "crashed"
        assert not ran.failures
        assert right(arrays, ran)


def test_a_batch_that_is_too_slow_is_cut() -> None:
    """Rows that are in time alone do not hang; later batches are smaller, until they are in time as well."""
    with worker("slow") as one:
        run(one, batch(2))
        for _ in range(5):
            ran = run(one, batch(16))
            assert not ran.failures
            assert right(batch(16), ran)
        assert ran.passing is None


def test_a_failure_that_does_not_come_again_is_of_no_row() -> None:
    """A state that has gone wrong fails on any row: in a fresh process none does."""
    with worker("fails from the third call on") as one:
        for _ in range(6):
            ran = run(one, batch(3))
            assert not ran.failures
            assert right(batch(3), ran)


@pytest.mark.parametrize(
    ("opener", "how", "message"),
    [
        ("bad_kernels:opened", "raises at once", "RuntimeError: no library"),
        ("bad_kernels:opened", "ends at once", "crashed: ended with exit status 3"),
        ("no_such_module:opened", "", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("bad_kernels:missing", "", "AttributeError: "),
    ],
)
def test_what_cannot_be_opened_is_an_error(opener: str, how: str, message: str) -> None:
    """It is no failure of a row: one line, whenever a batch is run."""
    with Worker(opener, how) as one:
        for _ in range(2):
            with pytest.raises(WorkerError, match=message) as error:
                run(one, batch())
            assert "\n" not in str(error.value)


def test_random_kills_lose_nothing() -> None:
    """A process that somebody else kills is started again: every row has its result, and no row is blamed."""
    rng = np.random.default_rng(0)
    with worker("fine") as one:
        run(one, batch())
        done = threading.Event()

        def killer() -> None:
            while not done.is_set():
                time.sleep(float(rng.uniform(0.001, 0.03)))
                if (process := one._process) is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)

        thread = threading.Thread(target=killer)
        thread.start()
        try:
            deadline = time.monotonic() + 2
            while time.monotonic() < deadline:
                arrays = batch(int(rng.integers(2, 300)))
                ran = run(one, arrays)
                assert not ran.failures
                assert not ran.skipped
                assert right(arrays, ran)
        finally:
            done.set()
            thread.join()
        assert one.starts > 5


def test_the_server_may_be_killed_too() -> None:
    """Its processes end with it, and the next batch starts another."""
    with worker("pid") as one:
        pid = int(run(one, batch(1)).result[0])
        server = forkserver.server()
        server.process.kill()
        server.process.wait()
        assert gone(pid)
        ran = run(one, batch(2))
        assert not ran.failures
        assert int(ran.result[0]) != pid


def test_nobody_is_left_behind(tmp_path: Path) -> None:
    """A client that is killed while its worker is in an endless loop takes server and worker with it."""
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import numpy as np\nfrom diffuzz.kernels.process import forkserver\n"
        "from diffuzz.kernels.process.worker import Worker\n"
        "idle = Worker('bad_kernels:opened', 'pid')\n"
        "pid = idle.run(2.0, {'x': np.zeros((1, 2))}, shape=(), dtype='float32')\n"
        "one = Worker('bad_kernels:opened', 'loop', timeout=60.0)\n"
        "one.run(2.0, {'x': np.zeros((1, 2), np.float32)}, shape=(), dtype='float32')\n"
        "print(int(pid.result[0]), one._process.pid, forkserver.server().process.pid, flush=True)\n"
        "one.run(2.0, {'x': np.full((1, 2), 1e6, np.float32)}, shape=(), dtype='float32')\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as client:
        try:
            assert client.stdout is not None
            pids = [int(word) for word in client.stdout.readline().split()]
            assert len(pids) == 3
            time.sleep(0.2)
            assert all(map(alive, pids))
        finally:
            client.kill()
    assert all(map(gone, pids))


def test_an_interrupt_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a batch runs: the process is ended, and the next batch gets its own answer, not that of the last."""
    with worker("loop", timeout=60.0) as one:
        run(one, batch(2))
        assert one._process is not None
        pid = one._process.pid
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            run(one, batch(bad=(3,)))
        timer.join()
        assert gone(pid)
        assert right(batch(5), run(one, batch(5)))
