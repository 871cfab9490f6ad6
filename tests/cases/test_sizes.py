"""Sizes worth a look."""

from __future__ import annotations

import pytest

from diffuzz.cases import sizes
from diffuzz.cases.space import Dim

DIMS = [Dim("n", 1025, largest=262145), Dim("k", 512, step=32, largest=32768), Dim("n", 64, least=20), Dim("n", 1)]


@pytest.mark.parametrize("dim", DIMS, ids=lambda dim: dim.text)
def test_all_are_admissible(dim: Dim) -> None:
    """Every size of every suit can be had, and no suit has one twice."""
    for suit in (sizes.of_models(dim), sizes.edges(dim), sizes.multiples(dim), sizes.small(dim, 1, 32)):
        assert all(dim.admits(size) for size in suit)
        assert len(suit) == len(set(suit))


def test_what_public_reports_were_about() -> None:
    """Widths, lengths and numbers of rows at which released kernels were wrong are among them."""
    n = DIMS[0]
    assert {768, 1536, 2048, 4096, 192, 256, 64, 128256} <= set(sizes.of_models(n))
    assert {16383, 16384, 16385, 65535, 65536, 65537, 1, 262144, 262145} <= set(sizes.edges(n))
    assert {500, 501, 512, 513, 16 * 64} <= {*sizes.multiples(n), *sizes.edges(n)}


def test_steps() -> None:
    """Edges are powers of two of steps, and those of elements that are whole steps."""
    dim = Dim("k", 160, step=32, largest=640)
    assert sizes.edges(dim) == [32, 64, 96, 128, 160, 224, 256, 288, 480, 512, 544, 640]
