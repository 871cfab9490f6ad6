"""Search power: how close ten seconds of search come to each known bound, for default parameters and others."""

from __future__ import annotations

from typing import Any

import pytest

from diffuzz import targets
from diffuzz.searching.search import SearchResult, search

pytestmark = pytest.mark.quality

REACHED = [
    ("rmsnorm", {}),
    ("rmsnorm", {"n": 2}),
    ("rmsnorm", {"n": 4096, "max_abs": 1e-3}),
    ("rmsnorm", {"eps": 1.0, "max_abs": 1}),
    ("rmsnorm", {"gain": True}),
    ("rmsnorm", {"gain": True, "n": 16, "gain_min": 0.5, "gain_max": 2}),
    ("rmsnorm", {"gain": True, "perturbation": "normwise", "n": 2048, "delta": 0.1}),
    ("softmax", {}),
    ("softmax", {"n": 3, "max_abs": 2}),
    ("softmax", {"n": 32, "max_abs": 50}),
    ("softmax", {"n": 4096, "max_abs": 100}),
    ("softmax", {"n": 64, "perturbation": "componentwise"}),
    ("rope", {}),
    ("rope", {"floor": 0}),
    ("rope", {"perturb": "qk", "floor": 1e-2, "head_dim": 80}),
    ("rope", {"head_dim": 128, "base": 500000, "mode": "norm", "max_position": 100000}),
    ("swiglu", {}),
    ("swiglu", {"max_abs": 80, "inputs": "both", "n": 1024}),
    *[
        ("matvec", {"format": name})
        for name in ("q4_0", "q4_1", "q5_0", "q8_0", "q2_K", "q3_K", "q4_K", "q5_K", "q6_K", "iq4_nl", "mxfp4")
    ],
    ("matvec", {"format": "q5_1", "n": 320}),
    ("matvec", {"floor": 0.01}),
    ("matvec", {"format": "q6_K", "floor": 0.001}),
    ("matvec", {"format": "q5_K", "n": 2048, "max_abs": 1000}),
    ("requantise", {}),
    ("requantise", {"format": "q8_0", "n": 64}),
    ("block-scale", {}),
    ("block-scale", {"floor": 1e-3}),
    ("chain", {}),
    ("batch", {"objective": "mean-rel-l2"}),
    ("dot-order", {}),
    ("dot-order", {"n": 2048}),
    ("quantize", {"format": "q8_0"}),
    ("quantize", {"format": "q8_1"}),
]

# Where a search does not come within 1 %: how far it comes, and why that is (see the targets' docstrings).
NOT_REACHED = [
    ("batch", {}, 0.94),  # seven tokens cannot be split evenly, and the dominant direction is not flat
    ("dot-order", {"n": 64}, 0.95),  # the last additions are exact
    ("matvec", {"arithmetic": "apr"}, 0.76),  # one super-block: its largest group cannot outweigh the rest
    ("matvec", {"arithmetic": "apr", "format": "q8_0", "n": 2048}, 0.98),  # the block of the largest has 31 zeros
    ("matvec", {"arithmetic": "apr", "format": "mxfp4"}, 0.86),  # and again
    ("matvec", {"arithmetic": "apr", "format": "iq4_nl"}, 0.69),  # those 31 are not zero, but 1/127
    ("chain", {"steps": 1}, 0.60),  # one matrix is not of rank one, so no activation is turned round whole
]


def bounded(rows: list[Any]) -> list[Any]:
    """The rows; those that take longest, and are like others, are marked as slow."""
    slow = [row for row in rows if row[1].get("n", 0) == 2048 or row[1].get("format") in ("iq4_nl", "mxfp4", "q5_1")]
    slow += [row for row in rows if row[0] == "batch" and row[1]]
    return [pytest.param(*row, marks=pytest.mark.slow) if row in slow else row for row in rows]


def run(name: str, given: dict[str, Any]) -> SearchResult:
    result = search(targets.get(name), given, seconds=10, seed=0)
    assert result.bound is not None
    assert result.value - result.measurement.noise <= result.bound.ceiling * (1 + 1e-12)
    return result


@pytest.mark.parametrize(("name", "given"), bounded(REACHED), ids=str)
def test_reaches_the_bound(name: str, given: dict[str, Any]) -> None:
    """The minimised witness has at least 99 % of the proven bound, and never more than it."""
    efficiency = run(name, given).efficiency
    assert efficiency is not None
    assert efficiency >= 0.99


@pytest.mark.parametrize(("name", "given", "share"), bounded(NOT_REACHED), ids=str)
def test_reaches_what_is_known(name: str, given: dict[str, Any], share: float) -> None:
    """Where the bound is out of reach, the search does not fall behind what it has reached before."""
    efficiency = run(name, given).efficiency
    assert efficiency is not None
    assert share <= efficiency < 0.99


@pytest.mark.parametrize("name", ["dequantize", "matmul"])
def test_finds_nothing_where_there_is_nothing(name: str) -> None:
    """Two implementations that are proven equal stay equal under a search."""
    assert search(targets.get(name), seconds=1, seed=0).value == 0
