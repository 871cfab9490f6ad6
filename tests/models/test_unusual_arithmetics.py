"""Right engines whose arithmetic is coarser than those that are described: none is called wrong."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from diffuzz.models import architectures, checking, forward, model, random_model, sequence
from diffuzz.models.dump import Dump
from diffuzz.models.model import Model
from diffuzz.models.operations.product import Product
from diffuzz.studies.faults import engines, faults, running

TOKENS = (5, 99, 300, 17, 17, 222)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("model") / "qwen2.gguf"
    random_model.write(path)
    return model.open(path)


def dumped(taps: dict[str, np.ndarray]) -> Dump:
    metadata = {"format": "diffuzz-dump", "version": "1", "engine": "of this test", "arch": "qwen2"}
    return Dump(metadata, np.array(TOKENS, np.int32), np.arange(len(TOKENS), dtype=np.int32), taps)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_weights_in_a_narrower_format(small: Model, dtype: type) -> None:
    """Products of weights that were dequantised to f16 are outside of float32's bound in some layers only, and those of
    weights in bf16 in all.
    """
    steps = architectures.steps(small)
    weights = forward.Weights()
    for step in steps:
        if isinstance(step.operation, Product):
            values, minimum = step.operation.weight_values(np.dtype(np.float32))
            weights._kept[step.operation.weight.name] = values.astype(dtype).astype(np.float32), minimum
    taps = forward.taps_of(steps, sequence.of_tokens(TOKENS), "apr", weights=weights)
    report = checking.check(small, dumped(taps))
    assert report.verdict == checking.RIGHT
    assert report.culprits == ()
    names = set(report.policies.values())
    assert any("not described" in name for name in names) if dtype is np.float16 else "f32, bf16 weights" in names


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_numbers_that_were_rounded_before_they_were_stored(small: Model, dtype: type) -> None:
    """Every tap rounded to 16 bits as soon as it is made, and dumped as float32."""
    steps = architectures.steps(small)
    passed = forward.run(
        steps, sequence.of_tokens(TOKENS), "apr", touch=lambda tap, made: made.astype(dtype).astype(np.float32)
    )
    report = checking.check(small, dumped({step.tap: made for step, made in passed}))
    assert report.verdict == checking.RIGHT
    assert report.policies["embd"] == ("f16" if dtype is np.float16 else "bf16")


def test_nothing_is_wrong_where_nothing_is_promised(small: Model) -> None:
    """Few taps, so that bounds grow beyond all numbers on the way: they are no allowance of NaN."""
    taps = forward.taps_of(architectures.steps(small), sequence.of_tokens(TOKENS), "ggml")
    few = {tap: made for tap, made in taps.items() if tap.rpartition(".")[2] in ("k_rope", "v", "l_out")}
    assert checking.check(small, dumped(few)).verdict == checking.RIGHT


@pytest.mark.parametrize("engine", engines.UNUSUAL, ids=lambda engine: engine.name)
def test_arithmetics_of_other_engines_are_found(small: Model, engine: engines.Engine) -> None:
    """Codes with scales by row or block, rounded weights and caches of codes are policies, here of a build whose codes
    and sums are computed otherwise.
    """
    steps = architectures.steps(small)
    build = engines.builds(engine, 3)[2]
    made = running.run(steps, sequence.of_tokens(TOKENS), build, running.prepared(steps))
    assert made is not None
    report = checking.check(small, dumped(dict(made.taps)))
    assert report.culprits == ()
    names = set(report.policies.values())
    assert not any("not described" in name for name in names)
    assert names - {"f32", "q8"}


@pytest.mark.parametrize("engine", engines.UNDESCRIBED, ids=lambda engine: engine.name)
def test_arithmetics_that_nobody_knows_are_not_flagged(small: Model, engine: engines.Engine) -> None:
    """They are called so."""
    steps = architectures.steps(small)
    made = running.run(steps, sequence.of_tokens(TOKENS), engine, running.prepared(steps))
    assert made is not None
    report = checking.check(small, dumped(dict(made.taps)))
    assert report.culprits == ()
    assert any("not described" in name for name in report.policies.values())


@pytest.mark.parametrize(
    ("tap", "fault"),
    [("blk.1.gate", "one nibble"), ("blk.2.q", "a bit turned"), ("logits", "last row of the head"),
     ("blk.0.up", "last element of a sum lost")],
)  # fmt: skip
def test_products_that_read_the_same_have_to_agree(small: Model, tap: str, fault: str) -> None:
    """A fault far below what 6-bit activations make is named, because the rows that read the same disagree."""
    steps = architectures.steps(small)
    kind = next(each for each in faults.FAULTS if each.name == fault)
    made = running.run(
        steps, sequence.of_tokens(TOKENS), engines.UNDESCRIBED[2], running.prepared(steps),
        faults={tap: (kind, np.random.default_rng(0))},
    )  # fmt: skip
    assert made is not None
    report = checking.check(small, dumped(dict(made.taps)))
    assert [tap] == [each.judged.span.last.tap for each in report.culprits]
