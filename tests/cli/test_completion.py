"""What a shell offers: asked as the scripts ask, and by bash itself, with the script that the command prints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffuzz import targets
from diffuzz.cli import completing, main
from diffuzz.models import engines as model_engines
from diffuzz.searching import engines

BASH = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
# Completes each line of its arguments, as bash does when TAB is pressed at the end of it.
ASK = """
eval "$(diffuzz completion bash)"
compopt() { echo "  $*"; }
for line in "$@"; do
    COMP_LINE=$line COMP_POINT=${#line}
    echo "> $line"
    _diffuzz_completion diffuzz
    printf '%s\\n' "${COMPREPLY[@]}"
done
"""


def _environment(tmp_path: Path) -> dict[str, str]:
    """One in which there is a command ``diffuzz``, which is the one that is tested."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    command = folder / "diffuzz"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m diffuzz "$@"\n')
    command.chmod(0o755)
    return os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def test_the_names_are_those_of_the_registry() -> None:
    """Though no target and no engine is imported for them."""
    assert set(completing.target_names()) == {*targets.names(), *targets.OF_MODELS.names()}
    assert {"auto", *engines.names()} == set(completing.engine_names())
    assert "llama.cpp" in model_engines.names()


def test_it_is_light(tmp_path: Path) -> None:
    """Names of commands and targets need no NumPy; parameters need that of the target, and no jax or Hypothesis."""
    code = """
import atexit, os, sys
from diffuzz.cli import main
heavy = {"jax", "hypothesis", "numpy", "rich"}
atexit.register(lambda: print(sorted({name.split(".")[0] for name in sys.modules} & heavy), file=sys.stderr))
os.environ.update({main.COMPLETING: "bash_complete", "COMP_LINE": sys.argv[1]})
main.main([])
"""
    for line, loaded in (
        ("diffuzz s", []),
        ("diffuzz search --target s", []),
        ("diffuzz search --engine ", []),
        ("diffuzz search --target softmax --param d", ["numpy"]),
        ("diffuzz search --target softmax --kernels ", ["numpy"]),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, line], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert (0, f"{loaded}\n") == (done.returncode, done.stderr), line
        assert done.stdout.startswith(("plain,", "open,")), line


@BASH
def test_in_bash(tmp_path: Path) -> None:
    """Commands, options, targets, keys and values of parameters, engines, kernels, files: in a bash with the script."""
    (tmp_path / "corpus" / "softmax").mkdir(parents=True)
    for name in ("0123.json", "$(touch gone).json"):
        (tmp_path / "corpus" / "softmax" / name).write_text("{}")
    (tmp_path / "mine.py").write_text("open('run', 'w')\n")
    expected = {
        "diffuzz sho": ["show"],
        "diffuzz search --thr": ["--threshold"],
        "diffuzz search --target swi": ["swiglu"],
        "diffuzz search --target=swi": ["swiglu"],
        "diffuzz search --target swiglu --param inp": ["  -o nospace", "inputs="],
        # bash takes what is behind = as a word.
        "diffuzz search --target matvec --param format=q4": ["q4_0", "q4_1", "q4_K"],
        "diffuzz search --target softmax --param masked=": ["true", "false"],
        "diffuzz search --target softmax --fix ma": [""],
        "diffuzz search --target softmax --engine auto,g": ["auto,gradient"],
        "diffuzz search --target softmax --kernels ggml,ex": ["ggml,exact"],
        "diffuzz bench mut": ["mutants"],
        "diffuzz completion z": ["zsh"],
        "diffuzz show corpus/softmax/0": ["corpus/softmax/0123.json"],
        # The name of a file is text.
        "diffuzz show corpus/softmax/$": ["'corpus/softmax/$(touch gone).json'"],
        "diffuzz search --candidate m": ["  -o default", ""],
        # A file is not run because TAB is pressed.
        "diffuzz search --target mine.py:x --param ": [""],
        "diffuzz search --target nothing --param ": [""],
        "diffuzz search --target 'sof": ["softmax"],
    }
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK, "bash", *expected],
        env=_environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "" == done.stderr
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if line.startswith("> "):
            found[line[2:]] = []
        else:
            list(found.values())[-1].append(line)
    assert expected == found
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "gone").exists()


def test_what_fails_offers_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback in the middle of a line."""

    def broken(*_: object) -> object:
        raise RuntimeError("a defect")

    monkeypatch.setattr(completing, "target_names", broken)
    monkeypatch.setenv(main.COMPLETING, "bash_complete")
    monkeypatch.setenv("COMP_LINE", "diffuzz search --target s")
    assert 70 == main._run([])
    assert ("", "") == capsys.readouterr()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is for the command diffuzz, and the shell takes it, where there is one."""
    assert 0 == main._run(["completion", shell])
    script = capsys.readouterr().out
    assert main.COMPLETING in script
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n"], input=script, text=True, check=True, timeout=60)


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_in_fish(tmp_path: Path) -> None:
    """With what is said of it, and values with commas."""
    line = "diffuzz search --target softmax --kernels ggml,ex"
    script = f"diffuzz completion fish | source; complete -C {json.dumps(line)}; complete -C 'diffuzz sear'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], env=_environment(tmp_path), capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == ["ggml,exact", f"search\t{main.COMMANDS['search']}"]


def test_a_shell_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, and which there are."""
    assert 2 == main._run(["completion", "tcsh"])
    assert "'bash', 'zsh', 'fish'" in capsys.readouterr().err
