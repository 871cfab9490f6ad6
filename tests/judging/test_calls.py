"""Calls: a batch in pieces that a function takes."""

from __future__ import annotations

import numpy as np
import pytest

from diffuzz.cases.space import Dim
from diffuzz.judging.calls import in_calls

X = np.arange(10, dtype=np.float32)[:, None]


@pytest.mark.parametrize(
    ("cases", "compiled", "wanted"),
    [
        (Dim("b", 1024, largest=65537), False, [10]),
        (Dim("b", 1, fixed=True), False, [1] * 10),
        (Dim("b", 4, fixed=True), False, [4, 4, 4]),
        (Dim("b", 32, least=16), False, [16]),
        (Dim("b", 6), False, [6, 4]),
        (Dim("b", 8, step=4), False, [8, 4]),
        (Dim("b", 1024), True, [16]),
        (Dim("b", 3), True, [3, 3, 3, 3]),
    ],
    ids=str,
)
def test_a_function_gets_what_it_takes(cases: Dim, compiled: bool, wanted: list[int]) -> None:
    """Calls of admissible lengths, whose results are those of the batch, scalars as they are."""
    lengths = []

    def double(x: np.ndarray, factor: float) -> np.ndarray:
        lengths.append(len(x))
        return x * np.float32(factor)

    assert (in_calls(double, cases, compiled=compiled)(X, 2.0) == 2 * X).all()
    assert lengths == wanted


def test_a_reused_buffer() -> None:
    """A function that returns the same array each time is right."""
    buffer = np.empty((2, 1), np.float32)

    def double(x: np.ndarray) -> np.ndarray:
        np.multiply(x, 2, out=buffer)
        return buffer

    assert (in_calls(double, Dim("b", 2, fixed=True))(X) == 2 * X).all()


def test_a_result_of_another_length_is_returned() -> None:
    """The caller reports it."""
    assert in_calls(lambda x: x[:1], Dim("b", 4, fixed=True))(X).shape == (1, 1)
