"""``diffuzz init``, and the action: what they write and say is run, on a sample repository."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffuzz.cli import init, main

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
WRONG = "e = np.exp(z)"
RIGHT = "e = np.exp(z - z.max(axis=-1, keepdims=True))"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository, to be in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    return tmp_path


def test_it_writes_what_is_not_there(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And says what it wrote and what it left; nothing is overwritten."""
    Path("tests").mkdir()
    Path("tests/test_diffuzz.py").write_text("mine")
    assert main._run(["init", "--action", "someone/kernels-fuzzer@v1"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "wrote  .github/workflows/diffuzz.yml",
        "wrote  corpus/README.md",
        "left   tests/test_diffuzz.py, which is there",
    ]
    assert "mine" == Path("tests/test_diffuzz.py").read_text()
    assert "uses: someone/kernels-fuzzer@v1\n" in Path(".github/workflows/diffuzz.yml").read_text()
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    assert main._run(["init"]) == 0
    assert 3 == capsys.readouterr().out.count("left   ")
    assert before == {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}


def test_what_cannot_be_written(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, with the file; the others are written all the same."""
    Path("tests").write_text("a file, where a folder is needed")
    Path("corpus").mkdir()
    Path("corpus/README.md").symlink_to(repository / "elsewhere")
    assert main._run(["init", "--json"]) == 2
    out, err = capsys.readouterr()
    assert {"written": [".github/workflows/diffuzz.yml"], "left": ["corpus/README.md"]} == {
        name: json.loads(out)[name] for name in ("written", "left")
    }
    assert err.startswith("diffuzz: cannot be written: tests/test_diffuzz.py")
    assert not Path("elsewhere").exists()
    assert main._run(["init", "absent"]) == 2
    assert main._run(["init", "--action", "a b"]) == 2
    assert "--action a b: OWNER/REPOSITORY@REF is needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "about", "action"),
    [
        ("https://github.com/someone/fuzzer.git", {"commit_id": "abc1"}, "someone/fuzzer@abc1"),
        ("https://github.com/a/b", {"commit_id": "abc1", "requested_revision": "v2"}, "a/b@v2"),
        ("https://example.org/a/b", {"commit_id": "abc1"}, None),
        ("https://github.com/a", {"commit_id": "abc1"}, None),
        ("file:///home/a/b", None, None),
    ],
)
def test_where_it_was_installed_from(url: str, about: Any, action: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The repository and the revision that pip recorded, if they are on GitHub."""

    class Installed:
        def read_text(self, name: str) -> str:
            return json.dumps({"url": url} | ({"dir_info": {}} if about is None else {"vcs_info": about}))

    monkeypatch.setattr(metadata, "distribution", lambda name: Installed())
    assert action == init.installed_from()


def _shell(repository: Path, text: str, more: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A step of a workflow, as its runner runs it."""
    programs = repository / ".git" / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (programs / "python").chmod(0o755)
    env = os.environ | more | {
        "PATH": f"{programs}:{os.environ['PATH']}", "GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(repository),
        "GITHUB_STEP_SUMMARY": str(repository / ".git" / "job.md"), "GITHUB_ACTION_PATH": str(ROOT),
        "PYTEST_ADDOPTS": "-p no:cacheprovider -p no:hypothesispytest --diffuzz-budget 0.3",
    }  # fmt: skip
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text],
        cwd=repository, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def _steps(workflow: dict[str, Any], **inputs: str) -> list[tuple[str, dict[str, str]]]:
    """The commands of a workflow and of the action that it uses, with their environments; nothing is installed."""
    found = []
    (job,) = workflow["jobs"].values()
    for step in job["steps"]:
        if re.fullmatch(r"[^/]+/diffuzz@.+", step.get("uses", "")):
            given = {name: one.get("default", "") for name, one in ACTION["inputs"].items()} | step["with"] | inputs
            assert set(given) == set(ACTION["inputs"])
            for inner in ACTION["runs"]["steps"]:
                env = {name: _filled(value, given) for name, value in inner.get("env", {}).items()}
                found += [(inner["run"], env)] if "run" in inner else []
        elif "run" in step:
            found.append((step["run"], {}))
    return [(text, env) for text, env in found if "pip install" not in text]


def _filled(text: str, inputs: dict[str, str]) -> str:
    return re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda found: inputs[found[1]], text)


def test_the_action_is_complete() -> None:
    """Each step is a command or an action at a version; what is used of the inputs is declared, and the other way."""
    steps = ACTION["runs"]["steps"]
    assert all(("run" in step and step["shell"] == "bash") != ("uses" in step) for step in steps)
    assert all(re.fullmatch(r"actions/cache/(restore|save)@v\d", step["uses"]) for step in steps if "uses" in step)
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    assert set(ACTION["inputs"]) == set(re.findall(r"\$\{\{ inputs\.(\w+) \}\}", text))
    # Inputs reach a shell by its environment, and not as text that it runs.
    assert not any("${{" in step.get("run", "") for step in steps)
    assert steps[-1]["if"] == "always()"


def test_the_workflow_runs(repository: Path) -> None:
    """A wrong kernel fails it, with the witness, SARIF, an annotation and a summary; mended, it passes, and so does
    the sample test, with the witness still there.
    """
    assert main._run(["init"]) == 0
    workflow = yaml.safe_load(Path(".github/workflows/diffuzz.yml").read_text())
    sample = Path("tests/test_diffuzz.py")
    right = sample.read_text()
    assert RIGHT in right
    (judge, env), (tests, none) = _steps(workflow, budget="0.3s", options="--engine random")

    sample.write_text(right.replace(RIGHT, WRONG))
    done = _shell(repository, judge, env)
    assert 1 == done.returncode, done.stderr
    (witness,) = Path("corpus").glob("softmax/*.json")
    assert "::error file=tests/test_diffuzz.py,line=6,title=diffuzz softmax::tests/test_diffuzz.py:soft_max is" in (
        done.stderr
    )
    (alert,) = json.loads(Path("diffuzz.sarif").read_text())["runs"][0]["results"]
    assert str(witness) == alert["relatedLocations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert "## diffuzz: 1 result, 1 error" in (repository / ".git" / "job.md").read_text()

    sample.write_text(right)
    done = _shell(repository, judge, env)
    assert 0 == done.returncode, done.stderr
    assert ["Witnesses in corpus", "Search softmax", "2 results, no problem found"] == done.stdout.splitlines()
    assert [] == json.loads(Path("diffuzz.sarif").read_text())["runs"][0]["results"]
    done = _shell(repository, tests, none)
    assert (0, "1 passed" in done.stdout) == (done.returncode, True), done.stdout


def test_a_failure_is_not_hidden(repository: Path) -> None:
    """A function that is not there, or an option that is none: the code of the command, and what it said."""
    with_a_wrong_one = {"targets": "softmax", "candidate": "absent.py:f", "budget": "1s", "corpus": "corpus"}
    workflow = {"jobs": {"a": {"steps": [{"uses": "someone/diffuzz@v1", "with": with_a_wrong_one}]}}}
    ((judge, env),) = _steps(workflow)
    done = _shell(repository, judge, env)
    assert 2 == done.returncode
    assert "candidate absent.py:f: there is no file absent.py" in done.stderr
