"""``search --target prompt``: on a small random model, saved, shown and replayed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cases.case import Case
from diffuzz.cli import main
from diffuzz.judging.problem import open_problem
from diffuzz.minimising.minimise import minimise
from diffuzz.models import random_model
from diffuzz.models.prompts import REPLICATES
from diffuzz.searching import engines
from diffuzz.searching.engines import EngineError
from diffuzz.searching.search import search
from diffuzz.targets.of_models import given, prompt
from diffuzz.targets.outcome import Arrays, Outcome

Run = Callable[..., tuple[int, str, str]]
# Ended by its work: a few hundred tokens.
SEARCH = ("search", "--target", "prompt", "--param", "tokens=4", "--budget", "2s", "--seed", "1")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "random.gguf"
    random_model.write(path, layers=2)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main._run([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


def _line(err: str) -> str:
    assert err.startswith("diffuzz: ")
    assert err.count("\n") == 1
    return err


def test_a_prompt_is_found_saved_and_replayed(run: Run, file: Path) -> None:
    """The witness has its value again, and the entry says nothing of the file's place."""
    code, out, _ = run(*SEARCH, "--param", f"model={file}", "--threshold", "1e-5", "--json")
    found = json.loads(out.splitlines()[-1])
    assert (1, "CONFIRMED") == (code, found["verdict"])
    assert 1e-5 < found["value"] <= found["detail"]["median"] <= found["detail"]["largest"]
    assert found["detail"]["apr/exact"] < 1e-9
    assert found["reading"][0].startswith("text = ")
    entry = Path(found["witness"])
    written = entry.read_text()
    assert str(file.parent) not in written
    assert "model=random.gguf" in json.loads(written)["found"]["command"]
    code, out, _ = run("replay", entry, "--model", file)
    assert code == 0, out
    code, out, _ = run("measure", entry, "--model", file, "--json")
    assert (1, found["value"]) == (code, json.loads(out)["value"])
    code, out, _ = run("show", entry, "--model", file)
    assert (code, "CONFIRMED: prompt" in out) == (0, True)
    assert "tokens" in out


def test_an_entry_needs_its_model(run: Run, file: Path, tmp_path: Path) -> None:
    """In a process where nobody has named it: exit 3 and the option to give, whatever the file is called; another
    model is none.
    """
    assert run(*SEARCH, "--param", f"model={file}", "--threshold", "1e-5", "--corpus", "corpus")[0] == 1
    moved, other = tmp_path / "moved.gguf", tmp_path / "random.gguf"
    moved.write_bytes(file.read_bytes())
    random_model.write(other, layers=1)
    for options, code, said in (
        ((), 3, "give --model random.gguf"),
        (("--model", str(other)), 3, "give --model random.gguf"),
        (("--model", str(moved)), 0, "as recorded"),
        (("--model", "absent.gguf"), 2, "model absent.gguf: No such file"),
    ):
        command = [sys.executable, "-m", "diffuzz", "replay", "corpus", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert code == done.returncode, done.stderr
        assert said in done.stdout + done.stderr


def test_bad_input(run: Run, file: Path, tmp_path: Path) -> None:
    """Each is one line that says what to do, and exit 2."""
    (tmp_path / "text.gguf").write_text("no model")
    bert = tmp_path / "bert.gguf"
    bert.write_bytes(file.read_bytes().replace(b"qwen2", b"bert2"))
    for params, said in (
        ((), "give --param model=FILE"),
        (("model=absent.gguf",), "parameter model absent.gguf: No such file"),
        (("model=text.gguf",), "parameter model text.gguf: it begins with"),
        ((f"model={bert}",), "parameter model=bert.gguf: its architecture 'bert2' is not supported"),
        ((f"model={file}", "tokens=513"), "tokens=513: the context of random.gguf is 512 tokens"),
        ((f"model={file}", "tokens=0"), "tokens=0 is out of range"),
        ((f"model={file}", "measure=cosine"), "one of kl, flip is needed"),
        ((f"model=random.gguf@{'0' * 64}",), "model random.gguf: give the file itself"),
    ):
        options = [word for param in params for word in ("--param", param)]
        code, _, err = run("search", "--target", "prompt", *options)
        assert code == 2
        assert said in _line(err)


@pytest.mark.parametrize("measure", ["kl", "flip"])
def test_the_value_is_the_least_of_the_replicates(file: Path, measure: str) -> None:
    """Of each prompt, alone or in a batch, of the measure that was asked for."""
    p = targets.get("prompt").params({"model": str(file), "tokens": 3, "measure": measure})
    tokens = np.random.default_rng(0).integers(0, 400, (6, 3)).astype(np.int32)
    outcome = prompt.evaluate(p, {"tokens": tokens})
    assert (outcome.value > 0).all() == (measure == "kl")
    for row, got in zip(tokens, outcome.value, strict=True):
        after = given.pair(p["model"]).after(row[None], range(REPLICATES))
        expected = prompt.value(p, after.apr[:, None], after.ggml)[0]
        assert max(expected.min(), 0.0) == got


def test_a_search_without_a_flip_finds_nothing(run: Run, file: Path) -> None:
    """Where the first token is the same everywhere, the value is none, and that is no mistake of anyone."""
    code, out, _ = run(*SEARCH, "--param", f"model={file}", "--param", "measure=flip", "--budget", "0.1s", "--json")
    found = json.loads(out.splitlines()[-1])
    assert (0, "UNRESOLVED") == (code, found["verdict"])


def test_the_engine_is_for_prompts_only() -> None:
    """Another target has none, and the line says so."""
    with pytest.raises(EngineError, match="nothing to work with in target softmax"):
        search(targets.get("softmax"), engine="prompts", seconds=0.1)
    assert "prompts" in engines.names()


def test_tokens_are_left_out_and_never_changed(file: Path) -> None:
    """Minimising leaves out each token that the value does not need, and takes no simpler number for another."""
    needed = [300, 17, 250]

    def evaluate(arrays: Arrays) -> Outcome:
        """How many of the needed tokens there are, in their order, one after another or not."""
        values = []
        for row in arrays["tokens"].tolist():
            rest = iter(row)
            values.append(float(all(token in rest for token in needed)))
        return Outcome(np.array(values), np.zeros(len(values)))

    case = Case({"tokens": np.array([9, 300, 300, 4, 17, 5, 6, 7, 250, 1, 1, 2], np.int32)})
    with open_problem(targets.get("prompt"), {"model": str(file), "tokens": 12}) as problem:
        made = minimise(problem, case, keep=0.9, evaluate=evaluate, seconds=1000)
    assert needed == made.case["tokens"].tolist()


@pytest.mark.parametrize("command", [("targets",), ("targets", "prompt"), ("targets", "prompt", "--json")])
def test_it_is_listed(run: Run, command: tuple[str, ...]) -> None:
    """Without a model, among those that can be opened as they are."""
    code, out, _ = run(*command)
    assert code == 0
    assert "prompt" in out
    assert "model" in out


def test_other_targets_load_nothing_of_it(tmp_path: Path) -> None:
    """Who does not search prompts pays nothing."""
    code = (
        "import sys; from diffuzz.cli import main; from diffuzz import targets; targets.get('softmax');"
        "main._run(['search', '--target', 'dot-order', '--engine', 'random', '--budget', '0.1s', '--no-save']);"
        "print([name for name in sys.modules if name.startswith('diffuzz.models')])"
    )
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
