"""Engines that compute in float32 agree: each step keeps its bound, and what adds up is like the floor of float32."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from models import float32_distances

from diffuzz.models import engines, random_model
from diffuzz.models.dump import Dump
from diffuzz.models.engines import hf, llama_cpp

TOKENS = (204, 376, 314, 216, 180, 30, 378)
HF = all(importlib.util.find_spec(name) for name in ("torch", "transformers", "accelerate", "gguf"))
LLAMA_CPP = any(importlib.util.find_spec(name) for name in ("xllamacpp", "llama_cpp"))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random qwen2 whose weights are float32, so that llama.cpp quantises no activation."""
    file = tmp_path_factory.mktemp("model") / "qwen2.gguf"
    random_model.write(file, formats=dict.fromkeys(random_model.FORMATS, ("f32",)))
    return file


@pytest.fixture(scope="module")
def exact(path: Path) -> Dump:
    return engines.get("exact")(path, TOKENS)


@pytest.mark.parametrize(
    "name",
    [
        "apr",
        pytest.param("llama.cpp", marks=pytest.mark.skipif(not LLAMA_CPP, reason="no llama.cpp is installed")),
        pytest.param("hf", marks=[
            pytest.mark.skipif(not HF, reason="engine hf is not installed: pip install -e '.[hf]'"),
            pytest.mark.filterwarnings("ignore"),
        ]),
    ],
)  # fmt: skip
def test_they_agree_on_a_random_qwen2(path: Path, exact: Dump, name: str) -> None:
    """Measured over six prompts: at most 1.0 (ours) and 0.6 (llama.cpp) times the floor of an op; hf 0.9 on this."""
    run = {"llama.cpp": llama_cpp.run, "hf": hf.compute}.get(name, engines.get("apr"))(path, TOKENS)
    float32_distances.check_alike(path, exact, {"apr": engines.get("apr")(path, TOKENS), name: run})


def test_a_norm_that_is_a_little_off_is_not_near_the_exact_run(path: Path, exact: Dump) -> None:
    """The check of accumulated drift can fail: a norm of one layer, 5e-4 too small, is found by it, too."""
    apr = engines.get("apr")(path, TOKENS)
    norm = apr.taps["blk.0.attn_norm"].copy()
    norm *= np.float32(1 - 5e-4)
    patch = Dump(apr.metadata, apr.tokens, apr.positions, {"blk.0.attn_norm": norm})
    wrong = engines.get("apr")(path, TOKENS, patch=patch)
    measured, largest = float32_distances.distances(path, exact, {"apr": apr, "wrong": wrong})
    assert measured["wrong"].floors > 10 > float32_distances.NOISE > measured["apr"].floors
    assert largest < 1e-5
