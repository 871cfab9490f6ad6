"""Order of a dot product: the published input, bits that differ, the bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuzz import targets
from diffuzz.cases import draws
from diffuzz.cases.case import Case
from diffuzz.judging.problem import evaluate
from diffuzz.judging.verdict import Verdict, judge
from diffuzz.targets import laws
from diffuzz.targets.parameter import ParameterError

DOT = targets.get("dot-order")


def test_published_input() -> None:
    """FFN-GGUF-006: both sums are 0x44191e70 on the one input that was tried."""
    i = np.arange(128, dtype=np.float32)
    a = (i - 64) * np.float32(0.1) + (i % 7) * np.float32(0.013)
    b = (np.float32(0.7) * i - 50) * np.float32(0.05) + (i % 11) * np.float32(0.011)
    measured = evaluate(DOT, DOT.params(), Case({"a": a, "b": b}))
    numbers = measured.evidence.as_dict()
    assert hex(np.float32(numbers["fold"]).view(np.uint32)) == "0x44191e70"
    assert hex(np.float32(numbers["lanes"]).view(np.uint32)) == "0x44191e70"
    assert (measured.value, numbers["ulp"]) == (0.0, 0.0)


def test_the_bits_differ() -> None:
    """Nearly any other input differs: the claim that one input falsified is CONFIRMED."""
    params = DOT.params()
    batch = draws.uniform(DOT.space(params), np.random.default_rng(0), 20)
    outcome = DOT.question.evaluate(params, batch)
    assert (DOT.question.explain(params, batch)["ulp"] > 0).mean() > 0.5
    assert judge(DOT.threshold(params), outcome.value.max(), 0.0, DOT.bound(params)) is Verdict.CONFIRMED


@settings(max_examples=40)
@given(
    n=st.integers(1, 12).map(lambda rows: 8 * rows),
    max_abs=st.sampled_from([1e-15, 1e-9, 1.0, 16.0, 1e15]),
    seed=st.integers(0, 2**32),
)
def test_nothing_exceeds_the_bound(n: int, max_abs: float, seed: int) -> None:
    """For any length, also where products underflow."""
    laws.bound_is_never_exceeded(DOT, {"n": n, "max_abs": max_abs}, seed)


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
