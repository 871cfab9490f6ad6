"""Corpora of several candidates: each entry is replayed with its own function, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cases.case import Case
from diffuzz.cli import main
from diffuzz.corpus import files
from diffuzz.corpus.candidates import by_name, function_for, parse, unused
from diffuzz.corpus.entry import Counterexample
from diffuzz.judging.examination import RELATIVE_NOISE
from diffuzz.judging.opening import CandidateError
from diffuzz.judging.question import Judge
from diffuzz.judging.verdict import Verdict

# Each is wrong on its own entry, and right on the other's: 0 where the first logit is positive, or negative.
FIRST = """import numpy as np
def f(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return (e / e.sum(1, keepdims=True) * np.where(z[:, :1] > 0, np.nan, 1)).astype(np.float32)
"""
SECOND = FIRST.replace("> 0", "< 0")


def _of(entry: Counterexample, name: str, sign: float) -> Counterexample:
    return attrs.evolve(
        entry,
        candidate=name,
        params=targets.get("softmax").contract_params(),
        case=Case({"z": np.array([sign], np.float32)}),
        measure="max |f - exact| / a-priori bound",
        value=np.inf,
        noise=0.0,
        threshold=1.0,
        tolerance=RELATIVE_NOISE,
        bound=None,
        verdict=Verdict.CONFIRMED,
    )


@pytest.fixture
def corpus(entry: Counterexample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two entries of two candidates, and one of a claim; the working directory is where their files are."""
    monkeypatch.chdir(tmp_path)
    Path("first.py").write_text(FIRST)
    Path("second.py").write_text(SECOND)
    for one in (_of(entry, "first.py:f", 1.0), _of(entry, "second.py:f", -1.0), entry):
        files.save(one, Path("corpus"))
    return Path("corpus")


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, str], dict[str, object]]:
    """Exit code, status by recorded candidate, and the JSON object."""
    code = main._run(["replay", "corpus", "--json", *arguments])
    found = json.loads(capsys.readouterr().out)
    names = {str(path): files.candidate_of(path) or "claim" for path in files.files([Path("corpus")])}
    return code, {names[result["path"]]: result["status"] for result in found["results"]}, found


