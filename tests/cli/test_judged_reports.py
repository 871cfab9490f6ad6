"""What is printed and saved of functions that are judged: two lines of one that is not found wrong."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

from diffuzz.cli import main

SEARCH = (
    "search",
    "--target",
    "softmax",
    "--engine",
    "random",
    "--budget",
    "20s",
    "--seed",
    "3",
    "--param",
    "candidate_n=3",
)
# The keys of the contract, see docs/commands.md.
KEYS = {
    "target", "params", "engine", "seed", "budget_s", "evaluations", "evaluations_per_s", "value", "measure", "bound",
    "efficiency", "threshold", "limit", "verdict", "witness", "environment",
}  # fmt: skip
RIGHT = """import numpy as np
def f(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)
"""


@pytest.fixture(autouse=True)
def _little_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Searches end by work; each test has a folder with a function that is right."""
    monkeypatch.setattr(importlib.import_module("diffuzz.searching.search"), "WORK_PER_SECOND", 2**12)
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(RIGHT)


def _ran(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> list[str]:
    found = main._run([*SEARCH, *arguments])
    out, err = capsys.readouterr()
    # A log is what --verbose adds on stderr.
    assert (code, "--verbose" in arguments) == (found, err != "")
    return out.splitlines()


def _entries() -> list[Path]:
    return list(Path().rglob("*.json"))


@pytest.mark.parametrize(
    ("question", "first"),
    [
        (
            ("--candidate", "mine.py:f"),
            r"UNRESOLVED: mine\.py:f was not found to be wrong \(at most 0\.\d+ of its a-priori bound\); "
            r"that is no proof that it is right\.",
        ),
        (
            ("--kernels", "apr,exact"),
            r"UNRESOLVED: apr and exact were not found to differ by more than rounding "
            r"\(at most 0\.\d+ of what rounding allows\); that is no proof that they never do\.",
        ),
    ],
    ids=["candidate", "kernels"],
)
def test_what_is_not_found_wrong(capsys: pytest.CaptureFixture[str], question: tuple[str, ...], first: str) -> None:
    """Two lines, nothing saved; with --save a third names the entry, which replays; --verbose shows the case."""
    lines = _ran(capsys, *question)
    assert len(lines) == 2
    assert re.fullmatch(first, lines[0])
    assert lines[1].startswith("Searched z[n<=3] float32 in [-120, 120]; shift[row=1] float32 in ")
    assert "; policy=exact, dtype=float32: " in lines[1]
    covered = "Looked at 2 batch sizes from 8 to 1024 (2 of 47 at powers of two)."
    assert lines[1].endswith(f"by random, seed 3; the budget's work was done. {covered}")
    assert not _entries()
    lines = _ran(capsys, *question, "--verbose")
    assert "Best case found" in lines
    assert "The candidate is not wrong here." in lines or question[0] == "--kernels"
    assert not any("Witness" in line for line in lines)
    assert not _entries()
    lines = _ran(capsys, *question, "--save")
    (path,) = _entries()
    assert (len(lines), lines[2]) == (3, f"Saved in {path}.")
    candidate = question if question[0] == "--candidate" else ()
    assert main._run(["replay", *candidate]) == 0
    lines = _ran(capsys, *question, "--save", "--verbose")[1:]
    assert f"Best case found, in {path}" in lines


def test_json_of_a_right_function(capsys: pytest.CaptureFixture[str]) -> None:
    """All keys, and no witness."""
    (line,) = _ran(capsys, "--candidate", "mine.py:f", "--json")
    found = json.loads(line)
    assert set(found) >= KEYS
    assert (found["witness"], found["threshold"], found["limit"]) == (None, 1.0, 1.0)
    assert (found["candidate"], found["verdict"]) == ("mine.py:f", "UNRESOLVED")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (("--param", "n=3"), "Not used: n plays no part in this question."),
        (("--param", "n=3", "--param", "delta=0.1"), "Not used: n, delta play no part in this question."),
    ],
)
def test_parameters_of_another_question(capsys: pytest.CaptureFixture[str], given: tuple[str, ...], line: str) -> None:
    """They are said to be without effect, in either form of the report."""
    lines = _ran(capsys, "--candidate", "mine.py:f", *given)
    assert (len(lines), lines[2]) == (3, line)
    assert line in _ran(capsys, "--candidate", "mine.py:f", *given, "--verbose")
    assert "Not used: candidate_n plays no part in this question." in _ran(capsys, "--no-save", code=1)
