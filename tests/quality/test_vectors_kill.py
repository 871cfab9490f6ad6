"""Exported vectors kill the mutants of their operation, also those that they were not chosen for, and flag no control.

``bench vectors`` measures all operations; here are some that take seconds.
"""

from __future__ import annotations

import pytest

from diffuzz.studies.vectors import scoring
from diffuzz.vectors.vectors import LARGEST_FILE

pytestmark = pytest.mark.quality


@pytest.mark.parametrize("name", ["matmul", pytest.param("top_k", marks=pytest.mark.slow)])
def test_vectors_tell_wrong_from_right(name: str) -> None:
    """Of each operation nine in ten, of half of them by cases for the others three in four; in less than a megabyte."""
    groups = scoring.groups([name])[:6]
    rows = [row for row in (scoring.one(group, 64, 0) for group in groups) if not row.refused]
    wrong = sum(row.mutants for row in rows)
    assert wrong >= 12
    assert sum(row.killed for row in rows) >= scoring.MARK * wrong
    assert sum(row.held_out for row in rows) >= 0.75 * wrong
    assert [name for row in rows for name in row.flagged] == []
    assert max(row.nbytes for row in rows) < LARGEST_FILE
