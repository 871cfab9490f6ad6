"""The study of tolerances: its rows, its tables, and its command."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from diffuzz.cli.bench_tolerances import command
from diffuzz.studies.tolerances import measuring
from diffuzz.studies.tolerances.tables import tables


def test_rows_count_what_was_simulated() -> None:
    """Every operation has a row for each arithmetic; nothing is outside, and what is found comes close."""
    rows = measuring.measured(["gelu"], cases=2000, seed=0)
    assert [row.operation for row in rows] == ["gelu"] * len(measuring.ARITHMETICS)
    assert sum(row.cases for row in rows) >= 2000
    assert all(row.outside == 0 and 0.9 <= max(row.found, row.directed) <= 1 for row in rows)
    assert {"torch", "kernelbench", "ggml"} == {one.name for one in rows[0].tables}


def test_a_table_rejects_what_is_beyond_it() -> None:
    """assert_close of float32 allows 1e-5 + 1.3e-6 |exact|; NMSE looks at the whole row."""
    torch, kernelbench, ggml = tables("gelu", "float32")
    exact = np.ones((2, 4))
    got = exact + np.array([[1.0e-5], [1.2e-5]])
    assert [False, True] == torch.rejects(exact, got).tolist()
    assert [False, False] == kernelbench.rejects(exact, got).tolist()
    assert [True, False] == ggml.rejects(exact, exact + np.array([[4e-4], [3e-4]])).tolist()


def test_the_command_prints_json_and_names_unknown_operations() -> None:
    """An operation without a derived bound is an error of one line."""
    result = CliRunner().invoke(command, ["sum", "--cases", "500", "--json"], standalone_mode=False)
    assert result.return_value == 0
    answer = json.loads(result.stdout)
    assert answer["outside"] == 0
    assert answer["cases"] >= 500
    assert len(answer["rows"]) == len(measuring.ARITHMETICS)
    with pytest.raises(ValueError, match=r"^quantize has no derived bound; choose from "):
        measuring.measured(["quantize"])
