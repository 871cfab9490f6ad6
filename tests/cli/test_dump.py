"""``diffuzz dump``: what is saved and said, and one line for everything that is wrong."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from diffuzz.cli import main
from diffuzz.models import random_model
from diffuzz.models.dump import read, write

# An engine of a file, whose taps are as large as the random model's.
ENGINE = """
import numpy as np

def run(model, tokens, patch=None):
    return {"embd": np.ones((len(tokens), 256), np.float32), "blk.3.l_out": np.zeros((len(tokens), 256), np.float32)}

def narrow(model, tokens):
    return {"embd": np.ones((len(tokens), 255), np.float32)}

def dies(model, tokens):
    raise SystemExit(9)
"""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small qwen2 model."""
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    random_model.write(path)
    return path


@pytest.fixture
def run(model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs dump in this process, in a folder with a model and an engine: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(ENGINE)
    shutil.copy(model, "model.gguf")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main._run(["dump", *arguments])
        return code, *capsys.readouterr()

    return run


GIVEN = ("--model", "model.gguf", "--engine", "mine.py:run", "--out", "run.safetensors")


def test_it_saves_a_dump(run: Run) -> None:
    """The file is a dump of the tokens; the report says what is in it."""
    code, out, err = run(*GIVEN, "--tokens", "65,66,70")
    assert (0, "") == (code, err)
    found = read(Path("run.safetensors"))
    assert ([65, 66, 70], ["blk.3.l_out", "embd"]) == (found.tokens.tolist(), sorted(found.taps))
    for said in ("saved run.safetensors (", "mine.py:run", "3: 65,66,70", "2, of 1 layer\n"):
        assert said in out


def test_json(run: Run) -> None:
    """--json is one line, one object."""
    code, out, _ = run(*GIVEN, "--tokens", "65, 66", "--json")
    assert 0 == code
    stored = json.loads(out)
    assert 1 == out.count("\n")
    assert ("run.safetensors", [65, 66], ["blk.3.l_out", "embd"]) == (
        stored["dump"],
        stored["tokens"],
        sorted(stored["taps"]),
    )
    assert ("qwen2", "mine.py:run") == (stored["metadata"]["arch"], stored["metadata"]["engine"])
    assert Path("run.safetensors").stat().st_size == stored["bytes"]


def test_a_prompt(run: Run) -> None:
    """A text is run over as the tokens that the model's vocabulary has for it."""
    pytest.importorskip("tokenizers")
    from diffuzz.models import model
    from diffuzz.models.text import tokens_of

    assert 0 == run(*GIVEN, "--prompt", "the rain")[0]
    assert tokens_of(model.open("model.gguf"), "the rain") == read(Path("run.safetensors")).tokens.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --tokens or --prompt, one of them"),
        (("--tokens", "1", "--prompt", "x"), "give --tokens or --prompt, one of them"),
        (("--tokens", "1,,2"), "'1,,2' are not numbers of tokens, such as 1780,314,216"),
        (("--tokens", "-1"), "'-1' are not numbers of tokens"),
        (("--tokens", "1,413"), "token 413 is none: the model's vocabulary has 0 to 412"),
        (("--tokens", ",".join(["1"] * 513)), "there are 513 tokens, and the model's context has 512"),
        (("--tokens", "1", "--engine", "nonesuch"), "there is no engine 'nonesuch' (engines: "),
        (("--tokens", "1", "--engine", "hf:kv=f16"), "engine hf has no option 'kv'"),
        (("--tokens", "1", "--engine", "mine.py:dies"), "engine mine.py:dies: ended with exit code 9"),
        (
            ("--tokens", "1", "--engine", "mine.py:narrow"),
            "engine mine.py:narrow: its dump does not fit the model: embd",
        ),
        (("--tokens", "1", "--engine", "run:/nowhere/engine"), "'/nowhere/engine' cannot be started"),
        (("--tokens", "1", "--out", "run.npz"), "--out run.npz: a dump is a .safetensors file"),
        (("--tokens", "1", "--out", "no/run.safetensors"), "there is no folder no"),
        (("--tokens", "1", "--model", "mine.py"), "mine.py: it begins with"),
        (("--tokens", "1", "--model", "nonesuch.gguf"), "nonesuch.gguf: No such file"),
        (("--tokens", "1", "--patch", "mine.py"), "mine.py: "),
        (("--tokens", "1", "--patch", "other.safetensors"), "--patch other.safetensors: it is a dump of other tokens"),
    ],
)
def test_bad_input(run: Run, arguments: tuple[str, ...], message: str) -> None:
    """Each is one line and exit code 2, and what was saved before is still there."""
    assert 0 == run(*GIVEN, "--tokens", "65,66")[0]
    before = Path("run.safetensors").read_bytes()
    Path("run.safetensors").rename("other.safetensors")
    Path("run.safetensors").write_bytes(before)
    code, out, err = run(*GIVEN, *arguments)
    assert (2, "") == (code, out)
    assert message in err
    assert 1 == err.count("\n")
    assert before == Path("run.safetensors").read_bytes()
    assert {"mine.py", "model.gguf", "run.safetensors", "other.safetensors"} >= {
        path.name for path in Path().iterdir() if path.name != "__pycache__"
    }