def test_each_with_its_own(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Several options, one for each recorded name, by whatever path the file is named."""
    alike = {"first.py:f": "as recorded", "second.py:f": "as recorded", "claim": "as recorded"}
    for first, second in (
        ("first.py:f", "second.py:f"),
        ("./first.py:f", str(Path("second.py").resolve()) + ":f"),
        ("first.py:f=first.py:f", "second.py:f=second.py:f"),
    ):
        code, statuses, found = _run(capsys, "--candidate", first, "--candidate", second)
        assert (code, statuses) == (0, alike)
        assert (found["needed_candidates"], found["unused_candidates"]) == ([], [])


def test_what_belongs_to_others_is_left_out_by_name(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An entry that lacks its candidate is neither broken nor changed; the exit code is not 0, and a line says what is
    needed.
    """
    code, statuses, found = _run(capsys, "--candidate", "first.py:f")
    assert code == 3
    assert statuses == {"first.py:f": "as recorded", "second.py:f": "needs candidate", "claim": "as recorded"}
    assert found["needed_candidates"] == ["second.py:f"]
    assert main._run(["replay", "corpus", "--candidate", "first.py:f"]) == 3
    assert "1 not replayed without the candidate: --candidate second.py:f" in capsys.readouterr().out


def test_another_function_for_a_recorded_name(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """NAME=FILE.py:FUNCTION; what is not named is left out, and what has no entry is said to be unused."""
    Path("fixed=1.py").write_text("from first import f as g\ndef f(z): return g(-abs(z))\n")
    code, statuses, found = _run(
        capsys, "--candidate", "first.py:f=fixed=1.py:f", "--candidate", "third.py:f=second.py:f"
    )
    assert (code, statuses["first.py:f"], statuses["second.py:f"]) == (1, "changed", "needs candidate")
    assert found["unused_candidates"] == ["third.py:f"]


def test_a_single_one_of_no_entry_is_for_all(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a new version of a kernel is held against what was found before."""
    Path("third.py").write_text(FIRST)
    code, statuses, _ = _run(capsys, "--candidate", "third.py:f")
    assert code == 1
    assert statuses == {"first.py:f": "as recorded", "second.py:f": "changed", "claim": "as recorded"}


def test_a_single_one_is_not_for_functions_of_several_names() -> None:
    """A softmax is not called with what a norm was found with."""
    one = parse([f"{__file__}:f"])
    assert function_for(by_name(one, ["a.py:f", None, "b.py:f"]), "a.py:f") is one
    assert function_for(by_name(one, ["a.py:g", None]), "a.py:g") is one
    assert function_for(by_name(one, ["a.py:f", "a.py:g"]), "a.py:f") is None


def test_one_that_does_not_load(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A candidate whose file needs what is not here makes no entry broken."""
    Path("second.py").write_text("import a_package_that_nobody_has\n")
    code, statuses, _ = _run(capsys, "--candidate", "first.py:f", "--candidate", "second.py:f")
    assert (code, statuses["second.py:f"], statuses["first.py:f"]) == (3, "needs candidate", "as recorded")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["first.py:f", "first.py:f"], "candidate first.py:f: it is given twice"),
        (["a=nothing.py:f"], "there is no file nothing.py"),
        (["first.py"], "FILE.py:FUNCTION is needed"),
        ([""], "FILE.py:FUNCTION is needed"),
    ],
)
def test_what_names_no_function(
    corpus: Path, capsys: pytest.CaptureFixture[str], given: list[str], message: str
) -> None:
    """One line, before anything is replayed."""
    options = [word for name in given for word in ("--candidate", name)]
    assert main._run(["replay", "corpus", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    with pytest.raises(CandidateError, match=message):
        parse(given)


def test_choosing() -> None:
    """By name where there are names; a single function by its own, unless it has no entry."""
    a, b = Judge("a.py:f"), Judge("b.py:f")
    assert by_name(a, ("a.py:f", "b.py:f", None)) == {"a.py:f": a}
    assert by_name(a, ("b.py:f", None)) == a
    assert function_for(a, "b.py:f") == a
    assert function_for({"b.py:f": a, "a.py:f": b}, "b.py:f") == a
    assert function_for({"b.py:f": a}, None) is None
    assert function_for({"b.py:f": a}, "c.py:f") is None
    assert unused(a, ()) == ["a.py:f"]
    assert unused({"a.py:f": a, "x.py:f": b}, ("./a.py:f",)) == ["x.py:f"]


def test_in_pytest(corpus: Path, pytester: pytest.Pytester, tmp_path: Path) -> None:
    """The same option, repeatable, with the same meaning."""

    def outcomes(*names: str) -> dict[str, int]:
        options = [word for name in names for word in ("--diffuzz-candidate", name)]
        return pytester.runpytest_inprocess(
            "-p", "no:benchmark", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(tmp_path / "corpus"), *options
        ).parseoutcomes()

    first, second = (f"{name}.py:f={tmp_path}/{name}.py:f" for name in ("first", "second"))
    assert outcomes(first, second) == {"passed": 3}
    assert outcomes(first) == {"passed": 2, "failed": 1}


def test_minimise_takes_them_too(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It takes the one of its entry, and says what it needs otherwise."""
    path = next(path for path in files.files([corpus]) if files.candidate_of(path) == "second.py:f")
    options = ("--candidate", "first.py:f", "--candidate", "second.py:f")
    assert main._run(["minimise", str(path), *options, "--json"]) == 0
    capsys.readouterr()
    assert main._run(["minimise", str(path), "--candidate", "first.py:f", "--candidate", "x=first.py:f"]) == 3
    assert "give --candidate second.py:f" in capsys.readouterr().err
