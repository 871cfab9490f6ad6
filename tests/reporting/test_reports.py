"""Reports for CI: SARIF, annotations and summaries, of what commands print with --json."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from diffuzz.cli import main
from diffuzz.corpus import files
from diffuzz.corpus.entry import Counterexample, dumps
from diffuzz.reporting import annotations, reading, sarif, summary
from diffuzz.reporting.finding import Finding, Place, exit_code, place_of_function

KERNEL = "import numpy as np\n\n\ndef soft_max(z):\n    e = np.exp(z)\n    return e / e.sum(axis=-1, keepdims=True)\n"
SEARCHED: dict[str, Any] = {
    "target": "softmax",
    "verdict": "CONFIRMED",
    "value": "inf",
    "threshold": 1.0,
    "measure": "max |f - exact| / a-priori bound",
    "claim": "softmax amplifies",
    "candidate": "kernels.py:soft_max",
    "kernels": None,
    "failure": None,
    "evaluations": 8,
    "detail": {"worst element": 0.0, "candidate": "nan", "exact": 1.0, "allowance": 2.5e-05},
    "witness": "corpus/softmax/0123456789ab.json",
    "command": "python -m diffuzz search --target softmax",
}
CHECKED = {
    "verdict": "CONFIRMED",
    "steps": 20,
    "checked": 19,
    "engine": {"engine": "llama.cpp"},
    "culprits": [
        {"layer": 3, "op": "attn_out", "ratio": 7.5, "certain": True, "because": "outside", "witness": "w.json"},
        {"layer": None, "op": "norm", "ratio": 9, "certain": False, "because": "", "witness": None},
    ],
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a wrong kernel, to be in."""
    monkeypatch.chdir(tmp_path)
    Path("kernels.py").write_text(KERNEL)
    return tmp_path


def _finding(**changed: Any) -> Finding:
    return attrs.evolve(Finding("softmax", "error", "f", "f is wrong", 1, Place("a.py", 3)), **changed)


def test_a_search(here: Path) -> None:
    """A witness of a candidate is an error at the line of its function; nothing found is nothing to say."""
    (found,) = reading.findings(SEARCHED)
    assert ("softmax", "error", "kernels.py:soft_max", 1) == (found.rule, found.level, found.subject, found.code)
    assert Place("kernels.py", 4) == found.place
    assert (Place("corpus/softmax/0123456789ab.json", 1),) == found.others
    assert (
        "kernels.py:soft_max is wrong: element 0 is nan, where 1 is exact and an error of 2.5e-05 is allowed"
        == found.message
    )
    (finite,) = reading.findings(SEARCHED | {"value": 7.25})
    assert f"{found.message}, 7.25 times that far off" == finite.message
    (failed,) = reading.findings(SEARCHED | {"failure": "crashed: signal 6\n\x1b[31m"})
    assert failed.message == r"kernels.py:soft_max is wrong: it crashed: signal 6 \x1b[31m"
    (claim,) = reading.findings(SEARCHED | {"candidate": None, "value": 34.9, "threshold": 5.0})
    assert ("softmax amplifies: 34.9, where the threshold is 5", claim.place) == (claim.message, found.others[0])
    (right,) = reading.findings(SEARCHED | {"verdict": "UNRESOLVED", "value": 0.25})
    assert (right.level, right.code) == ("none", 0)
    (once,) = reading.findings(SEARCHED | {"verdict": "UNRESOLVED", "passing_failure": "hung"})
    assert (once.level, once.code) == ("note", 0)


def test_a_check_of_a_model() -> None:
    """A finding for each culprit, an error only where it is certain; one that is well where there is none."""
    certain, suspect = reading.findings(CHECKED)
    assert ("check-attn_out", "error", 1, "llama.cpp") == (certain.rule, certain.level, certain.code, certain.subject)
    assert "layer 3, attn_out is wrong: 7.5 times its allowance; outside" == certain.message
    assert ("warning", 0, None) == (suspect.level, suspect.code, suspect.place)
    assert ["none"] == [one.level for one in reading.findings(CHECKED | {"culprits": []})]


