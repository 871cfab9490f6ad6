"""The functions of jax.nn, jax.numpy and jax.lax are analysed, and simulated implementations of each are inside."""

from __future__ import annotations

import numpy as np
import pytest
from functions_of_jax import CASES

from diffuzz.analysis import Arithmetic, bound, evaluate, round_to, simulated, trace

FLOAT32, NARROW = Arithmetic.of("float32"), Arithmetic.of("float16", "float16", "float32")


@pytest.mark.parametrize("chunk", range(8))
def test_every_function_has_rules_and_its_implementations_are_inside(chunk: int) -> None:
    """Values are those of the evaluation alone, errors are no NaN, and what rounds by chance stays within them."""
    rng = np.random.default_rng(chunk)
    outside, promised, total = [], 0, 0
    for name in list(CASES)[chunk::8]:
        function, given = CASES[name]
        for arithmetic in (FLOAT32, NARROW):
            inputs = [round_to(arithmetic.storage, x) if x.dtype.kind == "f" else x for x in given]
            traced = trace(function, inputs)
            estimates = bound(traced, inputs, arithmetic)
            for each, value, shape in zip(estimates, evaluate(traced, inputs), traced.out_shapes, strict=True):
                assert each.value.shape == shape
                assert np.array_equal(each.value, value, equal_nan=value.dtype.kind == "f")
                assert not np.isnan(each.errors()).any()
                promised += int(np.isfinite(each.errors()).sum())
                total += value.size
            for choose in (simulated.nearest, simulated.randomly(rng)):
                got = simulated.simulate(traced, inputs, arithmetic, choose, rng)
                if any((each.ratios(one) > 1).any() for each, one in zip(estimates, got, strict=True)):
                    outside.append((name, arithmetic))
    assert outside == []
    assert promised > 0.9 * total
