"""What a minimised witness looks like: few levels, few runs, round numbers; and how long it takes.

The cases are what a search might hand over: near the bound, in no order, every number with all its digits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from diffuzz import formats, targets
from diffuzz.cases import parts as case_parts
from diffuzz.cases.case import Case
from diffuzz.judging.problem import open_problem
from diffuzz.minimising.minimise import Minimised, minimise
from diffuzz.targets.target import Target

pytestmark = pytest.mark.quality

SEEDS = range(4)
# The float32 numbers at the ends of the gain's range [0.01, 10]: float32(0.01) itself is below it.
GAINS = (float(np.nextafter(np.float32(0.01), np.float32(1))), 10.0)


def minimised(target: Target, given: Mapping[str, Any], case: Case, threshold: float, keep: float = 0.9) -> Minimised:
    """The result, after checking what holds for every one of them."""
    problem = open_problem(target, given, threshold=threshold)
    before = problem.measured(case)
    result = minimise(problem, case, keep=keep, seconds=60.0)
    after = problem.measured(result.case)
    assert after.value >= keep * before.value
    assert (before.value - before.noise > threshold) <= (after.value - after.noise > threshold)
    assert (after.value, after.noise) == (result.value, result.noise)
    assert problem.bound is None or after.value <= problem.bound.ceiling
    again = minimise(problem, result.case, keep=keep, seconds=60.0)
    assert again.cost <= result.cost
    return result


def runs(array: np.ndarray) -> int:
    flat = array.reshape(-1)
    return 1 + int((flat[1:] != flat[:-1]).sum())


def softmax_case(n: int, top: float, seed: int) -> Case:
    """Two nearly tied logits near the top, the others near the bottom, in random places; a noisy direction."""
    rng = np.random.default_rng(seed)
    z = -top * (1 - 0.01 * rng.random(n))
    high = rng.permutation(n)[:2]
    z[high] = top * 0.999 - 1e-4 * rng.random(2)
    # A step that leaves the softmax nearly linear: delta ||z||_1 step <= 0.1.
    step = min(0.3, 0.1 / (0.00077 * n * top))
    direction = 0.003 * step * rng.standard_normal(n) / np.sqrt(n)
    direction[high[0]] = step
    return Case({"z": z.astype(np.float32), "z_direction": direction.astype(np.float32)})


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("n", "top"), [(7, 10.0), (32, 10.0), (256, 50.0)])
def test_softmax_becomes_two_levels(n: int, top: float, seed: int) -> None:
    """Two logits tied at the top of the range, the others at its bottom, one of the two moves: as in the proof."""
    result = minimised(targets.get("softmax"), {"n": n, "max_abs": top}, softmax_case(n, top, seed), threshold=5.0)
    assert {-top, top} == set(result.case["z"].tolist())
    assert runs(result.case["z"]) <= 3
    assert runs(result.case["z_direction"]) <= 3
    assert result.value >= 0.99 * 0.5 * n * top


def rmsnorm_case(n: int, seed: int) -> Case:
    """A share of the elements with a large gain moves up, the others with a small gain move down; all numbers noisy."""
    rng = np.random.default_rng(seed)
    heavy = rng.permutation(n) < max(1, n // 8)
    x = np.where(heavy, 0.03 / np.sqrt(heavy.sum()), 1 / np.sqrt((~heavy).sum())) * np.exp(0.2 * rng.standard_normal(n))
    gain = np.where(heavy, 10.0, 0.01) * np.exp(0.01 * rng.standard_normal(n))
    direction = np.where(heavy, 1.0, -1.0) * (1 - rng.random(n))
    arrays = {"x": 14 * x / x.max(), "x_direction": direction, "gain": np.clip(gain, *GAINS)}
    return Case({name: array.astype(np.float32) for name, array in arrays.items()})


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", [16, 256, 4096])
def test_rmsnorm_with_a_gain_becomes_two_levels(n: int, seed: int) -> None:
    """At most two runs in each array, and a gain at the ends of its range."""
    result = minimised(targets.get("rmsnorm"), {"n": n, "gain": True}, rmsnorm_case(n, seed), threshold=1.5)
    assert all(runs(array) <= 2 for array in result.case.arrays.values())
    assert set(GAINS) == set(result.case["gain"].tolist())
    assert result.value >= 1.9


def matvec_case(name: str, n: int, seed: int) -> Case:
    """Random weights; activations just beyond the edge between two codes, signed as the weights; an outlier a block."""
    rng = np.random.default_rng(seed)
    fmt = formats.get(name)
    count = n // fmt.block_size
    fields = fmt.unpack(rng.integers(0, 256, (count, fmt.type_size), dtype=np.uint8))
    for field in fmt.half_fields:
        fields[field] = (0.01 + 0.02 * rng.random(count)).astype(fields[field].dtype)
    blocks = fmt.pack(fields)
    weights = fmt.dequantize(blocks).reshape(-1)
    step = 16 / 127
    x = np.where(weights >= 0, 1, -1) * (rng.integers(0, 120, n) + 0.5) * step * (1 + 3e-7)
    quantised = formats.get(fmt.activation or "").block_size
    smallest = np.argmin(np.abs(weights).reshape(-1, quantised), axis=1) + quantised * np.arange(n // quantised)
    x[smallest] = 16
    return Case({"weights": blocks.reshape(1, -1), "x": x.astype(np.float32)})


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("name", "n"), [("q4_K", 256), ("q4_K", 1024), ("q6_K", 256), ("q8_0", 256)])
def test_matvec_becomes_a_handful_of_levels(name: str, n: int, seed: int) -> None:
    """Activations of at most three runs, and weights of at most two levels in every field of their blocks."""
    target = targets.get("matvec")
    given = {"format": name, "n": n}
    case = matvec_case(name, n, seed)
    result = minimised(target, given, case, threshold=1e-3)
    assert runs(result.case["x"]) <= 3
    parts = case_parts.parts_of(target.space(target.params(given)))
    fields = case_parts.split(parts, result.case.batch())
    assert all(len(np.unique(field)) <= 3 for field in fields.values())
    assert result.cost < 0.05 * result.cost_before


@pytest.mark.parametrize("seed", SEEDS)
def test_a_scattered_sign_pattern_that_is_needed_stays(seed: int) -> None:
    """Where the sign of every weight matters and the weights stay random, the value is kept all the same."""
    result = minimised(targets.get("matvec"), {"n": 256}, matvec_case("q4_K", 256, seed), threshold=1e-3, keep=1.0)
    assert result.cost < result.cost_before


@pytest.mark.parametrize(("name", "seconds"), [("softmax", 2.0), ("rmsnorm", 2.0), ("matvec", 2.0)])
def test_time_at_256(name: str, seconds: float) -> None:
    """A typical case of 256 elements takes less than two seconds of a processor, the best of three."""
    case = {
        "softmax": lambda: softmax_case(256, 10.0, 0),
        "rmsnorm": lambda: rmsnorm_case(256, 0),
        "matvec": lambda: matvec_case("q4_K", 256, 0),
    }[name]()
    problem = open_problem(targets.get(name), {"n": 256} | ({"gain": True} if name == "rmsnorm" else {}))
    times = []
    for _ in range(3):
        started = time.process_time()
        result = minimise(problem, case, seconds=30.0)
        times.append(time.process_time() - started)
        assert result.finished
    assert min(times) < seconds


def test_time_at_16384() -> None:
    """However large the case, the seconds are kept, but for the evaluation under way, and it gets simpler meanwhile."""
    problem = open_problem(targets.get("matvec"), {"n": 16384}, threshold=1e-3)
    case = matvec_case("q4_K", 16384, 0)
    started = time.perf_counter()
    result = minimise(problem, case, seconds=5.0)
    assert time.perf_counter() - started < 7.0
    assert result.cost < 0.5 * result.cost_before
