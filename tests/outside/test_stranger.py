"""A stranger's target, format, engine and kernels, in files outside the package, on the command line: each command in a
process of its own, which knows no more than what it is told.
"""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

FILES = Path(__file__).parent / "files"
TARGET, FORMAT = "my_norm.py:TARGET", "my_format.py:FORMAT"
# Nothing is compiled.
QUICK = ("--engine", "random", "--budget", "500ms", "--seed", "0")
# Ends with the first witness, however slow the machine.
FIRST = ("--engine", "random", "--budget", "30s", "--seed", "0", "--first")
NORM = ("search", "--target", TARGET, *QUICK)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The stranger's working directory."""
    for file in FILES.glob("*.py"):
        shutil.copy(file, tmp_path)
    return tmp_path


def _ran(folder: Path, command: Sequence[str], code: int) -> str:
    """What it printed; nothing on stderr, and this exit code."""
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, timeout=120)
    assert (code, "") == (done.returncode, done.stderr), done.stdout
    return done.stdout


def _diffuzz(folder: Path, *command: str, code: int = 0) -> str:
    return _ran(folder, ("diffuzz", *command), code)


def _refused(folder: Path, *command: str, code: int = 2) -> str:
    """The one line on stderr."""
    command = (sys.executable, "-m", "diffuzz", *command)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert (code, "", 1) == (done.returncode, done.stdout, len(done.stderr.splitlines()))
    return done.stderr


def _pytest(folder: Path, *options: str, code: int = 0) -> str:
    command = ("pytest", "-q", "-p", "no:cacheprovider", "corpus", *options)
    return _ran(folder, command, code)


def _entry(folder: Path) -> str:
    """The one entry in the corpus, relative to the folder."""
    (path,) = (folder / "corpus").rglob("*.json")
    return str(path.relative_to(folder))


def _kept(folder: Path, needed: Sequence[str], value: str) -> None:
    """The entry of the folder's corpus replays where all is named that it ``needed``, in diffuzz and in pytest, and is
    refused, with a line that names the first, where nothing is.
    """
    first, file = needed[0].removeprefix("--"), needed[1]
    entry = _entry(folder)
    said = _diffuzz(folder, "replay", code=3)
    assert said.startswith("needs file")
    assert f"came from a file: give --{first} {file}\n" in said
    assert f"came from a file: give --{first} {file}" in _refused(folder, "show", entry, code=3)
    options = [option.replace("--", "--diffuzz-") for option in needed]
    assert f"give --diffuzz-{first} {file}: " in _pytest(folder, code=1)
    assert "1 passed" in _pytest(folder, *options)
    said = _diffuzz(folder, "replay", "corpus", *needed)
    assert said.startswith(f"as recorded  {entry}  {value}")
    shown = _diffuzz(folder, "show", entry, *(word for word in _pairs(needed) if word))
    assert f"{first:13} from {file}\n" in shown


def _pairs(needed: Sequence[str]) -> list[str]:
    """The options that ``show`` takes, which runs no candidate."""
    pairs = zip(needed[::2], needed[1::2], strict=True)
    return [word for option, file in pairs if option != "--candidate" for word in (option, file)]


