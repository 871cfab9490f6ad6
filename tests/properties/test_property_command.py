"""``search --property``: exit codes, what is printed, and that the printed command shows it again."""

from __future__ import annotations

import itertools
import json
import shlex
from pathlib import Path

import pytest

from diffuzz.cli import main

KERNELS = Path(__file__).with_name("kernels_for_properties.py")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*words: str, function: str = "by_count") -> int:
    """The exit code of a search for properties of a function of the file beside this one."""
    return main._run(["search", "--target", "softmax", "--candidate", f"{KERNELS}:{function}", *words])


def test_what_is_found_is_seen_again(capsys: pytest.CaptureFixture[str]) -> None:
    """With the sizes that were found, by the command that is printed; not invariant is no failure, unless required."""
    words = ["--property", "batch", "--seed", "0", "--budget", "2s"]
    assert run(*words) == 0
    text = capsys.readouterr().out
    assert "b[0] alone, and among 38, beside copies of it" in text
    assert "b=38 (not 37)" in text
    assert "Not invariant: batch. That is no error unless it was promised." in text
    again = shlex.split(next(line for line in text.splitlines() if "again:" in line).partition("again:")[2])
    assert again[:3] == ["python", "-m", "diffuzz"]
    assert main._run([*again[3:], "--require", "batch", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["required"] == ["batch"]
    (one,) = found["implementations"]
    assert one["not_invariant"] == ["batch"]
    finding = one["properties"][0]["findings"][0]
    assert (finding["sizes"]["b"], finding["not_at"]["b"], finding["within_bound"]) == (38, 37, True)


def test_the_command_keeps_what_was_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file of the target, and what narrows the domain, unless the finding says it more narrowly."""
    here = tmp_path / "mine.py"
    here.write_text(
        "import attrs\nfrom diffuzz import targets\nTARGET = attrs.evolve(targets.get('softmax'), name='mine')\n"
    )
    narrow = ["--range", "z=-2:2", "--multiple", "n=2", "--range", "b=1:60", "--fix", "n=70"]
    words = ["--target", f"{here}:TARGET", "--candidate", f"{KERNELS}:by_count", "--property", "batch", *narrow]
    assert main._run(["search", *words, "--seed", "0", "--budget", "2s"]) == 0
    text = capsys.readouterr().out
    again = shlex.split(next(line for line in text.splitlines() if "again:" in line).partition("again:")[2])
    assert again[:6] == ["python", "-m", "diffuzz", "search", "--target", f"{here}:TARGET"]
    given = [(one, other) for one, other in itertools.pairwise(again) if one.startswith("--")]
    narrowed = [one for one in given if one[0] in ("--range", "--multiple", "--fix")]
    wanted = [("--range", "b=1:38"), ("--fix", "n=70"), ("--multiple", "n=2"), ("--range", "z=-2:2")]
    assert sorted(narrowed) == sorted(wanted)


def test_what_is_broken_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    """Without being required."""
    assert run("--property", "bounds", "--seed", "0", "--budget", "1s", function="past_the_end") == 1
    assert "kernels_for_properties.py:past_the_end is broken: bounds." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--property", "batches"], "there is no property 'batches'; did you mean batch? (properties: repeat, batch,"),
        (["--property", "layout", "--kernels", "exact,apr"], "property layout: an implementation of diffuzz is called"),
        (["--property", "batch", "--fix", "b=1"], "property batch: no dimension has results that belong to one row"),
    ],
)
def test_what_cannot_be_asked_is_an_error(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, and exit code 2."""
    chosen = ["--candidate", f"{KERNELS}:fixed"] if "--kernels" not in words else []
    assert main._run(["search", "--target", "softmax", *chosen, "--seed", "0", "--budget", "500ms", *words]) == 2
    assert said in capsys.readouterr().err


def test_properties_are_of_an_implementation(capsys: pytest.CaptureFixture[str]) -> None:
    """A claim has none."""
    assert main._run(["search", "--target", "softmax", "--property", "all"]) == 2
    assert "give --candidate or --kernels" in capsys.readouterr().err
