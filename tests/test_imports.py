"""What is loaded when: importing, listing and replaying need neither jax nor hypothesis."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import diffuzz
from diffuzz import corpus
from diffuzz.entry import Counterexample

REPORT = "import sys; print(sorted({name.split('.')[0] for name in sys.modules} & {'jax', 'hypothesis', 'numpy'}))"


def _loaded(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{REPORT}"], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("code", "loaded"),
    [
        ("import diffuzz, diffuzz.pytest_plugin", "[]"),
        ("from diffuzz import cli; cli._run(['--help'])", "[]"),
        ("from diffuzz import cli; cli._run(['search', '--help'])", "[]"),
        ("from diffuzz import cli; cli._run(['targets'])", "['numpy']"),
        ("from diffuzz import cli; assert cli._run(['replay', 'corpus']) == 0", "['numpy']"),
        ("from diffuzz import Case, Verdict, evaluate, formats, replay, search, targets", "['numpy']"),
        ("import diffuzz.claims, diffuzz.printing, diffuzz.engines.auto, diffuzz.engines.random", "['numpy']"),
    ],
)
def test_imports_are_light(code: str, loaded: str, entry: Counterexample, tmp_path: Path) -> None:
    """Of the heavy packages only those are loaded that are needed."""
    corpus.save(entry, tmp_path / "corpus")
    assert loaded == _loaded(code, tmp_path)


@pytest.mark.parametrize(
    "first", ["", "import diffuzz.search, diffuzz.replay", "import diffuzz.cli; import diffuzz.claims"]
)
def test_public_names(first: str, tmp_path: Path) -> None:
    """Functions are functions, also those called like their module, whatever has been imported before."""
    code = f"""
{first}
from diffuzz import Case, Verdict, evaluate, formats, replay, search, targets
import diffuzz.search, diffuzz.replay
assert [type(each).__name__ for each in (evaluate, replay, search)] == ["function"] * 3
assert [type(each).__name__ for each in (diffuzz.replay, diffuzz.search)] == ["function"] * 2
assert [type(each).__name__ for each in (formats, targets)] == ["module"] * 2
from diffuzz.search import SearchResult, search as again
assert again is search
"""
    _loaded(code, tmp_path)


def test_what_is_not_there() -> None:
    """An unknown name is an AttributeError, as in any module."""
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        getattr(diffuzz, "serach")  # noqa: B009
    assert set(diffuzz.__all__) <= {name for name in diffuzz.__all__ if getattr(diffuzz, name) is not None}
