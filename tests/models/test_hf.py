"""Engine hf: transformers' own taps of a model, by name, order and dtype, held against an engine in NumPy and against
each other.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffuzz.models import engines, random_model
from diffuzz.models.dump import Dump, check_against
from diffuzz.models.engines import EngineError, hf
from diffuzz.models.model import open as open_model

for needed in ("torch", "transformers", "accelerate", "gguf"):
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"engine hf needs {needed}: pip install -e '.[hf]'", allow_module_level=True)
# What transformers and what it imports warn of is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")

TOKENS = [65, 66, 70, 300, 5, 80, 90]
# The size of a head of the random llama.
HEAD = 64
Run = Callable[..., Dump]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A small model of each architecture."""
    folder = tmp_path_factory.mktemp("models")

    @cache
    def written(architecture: str) -> Path:
        random_model.write(folder / f"{architecture}.gguf", architecture=architecture)
        return folder / f"{architecture}.gguf"

    return written


@pytest.fixture(scope="module")
def dumps(models: Callable[[str], Path]) -> Callable[[str], Dump]:
    """What hf dumps of them."""
    return cache(lambda architecture: hf.compute(models(architecture), TOKENS))


def _layers(dump: Dump) -> int:
    return sum(name.endswith(".l_out") for name in dump.taps)


