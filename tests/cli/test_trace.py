"""``diffuzz trace``: the answer first, what it prints, and one line for everything that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import pytest

from diffuzz.cli import main
from diffuzz.cli.trace import _pair
from diffuzz.models import random_model
from diffuzz.models.dump import read, write

Run = Callable[..., tuple[int, str, str]]
GIVEN = ("--model", "model.gguf", "--tokens", "65,66,70,71,72")
# An engine of a file that reads a wrong up.
ENGINE = """
from pathlib import Path

from diffuzz.models.dump import Dump
from diffuzz.models.engines import get

def wrong(model, tokens, patch=None):
    plain = get("ggml")(Path(model), tokens)
    up = plain.taps["blk.1.up"] * 1.25
    patch = Dump(plain.metadata, plain.tokens, plain.positions, {"blk.1.up": up})
    after = get("ggml")(Path(model), tokens, patch=patch)
    return {**after.taps, "blk.1.up": up}
"""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command in this process, in a folder with a model and an engine: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(ENGINE)
    random_model.write("model.gguf", layers=2)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main._run(list(arguments))
        return code, *capsys.readouterr()

    return run


def test_the_first_line_is_the_answer(run: Run) -> None:
    """Two engines of different arithmetic, neither wrong; then layers, outputs, and what the drift comes from."""
    code, out, err = run("trace", *GIVEN, "--engines", "apr,ggml", "--attribute")
    assert (0, "") == (code, err)
    first, *rest = out.splitlines()
    assert "both keep their bounds: the difference is the price of q8 activations in B." == first
    text = "\n".join(rest)
    about = ("A  apr: diffuzz apr", "B  ggml: diffuzz ggml", "tokens  5: 65,66,70,71,72")
    for said in (*about, "KL(A || B)", "noise of B", "final_norm", "where the drift of B's logits", "replicate"):
        assert said in text
    assert "+1.000" in next(line for line in rest if line.startswith(" sum"))


def test_the_wrong_side_is_named(run: Run) -> None:
    """A fault is the first line, and exit code 1; --verbose has a line for each tap."""
    code, out, err = run("trace", *GIVEN, "--engines", "ggml", "--engines", "mine.py:wrong", "--verbose")
    assert (1, "") == (code, err)
    assert out.startswith("B is wrong at blk.1.up: ")
    assert " times its allowance" in out.splitlines()[0]
    assert " blk.0.q_rope " in out


def test_dumps_and_their_json(run: Run) -> None:
    """Two dumps need no engine, and no tokens; the object has everything."""
    for engine in ("apr", "ggml"):
        assert 0 == run("dump", *GIVEN, "--engine", engine, "--out", f"{engine}.safetensors")[0]
    code, out, err = run("trace", "--model", "model.gguf", "--dumps", "ggml.safetensors,apr.safetensors", "--attribute",
                         "--json")  # fmt: skip
    assert (0, "") == (code, err)
    found = json.loads(out.splitlines()[-1])
    assert "both keep their bounds: the difference is the price of q8 activations in A." == found["answer"]
    assert [65, 66, 70, 71, 72] == found["tokens"]
    assert [] == found["wrong"]
    assert {"q8 activations"} == set(found["sides"]["A"]["price"])
    tap = next(each for each in found["taps"] if each["tap"] == "blk.1.down")
    assert (1, "down", 5, 5, 5) == (
        tap["layer"], tap["op"], len(tap["accumulated"]), len(tap["isolated"]), len(tap["floor"])
    )  # fmt: skip
    assert 5 == len(found["outputs"]["kl"])
    assert 8 == len(found["outputs"]["replicates"]["A"])
    # Only A quantises, so it is A's drift that there is something to say of.
    assert "A" == found["attribution"]["side"]
    assert found["attribution"]["sum_of_shares"] == pytest.approx(1, abs=1e-6)
    assert sum(each["share"] for each in found["attribution"]["steps"]) == pytest.approx(1, abs=1e-6)


def test_an_engine_and_a_dump(run: Run) -> None:
    """A dump is held against an engine, which runs over its tokens: the same run is the same."""
    run("dump", *GIVEN, "--engine", "apr", "--out", "apr.safetensors")
    code, out, _ = run("trace", "--model", "model.gguf", "--engines", "apr", "--dumps", "apr.safetensors")
    assert 0 == code
    assert out.startswith("both runs are the same, bit for bit, at all 37 taps that both have.")


def test_isolated_by_the_engine(run: Run) -> None:
    """B is run on A's taps."""
    code, out, err = run("trace", *GIVEN, "--engines", "apr,exact", "--isolate", "--json")
    assert (0, "") == (code, err)
    found = json.loads(out)
    assert "both keep their bounds: the difference is that of float32 rounding." == found["answer"]
    assert max(max(tap["isolated"]) for tap in found["taps"]) < 1e-6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*GIVEN, "--engines", "apr"), "give two runs"),
        ((*GIVEN, "--engines", "apr,ggml,exact"), "give two runs"),
        ((*GIVEN, "--engines", "apr,"), "are not names of runs"),
        ((*GIVEN, "--engines", "apr,gmml"), "there is no engine 'gmml'"),
        (("--model", "model.gguf", "--engines", "apr,ggml"), "give --tokens or --prompt"),
        (("--model", "model.gguf", "--tokens", "9999", "--engines", "apr,ggml"), "token 9999 is none"),
        ((*GIVEN, "--engines", "apr", "--dumps", "other.safetensors"), "leave out --tokens and --prompt"),
        (("--model", "model.gguf", "--dumps", "apr.safetensors,mine.py"), "mine.py: "),
        (("--model", "model.gguf", "--dumps", "apr.safetensors,other.safetensors"), "other tokens"),
        (("--model", "model.gguf", "--dumps", "apr.safetensors,odd.safetensors"), "odd.safetensors: embd is [3, 7]"),
        (("--model", "mine.py", "--dumps", "apr.safetensors,apr.safetensors"), "mine.py: it begins with"),
        (("--model", "model.gguf", "--engines", "apr", "--dumps", "apr.safetensors", "--isolate"), "--isolate"),
    ],
)
def test_bad_input_is_one_line(run: Run, arguments: tuple[str, ...], said: str) -> None:
    """Exit code 2 and one line that says what is wrong, and no result."""
    for name, tokens in (("apr", "65,66,70"), ("other", "65,66,71")):
        run("dump", "--model", "model.gguf", "--tokens", tokens, "--engine", "apr", "--out", f"{name}.safetensors")
    dump = read("apr.safetensors")
    write("odd.safetensors", attrs.evolve(dump, taps={"embd": np.zeros((3, 7), np.float32)}))
    code, out, err = run("trace", *arguments)
    assert (2, "") == (code, out)
    assert said in err
    assert 1 == err.count("\n")


def test_names_of_runs_may_have_commas() -> None:
    """What comes after a comma as KEY=VALUE belongs to the engine before it."""
    assert ("ggml", "llama.cpp:kv=f16,threads=2") == _pair(("ggml,llama.cpp:kv=f16,threads=2",))
    assert ("hf:dtype=float16,threads=1", "apr") == _pair(("hf:dtype=float16,threads=1,apr",))
    assert ("run:a b,c", "apr") == _pair(("run:a b,c", "apr"))
