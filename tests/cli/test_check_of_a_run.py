"""``diffuzz check``: what it prints and saves, and what it says of bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import pytest

from diffuzz.cli import main
from diffuzz.models import architectures, dump, forward, random_model, sequence
from diffuzz.models import model as models
from diffuzz.models.dump import Dump

TOKENS = (5, 7, 100, 3, 9, 200, 44)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    random_model.write(path, architecture="llama")
    return path


@pytest.fixture(scope="module")
def healthy(file: Path) -> Dump:
    """A run of our own pass with quantised activations."""
    steps = architectures.steps(models.open(file))
    taps = forward.taps_of(steps, sequence.of_tokens(TOKENS), "ggml")
    metadata = {"format": "diffuzz-dump", "version": "1", "engine": "of this test", "arch": "llama"}
    return Dump(metadata, np.array(TOKENS, np.int32), np.arange(len(TOKENS), dtype=np.int32), taps)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        code = main._run([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def saved(run: Dump, path: Path, **changes: np.ndarray) -> Path:
    dump.write(path, attrs.evolve(run, taps={**run.taps, **changes}))
    return path


def test_a_right_run(run: Run, file: Path, healthy: Dump, tmp_path: Path) -> None:
    """The first line is the answer; the arithmetic is found."""
    path = saved(healthy, tmp_path / "run.safetensors")
    code, out, err = run("check", "--model", file, "--dump", path)
    assert (code, err) == (0, "")
    steps = len(architectures.steps(models.open(file)))
    assert out.splitlines()[0] == f"FALSIFIED: all {steps} steps keep the bounds of their arithmetic."
    assert "q8: q q" in out
    assert "the rest f32" in out
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize(
    ("op", "target"),
    [
        ("attn_norm", "rmsnorm_gain"), ("q", "matvec"), ("q_rope", "rope"), ("scores", "matmul"),
        ("probs", "masked_softmax"), ("attn", "matmul"), ("glu", "swiglu"),
    ],
)  # fmt: skip
def test_a_wrong_step_is_named_and_its_witness_replays(
    run: Run, file: Path, healthy: Dump, tmp_path: Path, op: str, target: str
) -> None:
    """The step itself is wrong, though the engine's later steps were right on what it made."""
    tap = f"blk.1.{op}"
    wrong = np.array(healthy.taps[tap])
    wrong[..., 3, :] *= 1.5
    # The engine reads what it made, so what follows is right again.
    steps = architectures.steps(models.open(file))
    taps = {
        step.tap: result
        for step, result in forward.run(
            steps,
            sequence.of_tokens(TOKENS),
            "ggml",
            touch=lambda name, result: wrong if name == tap else result,
        )
    }
    path = saved(healthy, tmp_path / "run.safetensors", **taps)
    code, out, _ = run("check", "--model", file, "--dump", path, "--json")
    found = json.loads(out.splitlines()[-1])
    assert code == 1
    assert [(each["layer"], each["op"], each["certain"]) for each in found["culprits"]] == [(1, op, True)]
    culprit = found["culprits"][0]
    assert culprit["tokens"] == [3]
    assert culprit["ratio"] > 1
    assert culprit["span"] == [op]
    assert Path(culprit["witness"]).parts[:2] == ("corpus", target)
    code, out, err = run("replay", "corpus")
    assert (code, err) == (0, "")
    assert "1 of 1 entries replayed as recorded" in out
    code, out, _ = run("show", culprit["witness"])
    assert f"step {tap}" in out
    assert "of this test" in out
    assert run("show", "--python", culprit["witness"])[0] == 0
    code, _, err = run("measure", culprit["witness"])
    assert code == 2
    assert "replay it" in err
    assert run("minimise", culprit["witness"])[0] == 0


def test_json_has_the_keys_of_the_contract(run: Run, file: Path, healthy: Dump, tmp_path: Path) -> None:
    """verdict, steps, checked, policies, missing, culprits, environment."""
    taps = {name: tap for name, tap in healthy.taps.items() if not name.endswith("attn_norm")}
    path = tmp_path / "run.safetensors"
    dump.write(path, attrs.evolve(healthy, taps=taps))
    code, out, _ = run("check", "--model", file, "--dump", path, "--json")
    found = json.loads(out)
    assert code == 0
    assert {"verdict", "steps", "checked", "policies", "missing", "culprits", "environment"} <= set(found)
    assert found["missing"] == [tap for tap in healthy.taps if tap.endswith("attn_norm")]
    assert found["checked"] == found["steps"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "nowhere.gguf", "--dump", "run.safetensors"], "No such file"),
        (["--model", "text.gguf", "--dump", "run.safetensors"], "text.gguf: it begins with"),
        (["--model", "model.gguf", "--dump", "text.gguf"], "text.gguf: "),
        (["--model", "model.gguf", "--dump", "empty.safetensors"], "no tap that can be judged"),
        (["--model", "model.gguf", "--dump", "other.safetensors"], "sha256"),
    ],
)
def test_bad_input_is_one_line(
    run: Run, file: Path, healthy: Dump, tmp_path: Path, words: list[str], said: str
) -> None:
    """Exit code 2, and nothing on stdout."""
    (tmp_path / "model.gguf").write_bytes(file.read_bytes())
    (tmp_path / "text.gguf").write_text("It is a text, and not a model.")
    saved(healthy, tmp_path / "run.safetensors")
    dump.write(tmp_path / "empty.safetensors", attrs.evolve(healthy, taps={}))
    dump.write(
        tmp_path / "other.safetensors",
        attrs.evolve(healthy, metadata={**healthy.metadata, "model_sha256": "0" * 64}),
    )
    code, out, err = run("check", *words)
    assert code == 2, (out, err)
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1