def _json(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def test_laws(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target keeps what every target promises."""
    laws = pytest.importorskip("diffuzz.targets.laws")
    monkeypatch.syspath_prepend(str(folder))
    laws.check(importlib.import_module("my_norm").TARGET)


# The target


def test_a_target(folder: Path) -> None:
    """It is listed, searched, saved, replayed, shown, minimised and measured like those of diffuzz."""
    listed = _diffuzz(folder, "targets", TARGET)
    assert listed.startswith("layer-norm\n")
    assert "--candidate f(x: float32[b, n], eps: float)" in listed
    found = _json(_diffuzz(folder, "search", "--target", TARGET, *FIRST, "--param", "n=4", "--json", code=1))
    assert (found["target"], found["verdict"], found["bound"]) == ("layer-norm", "CONFIRMED", None)
    assert found["params"]["n"] == 4
    assert found["witness"] == _entry(folder)
    _kept(folder, ("--target", TARGET), f"{found['value']:.9g} CONFIRMED")
    entry = found["witness"]
    assert "value > 5" in _diffuzz(folder, "show", entry, "--target", TARGET)
    assert f"search --target {TARGET} --param n=4 " in _diffuzz(folder, "show", entry, "--target", TARGET)
    measured = _json(_diffuzz(folder, "measure", entry, "--target", TARGET, "--json", code=1))
    assert measured["value"] == found["value"]
    made = _json(_diffuzz(folder, "minimise", entry, "--target", TARGET, "--keep", "0.3", "--json"))
    assert 0.3 * found["value"] <= made["value"]
    _diffuzz(folder, "replay", "--target", TARGET)


def test_candidates(folder: Path) -> None:
    """A right function is not called wrong; a wrong one is, and its entry replays with both files."""
    said = _diffuzz(folder, *NORM, "--candidate", "my_kernels.py:layer_norm")
    assert said.startswith("UNRESOLVED: my_kernels.py:layer_norm was not found to be wrong")
    assert not (folder / "corpus").exists()
    wrong = ("--candidate", "my_kernels.py:without_eps")
    said = _diffuzz(folder, *NORM, *FIRST, *wrong, code=1)
    assert "The candidate is wrong." in said
    _kept(folder, ("--target", TARGET, *wrong), "")
    assert "needs candidate" in _diffuzz(folder, "replay", "--target", TARGET, code=3)
    _diffuzz(folder, "minimise", _entry(folder), "--target", TARGET, *wrong)


def test_kernels(folder: Path) -> None:
    """Modules in files are compared with what is there, by pairs and all together, and have entries of their own."""
    said = _diffuzz(folder, *NORM, "--kernels", "exact,my_kernels.py")
    assert said.startswith("UNRESOLVED: exact and my_kernels were not found to differ by more than rounding")
    said = _diffuzz(folder, *NORM, *FIRST, "--kernels", "my_kernels.py,my_kernels.py:constant", code=1)
    assert said.startswith("CONFIRMED: my_kernels and my_kernels:constant differ by more than rounding")
    entry = _entry(folder)
    said = _diffuzz(folder, "replay", "--target", TARGET, code=3)
    assert "kernels 'my_kernels' came from a file: give --kernels my_kernels.py" in said
    _kept(folder, ("--target", TARGET, "--kernels", "my_kernels.py"), "")
    assert "replay it" in _refused(folder, "measure", entry, "--target", TARGET)
    named = "exact,my_kernels.py,my_kernels.py:constant"
    cells = _json(
        _diffuzz(folder, "matrix", "--target", TARGET, "--kernels", named, "--budget", "300ms", "--json", code=1)
    )
    assert ["to rounding", "not at all", "not at all"] == [cell["agreement"] for cell in cells["cells"]]


@pytest.mark.slow
def test_kernels_of_a_target_of_diffuzz(folder: Path) -> None:
    """They stand beside those of diffuzz; an entry that needs them does not stop others from being saved."""
    search = ("search", "--target", "rmsnorm", "--param", "candidate_max_abs=1", *QUICK)
    _diffuzz(folder, *search, "--kernels", "apr,my_kernels.py")
    _diffuzz(folder, *search, *FIRST, "--kernels", "apr,my_kernels.py:constant", code=1)
    _kept(folder, ("--kernels", "my_kernels.py:constant"), "")
    assert _json(_diffuzz(folder, *search, "--param", "n=4", "--json"))["witness"] is not None
    said = _diffuzz(folder, "replay", code=3)
    assert "1 of 2 entries replayed as recorded" in said


def test_two_files_of_kernels(folder: Path) -> None:
    """Each of them is asked for."""
    (folder / "other.py").write_text("def layer_norm(x, eps): return x\n")
    _diffuzz(folder, *NORM, *FIRST, "--kernels", "my_kernels.py,other.py", code=1)
    first = ("replay", "--target", TARGET, "--kernels", "my_kernels.py")
    assert "kernels 'other' came from a file: give --kernels other.py" in _diffuzz(folder, *first, code=3)
    _diffuzz(folder, *first, "--kernels", "other.py")


# The engine


@pytest.mark.parametrize("engine", ["my_engine.py:rounds", "auto,my_engine.py:rounds"])
def test_an_engine(folder: Path, engine: str) -> None:
    """By itself and in auto, for a target of diffuzz and one of a file; the command in the entry has it."""
    for target in ("softmax", TARGET):
        search = ("search", "--target", target, "--engine", engine, *FIRST[2:], "--corpus", "c")
        found = _json(_diffuzz(folder, *search, "--json", code=1))
        assert found["engine"] == ("auto" if engine.startswith("auto") else "my_engine")
        shown = _diffuzz(folder, "show", found["witness"], "--target", TARGET)
        assert f" --engine {engine} --seed 0" in shown


def test_an_engine_is_not_one(folder: Path) -> None:
    """One line."""
    search = ("search", "--target", "softmax", "--engine")
    assert "my_engine.py has no rouns" in _refused(folder, *search, "my_engine.py:rouns")
    assert "only auto runs more than one" in _refused(folder, *search, "random,my_engine.py:rounds")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("def function(p, arrays, kernels):\n", "{}    raise RuntimeError('a\\nb')\n", ", line 28: RuntimeError: a b"),
        ("bound=lambda p: None", "bound=lambda p: 1 / 0", ": ZeroDivisionError: division by zero"),
        ("bound=lambda p: None", "bound=lambda p: 3.0", "its bound is a float, a Bound or None is needed"),
        ("threshold=lambda p: 5.0", "threshold=lambda p: None", "its threshold is a NoneType, no number"),
        ("    return y, ", "    return None  # ", "must return (output, scale, magnitude)"),
    ],
)
def test_a_target_that_fails(folder: Path, before: str, after: str, message: str) -> None:
    """One line that says where, and no traceback: it is not a defect of diffuzz."""
    text = (folder / "my_norm.py").read_text()
    assert text.count(before) == 1
    (folder / "my_norm.py").write_text(text.replace(before, after.format(before)))
    assert message in _refused(folder, *NORM)


def test_an_engine_that_fails(folder: Path) -> None:
    """The same for an engine that raises, and for one that does not yield."""
    search = ("search", "--target", "dequantize", "--budget", "30s", "--no-save", "--engine", "failing.py")
    (folder / "failing.py").write_text("def rounds(objective, rng):\n    yield\n    raise KeyError('x')\n")
    assert "failing.py, line 3: KeyError: 'x'" in _refused(folder, *search)
    (folder / "failing.py").write_text("def rounds(objective, rng):\n    return None\n")
    assert "engine failing: it returns a NoneType; write yield" in _refused(folder, *search)


# The format


@pytest.mark.parametrize(
    ("target", "params", "verdict", "right", "wrong"),
    [
        ("dequantize", (), "UNRESOLVED", "my_kernels.py:restored", "my_kernels.py:lowest_lost"),
        pytest.param(
            "matvec",
            ("--param", "n=96"),
            "FALSIFIED",
            "my_kernels.py:dots",
            "my_kernels.py:last_block_lost",
            marks=pytest.mark.slow,
        ),
        pytest.param("quantize", (), None, "my_format.py:quantise", "my_kernels.py:truncated", marks=pytest.mark.slow),
    ],
)
def test_a_format(
    folder: Path, target: str, params: tuple[str, ...], verdict: str | None, right: str, wrong: str
) -> None:
    """Its blocks are dequantised, multiplied and quantised, by kernels and candidates, and it has entries."""
    search = ("search", "--target", target, "--param", f"format={FORMAT}", *params, *QUICK)
    if verdict is None:
        assert "diffuzz has one quantiser of it; judge another, with --candidate" in _refused(folder, *search)
    else:
        found = _json(_diffuzz(folder, *search, "--json", "--corpus", "of-claim"))
        assert (found["verdict"], found["params"]["format"]) == (verdict, "t3_0")
        if found["witness"] is not None:
            assert "as recorded" in _diffuzz(folder, "replay", "of-claim", "--format", FORMAT)
            measure = ("measure", found["witness"], "--format", FORMAT, "--json")
            assert _json(_diffuzz(folder, *measure))["value"] == found["value"]
    assert "was not found to be wrong" in _diffuzz(folder, *search, "--candidate", right)
    said = _diffuzz(folder, *search, *FIRST, "--candidate", wrong, code=1)
    assert "The candidate is wrong." in said
    _kept(folder, ("--format", FORMAT, "--candidate", wrong), "")
    minimise = ("minimise", _entry(folder), "--format", FORMAT, "--candidate", wrong, "--keep", "0.5")
    assert "format        from my_format.py:FORMAT" in _diffuzz(folder, *minimise)


@pytest.mark.slow
def test_a_format_in_the_matrix(folder: Path) -> None:
    """Kernels that can take any format take it; ggml's own library is not asked."""
    for target, kernels, agreements in (
        ("dequantize", "apr,exact,xla", ["to the bit"] * 3),
        ("matvec", "ggml,exact,apr", ["by policy", "by policy", "to rounding"]),
        ("matvec", "ggml,xla", ["to rounding"]),
    ):
        matrix = ("matrix", "--target", target, "--param", f"format={FORMAT}", "--budget", "200ms", "--json")
        cells = _json(_diffuzz(folder, *matrix, "--kernels", kernels))["cells"]
        assert [cell["agreement"] for cell in cells] == agreements
        assert f"target {target} has no kernels 'libggml' here" in _refused(folder, *matrix, "--kernels", "apr,libggml")
    named = ("--kernels", "exact,my_kernels.py")
    search = ("search", "--target", "dequantize", "--param", f"format={FORMAT}", *QUICK)
    assert "every result agrees" in _diffuzz(folder, *search, *named)


def test_a_format_that_is_not_known_here(folder: Path) -> None:
    """A plain name is that of a format that has been loaded, and the line says which there are."""
    line = _refused(folder, "search", "--target", "dequantize", "--param", "format=t3_0")
    assert "parameter format=t3_0: one of q4_0, " in line
    assert "my_format.py has no FORMATS" in _refused(
        folder, "search", "--target", "dequantize", "--param", "format=my_format.py:FORMATS"
    )
