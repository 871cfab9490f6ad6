"""Commands with candidates that are not of Python: found, saved, replayed, minimised, shown, and run by pytest."""

from __future__ import annotations

import importlib
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from opening.conftest import INCLUDE, Build
from opening.test_library import KERNELS
from opening.test_program import command

from diffuzz.cli import main
from diffuzz.corpus import candidates
from diffuzz.judging.question import Judge

SEARCH = (
    "search", "--target", "softmax", "--param", "candidate_n=3", "--engine", "random", "--budget", "20s", "--seed", "3",
    "--corpus", "corpus", "--candidate",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _little_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Searches end by work; each test has a folder of its own."""
    monkeypatch.setattr(importlib.import_module("diffuzz.searching.search"), "WORK_PER_SECOND", 2**12)
    monkeypatch.chdir(tmp_path)


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main._run(list(arguments))
    return code, *capsys.readouterr()


def saved() -> str:
    (path,) = Path("corpus").rglob("*.json")
    return str(path)


def test_include(capsys: pytest.CaptureFixture[str]) -> None:
    """One line, the folder of both headers."""
    assert ran(capsys, "include") == (0, f"{INCLUDE}\n", "")
    assert {"diffuzz.h", "diffuzz.rs"} <= {path.name for path in INCLUDE.iterdir()}


@pytest.mark.parametrize("kind", ["library", "program"])
def test_an_entry(build: Build, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    """It records the candidate as it was given, and only runs it when it is named again."""
    if kind == "library":
        shutil.copy(build(KERNELS), "kernels.so")
        name, right = "kernels.so:naive", "kernels.so:hostile"
    else:
        name, right = command(1.01), command()
    code, out, _ = ran(capsys, *SEARCH, name, "--json")
    found = json.loads(out)
    assert (code, found["candidate"], found["verdict"], found["skipped"]) == (1, name, "CONFIRMED", 0)
    entry = json.loads(Path(saved()).read_text())
    assert name == entry["candidate"]
    code, out, _ = ran(capsys, "replay", "corpus")
    assert (code, f"--candidate {shlex.quote(name)}" in out) == (3, True)
    assert ran(capsys, "replay", "corpus", "--candidate", name)[0] == 0
    # A new version, and by the name that was recorded.
    assert ran(capsys, "replay", saved(), "--candidate", f"{name}={right}")[0] == 1
    assert ran(capsys, "minimise", saved(), "--candidate", name)[0] == 0
    code, out, _ = ran(capsys, "show", saved(), "--python")
    assert (code, "function = None" in out, "which is not of Python" in out) == (0, True, True)
    done = subprocess.run([sys.executable, "-c", out], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert ran(capsys, "show", saved())[0] == 0


def test_pytest(build: Build, capsys: pytest.CaptureFixture[str], pytester: pytest.Pytester) -> None:
    """The plugin takes what replay takes."""
    shutil.copy(build(KERNELS), "kernels.so")
    assert ran(capsys, *SEARCH, "kernels.so:naive")[0] == 1
    done = pytester.runpytest_inprocess("corpus", "--diffuzz-candidate", "kernels.so:naive")
    done.assert_outcomes(passed=1)


def test_what_it_skipped_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """A search that found nothing says how much was not looked at."""
    Path("program.py").write_text(
        Path(__file__).with_name("program.py").read_text().replace("first == 95", "first != 1.0")
    )
    name = command().replace(str(Path(__file__).with_name("program.py")), "program.py")
    code, out, _ = ran(capsys, *SEARCH, name)
    assert code == 0
    assert " cases, of which nothing is known; the last time it said: no 95." in out


def test_kernels_against_a_candidate(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    """It is one of two implementations that are compared."""
    code, out, _ = ran(capsys, *SEARCH, f"{build(KERNELS)}:naive", "--kernels", "exact,candidate", "--no-save")
    assert (code, out.startswith("CONFIRMED: exact and candidate differ by more than rounding")) == (1, True)


def test_a_matrix_with_a_candidate(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    """One column more, and with --kernels, too; its witness is saved under its name."""
    name = f"{build(KERNELS)}:naive"
    code, out, _ = ran(
        capsys, "matrix", "--target", "softmax", "--param", "candidate_n=3", "--kernels", "exact", "--candidate", name,
        "--budget", "20s", "--corpus", "corpus", "--json",
    )  # fmt: skip
    (cell,) = json.loads(out)["cells"]
    assert (code, cell["kernels"], cell["agreement"]) == (1, ["exact", "candidate"], "not at all")
    assert json.loads(Path(saved()).read_text())["candidate"] == name


@pytest.mark.parametrize("name", ["kernels.so:f", "no.so:f", "run: no-such-program", "run:", "k.txt:f"])
def test_bad_names(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """One line, exit code 2."""
    Path("kernels.so").write_text("none")
    Path("k.txt").touch()
    code, out, err = ran(capsys, *SEARCH, name)
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_names_of_programs_may_have_equals_signs() -> None:
    """A command that can be run is one; else what is before an equals sign is the name that was recorded."""
    assert candidates.parse(["run: echo --mode=fast"]) == Judge("run: echo --mode=fast")
    found = candidates.parse(["run: old --a=1=run: echo --mode=fast"])
    assert found == {"run: old --a=1": Judge("run: echo --mode=fast")}
