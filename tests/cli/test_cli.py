"""The command line is a contract: exit codes, one line for bad input, one JSON object, witnesses that are kept."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import attrs
import numpy as np
import pytest

import diffuzz
from diffuzz import targets
from diffuzz.cases.case import Case
from diffuzz.cli import main
from diffuzz.corpus import files
from diffuzz.corpus.entry import Counterexample, dumps

# Without a screen: nothing is compiled. Ended by its work, see _little_work.
QUICK = ("--param", "n=8", "--engine", "random", "--budget", "20s", "--seed", "3")
SEARCH = ("search", "--target", "dot-order", *QUICK)
CANDIDATE = ("search", "--target", "softmax", "--param", "candidate_n=3", *QUICK[2:], "--candidate")
KEYS = {
    "target", "params", "engine", "seed", "budget_s", "evaluations", "evaluations_per_s", "value", "measure", "bound",
    "efficiency", "threshold", "limit", "verdict", "witness", "environment",
}  # fmt: skip

RIGHT = "e = np.exp(z - z.max(1, keepdims=True)); return e / e.sum(1, keepdims=True)"
WRONG = "e = np.exp(z - z.max(1, keepdims=True)); return e / (e.sum(1, keepdims=True) + np.float32(1e-3))"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _little_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Searches end by work, long before the clock, however slow the machine; each test has a folder of its own."""
    monkeypatch.setattr(importlib.import_module("diffuzz.searching.search"), "WORK_PER_SECOND", 2**13)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main._run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def _process(*arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "diffuzz", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **more)


def _json(out: str) -> dict[str, Any]:
    """The object on the last line of stdout; strict JSON."""

    def refuse(text: str) -> Any:
        raise AssertionError(f"{text} is not JSON")

    stored: dict[str, Any] = json.loads(out.splitlines()[-1], parse_constant=refuse)
    return stored


def _candidate(body: str) -> str:
    head = "import os, signal\nimport numpy as np\ncalls = []\n"
    Path("mine.py").write_text(f"{head}def f(z):\n    calls.append(1)\n    {body}\n")
    return "mine.py:f"


def _of_candidate(entry: Counterexample) -> Counterexample:
    return attrs.evolve(
        entry,
        candidate="mine.py:f",
        params=targets.get("softmax").contract_params(),
        case=Case({"z": entry.case["z"]}),
        value=np.inf,
        threshold=1.0,
        bound=None,
    )


def _complaint(result: tuple[int, str, str], code: int = 2) -> str:
    """What stderr says: one line, with nothing on stdout."""
    assert (code, "") == result[:2]
    assert re.fullmatch(r"diffuzz: [^\n]+\n", result[2])
    assert result[2][:-1].isprintable()
    return result[2][:-1]


# Searching


def test_a_confirmed_search(run: Run) -> None:
    """Exit 1, the verdict first, the witness on the screen and in the corpus, nothing on stderr."""
    code, out, err = run(*SEARCH)
    assert (1, "") == (code, err)
    assert out.startswith("CONFIRMED: ")
    (path,) = Path("corpus").rglob("*.json")
    assert f"Witness, in {path}" in out
    assert "seed 3" in out
    assert files.load(path).found["seed"] == 3


def test_a_search_that_confirms_nothing(run: Run) -> None:
    """Exit 0; the largest case is saved all the same, unless told otherwise."""
    code, out, err = run(*SEARCH, "--limit", "1000", "--no-save")
    assert (0, "") == (code, err)
    assert out.startswith("FALSIFIED: ")
    assert not Path("corpus").exists()
    assert run(*SEARCH, "--limit", "1000")[0] == 0
    assert len(list(Path("corpus").rglob("*.json"))) == 1


def test_search_json(run: Run) -> None:
    """One strict JSON object, the last line of stdout, with every key of the contract."""
    code, out, err = run(*SEARCH, "--json", "--corpus", "mine")
    found = _json(out)
    assert (1, 1, "") == (code, len(out.splitlines()), err)
    assert set(found) >= KEYS
    assert ("dot-order", "random", 3, 20.0, "CONFIRMED") == tuple(
        found[key] for key in ("target", "engine", "seed", "budget_s", "verdict")
    )
    assert found["params"] == {"n": 8, "max_abs": 16.0}
    assert found["efficiency"] == found["value"] / found["bound"]
    assert Path(found["witness"]).is_relative_to("mine")
    entry = files.load(Path(found["witness"]))
    assert (found["value"], found["threshold"], found["limit"]) == (entry.value, entry.threshold, entry.threshold)
    assert found["environment"]["numpy"] == np.__version__


