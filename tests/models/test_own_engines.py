"""Our own passes as engines: they keep their bounds, and take patches."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import attrs
import numpy as np
import pytest

from diffuzz.models import checking, random_model, running
from diffuzz.models import model as models
from diffuzz.models.dump import Dump, check_against, read, write
from diffuzz.models.engines import EngineError, get

TOKENS = (5, 17, 42, 99, 7, 200)
# Activations that are read as codes, and those that are not.
PRODUCTS = {"exact": "f32", "apr": "f32", "ggml": "q8", "libggml": "q8"}
needs_ggml = pytest.mark.skipif(
    importlib.util.find_spec("ggml") is None, reason="ggml-python is not installed: pip install 'diffuzz-kernels[ggml]'"
)


@pytest.fixture(scope="module", params=random_model.ARCHITECTURES)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of each architecture."""
    file = tmp_path_factory.mktemp("own") / f"{request.param}.gguf"
    random_model.write(file, architecture=request.param, layers=2 if request.param != "gemma3" else 6)
    return file


@pytest.mark.parametrize("name", ["exact", "apr", "ggml", pytest.param("libggml", marks=needs_ggml)])
def test_every_step_keeps_its_bound(path: Path, name: str) -> None:
    """All steps are there, and a check finds none wrong or odd, and the arithmetic that the engine has."""
    dump = get(name)(path, TOKENS)
    model = models.open(path)
    check_against(dump, model)
    report = checking.check(model, dump)
    assert (report.steps, report.steps) == (report.checked, len(dump.taps))
    assert [] == [(each.op, each.layer, each.because) for each in report.culprits]
    products = {policy for group, policy in report.policies.items() if " " in group}
    assert {PRODUCTS[name]} == products
    if name == "libggml" and model.architecture == "gemma3":
        assert "f16 table" == report.policies["glu"]
    assert dump.metadata["model_sha256"] == model.sha256


def test_float32_is_near_to_exact(path: Path) -> None:
    """A float32 pass is within 3e-6 of the float64 one at every tap, and a quantising one is not."""
    exact, apr, ggml = (get(name)(path, TOKENS) for name in ("exact", "apr", "ggml"))
    assert exact.taps["logits"].dtype == np.float64

    def apart(dump: Dump, tap: str) -> float:
        # Places that no token attends to may hold anything.
        a, b = exact.taps[tap], dump.taps[tap]
        return float(np.linalg.norm(a - b) / np.linalg.norm(a))

    assert max(apart(apr, tap) for tap in exact.taps) < 3e-6
    assert apart(ggml, "logits") > 1e-4


def test_a_patch_replaces_what_was_dumped(path: Path) -> None:
    """A tap of a patch is read by the steps after it; the tap that is dumped is the engine's own."""
    run = get("apr")
    plain = run(path, TOKENS)
    patch = attrs.evolve(plain, taps={"blk.0.l_out": plain.taps["blk.0.l_out"] * np.float32(2) + np.float32(0.5)})
    patched = run(path, TOKENS, patch=patch)
    for tap in ("blk.0.l_out", "blk.0.down"):
        np.testing.assert_array_equal(plain.taps[tap], patched.taps[tap])
    again = run(path, TOKENS, patch=patched)
    norm = running.opened(path).steps
    step = next(step for step in norm if step.tap == "blk.1.attn_norm")
    wanted = step.operation.value((patch.taps["blk.0.l_out"],), "f32", None)  # type: ignore[arg-type]
    np.testing.assert_array_equal(wanted, patched.taps["blk.1.attn_norm"])
    # With every tap of a run, each step has that run's inputs.
    np.testing.assert_array_equal(plain.taps["blk.1.attn_norm"], again.taps["blk.1.attn_norm"])