def _neox(array: np.ndarray, head: int) -> np.ndarray:
    """Neighbours 2i and 2i + 1 of each head go to i and i + head/2."""
    return array.reshape(-1, head // 2, 2).swapaxes(1, 2).reshape(array.shape)


def _relative(a: Any, b: Any) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_it_agrees_with_numpy(architecture: str, models: Callable[[str], Path], dumps: Callable[[str], Dump]) -> None:
    """Two float32 engines that share no code agree at every tap, all layers long; q and k of a llama are reordered."""
    example = Path(__file__).parents[2] / "examples" / "engines" / "numpy_engine.py"
    other = engines.get(f"run:{sys.executable} {example}")(models(architecture), TOKENS)
    ours = dumps(architecture)
    assert set(other.taps) == set(ours.taps)
    seen = np.tril(np.ones((len(TOKENS),) * 2, bool))
    for name, array in other.taps.items():
        tap = name.rpartition(".")[2]
        wanted = _neox(array, HEAD) if architecture == "llama" and tap in hf._ROTATED else array
        found = ours.taps[name].reshape(wanted.shape)
        if tap == "scores":
            wanted, found = wanted[:, seen], found[:, seen]
        # Measured: at most 2.4e-6.
        assert _relative(found, wanted) < 3e-6, name


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gemma3"])
def test_taps_are_what_they_are_called(
    architecture: str, models: Callable[[str], Path], dumps: Callable[[str], Dump]
) -> None:
    """A tap follows from those that it is made of; sums to the bit."""
    dump, gemma = dumps(architecture), architecture == "gemma3"
    check_against(dump, open_model(models(architecture)))
    taps, n, c = dump.taps, len(TOKENS), dump.taps["blk.0.q_rope"].shape[-1]
    assert ("neox", architecture) == (dump.metadata["rope_layout"], dump.metadata["arch"])
    residual = taps["embd"]
    for layer in range(_layers(dump)):
        tap = {name.rpartition(".")[2]: array for name, array in taps.items() if name.startswith(f"blk.{layer}.")}
        assert np.array_equal(residual + tap["attn_post_norm" if gemma else "attn_out"], tap["ffn_inp"])
        assert np.array_equal(tap["ffn_inp"] + tap["ffn_post_norm" if gemma else "down"], tap["l_out"])
        residual = tap["l_out"]
        q, k = (tap[name].transpose(1, 0, 2) for name in ("q_rope", "k_rope"))
        group = len(q) // len(k)
        assert _relative(tap["scores"], q @ k.repeat(group, 0).transpose(0, 2, 1)) < 1e-6
        apart = np.subtract.outer(np.arange(n), np.arange(n))
        seen = (apart >= 0) & (apart < (random_model.WINDOW if gemma and (layer + 1) % 6 else n))
        # A gemma3 has its own scale, which a GGUF file does not hold: transformers' default.
        weights = np.exp(np.where(seen, tap["scores"].astype(float) * (256 if gemma else c) ** -0.5, -np.inf))
        assert np.allclose(weights / weights.sum(-1, keepdims=True), tap["probs"], rtol=1e-5, atol=0)
        values = tap["v"].reshape(n, len(k), c).transpose(1, 0, 2).repeat(group, 0)
        assert _relative(tap["attn"], (tap["probs"] @ values).transpose(1, 0, 2).reshape(n, -1)) < 1e-6
        # Rotations keep the length of each pair, and leave position 0 as it is.
        before = tap["q_norm"] if gemma else tap["q"].reshape(n, -1, c)
        pairs = [array.reshape(n, -1, 2, c // 2) for array in (before, tap["q_rope"])]
        assert np.allclose(*(np.linalg.norm(pair, axis=2) for pair in pairs), rtol=1e-5, atol=1e-5)
        assert np.array_equal(before[0], tap["q_rope"][0])


def test_taps_change_nothing(models: Callable[[str], Path], dumps: Callable[[str], Dump]) -> None:
    """Logits have the same bits where nothing watches."""
    import torch

    network = hf._loaded(models("gemma3"), "float32")
    with torch.no_grad():
        logits = network(torch.tensor([TOKENS]), use_cache=False).logits[0].numpy()
    assert np.array_equal(logits, hf.compute(models("gemma3"), TOKENS).taps["logits"])


@pytest.mark.parametrize("tap", ["embd", "ffn_inp", "q", "k_rope", "probs", "glu", "down", "l_out"])
def test_patches(tap: str, models: Callable[[str], Path], dumps: Callable[[str], Dump]) -> None:
    """A patch is what goes on, in the residual stream too, and the tap itself is still the engine's own."""
    whole = dumps("llama")
    name = tap if tap == "embd" else f"blk.1.{tap}"
    patch = Dump(whole.metadata, whole.tokens, whole.positions, {name: whole.taps[name] * np.float32(0.5)})
    again = hf.compute(models("llama"), TOKENS, patch).taps
    assert np.array_equal(whole.taps[name], again[name])
    assert not np.array_equal(whole.taps["logits"], again["logits"])
    before = [other for other in whole.taps if other.startswith("blk.0.")]
    if tap != "embd":
        assert all(np.array_equal(whole.taps[other], again[other]) for other in before)
    if tap == "ffn_inp":
        assert np.array_equal(patch.taps[name] + again["blk.1.down"], again["blk.1.l_out"])
    if tap == "down":
        assert np.array_equal(again["blk.1.ffn_inp"] + patch.taps[name], again["blk.1.l_out"])
    if tap == "embd":
        assert np.array_equal(patch.taps[name] + again["blk.0.attn_out"], again["blk.0.ffn_inp"])


def test_a_patch_of_itself(models: Callable[[str], Path], dumps: Callable[[str], Dump]) -> None:
    """With all its own taps as a patch a run computes the same, also where they are in the order of the file."""
    whole = dumps("llama")
    taps = {
        name: _unneox(array, HEAD) if name.rpartition(".")[2] in hf._ROTATED else array
        for name, array in whole.taps.items()
    }
    patch = Dump({**whole.metadata, "rope_layout": "norm"}, whole.tokens, whole.positions, taps)
    again = hf.compute(models("llama"), TOKENS, patch)
    assert all(np.array_equal(whole.taps[name], again.taps[name]) for name in taps)
    assert str(len(taps)) == again.metadata["patched"]


def _unneox(array: np.ndarray, head: int) -> np.ndarray:
    return array.reshape(-1, 2, head // 2).swapaxes(1, 2).reshape(array.shape)


def test_a_patch_of_some_tokens(models: Callable[[str], Path], dumps: Callable[[str], Dump]) -> None:
    """A tap that a patch has for some tokens is replaced for these."""
    whole = dumps("llama")
    last = np.array([6], np.int32)
    zero = np.zeros_like(whole.taps["final_norm"][:1])
    patch = Dump(whole.metadata, whole.tokens, whole.positions, {"final_norm": zero}, {"final_norm": last})
    logits = hf.compute(models("llama"), TOKENS, patch).taps["logits"]
    assert np.array_equal(whole.taps["logits"][:6], logits[:6])
    assert not logits[6].any()


def test_bfloat16(models: Callable[[str], Path], dumps: Callable[[str], Dump]) -> None:
    """In bfloat16 taps are stored as such, and the dump says so."""
    import ml_dtypes

    dump = hf.compute(models("qwen2"), TOKENS, dtype="bfloat16")
    assert ml_dtypes.bfloat16 == dump.taps["blk.0.q"].dtype
    assert ("bf16", "bf16") == (dump.metadata["products"], dump.metadata["residual"])
    drift = _relative(dump.taps["blk.0.q"].astype(np.float32), dumps("qwen2").taps["blk.0.q"])
    assert 1e-4 < drift < 2e-2


@pytest.mark.parametrize(
    ("tokens", "taps", "message"),
    [
        ([1, 413], {}, "tokens are 0 to 412, and 1 to 413 were given"),
        (TOKENS, {"embd": np.zeros((7, 3), np.float32)}, "the patch has embd of shape [7, 3], where [7, 256]"),
        (TOKENS, {"blk.0.gate_up": np.zeros((7, 1024), np.float32)}, "does not have: blk.0.gate_up"),
    ],
)
def test_what_it_cannot_run(
    tokens: list[int],
    taps: dict[str, np.ndarray],
    message: str,
    models: Callable[[str], Path],
    dumps: Callable[[str], Dump],
) -> None:
    """Tokens and patches that it has no use for are errors of one line."""
    whole = dumps("qwen2")
    patch = Dump(whole.metadata, whole.tokens, whole.positions, taps) if taps else None
    with pytest.raises(EngineError) as caught:
        hf.compute(models("qwen2"), tokens, patch)
    assert message in str(caught.value)


def test_another_architecture(tmp_path: Path, models: Callable[[str], Path]) -> None:
    """An architecture whose taps are not known is named."""
    raw = models("qwen2").read_bytes()
    (tmp_path / "other.gguf").write_bytes(raw.replace(b"qwen2", b"qwen9"))
    with pytest.raises(EngineError, match="'qwen9' is not one of llama, qwen2, gemma3"):
        hf.compute(tmp_path / "other.gguf", TOKENS)


@pytest.mark.quality
def test_in_a_process_of_its_own(models: Callable[[str], Path], dumps: Callable[[str], Dump]) -> None:
    """The engine as users have it gives the same bits, and loads the model once for several runs."""
    with engines.opened("hf", models("qwen2")) as running:
        first, second = running.run(TOKENS), running.run(TOKENS[:5])
        with pytest.raises(EngineError, match="tokens are 0 to 412"):
            running.run([413])
    assert all(np.array_equal(array, first.taps[name]) for name, array in dumps("qwen2").taps.items())
    assert 5 == len(second.tokens)