def test_search_json_without_a_case(run: Run) -> None:
    """Nothing found, no bound: null, not left out."""
    code, out, _ = run("search", "--target", "dequantize", *QUICK[2:], "--json")
    found = _json(out)
    assert (0, None, None, "FALSIFIED") == (code, found["witness"], found["efficiency"], found["verdict"])
    _, out, _ = run("search", "--target", "matmul", "--param", "kernel=numpy", *QUICK, "--json", "--no-save")
    found = _json(out)
    assert (None, None, None) == (found["bound"], found["efficiency"], found["witness"])


def test_an_infinite_value_is_json(run: Run) -> None:
    """A candidate that returns NaN is a finding, and its value a string, because JSON has no infinities."""
    code, out, _ = run(*CANDIDATE, _candidate("return np.full_like(z, np.nan)"), "--json")
    found = _json(out)
    assert (1, "inf", "CONFIRMED", "witness") == (code, found["value"], found["verdict"], found["stopped_by"])
    assert files.load(Path(found["witness"])).value == np.inf
    assert run("show", found["witness"])[0] == 0


def test_equal_seeds_save_equal_witnesses(run: Run) -> None:
    """The same file name and, apart from where it was measured, the same file."""
    stored = []
    for folder in ("a", "b"):
        assert run(*SEARCH, "--corpus", folder)[0] == 1
        (path,) = Path(folder).rglob("*.json")
        stored.append((path.name, json.loads(path.read_text()) | {"environment": None}))
    assert stored[0] == stored[1]


def test_a_witness_that_adds_nothing(run: Run) -> None:
    """The same search again writes nothing, and names the entry that is there."""
    first, second = _json(run(*SEARCH, "--json")[1]), _json(run(*SEARCH, "--json")[1])
    assert first["witness"] == second["witness"]
    assert len(list(Path("corpus").rglob("*"))) == 2


def test_no_progress_without_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing on stderr, even where a CI system asks for colours."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert run(*SEARCH)[2] == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "dot-order" in run(*SEARCH)[2]