@pytest.mark.parametrize(
    ("status", "level", "code"),
    [("as recorded", "none", 0), ("right", "none", 0), ("changed", "error", 1), ("wrong", "error", 1),
     ("broken", "error", 2), ("needs candidate", "warning", 3), ("needs time", "warning", 3)],
)  # fmt: skip
def test_a_replay(status: str, level: str, code: int, here: Path) -> None:
    """The level and the exit code are those of the status; the place is the entry, or the function that is wrong."""
    entry = {"path": "c/a.json", "status": status, "message": "c/a.json: m", "target": "softmax"}
    (found,) = reading.findings({"replayed": 1, "results": [entry | {"candidate": "kernels.py:soft_max"}]})
    assert (level, code) == (found.level, found.code)
    places = [Place("c/a.json", 1), Place("kernels.py", 4)]
    assert (places[::-1] if status == "wrong" else places) == [found.place, *found.others]


def test_a_matrix(here: Path) -> None:
    """A pair of which one is outside its bound is an error; one that agrees, or differs by policy, is none."""
    cell = {"kernels": ["apr", "ggml"], "value": 12.5, "agreement": "by policy", "failure": None, "witness": None}
    outside = cell | {"agreement": "not at all", "witness": "w.json"}
    policy, wrong = reading.findings({"target": "matvec", "cells": [cell, outside]})
    assert ("none", 0, "apr against ggml", None) == (policy.level, policy.code, policy.subject, policy.place)
    assert ("error", 1, Place("w.json", 1)) == (wrong.level, wrong.code, wrong.place)
    assert "12.5" in policy.message
    assert "12.5" in wrong.message


def test_claims(here: Path) -> None:
    """Whether a published claim holds is a result, and no problem."""
    claim = {"claim": "it drifts", "verdict": "CONFIRMED", "found": 2.0, "witness": None}
    (found,) = reading.findings({"claims": [claim], "variants": []})
    assert ("none", 0, "it drifts", "CONFIRMED: 2 was found") == (
        found.level, found.code, found.subject, found.message)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "{}",
            "line 1: is of another command; what search, replay, check, matrix, claims or campaign print with --json "
            "is needed",
        ),
        ("\n[]", "line 2: is no object;"),
        ("CONFIRMED: f is wrong", "line 1: is no JSON;"),
        ("[" * 100000, "line 1: is no JSON;"),
        ("", "has no result, so there is nothing to report"),
        ('{"replayed": 1}', "line 1: has no results;"),
        ('{"replayed": 1, "results": [{"status": "fine", "path": "p"}]}', "status 'fine' is none that a replay gives"),
        ('{"target": 3, "verdict": "CONFIRMED"}', "target: a text is needed"),
        ('{"culprits": [3]}', "a list of objects is needed"),
    ],
)
def test_what_is_no_result_is_refused(text: str, said: str) -> None:
    """One line that begins with where it is from."""
    with pytest.raises(reading.ResultError, match=f"^results.jsonl: .*{re.escape(said)}") as error:
        reading.read(text, "results.jsonl")
    assert "\n" not in str(error.value)


def test_the_line_of_a_function(here: Path) -> None:
    """Of a definition, an assignment or an import; a file is parsed and never run."""
    Path("many.py").write_text("raise SystemExit\nfrom k import a as b\nc = d = 1\nclass E: pass\n")
    assert [2, 3, 3, 4, None] == [attrs.astuple(place_of_function(f"many.py:{n}"))[1] for n in "bcdEa"]  # type: ignore[arg-type]
    Path("bad.py").write_text("def f(:\n")
    Path("lib.so").write_bytes(b"\x7fELF")
    assert Place("bad.py") == place_of_function("bad.py:f")
    assert Place("lib.so") == place_of_function("lib.so:f")
    assert place_of_function("absent.py:f") is place_of_function("run: ./prog") is place_of_function("f") is None