def test_a_patch_of_another_layout_is_turned(path: Path) -> None:
    """Heads of a patch are in the order that its rope_layout says."""
    run, steps = get("apr"), running.opened(path).steps
    plain = run(path, TOKENS)
    ropes = {step.tap: step.operation for step in steps if step.op in ("q_rope", "k_rope")}
    other = "neox" if plain.metadata["rope_layout"] == "norm" else "norm"
    # Where element i of ours is in heads of the other layout.
    turned = {}
    for tap, rope in ropes.items():
        turned[tap] = np.empty_like(plain.taps[tap])
        turned[tap][:, rope.permutation()] = plain.taps[tap]  # type: ignore[attr-defined]
    patch = attrs.evolve(plain, taps=turned, metadata={**plain.metadata, "rope_layout": other})
    patched = run(path, TOKENS, patch=patch)
    np.testing.assert_array_equal(plain.taps["logits"], patched.taps["logits"])


def test_a_patch_of_some_tokens_leaves_the_others(path: Path) -> None:
    """Rows of a patch replace those of their tokens only."""
    run = get("apr")
    plain = run(path, TOKENS)
    last = np.array([len(TOKENS) - 1], np.int32)
    patch = attrs.evolve(plain, taps={"final_norm": np.zeros((1, 256), np.float32)}, rows={"final_norm": last})
    logits = run(path, TOKENS, patch=patch).taps["logits"]
    np.testing.assert_array_equal(plain.taps["logits"][:-1], logits[:-1])
    assert not logits[-1].any()


def test_dumps_can_be_saved(path: Path, tmp_path: Path) -> None:
    """What is read again is what was written, float64 included."""
    dump = get("exact")(path, TOKENS)
    write(tmp_path / "dump.safetensors", dump)
    again = read(tmp_path / "dump.safetensors")
    np.testing.assert_array_equal(dump.taps["blk.1.glu"], again.taps["blk.1.glu"])


def test_a_changed_file_is_opened_anew(tmp_path: Path) -> None:
    """A model is kept between runs, but not when another file is at its place."""
    file = tmp_path / "model.gguf"
    random_model.write(file, layers=1)
    one = running.opened(file)
    assert one is running.opened(file)
    random_model.write(file, layers=1, seed=1)
    assert one is not running.opened(file)


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ((), "there are no tokens"),
        ((3, 413), "token 413 is none: its vocabulary has 0 to 412"),
        ((3, -1), "token -1 is none"),
        ((3,) * 600, "there are 600 tokens, and its context has 512"),
    ],
)
def test_bad_tokens_are_one_line(tmp_path: Path, tokens: tuple[int, ...], said: str) -> None:
    """An EngineError names the engine, the model and what is wrong."""
    random_model.write(tmp_path / "model.gguf", layers=1)
    with pytest.raises(EngineError, match=said) as raised:
        get("ggml")(tmp_path / "model.gguf", tokens)
    assert str(raised.value).startswith("engine ggml: ")
    assert "\n" not in str(raised.value)


def test_bad_models_and_patches_are_one_line(tmp_path: Path) -> None:
    """A file that is no model, or not there, and a patch of fewer tokens."""
    (tmp_path / "none.gguf").write_bytes(b"no model at all")
    with pytest.raises(EngineError, match=r"engine apr: .*none\.gguf: it begins with"):
        get("apr")(tmp_path / "none.gguf", TOKENS)
    with pytest.raises(EngineError, match="No such file"):
        get("apr")(tmp_path / "absent.gguf", TOKENS)
    random_model.write(tmp_path / "model.gguf", layers=1)
    patch = get("apr")(tmp_path / "model.gguf", TOKENS[:3])
    with pytest.raises(EngineError, match="the patch is of 3 tokens, and the run of 6"):
        get("apr")(tmp_path / "model.gguf", TOKENS, patch=patch)


@needs_ggml
def test_a_library_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """``library`` is a build of ggml."""
    random_model.write(tmp_path / "model.gguf", layers=1)
    with pytest.raises(EngineError, match="there is no such file or folder"):
        get(f"libggml:library={tmp_path / 'no'}")(tmp_path / "model.gguf", TOKENS)
