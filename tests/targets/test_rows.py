"""What row targets share when they call a candidate: lengths, and one call for each value of a scalar."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cases.space import Dim
from diffuzz.targets import rows


def _lengths(dim: Dim) -> list[int]:
    return [size for size in range(dim.size + 10) if dim.admits(size)]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"candidate_n": 4, "tail": True}, [1, 2, 3, 4, 5]),
        ({"candidate_n": 5, "tail": True}, [1, 2, 3, 4, 5]),
        ({"candidate_n": 24, "tail": False}, [8, 16, 24]),
        ({"candidate_n": 25, "tail": False}, [25]),
        ({"candidate_n": 3, "tail": False}, [3]),
    ],
    ids=str,
)
def test_lengths(given: dict[str, Any], wanted: list[int]) -> None:
    """With a tail every length up to an odd one; without, multiples of eight, or one length."""
    assert _lengths(rows.row(given)) == wanted


@pytest.mark.parametrize("name", ["softmax", "rmsnorm", "swiglu"])
def test_the_own_question_has_its_own_length(name: str) -> None:
    """candidate_n moves the contract's space alone, and n the target's own."""
    target = targets.get(name)
    assert target.contract is not None
    assert target.contract.space is not None
    given = {"n": 6, "candidate_n": 40}
    assert target.space(target.params(given)).tensors[0].shape[0].size == 6
    assert target.contract.space(target.contract_params(given)).tensors[0].shape[0].size == 41


def test_one_call_for_each_value() -> None:
    """Rows come back in their places, whatever the order of their values."""
    x = np.arange(8, dtype=np.float32).reshape(4, 2)
    seen = []

    def call(value: float, rows: np.ndarray) -> np.ndarray:
        seen.append(value)
        return x[rows] * np.float32(value)

    scalars = np.array([3.0, 1.0, 3.0, 2.0])
    assert (rows.by_value(scalars, call, x) == x * scalars[:, None]).all()
    assert seen == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("wrong", [np.zeros((2, 3), np.float32), np.zeros((2, 2), np.float64)], ids=str)
def test_a_part_that_does_not_fit_is_handed_on(wrong: np.ndarray) -> None:
    """Another shape or dtype of one part is for the caller to see, not to be cast."""
    x = np.zeros((3, 2), np.float32)
    got = rows.by_value(np.array([1.0, 2.0, 2.0]), lambda value, rows: wrong if value == 2 else x[rows], x)
    assert got is wrong
