"""The benchmark scripts run, in their smallest form: what nobody runs rots."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("throughput.py", ("--seconds", "0.01", "--target", "softmax", "--target", "dot-order"), "dot-order"),
        pytest.param("first_witness.py", ("--every", "400"), "3 of 3 confirmed", marks=pytest.mark.slow),
        ("roofline.py", ("--seconds", "0.01", "--target", "softmax"), "softmax"),
        ("arrays.py", ("--rows", "3", "--seconds", "0", "--operation", "softmax"), "judged"),
        ("batch_size.py", ("--seconds", "0.01", "--target", "softmax", "--n", "7", "--rows", "3"), "softmax"),
        ("startup.py", ("--repeats", "1", "--entries", "10", "--compiled", "softmax"), "replay of 10 entries"),
        ("analysis.py", ("--rows", "3", "--repeats", "1", "--operation", "softmax"), "softmax"),
        ("pytest_plugin.py", ("--tests", "40", "--pairs", "1"), "40 tests, 1 pairs"),
        ("device.py", ("--seconds", "0.01", "--largest", "0", "softmax"), "softmax"),
        pytest.param(
            "rounds.py", ("--seconds", "0.1", "--rounds", "2", "softmax"), "geometric mean", marks=pytest.mark.slow
        ),
        pytest.param(
            "shards.py", ("--shards", "2", "--budget", "8s", "--slice", "200ms"), "2 shards", marks=pytest.mark.slow
        ),
        ("worker.py", ("--rows", "3", "--repeats", "2"), "rows without a result: [100]"),
    ],
)
def test_runs(script: str, arguments: tuple[str, ...], said: str) -> None:
    """Exit 0, and the table."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), *arguments], capture_output=True, text=True, timeout=300
    )
    assert (0, "") == (done.returncode, done.stderr)
    assert said in done.stdout


def test_every_script_is_run_here() -> None:
    """A new one joins the list above."""
    assert {path.name for path in FOLDER.glob("*.py")} == {
        "analysis.py",
        "arrays.py",
        "batch_size.py",
        "device.py",
        "first_witness.py",
        "pytest_plugin.py",
        "roofline.py",
        "rounds.py",
        "shards.py",
        "startup.py",
        "throughput.py",
        "worker.py",
    }
