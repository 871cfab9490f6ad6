"""What candidates say and are called, as it is printed: exceptions with their line, output, hostile characters."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from diffuzz.cli import main

SEARCH = (
    "search", "--target", "softmax", "--param", "candidate_n=3", "--engine", "random", "--budget", "20s", "--seed", "3",
    "--candidate",
)  # fmt: skip
FILE = """import numpy as np
import sys, time

def f(z):
    if z.max() > 8:
        {body}
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)
"""
HOSTILE = "\x1b[31mred\x1b[0m\n\xa0\u202e\udcff"
SHOWN = r"\x1b[31mred\x1b[0m \xa0\u202e\udcff"


@pytest.fixture(autouse=True)
def _little_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Searches end by work; each test has a folder of its own."""
    monkeypatch.setattr(importlib.import_module("diffuzz.searching.search"), "WORK_PER_SECOND", 2**12)
    monkeypatch.chdir(tmp_path)


def written(body: str, name: str = "mine.py") -> str:
    Path(name).write_text(FILE.format(body=body), encoding="utf-8")
    return f"{name}:f"


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main._run(list(arguments))
    return code, *capsys.readouterr()


def printable(text: str) -> bool:
    return text.replace("\n", "").isprintable()


def test_an_exception_of_a_candidate(capsys: pytest.CaptureFixture[str]) -> None:
    """Type and message first, with escapes, then the line of the user's file, however it is printed; and it is saved,
    shown and replayed.
    """
    name = written(f"raise ValueError({HOSTILE!r} + 'x' * 10_000)")
    code, out, err = ran(capsys, *SEARCH, name)
    assert (1, "") == (code, err)
    assert f"On the witness it raised ValueError: {SHOWN}xxx" in out
    assert re.search(r"xxx \.\.\. \(mine\.py, line 6\)\.\n", out)
    assert printable(out)
    (path,) = Path("corpus").rglob("*.json")
    shown = ran(capsys, "show", str(path))[1]
    assert (True, True) == (SHOWN in shown, printable(shown))
    found = json.loads(ran(capsys, *SEARCH, name, "--no-save", "--json")[1])
    assert found["failure"].startswith(f"raised: ValueError: {SHOWN}xxx")
    assert printable(found["failure"])
    assert 0 == ran(capsys, "replay", "--candidate", name, "--junit", "report.xml")[0]
    assert 0 == ran(capsys, "replay", "--candidate", name)[0]
    ElementTree.parse("report.xml")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("print('\\x1b[2Jsaid'); raise ValueError('no')", "raised ValueError: no (mine.py, line 6)."),
        ("print('\\x1b[2Jsaid'); time.sleep(60)", "hung: no result after 0.4 s."),
        ("print('\\x1b[2Jsaid'); return None", "returned something of the wrong kind: returns object[]"),
        ("sys.stderr.write('\\x1b[2Jsaid\\n'); sys.exit(3)", "raised SystemExit: 3 (mine.py, line 6)."),
    ],
)
def test_what_a_candidate_wrote(capsys: pytest.CaptureFixture[str], body: str, why: str) -> None:
    """The report quotes its last lines, however it failed, and so does the JSON object."""
    code, out, _ = ran(capsys, *SEARCH, written(body), "--no-save", "--timeout", "400ms")
    assert code == 1
    assert f"On the witness it {why}" in out
    assert "It wrote last:\n  \\x1b[2Jsaid\n" in out
    found = json.loads(ran(capsys, *SEARCH, "mine.py:f", "--no-save", "--timeout", "400ms", "--json")[1])
    assert [r"\x1b[2Jsaid"] == found["failure_output"]


def test_a_candidate_that_hangs_while_it_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    """The limit, and how it comes from what the user has set."""
    Path("mine.py").write_text("import time\nprint('still compiling')\ntime.sleep(600)\n")
    code, out, err = ran(capsys, *SEARCH, "mine.py:f", "--timeout", "200ms")
    assert (2, "") == (code, out)
    line = (
        "diffuzz: candidate mine.py:f while it is loaded: loading took more than 1.2 s (6 times the timeout of 0.2 s); "
        "it wrote: still compiling\n"
    )
    assert line == err


def test_a_candidate_that_fails_to_load(capsys: pytest.CaptureFixture[str]) -> None:
    """One line with what it raised, and the line of the file."""
    Path("mine.py").write_text(f"import numpy\n\nraise RuntimeError({HOSTILE!r} + 'x' * 10_000)\n")
    code, out, err = ran(capsys, *SEARCH, "mine.py:f")
    assert (2, "") == (code, out)
    assert err.startswith(f"diffuzz: candidate mine.py:f: mine.py fails to load: RuntimeError: {SHOWN}xxx")
    assert err.endswith("xxx ... (mine.py, line 3)\n")
    assert printable(err)


def test_a_file_with_a_hostile_name(capsys: pytest.CaptureFixture[str]) -> None:
    """A complaint, a report and a replay show its characters as escapes."""
    name = "bad\x1b[2J\n\xa0.py"
    code, out, err = ran(capsys, *SEARCH, f"missing{name}:f")
    assert (2, "", 1, True) == (code, out, err.count("\n"), printable(err))
    assert r"missingbad\x1b[2J\n\xa0.py" in err
    _, out, err = ran(capsys, *SEARCH, written("return z", name), "--no-save")
    assert (True, True, "") == (printable(out), r"bad\x1b[2J\n\xa0.py" in out, err)
    code, out, err = ran(capsys, "replay", f"missing{name}.json")
    assert (2, True, True) == (code, printable(err), r"\x1b[2J\n\xa0" in err)


@pytest.mark.parametrize("streams", ["2>&-", "<&- 2>&-", "2>/dev/full"])
def test_workers_without_standard_streams(streams: str) -> None:
    """A search of a candidate finds what it finds, also where stderr and stdin are closed or full."""
    if "/dev/full" in streams and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    written("print('said'); return z", "mine.py")
    arguments = [*SEARCH, "mine.py:f", "--no-save", "--json"]
    arguments[arguments.index("20s")] = "1s"
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {streams}', "sh", sys.executable, "-m", "diffuzz", *arguments],
        stdout=subprocess.PIPE,
        timeout=300,
        env=os.environ,
    )
    assert 1 == done.returncode
    assert "CONFIRMED" == json.loads(done.stdout.splitlines()[-1])["verdict"]
