"""The fixture ``diffuzz``: searches in tests, whose failures say how to have them again."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

# Loaded here for good: what only a run within a test has loaded is unloaded with it, which jax does not survive.
import jax.numpy  # noqa: F401
import pytest

from diffuzz.cli import main
from diffuzz.corpus.in_tests import Searches

KERNELS = """
import numpy as np

def soft_max(z):
    with np.errstate(all="ignore"):
        e = np.exp(z)
        return e / e.sum(axis=-1, keepdims=True)
"""
TEST = """
import numpy as np, pytest, jax.numpy as jnp
from kernels import soft_max
from diffuzz import operation, tensor

def right(z):
    e = np.exp((z - z.max(axis=-1, keepdims=True)).astype(np.float64))
    return (e / e.sum(axis=-1, keepdims=True)).astype(z.dtype)

@operation(x=tensor("b n", max_abs=8), sizes={"n": (1, 9)})
def cube(x):
    return x * x * x

def test_right(diffuzz):
    diffuzz.check(right, "softmax", seconds=0.3)
    z = np.linspace(-3, 3, 8, dtype=np.float32)[None]
    diffuzz.assert_within_bound(right(z), lambda z: jnp.exp(z) / jnp.exp(z).sum(), z)

def test_wrong(diffuzz):
    diffuzz.check(soft_max, "softmax", seconds=1000, seed=4)

def test_operation(diffuzz):
    diffuzz.check(lambda x: x * x, cube)

def test_bound(diffuzz):
    diffuzz.assert_within_bound([[1.0, 2.5]], cube, [[1.0, 2.0]])
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with a wrong kernel and tests of it."""
    pytester.makepyfile(kernels=KERNELS, test_kernels=TEST)
    pytester.syspathinsert()
    return pytester


def _run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess("-p", "no:hypothesispytest", "-p", "no:cacheprovider", *arguments)


def test_a_failed_check_says_how_to_have_it_again(project: pytest.Pytester, capsys: pytest.CaptureFixture[str]) -> None:
    """The witness, the test, the search and the replay: each line does what it says."""
    result = _run(project, "--diffuzz-budget", "0.3", "--diffuzz-corpus", "found")
    result.assert_outcomes(passed=1, failed=3)
    text = result.stdout.str()
    # How far it is minimised depends on the clock.
    assert re.search(r"AssertionError: kernels.py:soft_max is wrong: element \d+ is nan, where .+ is exact", text)
    assert "element (0, 1) is 2.5, where 8 is exact" in text
    assert "(target softmax, seed 4, " in text
    assert "python -m pytest test_kernels.py::test_wrong --diffuzz-budget 0.3" in text
    # Not the lines of diffuzz that the failure went through.
    assert "in_tests.py" not in text
    (witness,) = Path("found").glob("softmax/*.json")
    lines = [line.removeprefix("E").strip() for line in text.splitlines()]
    search = next(line for line in lines if line.startswith("python -m diffuzz search --target softmax"))
    replay = next(line.partition("python -m diffuzz ")[2] for line in lines if "replay found/softmax" in line)
    assert shlex.split(replay) == ["replay", str(witness), "--candidate", "kernels.py:soft_max"]
    capsys.readouterr()
    assert main._run(shlex.split(replay)) == 0
    assert main._run([*shlex.split(replay), "--judge", "--junit", "replay.xml"]) == 1
    assert 'failures="1" errors="0"' in Path("replay.xml").read_text()
    assert "wrong " in capsys.readouterr().out
    assert main._run([*shlex.split(search)[3:], "--no-save", "--engine", "random"]) == 1
    # An operation of the test file itself is replayed by its file.
    (other,) = Path("found").glob("test_kernels.cube/*.json")
    assert f"replay {other} --candidate '<lambda>=FILE.py:FUNCTION' --target test_kernels.py:cube" in text


def test_a_mended_function_is_right(project: pytest.Pytester, capsys: pytest.CaptureFixture[str]) -> None:
    """With --judge its entry passes, in a replay and in pytest, where the recorded value does not come again."""
    import kernels

    with pytest.raises(AssertionError, match=r"replay: +python -m diffuzz replay found/softmax/"):
        Searches("test.py::test", 0.3, Path("found")).check(kernels.soft_max, "softmax")
    Path("kernels.py").write_text(KERNELS.replace("np.exp(z)", "np.exp(z - z.max(axis=-1, keepdims=True))"))
    options = ["--candidate", "kernels.py:soft_max"]
    assert main._run(["replay", "found", *options]) == 1
    capsys.readouterr()
    assert main._run(["replay", "found", *options, "--judge"]) == 0
    assert "kernels.py:soft_max is within its bound on this case: " in capsys.readouterr().out
    _run(project, "found", "--diffuzz-candidate", options[1], "--diffuzz-judge").assert_outcomes(passed=1)


def test_nothing_is_saved_unasked(project: pytest.Pytester) -> None:
    """Without --diffuzz-corpus the witness is printed only, and the option is named."""
    with pytest.raises(AssertionError, match=r"save it:       --diffuzz-corpus DIR$"):
        Searches("test.py::test").check(lambda z: 2 * z, "softmax", seconds=0.3)
    assert {"kernels.py", "test_kernels.py"} == {path.name for path in Path().glob("*") if path.suffix}


def test_a_budget_is_positive(project: pytest.Pytester) -> None:
    """One line, and no test runs."""
    result = _run(project, "--diffuzz-budget", "0")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --diffuzz-budget 0: a positive number of seconds is needed"])
    assert "diffuzz.corpus.pytest_plugin" in sys.modules