def _check_log(log: dict[str, Any]) -> list[dict[str, Any]]:
    """What SARIF 2.1.0 requires of a log, and GitHub of one that it takes."""
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-2.1.0.json")
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "diffuzz"
    assert re.fullmatch(r"\d+\.\d+\.\d+", driver["semanticVersion"])
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(set(ids)) == len(ids)
    for rule in driver["rules"]:
        assert all(rule[name]["text"] for name in ("shortDescription", "fullDescription", "help"))
    for result in run["results"]:
        assert ids[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note")
        assert result["message"]["text"]
        assert result["partialFingerprints"]
        for location in [*result["locations"], *result["relatedLocations"]]:
            physical = location["physicalLocation"]
            assert physical["region"]["startLine"] >= 1
            assert re.fullmatch(r"[\w./:%~-]+", physical["artifactLocation"]["uri"])
    return run["results"]


def test_sarif(here: Path) -> None:
    """Problems only, a rule for each target, files as they are named from the root of the repository."""
    found = [
        _finding(place=Place("a b/ü#1.py", 3), others=(Place("/else/where.json"),)),
        _finding(rule="mine.py:op", level="warning", place=None, message="a\x1bb"),
        _finding(level="none"),
    ]
    log = json.loads(json.dumps(sarif.log(found, here)))
    one, other = _check_log(log)
    uri = one["locations"][0]["physicalLocation"]["artifactLocation"]
    assert {"uri": "a%20b/%C3%BC%231.py", "uriBaseId": "%SRCROOT%"} == uri
    assert "file:///else/where.json" == one["relatedLocations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert ([], r"a\x1bb") == (other["locations"], other["message"]["text"])
    assert {"examined": 3, "problems": 2} == log["runs"][0]["properties"]
    # The same problem, of another value, is the same one; another function is another.
    prints = [
        sarif.log([x], here)["runs"][0]["results"][0]["partialFingerprints"]
        for x in (found[0], attrs.evolve(found[0], message="f is wrong by more"), attrs.evolve(found[0], subject="g"))
    ]
    assert prints[0] == prints[1] != prints[2]


def test_annotations_are_escaped(here: Path) -> None:
    """A message ends no command and begins none; a property ends none; files are named from the repository."""
    hostile = "50 % off\n::error file=x::gone, a:b"
    (line,) = annotations.lines([_finding(message=hostile, rule="a:b,c", place=Place("d,e/f:g.py", 2))], here)
    assert r"::error file=d%2Ce/f%3Ag.py,line=2,title=diffuzz a%3Ab%2Cc::50 %25 off\n::error file=x::gone, a:b" == line
    (line,) = annotations.lines([_finding(command="c d", place=Place(str(here / "sub" / "a.py")))], here)
    assert "::error file=sub/a.py,line=1,title=diffuzz softmax::f is wrong%0ATo see it: c d" == line


def test_no_more_annotations_than_are_shown(here: Path) -> None:
    """Of each kind ten, the worst kind first, and a word about the others."""
    found = [_finding(level="none"), _finding(level="note"), *[_finding(level="warning")] * 3, *[_finding()] * 12]
    lines = annotations.lines(found, here)
    assert ["error"] * 10 + ["warning"] * 3 + ["notice"] == [line.split(" ")[0].strip(":") for line in lines]
    assert "::error title=diffuzz::and 3 more, which the summary of the job has" == lines[9]


def test_a_summary_is_text(here: Path) -> None:
    """What is quoted is no markup, ends no cell and no fence, and tells nobody."""
    hostile = "a | b <script> [x](y) `c` @all\nd"
    page = summary.markdown([_finding(message=hostile, command="run ```` \n# x"), _finding(level="none")], here)
    (row,) = [line for line in page.splitlines() if line.startswith("| error")]
    assert r"a \| b &lt;script&gt; \[x\](y) \`c\` &#64;all\\nd" in row
    assert 6 == len(re.findall(r"(?<!\\)\|", row))
    assert ["`````sh", r"run ```` \n# x", "`````"] == [x for x in page.splitlines() if "```" in x]
    assert page.startswith("## diffuzz: 2 results, 1 error\n")
    assert "No problem found: softmax 1." in page
    assert summary.markdown([_finding(level="none")], here).startswith("## diffuzz: 1 result, no problem found\n")


def test_exit_codes() -> None:
    """The worst: bad input, then a witness, then what is missing."""
    assert [0, 3, 1, 2] == [
        exit_code(_finding(code=code) for code in codes) for codes in ((0,), (0, 3), (3, 1, 0), (3, 1, 2))
    ]


def test_the_command(
    here: Path, make_entry: Callable[..., Counterexample], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Entries are replayed, lines are read, all reports are written, and the exit code is the worst."""
    good, bad = make_entry(), make_entry((1.0, 2.0, 3.0))
    files.save(good, Path("corpus"), always=True)
    path = files.save(bad, Path("corpus"), always=True)
    assert main._run(["report"]) == 0
    assert capsys.readouterr().out == "2 results, no problem found\n"
    path.write_text(dumps(attrs.evolve(bad, value=2 * bad.value)))
    Path("results.jsonl").write_text(json.dumps(SEARCHED) + "\n\n" + json.dumps(CHECKED) + "\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "job.md")
    assert main._run(["report", "corpus", "results.jsonl", "--sarif", "s.json", "--summary", "s.md"]) == 1
    out, err = capsys.readouterr()
    assert out.endswith("5 results, 3 errors, 1 warning\n")
    assert f"error    softmax: changed: recorded {2 * bad.value:.9g} " in out
    results = _check_log(json.loads(Path("s.json").read_text()))
    assert [str(path), "kernels.py", "w.json"] == [
        one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for one in results if one["locations"]
    ]
    assert [f"::error file={path},line=1", "::error file=kernels.py,line=4", "::error file=w.json,line=1"] == [
        line.partition(",title")[0] for line in err.splitlines()[:3]
    ]
    assert Path("s.md").read_text() + "\n" == Path("job.md").read_text()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(SEARCHED).encode())))
    assert main._run(["report", "-", "--json", "--no-annotations"]) == 1
    out, err = capsys.readouterr()
    assert {"examined": 1, "problems": 1} == {key: json.loads(out)[key] for key in ("examined", "problems")}
    assert err == ""
    # Nothing is lost from the page of the job.
    assert 2 == Path("job.md").read_text().count("## diffuzz")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["kernels.py"], "kernels.py: line 1: is no JSON"),
        (["absent.jsonl"], "absent.jsonl: No such file"),
        (["corpus", "--sarif", "no/s.json"], "--sarif no/s.json: there is no folder no"),
    ],
)
def test_mistakes(here: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, one line."""
    assert main._run(["report", *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert 1 == err.count("\n")


def test_replay_and_search_annotate_in_a_workflow(
    here: Path, entry: Counterexample, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By themselves there, never with --json, and anywhere if they are asked to."""
    path = files.save(entry, Path("corpus"))
    path.write_text(dumps(attrs.evolve(entry, value=2 * entry.value)))
    said = f"::error file={path},line=1,title=diffuzz softmax::changed: recorded "

    def annotated(*arguments: str) -> str:
        assert main._run(list(arguments)) == 1
        return capsys.readouterr().err

    assert annotated("replay") == ""
    assert said in annotated("replay", "--annotations", "--json")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert said in annotated("replay")
    assert annotated("replay", "--json") == ""
    assert annotated("replay", "--no-annotations") == ""
    search = ["search", "--target", "softmax", "--budget", "0.2s", "--seed", "0", "--engine", "random", "--first"]
    assert "::error file=corpus/softmax/" in annotated(*search, "--corpus", "corpus")


@pytest.mark.parametrize("value", [10**400, -(10**400)])
def test_numbers_that_are_too_large_are_one_line(value: int) -> None:
    """JSON has integers that no float64 holds."""
    with pytest.raises(reading.ResultError, match="value: is too large"):
        reading.findings({**SEARCHED, "verdict": "UNRESOLVED", "value": value})
