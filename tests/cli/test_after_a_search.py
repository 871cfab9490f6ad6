"""Nothing after a search loses what it found: any characters in names and messages, errors of saving and printing."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from diffuzz.cli import main
from diffuzz.cli import search as command
from diffuzz.corpus import files
from diffuzz.corpus import record as recording
from diffuzz.corpus.candidates import parse
from diffuzz.corpus.files import CorpusError
from diffuzz.corpus.replay import replay

WRONG = """import numpy as np
def f(z):
    if z.shape[1] == 1:
        {one}
    return np.exp(z) / np.exp(z).sum(1, keepdims=True)
"""
SEARCH = ("search", "--target", "softmax", "--engine", "random", "--budget", "300ms", "--seed", "0", "--no-save")
SAVING = (*SEARCH[:-1], "--param", "candidate_n=3")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wrong.py").write_text(WRONG.format(one="pass"))


@pytest.mark.parametrize(
    "file", ["a\xa0b.py", "a\nb.py", "a\x1b[31mb.py", "a\u202eb.py", "a\udcffb.py", "it's \\ a.py"]
)
def test_a_candidate_of_any_name(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A no-break space, a line break, a colour, what turns text round, a byte that is no UTF-8: found, saved with an
    escape, shown and replayed; and the command line that is recorded names the very file.
    """
    Path(file).write_bytes(Path("wrong.py").read_bytes())
    assert main._run([*SAVING, "--candidate", f"{file}:f"]) == 1
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.splitlines())
    (result,) = replay("corpus", parse([f"{file}:f"]))
    assert result.status == "as recorded"
    assert result.entry is not None
    assert main._run(["show", str(result.path)]) == 0
    words = f"for word in {result.entry.found['command']}; do printf '%s\\0' \"$word\"; done"
    said = subprocess.run(["bash", "-c", words], capture_output=True, check=True).stdout.split(b"\0")
    assert os.fsencode(f"{file}:f") in said


def test_a_message_of_any_characters(capsys: pytest.CaptureFixture[str]) -> None:
    """What a candidate raises has colours: it is a witness, saved, and it replays."""
    raises = "raise ValueError('\\x1b[31mred\\x1b[0m\\n\\xa0\\u202e\\udcff')"
    Path("wrong.py").write_text(WRONG.format(one=raises))
    assert main._run([*SAVING, "--candidate", "wrong.py:f", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "CONFIRMED"
    (result,) = replay("corpus", parse(["wrong.py:f"]))
    assert (str(result.path), result.status) == (found["witness"], "as recorded")
    assert result.entry is not None
    assert str(result.entry.found.get("failure", "")).isprintable()


def _fails(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [CorpusError("x: disk full"), OSError(28, "disk full"), ValueError("disk full"), ZeroDivisionError("disk full")],
)
@pytest.mark.parametrize("place", ["save", "record"])
def test_saving_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, place: str
) -> None:
    """In whatever way: the witness is printed, to the bit, as text and as JSON; a line says why it was not saved."""
    monkeypatch.setattr(files if place == "save" else recording, place, _fails(error))
    assert main._run([*SAVING, "--candidate", "wrong.py:f", "--json"]) == 2
    out, err = capsys.readouterr()
    found = json.loads(out.splitlines()[-1])
    assert (found["verdict"], found["witness"], "z" in found["arrays"]) == ("CONFIRMED", None, True)
    assert "disk full" in err
    assert len(err.splitlines()) == 1
    assert main._run([*SAVING, "--candidate", "wrong.py:f"]) == 2
    out, err = capsys.readouterr()
    assert out.startswith("CONFIRMED: wrong.py:f is wrong")
    line = next(line for line in out.splitlines() if line.startswith("The case to the bit: "))
    assert json.loads(line.partition(": ")[2]) == found["arrays"]


@pytest.mark.parametrize("as_json", [False, True])
def test_the_report_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    """A report that cannot be made: verdict, value, the case and where it was saved are printed all the same."""
    monkeypatch.setattr(command, "search_json" if as_json else "search_text", _fails(RuntimeError("no words")))
    options = ["--json"] if as_json else []
    assert main._run([*SAVING, "--candidate", "wrong.py:f", *options]) == 2
    out, err = capsys.readouterr()
    assert "the report fails: RuntimeError: no words" in err
    said = out if not as_json else "".join(f"{name}: {json.dumps(value)}\n" for name, value in json.loads(out).items())
    (path,) = files.files([Path("corpus")])
    assert f'verdict: "CONFIRMED"\nvalue: "inf"\nthreshold: 1.0\nwitness: "{path}"\narrays: {{' in said
    stored = json.loads(path.read_text())["arrays"]
    assert json.loads(said.rpartition("arrays: ")[2]) == stored


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_stdout_is_full() -> None:
    """The line on stderr says what was found, and where it is."""
    program = f"{shlex.join([sys.executable, '-m', 'diffuzz', *SAVING, '--candidate', 'wrong.py:f'])} >/dev/full"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, timeout=100)
    (path,) = files.files([Path("corpus")])
    assert done.returncode == 2
    assert f"standard output: No space left on device; CONFIRMED inf, what was found is in {path}" in done.stderr


def test_a_matrix_keeps_its_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """All pairs are searched and printed, whatever becomes of their entries."""
    monkeypatch.setattr(files, "save", _fails(CorpusError("corpus: disk full")))
    Path("zero.py").write_text("import numpy as np\ndef soft_max(z): return np.zeros_like(z)\n")
    options = ("--kernels", "exact,zero.py", "--budget", "300ms", "--corpus", "corpus", "--param", "candidate_n=3")
    assert main._run(["matrix", "--target", "softmax", *options]) == 2
    out, err = capsys.readouterr()
    assert "do not agree" in out
    assert "corpus: disk full" in err


def test_minimising_keeps_what_it_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A simpler case that cannot be saved is printed."""
    assert main._run([*SAVING, "--keep", "1", "--candidate", "wrong.py:f"]) == 1
    (path,) = files.files([Path("corpus")])
    capsys.readouterr()
    monkeypatch.setattr(recording, "minimised", lambda entry, *_, **__: attrs.evolve(entry, value=3.0))
    monkeypatch.setattr(files, "save", _fails(CorpusError("corpus: disk full")))
    assert main._run(["minimise", str(path), "--candidate", "wrong.py:f"]) == 2
    out, err = capsys.readouterr()
    assert out.startswith("(not saved)\n\nCONFIRMED: softmax")
    assert "corpus: disk full" in err
