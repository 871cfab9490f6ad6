"""The pytest plugin: corpus files are tests, everything else is left alone."""

from __future__ import annotations

from pathlib import Path

import attrs

# Loaded here for good: what only a run within a test has loaded is unloaded with it, which jax does not survive.
import jax.numpy  # noqa: F401
import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cases.case import Case
from diffuzz.corpus import files
from diffuzz.corpus.entry import Counterexample, dumps
from diffuzz.judging.examination import RELATIVE_NOISE


def _run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess("-p", "no:benchmark", "-p", "no:cacheprovider", *arguments)


def test_a_good_corpus(pytester: pytest.Pytester, entry: Counterexample) -> None:
    """Each entry is one test, named after it."""
    path = files.save(entry, pytester.path / "corpus")
    result = _run(pytester, "-v", "corpus")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"corpus/softmax/{path.name}::replay PASSED*"])
    assert result.ret == 0


def test_only_corpus_files_are_collected(pytester: pytest.Pytester, entry: Counterexample) -> None:
    """Other JSON files, other names, and folders that are no target are left alone."""
    path = files.save(entry, pytester.path)
    for place in (
        "data/0123456789ab.json",
        "softmax/notes.json",
        "softmax/0123456789AB.json",
        "softmax/0123456789abc.json",
    ):
        other = pytester.path / place
        other.parent.mkdir(exist_ok=True)
        other.write_text("not an entry")
    result = _run(pytester, "--collect-only", "-q")
    assert [f"softmax/{path.name}::replay"] == [line for line in result.outlines if "::" in line]


def test_a_changed_entry(pytester: pytest.Pytester, entry: Counterexample) -> None:
    """It fails in one line that says what was recorded and what came out, without a traceback."""
    path = files.save(entry, pytester.path)
    path.write_text(dumps(attrs.evolve(entry, value=2 * entry.value)))
    result = _run(pytester)
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert f"changed: recorded {2 * entry.value:.9g} CONFIRMED, now {entry.value:.9g} CONFIRMED" in text
    assert f"replay softmax/{path.stem}" in text
    assert "runtest" not in text
    assert "Traceback" not in text


def test_a_broken_entry(pytester: pytest.Pytester, entry: Counterexample) -> None:
    """It fails with the reason; the others are replayed all the same."""
    path = files.save(entry, pytester.path)
    (path.parent / "0123456789ab.json").write_text('{"diffuzz": ')
    result = _run(pytester)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["broken: *0123456789ab.json: not JSON, or cut short*"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_an_entry_of_a_candidate(pytester: pytest.Pytester, entry: Counterexample) -> None:
    """It fails until --diffuzz-candidate names the function, and runs no code before that."""
    found = attrs.evolve(
        entry,
        candidate="mine.py:f",
        params=targets.get("softmax").contract_params(),
        case=Case({"z": entry.case["z"]}),
        value=np.inf,
        noise=0.0,
        measure="max |f - exact| / a-priori bound",
        tolerance=RELATIVE_NOISE,
        threshold=1.0,
        bound=None,
    )
    files.save(found, pytester.path)
    marker = pytester.path / "ran"
    Path("mine.py").write_text(
        f"import pathlib, numpy\npathlib.Path({str(marker)!r}).touch()\n"
        "def f(z): return numpy.full_like(z, numpy.nan)\n"
    )
    result = _run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["give --diffuzz-candidate mine.py:f: found with a candidate"])
    assert not marker.exists()
    _run(pytester, "--diffuzz-candidate", "mine.py:f").assert_outcomes(passed=1)
    assert marker.exists()


def test_the_option_is_explained(pytester: pytest.Pytester) -> None:
    """``pytest --help`` has it."""
    _run(pytester, "--help").stdout.fnmatch_lines(["*--diffuzz-candidate=*NAME=*FILE.py:FUNCTION*"])
