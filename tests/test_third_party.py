"""examples/third_party: the table of runs, the wrappers and the script agree. No third-party package is imported."""

from __future__ import annotations

import ast
import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from diffuzz import targets
from diffuzz.cli.main import commands

FOLDER = Path(__file__).parents[1] / "examples" / "third_party"
CLASSES = {"bug", "policy", "precision"}


def _libraries() -> list[dict[str, Any]]:
    return list(tomllib.loads((FOLDER / "runs.toml").read_text(encoding="utf-8"))["library"])


RUNS = [(library, run) for library in _libraries() for run in library["run"]]
NAMES = [" ".join([lib["name"], run["target"], run["function"], *run.get("params", ())]) for lib, run in RUNS]


def _functions(file: str) -> dict[str, ast.FunctionDef]:
    """The public functions of a wrapper, read and not run."""
    tree = ast.parse((FOLDER / file).read_text(encoding="utf-8"), file)
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, loaded as a module."""
    spec = importlib.util.spec_from_file_location("third_party_run", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("library", "run"), RUNS, ids=NAMES)
def test_every_run_can_be_asked_for(library: dict[str, Any], run: dict[str, Any]) -> None:
    """Its function exists and takes what its target calls it with; target, parameters, options and class are known."""
    function = _functions(library["file"])[run["function"]]
    contract = targets.get(run["target"]).contract
    assert contract is not None
    signature = contract.signature.partition(") ->")[0]
    assert signature.count(":") == len(function.args.args)
    targets.get(run["target"]).contract_params(dict(param.split("=", 1) for param in run.get("params", ())))
    words = ["--target", run["target"], "--candidate", library["file"], *run.get("options", ())]
    name, command, words = commands.resolve_command(commands.make_context("diffuzz", ["search"]), ["search", *words])
    assert command is not None
    command.make_context(name, words, parent=commands.make_context("diffuzz", ["search"]))
    assert run.get("class", "bug") in CLASSES


def test_every_function_has_a_run() -> None:
    """No public function of a wrapper is forgotten in the table, and no file of wrappers is."""
    listed = {(library["file"], run["function"]) for library, run in RUNS}
    written = {(path.name, name) for path in FOLDER.glob("*_kernels.py") for name in _functions(path.name)}
    assert written == listed


def test_no_wrapper_hides_a_library() -> None:
    """A wrapper is not named like a module that one of them imports, so that its folder may be on the path."""
    imported = set()
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
    assert set() == imported & {path.stem for path in FOLDER.glob("*.py")}


def test_what_is_not_installed_is_named(script: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A library whose package is missing gets one line that says so, and the table goes on with the next one."""
    (tmp_path / "runs.toml").write_text(
        '[[library]]\nname = "Nowhere"\npackages = ["diffuzz-nowhere", "numpy"]\nfile = "none.py"\nrun = []\n'
        '[[library]]\nname = "NumPy"\npackages = ["numpy"]\nfile = "none.py"\nrun = []\n',
        encoding="utf-8",
    )
    script.HERE = tmp_path
    script.main([])
    shown = capsys.readouterr()
    assert "Nowhere: not run, needs pip install diffuzz-nowhere\n" == shown.err
    assert ["| library", "|---"] == [line[: line.index("|", 1)].rstrip() or line for line in shown.out.splitlines()]


def test_a_package_without_runs_is_refused(script: ModuleType) -> None:
    """A name that is not in the table ends the script with one line that says what there is."""
    with pytest.raises(SystemExit, match=r"^run.py: no runs for nonsense; there are torch, "):
        script.main(["nonsense"])


def test_a_run_is_judged(script: ModuleType) -> None:
    """A library that the tests have is judged from end to end: the row has its verdict and its share of the bound."""
    pytest.importorskip("gguf")
    library = next(library for library in _libraries() if library["name"] == "gguf")
    run = next(run for run in library["run"] if run["function"] == "dequantize_q6_k")
    name, _, what, function, verdict, value, known = script.judged(library, run, "200ms")
    row = ["gguf", "dequantize format=q6_K", "dequantize_q6_k", "UNRESOLVED", "0", ""]
    assert row == [name, what, function, verdict, value, known]
