"""Operations in any precision: what keeps the stated arithmetic passes, and what computes in less does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from diffuzz import Judge, open_problem, targets
from diffuzz.cases import draws
from diffuzz.cases.case import unstack
from diffuzz.cases.ranges import dtype_of, float32_range, held, largest_of
from diffuzz.cases.space import InadmissibleError

NARROW = ("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")


def _norm(inside: Any, squares: Any) -> Callable[[np.ndarray, float], np.ndarray]:
    """RMSNorm that computes in one dtype, and rounds its squares to another."""

    def norm(x: np.ndarray, eps: float) -> np.ndarray:
        wide = x.astype(inside)
        mean = (wide * wide).astype(squares).astype(inside).mean(axis=1, keepdims=True)
        return np.asarray((wide / np.sqrt(mean + inside(eps))).astype(x.dtype))

    return norm


def _worst(function: Any, **given: object) -> float:
    problem = open_problem(targets.get("rmsnorm"), given, Judge(function, name="f"))
    rng = np.random.default_rng(0)
    space = problem.space.resized({"n": 64})
    return max(
        float(problem.evaluate(draw(space, rng, 64)).value.max()) for draw in (draws.structured, draws.scattered)
    )


@pytest.mark.parametrize("dtype", NARROW)
def test_a_norm_that_computes_in_float32_passes(dtype: str) -> None:
    """And one that squares in the dtype that it is stored in does not."""
    stored = dtype_of(dtype).type
    assert _worst(_norm(np.float32, np.float32), dtype=dtype) <= 1
    assert _worst(_norm(np.float32, stored), dtype=dtype) > 1
    assert _worst(_norm(np.float64, np.float64), dtype=dtype) <= 1


def test_all_in_bfloat16_is_an_arithmetic_of_its_own() -> None:
    """What rounds each step to bfloat16, and sums in float32, keeps compute=bfloat16 and accumulate=float32."""
    bfloat16: Any = ml_dtypes.bfloat16

    def norm(x: np.ndarray, eps: float) -> np.ndarray:
        mean = (x * x).astype(np.float32).mean(axis=1, keepdims=True, dtype=np.float32).astype(x.dtype)
        return np.asarray(x / np.sqrt(mean + bfloat16(eps)))

    assert _worst(norm, dtype="bfloat16") > 1
    assert _worst(norm, dtype="bfloat16", compute="bfloat16", accumulate="float32") <= 1


def test_float64() -> None:
    """float32 inside is far outside the bound of float64."""
    assert _worst(_norm(np.float64, np.float64), dtype="float64") <= 1
    assert _worst(_norm(np.float32, np.float32), dtype="float64") > 1e6


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", ["softmax", "rmsnorm", "swiglu", "rope", "matmul", "layer_norm"])
def test_inputs_are_numbers_of_the_dtype(name: str, dtype: str) -> None:
    """Drawn, scattered, climbed to and minimised: functions get what the dtype holds; others are not admissible."""
    contract = targets.get(name).contract
    assert contract is not None
    params = targets.get(name).contract_params({"dtype": dtype})
    space, rng = contract.space(params), np.random.default_rng(0)
    for draw in (draws.uniform, draws.structured, draws.scattered):
        batch = draw(space, rng, 8)
        assert space.admissible(batch).all()
        for spec in space.tensors:
            if spec.dtype == "float32" and spec.holds == dtype:
                np.testing.assert_array_equal(held(dtype, batch[spec.name]), batch[spec.name])
    stored = next(spec for spec in space.tensors if spec.holds == dtype)
    case = unstack(draws.uniform(space, rng, 1), 0)
    between = np.array(case[stored.name])
    between.flat[0] = np.float32(1 + 2.0**-20)
    with pytest.raises(InadmissibleError, match=f"which is no {dtype} number"):
        space.check(case.replace(**{stored.name: between}))


@pytest.mark.parametrize("dtype", NARROW)
def test_a_range_reaches_the_ends_of_the_dtype(dtype: str) -> None:
    """The largest number and subnormal ones are among what a search draws, where the range has them."""
    contract = targets.get("rmsnorm").contract
    assert contract is not None
    most = largest_of(dtype)
    params = targets.get("rmsnorm").contract_params({"dtype": dtype, "candidate_max_abs": min(most, 1e30)})
    space = contract.space(params)
    x = draws.structured(space, np.random.default_rng(0), 200)["x"]
    assert np.abs(x).max() == float32_range(space["x"])[1]
    smallest: Any = ml_dtypes.finfo(dtype_of(dtype)).smallest_normal  # type: ignore[no-untyped-call]
    tiny = np.abs(x[(x != 0) & (np.abs(x) < float(smallest))])
    assert tiny.size
