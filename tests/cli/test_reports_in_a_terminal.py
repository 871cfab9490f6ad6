"""Reports are no wider than their terminal, and what is asked for by a wrong name is told the right one."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffuzz.cli import main
from diffuzz.cli.options import answer_of
from diffuzz.cli.tables import folded

_WRONG = "import numpy as np\n\ndef f(z):\n    e = np.exp(z)\n    return e / e.sum(axis=-1, keepdims=True)\n"
_SEARCH = ["search", "--target", "softmax", "--candidate", "wrong.py:f", "--seed", "0", "--budget", "2s"]


def _narrow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 60 columns, in the place of which stdout is read: called within a test, once that is in place."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)


def _out(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    capsys.readouterr()
    main._run(list(arguments))
    return capsys.readouterr().out.splitlines()


def test_reports_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every line but that of a command, which stays whole. An entry without a finite value shows it once."""
    _narrow(tmp_path, monkeypatch)
    Path("wrong.py").write_text(_WRONG)
    lines = _out(capsys, *_SEARCH)
    assert max(map(len, lines)) <= 60
    assert any(line.startswith("  parameters     candidate_n") for line in lines)
    (entry,) = Path("corpus").glob("*/*.json")
    shown = _out(capsys, "show", str(entry))
    (command,) = [line for line in shown if "python -m diffuzz" in line]
    assert command.endswith("--candidate wrong.py:f")
    assert max(len(line) for line in shown if line != command) <= 60
    assert "  value         inf" in shown
    assert max(map(len, _out(capsys, "fingerprint", "--target", "sum", "--kernels", "numpy", "--n", "64"))) <= 60


def test_a_matrix_without_room_is_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No word is broken within a cell."""
    _narrow(tmp_path, monkeypatch)
    lines = _out(capsys, "matrix", "--target", "softmax", "--kernels", "apr,exact,gguf,ggml:avx2", "--budget", "0.05s")
    pairs = [line for line in lines if line.endswith(", to rounding")]
    assert 6 == len(pairs)
    assert pairs[0].startswith("  apr, exact      ")


def test_lines_stay_whole_where_programs_read_them() -> None:
    """Without a terminal, of any width; a report that is quiet is its first line."""
    text = "first " * 50 + "\nsecond\n"
    assert text == answer_of(text, quiet=False)
    assert "first " * 50 + "\n" == answer_of(text, quiet=True)


def test_what_is_copied_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of diffuzz and of pip, and a quiet answer, which is one line; other text of their length does not."""
    _narrow(tmp_path, monkeypatch)
    assert f"{'word ' * 30}\n" == answer_of(f"{'word ' * 30}\nmore\n", quiet=True)
    for line in (f"again: python -m diffuzz {'x ' * 60}", f"Not here: x: pip install '{'x' * 60}'", "word " * 30):
        assert (folded([line]) == [line]) == ("word" not in line)


@pytest.mark.parametrize("name", ["serch", "fingerprin"])
def test_a_command_that_was_meant(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As with options and targets."""
    assert 2 == main._run([name])
    meant = {"serch": "search", "fingerprin": "fingerprint"}[name]
    assert f"diffuzz: No such command '{name}'; did you mean {meant}?\n" == capsys.readouterr().err


def test_the_list_of_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """By the alphabet; those of bench have whole sentences."""
    assert list(main.COMMANDS) == sorted(main.COMMANDS)
    text = "\n".join(_out(capsys, "bench", "--help"))
    assert "as `search --property all` does." in " ".join(text.split())
    assert "..." not in text.partition("Commands:")[2]


def test_nothing_simpler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What search has minimised is as simple as it gets, and minimise says so; a folder is no entry."""
    monkeypatch.chdir(tmp_path)
    Path("wrong.py").write_text(_WRONG)
    _out(capsys, *_SEARCH)
    (entry,) = Path("corpus").glob("*/*.json")
    before = entry.read_bytes()
    assert "Nothing simpler was found." == _out(capsys, "minimise", str(entry), "--candidate", "wrong.py:f")[0]
    assert before == entry.read_bytes()
    assert 2 == main._run(["show", "corpus"])
    assert "corpus: is a folder, and no regular file; name a file in it" in capsys.readouterr().err
