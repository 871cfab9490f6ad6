"""Order of a dot product: the published input, bits that differ, the bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuzz import sampling, targets
from diffuzz.case import Case
from diffuzz.target import ParameterError, evaluate
from diffuzz.verdict import Verdict, judge

DOT = targets.get("dot-order")


def test_published_input() -> None:
    """FFN-GGUF-006: both sums are 0x44191e70 on the one input that was tried."""
    i = np.arange(128, dtype=np.float32)
    a = (i - 64) * np.float32(0.1) + (i % 7) * np.float32(0.013)
    b = (np.float32(0.7) * i - 50) * np.float32(0.05) + (i % 11) * np.float32(0.011)
    measured = evaluate(DOT, DOT.params(), Case({"a": a, "b": b}))
    assert hex(np.float32(measured.detail["fold"]).view(np.uint32)) == "0x44191e70"
    assert hex(np.float32(measured.detail["lanes"]).view(np.uint32)) == "0x44191e70"
    assert (measured.value, measured.detail["ulp"]) == (0.0, 0.0)


def test_the_bits_differ() -> None:
    """Nearly any other input differs: the claim that one input falsified is CONFIRMED."""
    params = DOT.params()
    batch = sampling.uniform(DOT.space(params), np.random.default_rng(0), 20)
    outcome = DOT.question.evaluate(params, batch)
    assert (outcome.detail["ulp"] > 0).mean() > 0.5
    assert judge(DOT.limit(params), outcome.value.max(), 0.0, DOT.bound(params)) is Verdict.CONFIRMED


@settings(max_examples=40)
@given(
    n=st.integers(1, 12).map(lambda rows: 8 * rows),
    max_abs=st.sampled_from([1e-15, 1e-9, 1.0, 16.0, 1e15]),
    seed=st.integers(0, 2**32),
)
def test_nothing_exceeds_the_bound(n: int, max_abs: float, seed: int) -> None:
    """Uniform, structured and constructed cases stay below the limit, also where products underflow."""
    params = DOT.params({"n": n, "max_abs": max_abs})
    space, rng = DOT.space(params), np.random.default_rng(seed)
    ceiling = DOT.bound(params).ceiling
    for batch in (sampling.uniform(space, rng, 50), sampling.structured(space, rng, 200), DOT.starts(params, rng, 20)):
        outcome = DOT.question.evaluate(params, batch)
        assert outcome.value[space.admissible(batch)].max(initial=0.0) <= ceiling


@pytest.mark.parametrize(("n", "share"), [(128, 0.979), (512, 0.994), (2048, 0.998)])
def test_the_construction_reaches_the_bound(n: int, share: float) -> None:
    """(n - 1) + (n/8 - 1) of n + n/8 + 1: the fold loses every tie, the first lane gains at each."""
    params = DOT.params({"n": n})
    outcome = DOT.question.evaluate(params, DOT.starts(params, np.random.default_rng(0), 4))
    assert outcome.value.max() >= share * DOT.bound(params).value
    assert outcome.value.max() == pytest.approx(n + n // 8 - 2, rel=1e-3)


def test_length_must_be_whole_rows_of_lanes() -> None:
    """The bound is that of whole rows."""
    with pytest.raises(ParameterError, match="n=100: a multiple of 8 is needed"):
        DOT.params({"n": 100})
