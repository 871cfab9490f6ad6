"""The layer target: the forward pass of one token through one layer, with and without quantised activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cases import draws
from diffuzz.models import architectures, forward, model, random_model, sequence
from diffuzz.models.operations.product import Product
from diffuzz.targets.of_models import layer
from diffuzz.targets.parameter import ParameterError

TARGET = targets.get("layer")


@pytest.fixture(scope="module", params=["llama", "gemma3", "qwen2"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("layer") / f"{request.param}.gguf"
    random_model.write(made, architecture=request.param, layers=2)
    return str(made)


def batch(path: str, count: int = 8, number: int = 1) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    params = TARGET.params({"model": path, "layer": number})
    return dict(params), draws.structured(TARGET.space(params), np.random.default_rng(0), count)


def test_path_a_is_the_layer_of_a_whole_pass(path: str) -> None:
    """What the exact pass of a whole model gives after its first layer, from the same residual before it."""
    params, _ = batch(path, number=1)
    steps = architectures.steps(model.open(path))
    taps = forward.taps_of(steps, sequence.of_tokens([5]), "exact")
    x = taps["blk.0.l_out"].astype(np.float32)
    a, b, wide = layer.paths(params, x)
    np.testing.assert_allclose(taps["blk.1.l_out"], wide, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(wide, a, rtol=1e-5, atol=1e-5)
    ggml = dict(forward.run(steps, sequence.of_tokens([5]), "ggml", taps={"blk.0.l_out": x}))
    expected = next(result for step, result in ggml.items() if step.tap == "blk.1.l_out")
    # Sums in another order may turn a code here and there.
    assert np.linalg.norm(b - expected) <= 0.3 * np.linalg.norm(b - a)


def test_a_value_does_not_depend_on_the_batch(path: str) -> None:
    """Up to the rounding of float64 sums."""
    params, arrays = batch(path)
    together = layer.evaluate(params, arrays)
    alone = [layer.evaluate(params, {"x": arrays["x"][i : i + 1]}).value[0] for i in range(len(arrays["x"]))]
    np.testing.assert_allclose(together.value, alone, rtol=1e-6)
    assert together.noise.max() < 1e-5 * together.value.max()


def test_without_quantised_activations_there_is_no_drift(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is the same on both paths if products take activations as they are."""
    params, arrays = batch(path)
    assert layer.evaluate(params, arrays).value.min() > 0
    monkeypatch.setattr(forward, "arithmetic_of", lambda step, name: "f32")
    assert [0.0] * 8 == layer.evaluate(params, arrays).value.tolist()


def test_slopes_are_those_of_the_layer(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small change of every product's activations, in random directions, changes l_out by no more than the bound says
    with such changes in the place of code errors, and by a good part of it.
    """
    params, arrays = batch(path, 3)
    size = 1e-6
    monkeypatch.setattr(layer, "_quantisation", lambda partner, x: (np.full(len(x), size), None))
    seen = Product.multiplied

    def moved(self: Product, x: np.ndarray, arithmetic: str, weight: tuple) -> np.ndarray:  # type: ignore[type-arg]
        if arithmetic == "f32":
            return seen(self, x, "f32", weight)
        # The same tap moves alike for all that multiply it.
        signs = np.where(np.random.default_rng(x.shape[-1]).random(x.shape) < 0.5, -size, size)
        return seen(self, x + signs, "f32", weight)

    monkeypatch.setattr(Product, "multiplied", moved)
    monkeypatch.setattr(layer, "_rounded", lambda result: result)
    for x in arrays["x"]:
        a, b, _ = layer.paths(params, x[None])
        bound = layer.first_order(params, x) * np.linalg.norm(a)
        assert bound / 100 <= np.linalg.norm(a - b) <= bound * (1 + 1e-3)


def test_drifts_keep_their_first_order_bound(path: str) -> None:
    """Of drawn cases, by far: errors do not add up."""
    params, arrays = batch(path, 2)
    found = layer.explain(params, arrays)
    assert (found["relative L2"] <= found["first-order bound"]).all()


def test_what_is_no_model_or_no_layer_is_one_line(path: str, tmp_path: Path) -> None:
    """No model, a file that is none or is not there, and a layer that it has not."""
    (tmp_path / "m.gguf").write_bytes(b"nothing")
    for file, said in (("", "a model is needed"), ("m.gguf", "it begins with"), ("none.gguf", "No such file")):
        with pytest.raises(ParameterError, match=said):
            TARGET.space(TARGET.params({"model": str(tmp_path / file) if file else ""}))
    with pytest.raises(ParameterError, match="has layers 0 to 1"):
        TARGET.space(TARGET.params({"model": path, "layer": 7}))