def test_a_dump_of_another_model(run: Run) -> None:
    """A patch of another model is refused."""
    assert 0 == run(*GIVEN, "--tokens", "65,66")[0]
    random_model.write("model.gguf", seed=1)
    Path("run.safetensors").rename("patch.safetensors")
    code, _, err = run(*GIVEN, "--tokens", "65,66", "--patch", "patch.safetensors")
    assert 2 == code
    assert "patch.safetensors: it is a dump of another model" in err


def test_a_patch(run: Run) -> None:
    """A patch of the same tokens is handed to the engine."""
    assert 0 == run(*GIVEN, "--tokens", "65,66")[0]
    copy = read(Path("run.safetensors"))
    write(Path("patch.safetensors"), copy)
    engine = f"run:{shlex.quote(sys.executable)} -c \"import shutil, sys; a = sys.argv; '--patch' in a and "
    engine += "shutil.copy(a[a.index('--patch') + 1], a[a.index('--dump') + 1])\""
    assert 0 == run(*GIVEN, "--tokens", "65,66", "--engine", engine, "--patch", "patch.safetensors")[0]
    assert np.array_equal(copy.taps["embd"], read(Path("run.safetensors")).taps["embd"])


def test_a_deadline(run: Run) -> None:
    """--timeout limits the run."""
    arguments = ("--tokens", "1", "--engine", "run:sh -c 'sleep 60'", "--timeout", "300ms")
    code, _, err = run(*GIVEN, *arguments)
    assert 2 == code
    assert "no result after 0.3 s" in err


def test_a_missing_package(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that is not installed exits with 3, and says what to install."""
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else find(name))
    code, _, err = run(*GIVEN, "--tokens", "1", "--engine", "hf")
    assert 3 == code
    assert "pip install 'diffuzz-kernels[hf]'" in err


def test_no_space_left(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dump for which there is no space is one line that names the file, and leaves the one before."""
    assert 0 == run(*GIVEN, "--tokens", "65,66")[0]
    before = Path("run.safetensors").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    code, _, err = run(*GIVEN, "--tokens", "65,66,70")
    assert 2 == code
    assert "--out run.safetensors: it cannot be written: No space left on device" in err
    assert before == Path("run.safetensors").read_bytes()


def test_decoding_saves_a_dump_of_each_step(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The most probable token after each, or those that are given; each file is a step that can be checked."""
    given = ("--model", "model.gguf", "--tokens", "65,66,70", "--engine", "apr")
    code, out, err = run(*given, "--out", "a.safetensors", "--decode", "2", "--json")
    assert (0, "") == (code, err)
    found = json.loads(out)
    assert ["a.1.safetensors", "a.2.safetensors"] == [each["dump"] for each in found["decoded"]]
    first, second = read("a.1.safetensors"), read("a.2.safetensors")
    assert ([3], [4]) == (first.positions.tolist(), second.positions.tolist())
    assert int(read("a.safetensors").taps["logits"][-1].argmax()) == first.tokens[0]
    assert int(first.taps["logits"][-1].argmax()) == second.tokens[0]
    # The cache of the second step has the keys that the first one made.
    assert np.array_equal(second.taps["blk.0.k_past"][-1], first.taps["blk.0.k_rope"][0].reshape(-1))
    assert 0 == main._run(["check", "--model", "model.gguf", "--dump", "a.2.safetensors"])
    assert capsys.readouterr().out.startswith("FALSIFIED: all ")
    chosen = ",".join(str(each.tokens[0]) for each in (first, second))
    code, out, _ = run(*given, "--out", "b.safetensors", "--decode-tokens", chosen)
    assert 0 == code
    assert f"token {second.tokens[0]} at position 4: b.2.safetensors" in out
    assert np.array_equal(read("b.2.safetensors").taps["logits"], second.taps["logits"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--decode", "0"), "--decode"),
        (("--decode", "2", "--decode-tokens", "5"), "give --decode or --decode-tokens"),
        (("--decode-tokens", "5,9999"), "token 9999 is none"),
        (("--decode", "1", "--patch", "model.gguf"), "leave it out to decode"),
        (("--decode-tokens", "5", "--engine", "mine.py:run"), "has no parameter batches"),
        (("--decode-tokens", ",".join(["5"] * 3000)), "the model's context has"),
        (("--decode", "1", "--model", "run.1.safetensors"), "that is an input"),
    ],
)
def test_what_cannot_be_decoded_is_one_line(run: Run, arguments: tuple[str, ...], said: str) -> None:
    """Exit code 2, and no traceback."""
    shutil.copy("model.gguf", "run.1.safetensors")
    code, out, err = run("--model", "model.gguf", "--tokens", "65,66,70", "--engine", "apr", "--out",
                         "run.safetensors", *arguments)  # fmt: skip
    assert (2, "") == (code, out)
    assert said in err
    assert 1 == err.count("\n")