def test_a_budget_that_is_over_before_it_begins(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """No evaluation decides nothing: not exit code 0."""
    monkeypatch.setattr(importlib.import_module("diffuzz.searching.search"), "WORK_PER_SECOND", 0.0)
    code, _, err = run("search", "--target", "matmul", "--param", "kernel=numpy", *QUICK)
    assert (2, "diffuzz: 20 s were over before the first evaluation") == (code, err.split(";")[0])


def test_the_result_is_printed_though_it_cannot_be_saved(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full after an hour does not cost the result."""

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, out, err = run(*SEARCH)
    assert (2, "CONFIRMED") == (code, out.split(":")[0])
    assert "No space left on device" in err
    assert len(err.splitlines()) == 1


# Candidates


def test_a_right_candidate(run: Run) -> None:
    """Exit 0, and none is called wrong: two lines, nothing saved."""
    name = _candidate(RIGHT)
    code, out, err = run(*CANDIDATE, name)
    assert (0, "") == (code, err)
    first, second = out.splitlines()
    assert first.startswith("UNRESOLVED: mine.py:f was not found to be wrong (at most 0.")
    assert second.startswith("Searched ")
    assert not Path("corpus").exists()
    code, out, err = run(*CANDIDATE, name, "--verbose")
    assert 0 == code
    assert all(re.match(r" +\d+\.\d\d s  \w", line) for line in err.splitlines())
    assert "The candidate is not wrong here." in out
    assert "Best case found\n" in out
    assert "Witness" not in out
    assert not Path("corpus").exists()


def test_a_wrong_candidate(run: Run) -> None:
    """Exit 1; it says which of the three is wrong, and the entry replays with the candidate only."""
    code, out, err = run(*CANDIDATE, _candidate(WRONG))
    assert (1, "") == (code, err)
    assert out.startswith("CONFIRMED: mine.py:f is wrong")
    assert "The candidate is wrong." in out
    (path,) = Path("corpus").rglob("*.json")
    assert run("replay")[0] == 3
    assert run("replay", "--candidate", "mine.py:f")[0] == 0
    assert run("show", path)[0] == 0
    assert "mine.py:f" in run("show", path)[1]
    assert "found with a candidate" in _complaint(run("measure", path))
    code, _, err = run("minimise", path)
    assert (3, True) == (code, "give --candidate mine.py:f" in err)
    assert run("minimise", path, "--candidate", "mine.py:f")[0] == 0
    _candidate(RIGHT)
    assert run("replay", "--candidate", "mine.py:f")[0] == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise RuntimeError('first\\nsecond')", "candidate mine.py:f raises RuntimeError: first second"),
        ("import sys; sys.exit(0)", "candidate mine.py:f raises SystemExit: 0"),
        ("return z[:, :2]", "returns float32[1, 2], where float32[1, 3] is needed"),
        ("return z.astype(np.float64)", "returns float64"),
        ("return None", "returns object[]"),
        ("return 'text'", "where float32"),
    ],
)
def test_a_candidate_that_fails(run: Run, body: str, message: str) -> None:
    """Exit 2, one line with what it did and what it was called with."""
    line = _complaint(run(*CANDIDATE, _candidate(body)))
    assert message in line
    assert "called with z float32[1, 3]; its signature: f(z: dtype[b, n]) -> dtype[b, n]" in line
    assert not Path("corpus").exists()


def test_a_candidate_that_crashes(run: Run) -> None:
    """Exit 1: the witness on which it crashes is found, said, saved, shown and replayed."""
    name = _candidate(f"if z.max() > 8: os.abort()\n    {RIGHT}")
    code, out, err = run(*CANDIDATE, name)
    assert (1, "") == (code, err)
    assert "CONFIRMED: mine.py:f is wrong (inf > 1" in out
    assert re.search(r'On the witness it crashed: SIGABRT: File ".*mine.py", line 6 in f\.', out)
    (path,) = Path("corpus").rglob("*.json")
    assert "crashed: SIGABRT" in run("show", path)[1]
    assert run("replay", "--candidate", "mine.py:f")[0] == 0
    assert run("minimise", path, "--candidate", "mine.py:f", "--timeout", "5s")[0] == 0


def test_a_failure_that_passes_is_mentioned(run: Run) -> None:
    """Exit as without it; the report has a line, the JSON object a field."""
    name = _candidate(f"if len(calls) > 3: raise RuntimeError('no memory')\n    {RIGHT}")
    code, out, _ = run(*CANDIDATE, name)
    assert code == 0
    assert "not again on the same cases in a fresh process: raised: RuntimeError: no memory (mine.py, line 6)." in out
    found = _json(run(*CANDIDATE, name, "--json")[1])
    assert (None, "raised: RuntimeError: no memory (mine.py, line 6)") == (found["failure"], found["passing_failure"])


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ("mine.py", "FILE.py:FUNCTION is needed"),
        ("missing.py:f", "there is no file missing.py"),
        ("mine.py:g", "mine.py has no function g"),
        ("broken.py:f", "fails to load: SyntaxError"),
        ("mine.py:calls", "has no function calls, but the list of that name"),
        (".:f", "there is no file ."),
    ],
)
def test_a_candidate_that_is_not_there(run: Run, specification: str, message: str) -> None:
    """Exit 2, one line."""
    _candidate(RIGHT)
    Path("broken.py").write_text("def f(z) return z")
    assert message in _complaint(run(*CANDIDATE, specification))


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("serach",), "No such command 'serach'"),
        (("search",), "Missing option '--target'"),
        (("search", "--target", "softmaks"), "there is no target 'softmaks'; did you mean softmax?"),
        (("search", "--target", "../softmax"), "there is no target"),
        ((*SEARCH, "--param", "maxabs=1"), "has no parameter 'maxabs'"),
        ((*SEARCH, "--param", "max_abs"), "'max_abs' is not KEY=VALUE"),
        ((*SEARCH, "--param", "=3"), "'=3' is not KEY=VALUE"),
        ((*SEARCH, "--param", "max_abs="), "parameter max_abs=: a number is needed"),
        ((*SEARCH, "--param", "n=16"), "--param n is given twice, as 8 and as 16"),
        ((*SEARCH, "--param", "max_abs=1e99"), "max_abs=1e99 is out of range"),
        ((*SEARCH, "--param", "max_abs=nan"), "parameter max_abs=nan"),
        ((*SEARCH, "--param", "max_abs=\x1b[2J"), "a number is needed"),
        (("search", "--target", "dot-order", "--param", "n=-8"), "out of range"),
        (("search", "--target", "dot-order", "--param", "n=8.5"), "a whole number is needed"),
        (("search", "--target", "matvec", "--param", "format=q4_k"), "one of"),
        ((*SEARCH, "--engine", "annealing"), "there is no engine 'annealing' (engines: auto,"),
        ((*SEARCH, "--engine", "gradient"), "this engine has nothing to work with in target dot-order"),
        ((*SEARCH, "--budget", "soon"), "'soon' is not a duration"),
        ((*SEARCH, "--budget", "0s"), "'0s' is not a duration"),
        ((*SEARCH, "--budget", "-1s"), "'-1s' is not a duration"),
        ((*SEARCH, "--budget", "nan"), "'nan' is not a duration"),
        ((*SEARCH, "--budget", "1e3s"), "is not a duration"),
        ((*SEARCH, "--budget", "9999999999h"), "is not a duration"),
        ((*SEARCH, "--seed", "-1"), "-1 is not in the range"),
        ((*SEARCH, "--seed", "x"), "not a valid integer"),
        ((*SEARCH, "--seed", str(2**63)), "is not in the range"),
        ((*SEARCH, "--limit", "nan"), "'nan' is not a finite number"),
        ((*SEARCH, "--limit", "-inf"), "'-inf' is not a finite number"),
        ((*SEARCH, "--limit", "five"), "'five' is not a finite number"),
        ((*SEARCH, "--keep", "0"), "'0' is not a share of the value"),
        ((*SEARCH, "--keep", "1.5"), "'1.5' is not a share of the value"),
        ((*SEARCH, "--keep", "nan"), "'nan' is not a share of the value"),
        ((*SEARCH, "--corpus", "file"), "file"),
        ((*SEARCH, "--corpus", "file/below"), "cannot be written; choose another folder with --corpus, or --no-save"),
        ((*SEARCH, "--corpus", "taken"), "cannot be written"),
        ((*SEARCH, "--candidate", "mine.py:f"), "target dot-order takes no candidate"),
        ((*CANDIDATE, "mine.py:f"), "there is no file mine.py"),
        ((*SEARCH, "--unknown"), "No such option"),
        (("measure", "missing.json"), "missing.json: No such file or directory"),
        (("measure", "case.npz"), "case.npz: arrays alone do not say what to measure: give --target"),
        (("measure", "case.npz", "--target", "nothing"), "there is no target 'nothing'"),
        (("measure", "case.npz", "--target", "dot-order"), "missing: ['b']"),
        (("measure", "missing.npz", "--target", "dot-order"), "missing.npz: No such file"),
        (("measure", "file", "--target", "dot-order"), "a case is a .json corpus entry, a .npz or a .safetensors file"),
        (("measure", "hostile.json", "--limit", "nan"), "'nan' is not a finite number"),
        (("replay", "missing"), "missing: there is no such file or folder"),
        (("replay",), "corpus: there is no such file or folder"),
        (("replay", "taken"), "no corpus entry (.json) there, so nothing was replayed"),
        (("replay", "hostile.json", "--junit", "nowhere/report.xml"), "there is no folder nowhere; make it first"),
        (("replay", "hostile.json", "--junit", "taken"), "taken"),
        (("measure", "f8.safetensors", "--target", "dot-order"), "arrays: array a is F8_E4M3: convert it"),
        (("minimise", "missing.json"), "missing.json: No such file or directory"),
        (("minimise", "hostile.json", "--keep", "2"), "is not a share of the value"),
        (("claims", "--corpus", "file/below", "--budget", "1s"), "cannot be written"),
        (("measure", "hostile.json"), "hostile.json: not JSON, or cut short"),
        (("minimise", "hostile.json"), "hostile.json: not JSON, or cut short"),
        (("show", "hostile.json"), "hostile.json: not JSON, or cut short"),
        (("show", "nested.json"), "nested.json: nested too deeply"),
    ],
    ids=lambda value: repr(" ".join(value)[-50:]) if isinstance(value, tuple) else "",
)
def test_bad_input(run: Run, arguments: tuple[str, ...], message: str) -> None:
    """Exit 2, one printable line on stderr that says what is wrong, nothing on stdout, nothing searched or written."""
    Path("file").write_text("")
    Path("hostile.json").write_text('{"diffuzz": 1, ')
    Path("nested.json").write_text("[" * 100_000)
    Path("taken").mkdir()
    Path("taken/dot-order").write_text("")
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}).encode()
    Path("f8.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"8")
    np.savez("case.npz", a=np.ones(8, np.float32))
    assert message in _complaint(run(*arguments))
    assert not Path("corpus").exists()


def test_a_missing_dependency(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 3, one line that says how to get it."""
    monkeypatch.setitem(sys.modules, "jax", None)
    line = _complaint(run("search", "--target", "softmax", "--param", "n=3", "--engine", "evolution"), code=3)
    assert "a search needs the package jax, which is not installed: pip install jax" in line
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    Path("case.safetensors").write_bytes(b"")
    line = _complaint(run("measure", "case.safetensors", "--target", "softmax"), code=3)
    assert "pip install safetensors" in line


@pytest.mark.parametrize("kernels", [(), ("--kernels", "exact,xla")])
def test_a_jax_that_does_not_start(run: Run, monkeypatch: pytest.MonkeyPatch, kernels: tuple[str, ...]) -> None:
    """Exit 3, one line with what jax said, also where that is an assertion without words."""
    import jax

    from diffuzz.kernels import xla

    def fail() -> None:
        raise AssertionError

    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    xla.start.cache_clear()
    line = _complaint(run("search", "--target", "softmax", "--engine", "gradient", "--no-save", *kernels), code=3)
    assert line == "diffuzz: jax does not start with JAX_PLATFORMS=cuda: unset it (AssertionError)"
    monkeypatch.delenv("JAX_PLATFORMS")
    line = _complaint(run("bench", "engines", "--target", "dot-order", "--engine", "random"), code=3)
    assert line == "diffuzz: jax does not start (AssertionError)"


def test_a_defect_is_not_a_witness(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong inside, the exit code is none of the contract's, and there is a traceback to report."""

    def fail() -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(targets, "names", fail)
    code, out, err = run("targets")
    assert (70, "") == (code, out)
    assert "RuntimeError: a defect" in err


def test_out_of_memory(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters that are too large for the machine are bad input."""

    def fail(name: str) -> None:
        raise MemoryError

    monkeypatch.setattr(targets, "get", fail)
    assert "choose smaller parameters" in _complaint(run(*SEARCH))


# The other commands


def test_targets(run: Run) -> None:
    """All of them, as text and as one JSON object."""
    code, out, err = run("targets")
    assert (0, "") == (code, err)
    code, listed, _ = run("targets", "--json")
    assert code == 0
    known = [*targets.names(), *targets.OF_MODELS.names()]
    assert [target["name"] for target in _json(listed)["targets"]] == known
    assert all(f"\n{name}\n" in f"\n{out}" for name in known)


def test_help_and_version(run: Run) -> None:
    """Exit 0 when asked for, exit 2 without a command."""
    assert run("--help")[::2] == (0, "")
    assert run("search", "-h")[::2] == (0, "")
    assert run("--version")[:2] == (0, f"diffuzz, version {diffuzz.__version__}\n")
    code, out, _ = run()
    assert (2, True) == (code, "search" in out)


def test_measure(run: Run, entry: Counterexample, saved: Path) -> None:
    """An entry as it was judged, or under another claim; arrays with a target."""
    code, out, err = run("measure", saved, "--json")
    assert (1, "") == (code, err)
    assert (entry.value, entry.threshold, "CONFIRMED") == tuple(
        _json(out)[key] for key in ("value", "limit", "verdict")
    )
    assert run("measure", saved, "--limit", "10")[0] == 0
    assert run("measure", saved)[1].startswith("CONFIRMED: ")
    np.savez("case.npz", **entry.case.arrays)
    code, out, _ = run("measure", "case.npz", "--target", "softmax", "--param", "n=3", "--json")
    assert (1, entry.value) == (code, _json(out)["value"])


def test_measure_uses_the_limit_of_the_entry(run: Run, entry: Counterexample) -> None:
    """The verdict of an entry is the one it was saved with, unless another domain is asked for."""
    path = files.save(attrs.evolve(entry, threshold=12.0), Path("corpus"))
    assert run("measure", path)[0] == 0
    assert run("measure", path, "--param", "delta=0.0005")[0] == 1


def test_show(run: Run, entry: Counterexample, saved: Path) -> None:
    """The entry as text, or as it is stored."""
    code, out, err = run("show", saved)
    assert (0, "") == (code, err)
    assert entry.value.hex() in out
    assert _json(run("show", saved, "--json")[1]) == json.loads(saved.read_text())


def test_replay(run: Run, entry: Counterexample, saved: Path) -> None:
    """0 as recorded, 1 changed, 2 broken; JSON and JUnit say the same."""
    code, out, err = run("replay", "corpus", "--junit", "report.xml")
    assert (0, "") == (code, err)
    assert out.splitlines()[-1].startswith("1 of 1 entries replayed as recorded")
    assert ElementTree.parse("report.xml").getroot().get("failures") == "0"
    changed = attrs.evolve(entry, value=2 * entry.value)
    saved.write_text(dumps(changed))
    code, out, _ = run("replay", "--json", "--junit", "report.xml")
    assert (1, "changed") == (code, _json(out)["results"][0]["status"])
    assert ElementTree.parse("report.xml").getroot().get("failures") == "1"
    saved.write_text("{")
    code, out, err = run("replay", saved)
    assert 2 == code
    # On stderr as errors are, and once.
    assert (1, 0) == (err.count("not JSON"), out.count("not JSON"))
    assert err.startswith(f"diffuzz: {saved}: ")
    assert out.startswith("0 of 1 entries replayed")


def test_a_report_is_written_last(run: Run, saved: Path) -> None:
    """A usage error leaves no empty report behind; one that cannot be written does not cost the results."""
    assert "nothing: there is no such file" in _complaint(run("replay", "nothing", "--junit", "report.xml"))
    assert not Path("report.xml").exists()
    Path("report.xml").symlink_to("/dev/full")
    code, out, err = run("replay", saved, "--junit", "report.xml")
    assert (2, "diffuzz: --junit report.xml: cannot be written (No space left on device)\n") == (code, err)
    assert "1 of 1 entries replayed as recorded" in out


def test_a_folder_that_is_gone(run: Run) -> None:
    """One line that says what is wrong and what to do."""
    Path("gone").mkdir()
    with contextlib.chdir("gone"):
        os.rmdir("../gone")
        line = _complaint(run("search", "--target", "softmax"))
        os.chdir("/")
    assert "the working directory cannot be used (No such file or directory): change to one that can" in line


def test_replay_without_the_candidate(run: Run, entry: Counterexample) -> None:
    """Exit 3: it was skipped, so it is not 0."""
    files.save(_of_candidate(entry), Path("corpus"))
    code, out, _ = run("replay")
    assert (3, True) == (code, "needs candidate" in out)


def test_replay_with_a_strange_file_name(entry: Counterexample) -> None:
    """A name that is no text does not stop a replay."""
    path = files.save(entry, Path("corpus"))
    os.rename(path, os.fsencode(path.parent) + b"/caf\xe9\n.json")
    done = _process("replay", "--junit", "report.xml", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (0, "") == (done.returncode, done.stderr)
    assert ElementTree.parse("report.xml").getroot().get("tests") == "1"


def test_minimise(run: Run, make_entry: Callable[..., Counterexample]) -> None:
    """A simpler entry in the same corpus; the old one stays; once more changes nothing."""
    path = files.save(make_entry((9.5, 9.4375, -9.8125)), Path("corpus"))
    code, out, err = run("minimise", path, "--keep", "0.5", "--json")
    assert (0, "") == (code, err)
    new = Path(_json(out)["minimised"])
    assert (path.exists(), new.exists(), new.parent.resolve()) == (True, True, path.parent.resolve())
    assert new.name != path.name
    assert files.load(new).value == _json(out)["value"]
    assert run("minimise", new, "--keep", "1")[0] == 0
    assert len(list(Path("corpus").rglob("*.json"))) == 2


def test_minimise_writes_nowhere_else(run: Run, make_entry: Callable[..., Counterexample]) -> None:
    """An entry outside a corpus gets a corpus beside it, not above it; one named from inside its folder its own."""
    path = files.save(make_entry((9.5, 9.4375, -9.8125)), Path("corpus"))
    Path("inbox").mkdir()
    path.rename("inbox/theirs.json")
    assert run("minimise", "inbox/theirs.json", "--keep", "0.5")[0] == 0
    assert [each.parent.as_posix() for each in Path("inbox").rglob("*/*.json")] == ["inbox/softmax"]
    assert not Path("softmax").exists()
    before = set(Path().rglob("*"))
    with contextlib.chdir("inbox/softmax"):
        (name,) = os.listdir()
        assert run("minimise", name, "--keep", "0.1")[0] == 0
    assert {each.parent.as_posix() for each in set(Path().rglob("*")) - before} <= {"inbox/softmax"}


# Processes


def _interrupted(body: str, *more: str) -> tuple[int, str, str]:
    """A search with this candidate, interrupted when the candidate has made the file ``now``."""
    command = [sys.executable, "-m", "diffuzz", *CANDIDATE, _candidate(body), "--budget", "1h", "--json", *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 60
            while not Path("now").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, out, err


def test_an_interrupted_search_keeps_the_best() -> None:
    """Ctrl-C: the best so far is minimised, judged, printed and saved, as at the end."""
    code, out, err = _interrupted(f"len(calls) == 200 and open('now', 'w')\n    {WRONG}", "--largest")
    found = _json(out)
    assert (1, "", "CONFIRMED", "interrupted") == (code, err, found["verdict"], found["stopped_by"])
    assert files.load(Path(found["witness"])).value == found["value"]


def test_an_interrupt_before_anything_was_found() -> None:
    """There is nothing to keep, and nothing was decided: exit 130, and a candidate that hangs goes with it."""
    # The first two calls are those that ask whether it can be called, and whether it compiles each shape.
    hangs = "open('now', 'w').write(str(os.getpid()))\n        while True: pass"
    code, out, err = _interrupted(f"if len(calls) > 2:\n        {hangs}\n    {RIGHT}")
    assert (130, "", None) == (code, err, _json(out)["witness"])
    for _ in range(200):
        try:
            os.kill(int(Path("now").read_text()), 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    pytest.fail("the candidate's process is still there")


def test_a_reader_that_goes_away(saved: Path) -> None:
    """``| head``: no traceback, and the exit code of the work, which was done."""
    reader, writer = os.pipe()
    os.close(reader)
    saved.write_text("{")
    said = f"diffuzz: {saved.relative_to(Path.cwd())}: "
    for arguments, code, told in ((("targets",), 0, ""), (("replay", "corpus"), 2, said)):
        command = [sys.executable, "-m", "diffuzz", *arguments]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
        assert (code, told) == (done.returncode, done.stderr[: len(said)])
        assert len(done.stderr.splitlines()) == bool(told)
    os.close(writer)


@pytest.mark.parametrize(
    ("closed", "code", "out", "err"),
    [
        (">&-", 2, "", "diffuzz: standard output is closed, so there is no place for results\n"),
        ("2>&-", 0, "softmax", ""),
        (">/dev/full", 2, "", "diffuzz: standard output: No space left on device\n"),
    ],
)
def test_a_stream_that_is_closed(closed: str, code: int, out: str, err: str) -> None:
    """One line where there is a place for it, and never a traceback."""
    shell = ["sh", "-c", f'exec "$0" -m diffuzz targets {closed}', sys.executable]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=60)
    assert (code, err) == (done.returncode, done.stderr)
    assert out in done.stdout


def test_a_cache_that_cannot_be() -> None:
    """A file in the place of its folder: jax would warn of it, in two lines."""
    Path("file").write_text("")
    command = (
        "search",
        "--target",
        "softmax",
        "--param",
        "n=2",
        "--engine",
        "gradient",
        "--budget",
        "20s",
        "--no-save",
    )
    done = _process(*command, env=os.environ | {"XDG_CACHE_HOME": os.path.abspath("file")})
    assert (1, "") == (done.returncode, done.stderr)


def test_a_search_in_a_process() -> None:
    """The whole of it, JAX included: exit code, JSON as the last line, quiet stderr."""
    # The constructions that auto begins with reach the bound without JAX.
    given = ("--param", "n=7", "--engine", "evolution", "--budget", "20s", "--seed", "1", "--json")
    done = _process("search", "--target", "softmax", *given)
    found = _json(done.stdout)
    assert (1, "") == (done.returncode, done.stderr)
    assert "jax" in found["environment"]
    assert _process("replay", found["witness"]).returncode == 0
