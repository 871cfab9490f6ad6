"""Engines by name: options, functions in files, and what is not there."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from diffuzz.models import engines, random_model
from diffuzz.models.dump import Dump
from diffuzz.models.engines import EngineError, MissingEngineError

FUNCTIONS = """
import os
import numpy as np

def run(model, tokens, patch=None):
    print("this is no answer")
    os.write(1, b"nor is this")
    if len(tokens) == 4:
        raise ValueError("four are too many")
    embd = np.full((len(tokens), 3), os.getpid(), np.float64)
    return {"embd": embd if patch is None else patch.taps["embd"]}

def alone(model, tokens):
    return {"embd": np.zeros((len(tokens), 3), np.float16)}

def wrong(model, tokens):
    return np.zeros(3)

def unnamed(model, tokens):
    return {"embedding": np.zeros((len(tokens), 3))}
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small qwen2 model."""
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    random_model.write(path, architecture="qwen2")
    return path


@pytest.fixture
def model(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, in a folder with the file FUNCTIONS."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(FUNCTIONS)
    return written


def test_names() -> None:
    """Engines are listed as users write them."""
    assert {"hf", "run:COMMAND", "FILE.py:FUNCTION"} <= set(engines.names())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonesuch", "there is no engine 'nonesuch' (engines: "),
        ("command", "there is no engine 'command'"),
        ("", "there is no engine ''"),
        ("hf:dtype", "'dtype' is no option; write hf:KEY=VALUE"),
        ("hf:", "'' is no option"),
        ("hf:kv=f16", "engine hf has no option 'kv' (its options: dtype, threads, timeout)"),
        ("hf:threads=many", "engine hf: threads='many' is not an integer"),
        ("hf:threads=1,timeout=soon", "timeout='soon' is not a number"),
    ],
)
def test_no_engine(text: str, message: str) -> None:
    """A name or an option that is none is one line that says what there is."""
    with pytest.raises(EngineError) as caught:
        engines.get(text)
    assert message in str(caught.value)


def test_options_are_of_the_types_of_their_defaults() -> None:
    """The text of an option is read as its default is."""

    def run(
        *, patch: Dump | None = None, kv: str = "f32", fast: bool = False, threads: int = 2, limit: float = 1.0
    ) -> Dump:
        raise NotImplementedError

    given = {"kv": "f16", "fast": "true", "threads": "3", "limit": "0.5"}
    assert {"kv": "f16", "fast": True, "threads": 3, "limit": 0.5} == engines.converted("e", run, given)
    with pytest.raises(EngineError, match="fast='yes' is not true or false"):
        engines.converted("e", run, {"fast": "yes"})
    with pytest.raises(EngineError, match="no option 'patch'"):
        engines.converted("e", run, {"patch": "1"})


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine whose packages are missing names them, and how they are installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else find(name))
    with pytest.raises(MissingEngineError, match=r"transformers.*pip install 'diffuzz-kernels\[hf\]'"):
        engines.get("hf")(Path("m.gguf"), [1])
    assert issubclass(MissingEngineError, ImportError)


def test_a_function(model: Path) -> None:
    """A function in a file runs in one process for a session, and what it prints does no harm."""
    with engines.opened("mine.py:run", model) as running:
        one, two = running.run([1, 2, 3]), running.run([4])
        assert one.taps["embd"][0, 0] == two.taps["embd"][0, 0]
        with pytest.raises(EngineError, match=r"ValueError: four are too many \(mine.py, line 9\)"):
            running.run([1, 2, 3, 4])
        assert np.array_equal(one.taps["embd"], running.run([1, 2, 3], patch=one).taps["embd"])
    assert ("mine.py:run", "qwen2") == (one.metadata["engine"], one.metadata["arch"])
    assert (np.float64, (3, 3)) == (one.taps["embd"].dtype, one.taps["embd"].shape)


def test_a_function_without_patches(model: Path) -> None:
    """A function without the parameter patch is an engine that takes none."""
    dump = engines.get("mine.py:alone")(model, [1, 2])
    assert np.float16 == dump.taps["embd"].dtype
    with pytest.raises(EngineError, match="takes no patches"):
        engines.get("mine.py:alone")(model, [1, 2], patch=dump)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("mine.py:wrong", "a Dump, or arrays by name, are needed"),
        ("mine.py:unnamed", "'embedding' is no name of a tap"),
        ("mine.py:nonesuch", "has no function 'nonesuch'"),
        ("nonesuch.py:run", "there is no file nonesuch.py"),
    ],
)
def test_functions_that_are_none(model: Path, engine: str, message: str) -> None:
    """What a function does wrong is one line, too."""
    with pytest.raises(EngineError) as caught:
        engines.get(engine)(model, [1])
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"engine {engine}: ")


def test_the_example(model: Path) -> None:
    """examples/engines/numpy_engine.py computes each step from the step before it, and takes patches."""
    pytest.importorskip("gguf")
    example = Path(__file__).parents[2] / "examples" / "engines" / "numpy_engine.py"
    with engines.opened(f"run:{sys.executable} {example}", model) as running:
        dump = running.run([65, 66, 70, 300, 5])
        taps = dict(dump.taps)
        assert np.array_equal(taps["blk.3.ffn_inp"] + taps["blk.3.down"], taps["blk.3.l_out"])
        moved = taps["blk.2.down"] + 1
        patch = Dump(dump.metadata, dump.tokens, dump.positions, {"blk.2.down": moved})
        again = running.run([65, 66, 70, 300, 5], patch=patch).taps
    assert np.array_equal(taps["blk.2.down"], again["blk.2.down"])
    assert np.array_equal(taps["blk.2.ffn_inp"] + moved, again["blk.2.l_out"])
