"""Systems that lack something: the rest works, and what does not says so by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

# What Windows has not; where Python is asked for it, diffuzz is in trouble there.
WITHOUT = """
import os, select, signal, socket, sys
for module in ("fcntl", "resource"):
    sys.modules[module] = None
for module, names in (
    (os, ("fork", "killpg", "setsid", "sysconf", "sched_yield", "register_at_fork", "waitid", "pidfd_open",
          "memfd_create", "posix_fallocate", "getppid")),
    (select, ("poll",)),
    (signal, ("SIGKILL", "SIGHUP", "SIGALRM", "SIGSTOP", "SIGCONT", "setitimer", "ITIMER_REAL")),
    (socket, ("send_fds", "recv_fds", "AF_UNIX")),
):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
from diffuzz.cli.main import main
main(sys.argv[1:])
"""
# What macOS has not.
NO_LINUX = """
import os, signal, socket, sys
for module, names in (
    (os, ("pidfd_open", "memfd_create", "posix_fallocate", "MFD_CLOEXEC", "MFD_ALLOW_SEALING")),
    (signal, ("pidfd_send_signal",)),
    (socket, ("SOCK_SEQPACKET",)),
):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
from diffuzz.cli.main import main
main(sys.argv[1:])
"""
SEARCH = ("search", "--target", "softmax", "--engine", "random", "--budget", "1s", "--no-save", "--json")


def _ran(code: str, folder: Path, *arguments: str) -> tuple[int, str, str]:
    # jax loads filelock, where it is installed, and that warns of a system like this.
    environment = {**os.environ, "PYTHONWARNINGS": "ignore:only soft file lock"}
    done = subprocess.run(
        [sys.executable, "-c", code, *SEARCH, *arguments],
        cwd=folder, capture_output=True, text=True, timeout=300, env=environment,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_a_system_without_fork(tmp_path: Path) -> None:
    """Claims are searched; a candidate, which needs a process of its own, is refused in one line that says why."""
    code, out, err = _ran(WITHOUT, tmp_path, "--param", "n=3")
    assert (True, "") == (code in (0, 1), err)
    assert json.loads(out.splitlines()[-1])["evaluations"] > 0
    (tmp_path / "mine.py").write_text("def f(z):\n    return z\n")
    code, out, err = _ran(WITHOUT, tmp_path, "--candidate", "mine.py:f")
    assert (2, "", 1) == (code, out, err.count("\n"))
    assert "run in a process of their own, which needs a system with fork: Linux, or macOS" in err


def test_a_system_with_fork_that_is_not_linux(tmp_path: Path) -> None:
    """A candidate runs without what only Linux has."""
    (tmp_path / "mine.py").write_text("def f(z):\n    if z.max() > 8: raise ValueError('no')\n    return z\n")
    code, out, err = _ran(NO_LINUX, tmp_path, "--candidate", "mine.py:f")
    assert (1, "") == (code, err)
    assert json.loads(out.splitlines()[-1])["verdict"] == "CONFIRMED"
