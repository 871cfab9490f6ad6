"""Wherever diffuzz is started, it is itself: what lies there hides none of its parts, and none of its libraries."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import diffuzz

ROOT = Path(diffuzz.__file__).parents[1]
DECOY = "raise RuntimeError('a decoy was imported')\n"
SOFTMAX = """import jax
import numpy as np
from beside_it import shifted

def f(z):
    assert jax.__file__ != __file__
    e = np.exp(shifted(z))
    return e / e.sum(1, keepdims=True)
"""
SEARCH = ("search", "--target", "softmax", "--param", "n=3", "--engine", "pbt", "--budget", "1s", "--no-save", "--json")


@pytest.fixture(autouse=True)
def _decoys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with names of libraries, and of diffuzz's own package, where diffuzz is started."""
    monkeypatch.chdir(tmp_path)
    Path("strategies").mkdir()
    for name in ("strategies/__init__", "strategies/cases", "numpy", "click", "attr", "attrs", "hypothesis", "rich"):
        Path(f"{name}.py").write_text(DECOY)
    Path("jax.py").write_text(SOFTMAX)
    Path("beside_it.py").write_text("def shifted(z):\n    return z - z.max(1, keepdims=True)\n")


def _ran(*arguments: str, **environment: str) -> dict[str, object]:
    """The JSON of a command, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "diffuzz", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_working_directory_hides_nothing() -> None:
    """Not numpy, click or hypothesis, and not the strategies that an engine needs."""
    assert "pbt" == _ran(*SEARCH)["engine"]


def test_a_candidate_that_is_called_like_a_library() -> None:
    """jax.py with a function of its own imports the library jax, and what lies beside it."""
    found = _ran(
        "search", "--target", "softmax", "--param", "candidate_n=3", "--candidate", "jax.py:f", "--engine", "random",
        "--budget", "1s", "--no-save", "--json",
    )  # fmt: skip
    assert ("UNRESOLVED", None) == (found["verdict"], found["failure"])


def test_another_package_of_that_name(tmp_path: Path) -> None:
    """Neither an unrelated package that comes first, nor one whose file has replaced that of diffuzz, matters."""
    site = tmp_path / "site"
    # As a wheel is installed.
    shutil.copytree(ROOT / "diffuzz", site / "diffuzz", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "strategies", site / "strategies", ignore=shutil.ignore_patterns("__pycache__"))
    (site / "strategies/__init__.py").write_text(DECOY)
    first = tmp_path / "first"
    shutil.copytree("strategies", first / "strategies")
    code = (
        "import sys; from diffuzz import search, targets; from diffuzz.cli.main import main; "
        f"assert sys.modules['diffuzz'].__file__.startswith({str(site)!r}); main({list(SEARCH)!r})"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(first), str(site)))}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode in (0, 1), done.stderr
    assert "pbt" == json.loads(done.stdout.splitlines()[-1])["engine"]


def test_strategies_that_are_gone(tmp_path: Path) -> None:
    """One line that says what is missing and what to do, and exit code 3."""
    site = tmp_path / "site"
    shutil.copytree(ROOT / "diffuzz", site / "diffuzz", ignore=shutil.ignore_patterns("__pycache__"))
    code = f"from diffuzz.cli.main import main; main({list(SEARCH)!r})"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    line = f"diffuzz: the package strategies of diffuzz is not in {site}: install diffuzz again\n"
    assert (3, line) == (done.returncode, done.stderr)
