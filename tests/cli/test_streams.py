"""Standard streams that are closed, full or gone: workers work, and the exit code is that of the command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BAD = "search --target nothing"
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def _code(command: str, streams: str, folder: Path) -> int:
    """The exit code of a command whose standard streams the shell has changed."""
    line = f'exec "$0" -m diffuzz {command} {streams}'
    done = subprocess.run(["sh", "-c", line, sys.executable], cwd=folder, capture_output=True, timeout=120)
    return done.returncode


@pytest.mark.parametrize(
    "streams", ["2>&-", "<&- 2>&-", ">&- 2>&-", pytest.param("2>/dev/full", marks=FULL), "2>&1 | true"]
)
def test_an_error_keeps_its_exit_code(streams: str, tmp_path: Path) -> None:
    """Bad input is 2 also where nobody can be told; never 1, which says that a witness was found."""
    if "|" in streams:
        # A reader that has gone before there is anything to read.
        code = (
            "import os, subprocess, sys; r, w = os.pipe(); os.close(r); "
            f"sys.exit(subprocess.call([sys.executable, '-m', 'diffuzz', *{BAD.split()!r}], stderr=w))"
        )
        assert 2 == subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=120).returncode
    else:
        assert 2 == _code(BAD, streams, tmp_path)


@FULL
@pytest.mark.parametrize(
    ("body", "code"), [("raise RuntimeError('a defect')", 70), ("raise ImportError('a package is missing')", 3)]
)
def test_other_exit_codes(body: str, code: int, tmp_path: Path) -> None:
    """A defect is 70 and what is missing is 3, with a stderr that is full."""
    script = (
        "import sys\nfrom diffuzz import targets\nfrom diffuzz.cli.main import main\n"
        f"def fail():\n    {body}\ntargets.names = fail\nmain(['targets'])\n"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, stderr=full, timeout=120)
    assert code == done.returncode


@FULL
@pytest.mark.parametrize("command", ["--help", "targets", "targets --json"])
def test_a_full_stdout_is_an_error(command: str, tmp_path: Path) -> None:
    """What could not be written is bad input, and not 0, 1 or Python's own 120."""
    assert 2 == _code(command, ">/dev/full", tmp_path)
