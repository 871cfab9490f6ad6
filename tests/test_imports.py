"""What is loaded when: importing, listing and replaying need neither jax nor hypothesis."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import diffuzz
from diffuzz.corpus import files
from diffuzz.corpus.entry import Counterexample

REPORT = "import sys; print(sorted({name.split('.')[0] for name in sys.modules} & {'jax', 'hypothesis', 'numpy'}))"


def _loaded(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{REPORT}"], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("code", "loaded"),
    [
        ("import diffuzz, diffuzz.corpus.pytest_plugin", "[]"),
        ("from diffuzz.cli import main; main._run(['--help'])", "[]"),
        ("from diffuzz.cli import main; main._run(['search', '--help'])", "[]"),
        ("from diffuzz.cli import main; main._run(['targets'])", "['numpy']"),
        ("from diffuzz.cli import main; assert main._run(['replay', 'corpus']) == 0", "['numpy']"),
        ("from diffuzz import Case, Verdict, evaluate, formats, replay, search, targets", "['numpy']"),
        (
            "import diffuzz.studies.claims.settling, diffuzz.cli.claims, diffuzz.searching.engines.auto, "
            "diffuzz.searching.engines.random",
            "['numpy']",
        ),
    ],
)
def test_imports_are_light(code: str, loaded: str, entry: Counterexample, tmp_path: Path) -> None:
    """Of the heavy packages only those are loaded that are needed."""
    files.save(entry, tmp_path / "corpus")
    assert loaded == _loaded(code, tmp_path)


COMMANDS = (
    "targets", "search", "matrix", "measure", "minimise", "show", "replay", "claims", "check", "dump", "scan",
    "trace", "include", "report", "init", "export", "verify", "completion", "doctor", "fingerprint",
    "bench", "bench mutants", "bench engines", "bench witnesses", "bench kernelbench", "bench tolerances",
    "bench faults", "bench vectors", "bench properties", "bisect", "campaign",
    "campaign run", "campaign status", "corpus", "corpus stats", "corpus merge", "corpus distil",
)  # fmt: skip


def test_help_is_light(tmp_path: Path) -> None:
    """--help of every command exits 0, says what it is about, and loads nothing heavy."""
    from diffuzz.cli import bench, campaign, corpus, main

    assert set(main.COMMANDS) == {name for name in COMMANDS if " " not in name}
    for group in (bench.command, campaign.command, corpus.command):
        named = {name.split()[1] for name in COMMANDS if name.startswith(f"{group.name} ")}
        assert set(group.commands) == named
    code = f"""
import contextlib, io
from diffuzz.cli import main
for name in {COMMANDS!r}:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main._run([*name.split(), "--help"]) == 0, name
    assert f"Usage: python -m diffuzz {{name}} " in out.getvalue(), name
    assert len(out.getvalue().splitlines()) > 4, name
"""
    assert _loaded(code, tmp_path) == "[]"


@pytest.mark.parametrize(
    "first",
    [
        "",
        "import diffuzz.searching.search, diffuzz.corpus.replay",
        "import diffuzz.cli.search; import diffuzz.cli.replay; import diffuzz.minimising.minimise",
    ],
)
def test_public_names(first: str, tmp_path: Path) -> None:
    """Functions are functions, also those called like their module, whatever has been imported before."""
    code = f"""
{first}
from diffuzz import Case, Verdict, evaluate, formats, replay, search, targets
import diffuzz.searching.search, diffuzz.corpus.replay
assert [type(each).__name__ for each in (evaluate, replay, search)] == ["function"] * 3
assert [type(each).__name__ for each in (diffuzz.replay, diffuzz.search)] == ["function"] * 2
assert [type(each).__name__ for each in (formats, targets)] == ["module"] * 2
from diffuzz.searching.search import SearchResult, search as again
assert again is search
"""
    _loaded(code, tmp_path)


def test_what_is_not_there() -> None:
    """An unknown name is an AttributeError, as in any module."""
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        getattr(diffuzz, "serach")  # noqa: B009
    assert set(diffuzz.__all__) <= {name for name in diffuzz.__all__ if getattr(diffuzz, name) is not None}
