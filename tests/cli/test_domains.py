"""``--fix``, ``--range``, ``--multiple``: on the command line, in reports, in entries and in replays."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from diffuzz.cli import main
from diffuzz.corpus import files

# For whole vectors of 32 alone, at most 256 of them, and wrong in the last element of all.
PICKY = """import numpy as np
def f(z):
    if z.shape[1] % 32 or not 64 <= z.shape[1] <= 256:
        raise ValueError(f"n = {z.shape[1]}: a multiple of 32, 64 to 256, is needed")
    if len(z) != 4:
        raise ValueError("four rows")
    e = np.exp(z - z.max(1, keepdims=True))
    y = e / e.sum(1, keepdims=True)
    if WRONG:
        y[:, -1] *= np.float32(1.001)
    return y
"""
NARROW = ("--multiple", "n=32", "--range", "n=64:256", "--fix", "b=4")
SEARCH = ("search", "--target", "softmax", "--candidate", "mine.py:f", "--seed", "0")


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.import_module("diffuzz.searching.search"), "WORK_PER_SECOND", 2**18)
    monkeypatch.chdir(tmp_path)


def test_a_refused_first_call_names_what_narrows_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, one line: what it was called with, and the options."""
    Path("mine.py").write_text(PICKY.replace("WRONG", "False"))
    assert main._run([*SEARCH]) == 2
    said = capsys.readouterr().err
    assert "ValueError: n = 1025: a multiple of 32, 64 to 256, is needed" in said
    assert "narrow n, z, shift, b with --fix, --range or --multiple, such as --multiple n=32" in said
    assert said.count("\n") == 1


def test_a_function_that_is_right_where_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    """It is called with nothing else, the minimiser and the company of a case included."""
    Path("mine.py").write_text(PICKY.replace("WRONG", "False"))
    assert main._run([*SEARCH, *NARROW, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["failure"]) == ("UNRESOLVED", None)
    assert (found["coverage"]["n"]["least"], found["coverage"]["n"]["largest"]) == (64, 256)
    assert found["coverage"]["n"]["sizes"] == 7
    assert found["params"]["range:n"] == "64:256"


def test_an_entry_has_its_domain(capsys: pytest.CaptureFixture[str]) -> None:
    """The witness is within it, the command names it, and a replay calls with nothing else."""
    Path("mine.py").write_text(PICKY.replace("WRONG", "True"))
    assert main._run([*SEARCH, *NARROW]) == 1
    assert "--fix b=4, --multiple n=32, --range n=64:256" in capsys.readouterr().out
    (path,) = files.files([Path("corpus")])
    entry = files.load(path)
    assert entry.case["z"].shape == (64,)
    assert "--fix b=4 --multiple n=32 --range n=64:256" in entry.found["command"]
    assert main._run(["replay", "--candidate", "mine.py:f"]) == 0
    Path("mine.py").write_text(PICKY.replace("WRONG", "False"))
    assert main._run(["replay", "--candidate", "mine.py:f"]) == 1


def test_an_exception_in_the_middle_names_what_narrows_it(capsys: pytest.CaptureFixture[str]) -> None:
    """A function that takes the first call, and not another, is told how to be called with less."""
    Path("mine.py").write_text(PICKY.replace("WRONG", "False").replace("% 32", "% 1").replace("64 <=", "600 <="))
    Path("mine.py").write_text(Path("mine.py").read_text().replace("<= 256", "<= 2000").replace("len(z) != 4", "False"))
    assert main._run([*SEARCH]) == 1
    said = capsys.readouterr().out
    assert "If it is not made for such a call, narrow n, z, shift, b with --fix, --range or --multiple." in said


@pytest.mark.parametrize("option", [("--fix", "n"), ("--range", "q=1:2"), ("--multiple", "n=x"), ("--fix", "b=0")])
def test_what_is_no_domain(option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, one line."""
    Path("mine.py").write_text(PICKY.replace("WRONG", "False"))
    assert main._run([*SEARCH, *option]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_claim_is_narrowed_too(capsys: pytest.CaptureFixture[str]) -> None:
    """The target's own question, whose constructions may be outside the domain."""
    narrow = ("--fix", "n=3", "--range", "z=-1:1", "--no-save", "--json")
    assert main._run(["search", "--target", "softmax", "--seed", "0", "--engine", "random", *narrow]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["params"]["fix:n"] == 3
    assert found["value"] <= 3 / 2 * (1 + 1e-6)
