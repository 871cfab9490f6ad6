"""KernelBench's level 1: torch's own results are within the bound of each reference, wrong ones are not."""

from __future__ import annotations

import json
from typing import Any

import attrs
import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="needs PyTorch: pip install diffuzz-kernels[torch]")

from diffuzz.cli import bench_kernelbench
from diffuzz.studies.kernelbench.judging import Row, judge, judged
from diffuzz.studies.kernelbench.problems import PROBLEMS, Problem

# One of each kind: products, activations, norms, pools, reductions, convolutions, sums, losses, attention.
EACH_KIND = (1, 5, 14, 20, 23, 26, 33, 40, 43, 44, 48, 51, 56, 75, 83, 86, 90, 92, 95, 97, 98, 99)
# Where the wrong rounding may hide: a single number may be close to one of bfloat16, and a computation in bfloat16 may
# find the right indices.
MAY_HIDE_ROUNDING = {37, 51, 52, 94, 95, 96, 98, 99, 100}
# Where 1 % may hide: most products of hundreds of numbers below 1 are below the smallest number of float32.
MAY_HIDE_A_PERCENT = {90}


def numbered(number: int) -> Problem:
    return next(problem for problem in PROBLEMS if problem.number == number)


def assert_told_apart(row: Row) -> None:
    """Right results are inside, wrong ones outside."""
    assert row.problem is None
    assert row.float32 <= 1
    assert row.bfloat16 <= 1 or np.isnan(row.bfloat16)
    assert row.zeros is not None
    assert row.zeros.bound
    if row.number not in MAY_HIDE_ROUNDING:
        assert row.rounded is not None
        assert row.rounded.bound
    if row.number not in MAY_HIDE_A_PERCENT:
        assert row.shifted is not None
        assert row.shifted.bound
        assert row.visible > 0.99


def test_there_are_a_hundred_problems() -> None:
    """Numbered from 1 to 100, each with a title of its own."""
    assert list(range(1, 101)) == [problem.number for problem in PROBLEMS]
    assert 100 == len({problem.title for problem in PROBLEMS})


@pytest.mark.parametrize("number", EACH_KIND)
def test_results_are_told_apart(number: int) -> None:
    """One problem of each kind: see assert_told_apart."""
    assert_told_apart(judge(numbered(number)))


@pytest.mark.quality
@pytest.mark.slow
def test_all_problems_are_analysed_and_told_apart() -> None:
    """All of them, with other weights and inputs."""
    rows = judged(seed=1)
    assert 100 == len(rows)
    for row in rows:
        assert_told_apart(row)


@pytest.mark.parametrize("number", [23, 26, 56, 89])
def test_a_judge_of_another_reference_disagrees(number: int) -> None:
    """A result that is 1 % too large everywhere is outside."""
    import torch

    problem = numbered(number)
    calls: list[Any] = []

    def make() -> Any:
        function = problem.make()

        def changed(*inputs: Any) -> Any:
            calls.append(inputs)
            result = function(*inputs)
            return result * 1.01 if isinstance(result, torch.Tensor) and len(calls) == 1 else result

        return changed

    row = judge(attrs.evolve(problem, make=make), narrow=False)
    assert row.float32 > 1


def test_the_table() -> None:
    """The command's text has a line for each problem and the three counts; its JSON has the same."""
    runner = CliRunner()
    text = runner.invoke(bench_kernelbench.command, ["23", "51"], standalone_mode=False).output
    assert "Softmax" in text
    assert "analysed    2 of 2" in text
    assert "zeros       the bound finds 2" in text
    found = json.loads(runner.invoke(bench_kernelbench.command, ["23", "--json"], standalone_mode=False).output)
    assert (1, 1, 1, 1) == tuple(
        found[name] for name in ("problems", "analysed", "float32_inside", "zeros_found_by_bound")
    )
    assert found["rows"][0]["rounded"] == {"bound": True, "tolerance": False}


def test_a_number_that_is_no_problem() -> None:
    """One line says which there are."""
    with pytest.raises(ValueError, match="no problem 101: they are numbered from 1 to 100"):
        judged([101])
