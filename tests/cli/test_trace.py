"""``diffuzz trace``: the answer first, what it prints, and one line for everything that is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import pytest

from diffuzz.cli import main
from diffuzz.cli.trace import _pair
from diffuzz.models import engines, random_model
from diffuzz.models.dump import read, write
from diffuzz.models.model import open as open_model

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
    assert 1 == code
    # What it is at, and no complaint.
    assert "running mine.py:wrong" in err
    assert "diffuzz:" not in err
    assert out.startswith("B is wrong at blk.1.up: ")
    assert " times its allowance" in out.splitlines()[0]
    assert " blk.0.q_rope " in out


# What an engine made wrong, by tap; whatever read it is right on what was made.
_FAULTS = {
    "nan": {"blk.1.up": float("nan")},
    "two": {"blk.0.q": 1.01, "blk.1.up": 1.5},
    "both": {"blk.0.q": 1.01, "blk.1.up": float("nan")},
}


def _faulty(run: Run, name: str) -> str:
    """A dump of ggml's pass in which the numbers of token 2 at some taps were multiplied."""
    tokens = [65, 66, 70, 71, 72]
    plain = engines.get("ggml")(Path("model.gguf"), tokens)
    made = {}
    for tap, factor in _FAULTS[name].items():
        made[tap] = plain.taps[tap].copy()
        made[tap][2] *= np.float32(factor)
    run = engines.get("ggml")(Path("model.gguf"), tokens, patch=attrs.evolve(plain, taps=made))
    write(f"{name}.safetensors", attrs.evolve(run, taps={**run.taps, **made}))
    return f"{name}.safetensors"


@pytest.mark.parametrize(
    ("fault", "starts", "ends"),
    [
        ("nan", "is wrong at blk.1.up: no number where one is due",
         "; the logits are no numbers after 1 of 5 tokens."),
        ("two", "is wrong at blk.0.q: ", "and so is 1 more; blk.1.up is farthest off, NUMBER times its allowance."),
        ("both", "is wrong at blk.0.q: ",
         "; NaN first comes in blk.1.up, where a number is due; the logits are no numbers after 1 of 5 tokens."),
    ],
)  # fmt: skip
def test_the_first_wrong_step_and_the_worst(run: Run, fault: str, starts: str, ends: str) -> None:
    """The answer is the step that comes first, then which is farthest off; and where NaN comes from, whoever has it."""
    file = _faulty(run, fault)
    for label, others in (("A", (file, "plain.safetensors")), ("B", ("plain.safetensors", file))):
        run("dump", *GIVEN, "--engine", "ggml", "--out", "plain.safetensors")
        code, out, _ = run("trace", "--model", "model.gguf", "--dumps", ",".join(others))
        first = out.splitlines()[0]
        assert 1 == code
        assert first.startswith(f"{label} {starts}")
        assert re.sub(r"[\d,.]+ times its allowance.$", "NUMBER times its allowance.", first).endswith(ends)
        outputs = [line for line in out.splitlines() if line.startswith(("  top-1", "  KL", "  total", "  noise"))]
        assert 4 == len(outputs)
        assert "nan" not in " ".join(outputs)
    _, out, _ = run("check", "--model", "model.gguf", "--dump", file, "--no-save")
    assert out.startswith(f"CONFIRMED: {starts.split()[3].rstrip(':')} is wrong, ")


def test_nan_of_the_model_is_nobodys_fault_and_said_first(run: Run) -> None:
    """A weight that is NaN makes NaN in every run: no step is wrong, no sentence says that all steps were judged."""
    weight = open_model("model.gguf").tensors["blk.1.attn_norm.weight"]
    data = bytearray(Path("model.gguf").read_bytes())
    start = data.index(bytes(weight.data))
    data[start : start + 4] = np.float32(np.nan).tobytes()
    Path("model.gguf").write_bytes(data)
    code, out, _ = run("trace", *GIVEN, "--engines", "apr,ggml")
    first, *rest = out.splitlines()
    assert 0 == code
    assert first.startswith(
        "A: NaN first comes in blk.1.attn_norm, whose exact result is no number either; "
        "the logits are no numbers after all 5 tokens. B: NaN first comes in"
    )
    assert first.endswith(" Where numbers are due, both keep their bounds, in 19 of 37 steps.")
    assert any(line.startswith("  next token       not known") for line in rest)
    run("dump", *GIVEN, "--engine", "apr", "--out", "apr.safetensors")
    code, out, _ = run("check", "--model", "model.gguf", "--dump", "apr.safetensors", "--json")
    found = json.loads(out)
    assert 0 == code
    assert {"tap": "blk.1.attn_norm", "kind": "NaN", "due": False, "logits": [0, 1, 2, 3, 4]} == found["not_finite"]
    assert found["answer"].startswith("FALSIFIED: 19 of 37 steps keep the bounds of their arithmetic; NaN first")


@pytest.mark.parametrize(
    ("kept", "checked", "traced"),
    [
        ("l_out", "4 spans that hold all 37 steps keep their bounds and lie near their replicates.",
         "both keep their bounds, in 4 spans that hold all 37 steps: "),
        ("logits", "one span that holds all 37 steps keeps its bound and lies near its replicates.",
         "both keep their bounds, in one span that holds all 37 steps: "),
    ],
)  # fmt: skip
def test_steps_that_are_judged_together_are_called_so(run: Run, kept: str, checked: str, traced: str) -> None:
    """Where taps are missing, what was judged are spans."""
    for engine in ("apr", "ggml"):
        found = engines.get(engine)(Path("model.gguf"), [65, 66, 70, 71, 72])
        taps = {tap: value for tap, value in found.taps.items() if tap.endswith((kept, "logits"))}
        if kept == "l_out":
            taps["embd"] = found.taps["embd"]
        write(f"{engine}.safetensors", attrs.evolve(found, taps=taps))
    _, out, _ = run("check", "--model", "model.gguf", "--dump", "apr.safetensors")
    assert f"FALSIFIED: {checked}" == out.splitlines()[0]
    _, out, _ = run("trace", "--model", "model.gguf", "--dumps", "apr.safetensors,ggml.safetensors")
    assert out.startswith(traced)


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
