"""Verdicts: only a witness confirms, only a certificate falsifies."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffuzz.target import Bound
from diffuzz.verdict import Verdict, judge

FINITE = st.floats(0, 1e30)


@given(limit=FINITE, value=FINITE)
def test_without_a_bound_nothing_is_falsified(limit: float, value: float) -> None:
    """However small what was found, an input alone never falsifies."""
    assert judge(limit, value) is (Verdict.CONFIRMED if value > limit else Verdict.UNRESOLVED)


@given(limit=FINITE, bound=FINITE, rounding=st.floats(0, 1))
def test_a_bound_falsifies_exactly_up_to_its_ceiling(limit: float, bound: float, rounding: float) -> None:
    """The float32 rounding that the bound allows for counts: the ceiling must not exceed the limit."""
    certificate = Bound(bound, "because", rounding=rounding)
    expected = Verdict.FALSIFIED if bound * (1 + rounding) <= limit else Verdict.UNRESOLVED
    assert expected is judge(limit, 0.0, bound=certificate)


def test_noise_is_subtracted() -> None:
    """A witness must exceed the limit by more than its own noise."""
    assert judge(5.0, 5.1, noise=0.05) is Verdict.CONFIRMED
    assert judge(5.0, 5.1, noise=0.2) is Verdict.UNRESOLVED
    assert judge(5.0, 5.0) is Verdict.UNRESOLVED


def test_infinite_value_confirms() -> None:
    """A candidate that returns NaN has the value inf."""
    assert judge(1.0, math.inf) is Verdict.CONFIRMED


def test_limit_must_be_a_number() -> None:
    """A NaN limit would compare false with everything and look like UNRESOLVED."""
    with pytest.raises(ValueError, match="limit is NaN"):
        judge(math.nan, 1.0)
