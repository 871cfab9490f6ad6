"""A whole search in one line of a test."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from diffuzz import Judge, check, operation, search, tensor
from diffuzz.cli.search_text import search_text


@operation(x=tensor("b n", max_abs=100), sizes={"n": (1, 300)})
def mish(x: Any) -> Any:
    """x tanh(softplus(x)): an operation that is not built in."""
    return x * jnp.tanh(jnp.logaddexp(x, 0.0))


def right(x: np.ndarray) -> np.ndarray:
    return (x * np.tanh(np.logaddexp(x.astype(np.float64), 0))).astype(np.float32)


def overflows(x: np.ndarray) -> np.ndarray:
    """exp(x) is infinite from 88 on, and inf / inf is NaN."""
    with np.errstate(all="ignore"):
        e = np.exp(x)
        n = e * (e + 2)
        return np.asarray(x * (n / (n + 2)), np.float32)


def test_a_correct_function_passes() -> None:
    """No exception, for an operation, its name, and a dtype."""
    check(right, mish, seconds=1)
    check(lambda x, eps: _norm(x, eps), "rmsnorm", seconds=1)


def _norm(x: np.ndarray, eps: float) -> np.ndarray:
    wide = x.astype(np.float64)
    return (wide / np.sqrt((wide * wide).mean(axis=1, keepdims=True) + eps)).astype(x.dtype)


def test_a_wrong_function_fails_with_its_witness() -> None:
    """What is wrong, on which input, in terms of the operation; the same seed gives the same witness."""
    said = []
    for _ in range(2):
        with pytest.raises(AssertionError) as failed:
            check(overflows, mish, seconds=2, seed=3)
        said.append(str(failed.value))
    assert said[0] == said[1]
    first, *rest = said[0].splitlines()
    assert first.startswith("overflows is wrong: element [0, 0] is nan, where ")
    assert "seed 3" in rest[0]
    assert any(line.startswith("  x [1, 1] = ") for line in rest)


def test_parameters_and_files(tmp_path: Path) -> None:
    """A file's function in a process of its own: a crash is a finding."""
    kernels = tmp_path / "kernels.py"
    kernels.write_text("import os\ndef norm(x, eps):\n    os.abort()\n")
    with pytest.raises(AssertionError, match="crashed"):
        check(f"{kernels}:norm", "rmsnorm", seconds=1)

    def all_in_bfloat16(x: np.ndarray, eps: float) -> np.ndarray:
        one = x.dtype.type
        return np.asarray(x / np.sqrt((x * x).mean(axis=1, keepdims=True, dtype=x.dtype) + one(eps)))

    check(
        lambda x, eps: _norm(x.astype(np.float32), eps).astype(x.dtype),
        "rmsnorm",
        seconds=1,
        params={"dtype": "bfloat16"},
    )
    with pytest.raises(AssertionError, match="is exact and an error of"):
        check(all_in_bfloat16, "rmsnorm", seconds=2, params={"dtype": "bfloat16"})


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((right, "mihs"), {}, "there is no target 'mihs'"),
        ((right, mish), {"params": {"dtype": "float31"}}, "parameter dtype=float31"),
        ((right, mish), {"seconds": 0}, "seconds"),
        ((right, "batch"), {}, "takes no candidate"),
        ((lambda x: x[:, :1], mish), {}, "returns float32"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[Any, Any], options: dict[str, Any], message: str) -> None:
    """ValueError, and nothing is searched."""
    with pytest.raises(ValueError, match=message) as said:
        check(*arguments, **options)
    assert "\n" not in str(said.value)


@operation(x=tensor("b n", max_abs=10))
def nowhere(x: Any) -> Any:
    """NaN everywhere: nothing is promised."""
    return jnp.log(-1.0 - x * x)


def test_what_judges_nothing_does_not_pass() -> None:
    """A function of which nothing is promised anywhere was not looked at."""
    with pytest.raises(ValueError, match=r"^target nowhere: nothing could be judged: in none of \d+ cases "):
        check(lambda x: x, nowhere, seconds=0.3)


def test_little_that_was_judged_is_said() -> None:
    """The share is in the result, and in the report where it is small."""

    @operation(x=tensor("b n", low=-10, high=0.1))
    def mostly_nowhere(x: Any) -> Any:
        return jnp.log(x)

    def log(x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.log(x)

    result = search(mostly_nowhere.target, {}, Judge(log), seconds=0.5, seed=0)
    assert result.judged is not None
    assert 0 < result.judged < 0.5
    assert " of the numbers in the results were judged: nothing is promised of the others." in search_text(result, None)
    whole = search(mish.target, {}, Judge(right), seconds=0.5, seed=0)
    assert whole.judged is not None
    assert whole.judged > 0.5
    assert "were judged" not in search_text(whole, None)


@pytest.mark.parametrize(
    ("operation", "given", "words"),
    [
        (3, {}, "operation=3: a target, an @operation, or the name of one is needed"),
        (mish, {"seconds": "5"}, "seconds='5': a positive number is needed"),
        (mish, {"seed": 1.5}, "seed=1.5: an integer of at least 0 is needed"),
    ],
)
def test_arguments_of_another_kind(operation: Any, given: Any, words: str) -> None:
    """One line, no AttributeError."""
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        check(right, operation, **given)


@pytest.mark.filterwarnings("error")
def test_the_whole_range_of_a_dtype_gives_no_warnings() -> None:
    """Moves go beyond the largest number, and are taken back."""

    @operation(x=tensor("b n"), ids=tensor("b", dtype="int32"), at=tensor("b", kind="positions"))
    def halved(x: Any, ids: Any, at: Any) -> Any:
        return jnp.where((ids + at)[:, None] < 0, 0.25 * x, 0.5 * x)

    def right_half(x: np.ndarray, ids: np.ndarray, at: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.where((ids + at)[:, None] < 0, 0.25 * x, 0.5 * x).astype(x.dtype)

    check(right_half, halved, seconds=2)
