"""Right float32 engines are never called wrong, in whatever form they compute a step and however few taps they dump."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from models.right_forms import FORMS, drawn, run

from diffuzz.models import architectures, checking, model, random_model, sequence
from diffuzz.models.dump import Dump
from diffuzz.models.model import Model
from diffuzz.models.operations.glu import Glu
from diffuzz.models.operations.norm import Norm
from diffuzz.models.operations.product import Product
from diffuzz.models.sequence import Sequence
from diffuzz.models.step import Step

Draw = Callable[..., np.ndarray]


@pytest.fixture(scope="module", params=["qwen2", "gemma3"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("forms") / f"{request.param}.gguf"
    random_model.write(path, architecture=request.param, layers=4 if request.param == "qwen2" else 6)
    return model.open(path)


def inputs_of(step: Step, n: int, draw: Draw) -> list[np.ndarray]:
    """Float32 inputs of a step."""
    operation, kind = step.operation, type(step.operation).__name__
    if kind == "Embedding":
        return []
    if isinstance(operation, Product):
        return [draw(n, operation.weight.shape[1])]
    if isinstance(operation, Norm):
        return [draw(n, len(operation.gain) * (2 if "q" in step.op or "k" in step.op else 1))]
    if kind == "Rope":
        return [draw(n, operation.heads * operation.size)]  # type: ignore[attr-defined]
    if kind == "Scores":
        return [draw(n, 64 * heads) for heads in (operation.heads, operation.groups)]  # type: ignore[attr-defined]
    if kind == "Probs":
        return [np.clip(draw(3, n, n) * 8, -400, 400)]
    if kind == "Mixture":
        p = np.exp(draw(operation.heads, n, n) % 9)  # type: ignore[attr-defined]
        return [p / p.sum(axis=-1, keepdims=True), draw(n, operation.groups * operation.size)]  # type: ignore[attr-defined]
    return [np.clip(draw(n, 64), -200, 200) if isinstance(operation, Glu) else draw(n, 64) for _ in range(2)]


@pytest.mark.parametrize("seed", range(3))
def test_every_form_of_a_step_is_within_its_bound(small: Model, seed: int) -> None:
    """For numbers of any size, subnormal ones and large columns among them, and for high positions."""
    rng = np.random.default_rng(seed)
    n = 6
    tokens = sequence.of_tokens(rng.integers(0, 400, n).tolist())
    at = Sequence(tokens.tokens, tokens.positions + np.int32(rng.choice([0, 7, 400])))

    def draw(*shape: int) -> np.ndarray:
        size = 10.0 ** rng.choice([-42, -38, -20, -6, -2, 0, 0, 1, 2])
        columns = 10.0 ** rng.uniform(-2, 2, shape[-1]) if rng.random() < 0.5 else 1.0
        return (rng.normal(size=shape) * size * columns).astype(np.float32)

    for step in {step.op: step for step in architectures.steps(small)}.values():
        inputs = inputs_of(step, n, draw)
        made = step.operation.estimate(
            [each.astype(np.float64) for each in inputs], [None] * len(inputs), "f32", at, None
        )
        for name, form in FORMS[type(step.operation)].items():
            if name == "not shifted" and np.abs(inputs[0]).max() > 300:
                continue
            with np.errstate(all="ignore"):
                got = np.asarray(form(step.operation, inputs, at), np.float64)
            assert (np.abs(got - made.value) <= made.allowed).all(), (step.op, name)


def dumped(taps: dict[str, np.ndarray], at: Sequence, architecture: str, **rows: np.ndarray) -> Dump:
    metadata = {"format": "diffuzz-dump", "version": "1", "engine": "of this test", "arch": architecture}
    return Dump(metadata, at.tokens, at.positions, taps, rows)


@pytest.mark.parametrize("seed", [0])
def test_right_engines_are_not_flagged(small: Model, seed: int) -> None:
    """Engines with a random form of each step: all taps, and a random choice of few, stored in three widths."""
    rng = np.random.default_rng(seed)
    at = sequence.of_tokens(rng.integers(0, 400, 7).tolist())
    taps = run(architectures.steps(small), at, drawn(rng))
    for share, dtype in (
        (1.0, np.float32),
        (rng.uniform(0.2, 0.8), rng.choice([np.float32, np.float16, ml_dtypes.bfloat16])),
    ):
        kept = {tap: made.astype(dtype) for tap, made in taps.items() if rng.random() < share}
        report = checking.check(small, dumped(kept, at, small.architecture))
        assert [] == [(each.judged.span.last.tap, each.ratio, each.because) for each in report.culprits]
        assert not [policy for policy in report.policies.values() if "not described" in policy]


@pytest.mark.parametrize("form", ["tangent", "tangent by exponentials", "turned over"])
def test_a_tangent_in_two_layers(small: Model, form: str) -> None:
    """With too few layers to compare, the bound alone says whether a step is wrong: it holds for silu and gelu by tanh,
    where the sum of 1 and the tangent cancels.
    """
    at = sequence.of_tokens([5, 99, 300, 17, 17, 222, 401, 64])
    taps = run(architectures.steps(small), at, drawn(np.random.default_rng(0)) | {Glu: form})
    kept = {tap: taps[tap] for tap in ("blk.0.gate", "blk.0.up", "blk.0.glu", "blk.1.gate", "blk.1.up", "blk.1.glu")}
    report = checking.check(small, dumped(kept, at, small.architecture))
    assert report.policies["glu"] == "f32"
    assert not report.culprits
