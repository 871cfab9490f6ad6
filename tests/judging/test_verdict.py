"""Verdicts: only a witness confirms, only a certificate falsifies."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffuzz.judging.verdict import Verdict, judge
from diffuzz.targets.outcome import Bound

FINITE = st.floats(0, 1e30)


@given(threshold=FINITE, value=FINITE)
def test_without_a_bound_nothing_is_falsified(threshold: float, value: float) -> None:
    """However small what was found, an input alone never falsifies."""
    assert judge(threshold, value) is (Verdict.CONFIRMED if value > threshold else Verdict.UNRESOLVED)


@given(threshold=FINITE, bound=FINITE, rounding=st.floats(0, 1))
def test_a_bound_falsifies_exactly_up_to_its_ceiling(threshold: float, bound: float, rounding: float) -> None:
    """The float32 rounding that the bound allows for counts: the ceiling must not exceed the threshold."""
    certificate = Bound(bound, "because", rounding=rounding)
    expected = Verdict.FALSIFIED if bound * (1 + rounding) <= threshold else Verdict.UNRESOLVED
    assert expected is judge(threshold, 0.0, bound=certificate)


def test_noise_is_subtracted() -> None:
    """A witness must exceed the threshold by more than its own noise."""
    assert judge(5.0, 5.1, noise=0.05) is Verdict.CONFIRMED
    assert judge(5.0, 5.1, noise=0.2) is Verdict.UNRESOLVED
    assert judge(5.0, 5.0) is Verdict.UNRESOLVED


def test_infinite_value_confirms() -> None:
    """A candidate that returns NaN has the value inf."""
    assert judge(1.0, math.inf) is Verdict.CONFIRMED


def test_threshold_must_be_a_number() -> None:
    """A NaN threshold would compare false with everything and look like UNRESOLVED."""
    with pytest.raises(ValueError, match="threshold is NaN"):
        judge(math.nan, 1.0)
