"""Minimising, on small made-up targets whose simplest cases are known."""

from __future__ import annotations

import importlib
import time

import attrs
import numpy as np
import pytest
from made_up import problem_of

from diffuzz import formats
from diffuzz.cases.case import Case
from diffuzz.cases.space import Dim, InadmissibleError, TensorSpec
from diffuzz.judging.problem import Problem
from diffuzz.minimising.minimise import Minimised, minimise
from diffuzz.targets.outcome import Arrays, Bound, Outcome


def vector(n: int, name: str = "x", *, fixed: bool = True, peak: float = 0.0, top: float = 16.0) -> TensorSpec:
    dim = Dim("n", n, fixed=fixed)
    return TensorSpec(name, kind="activations", shape=(dim,), low=-top, high=top, smallest_peak=peak)


def gaussian(n: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def run(problem: Problem, threshold: float = 0.0, keep: float = 0.9, **arrays: np.ndarray) -> Minimised:
    return minimise(attrs.evolve(problem, threshold=threshold), Case(arrays), keep=keep, seconds=60.0)


def runs(array: np.ndarray) -> int:
    return 1 + int((array[1:] != array[:-1]).sum())


def test_irrelevant_numbers_become_one_level() -> None:
    """Only the largest element counts: all that is left is it, and one level for the others."""
    problem = problem_of(lambda a: np.abs(a["x"]).max(axis=1), vector(100))
    result = run(problem, x=gaussian(100))
    assert runs(result.case["x"]) == 1
    assert result.cost < result.cost_before


def test_shapes_shrink_all_arrays_alike() -> None:
    """Arrays that share a dimension keep equal sizes, and lose what does not matter."""
    problem = problem_of(
        lambda a: (a["x"] * a["y"]).max(axis=1), vector(64, "x", fixed=False), vector(64, "y", fixed=False)
    )
    result = run(problem, x=gaussian(64), y=gaussian(64, 1))
    assert result.case["x"].shape == (1,)
    assert result.case["y"].shape == (1,)


def test_fixed_and_stepped_dimensions_stay_admissible() -> None:
    """A fixed dimension keeps its size; one with a step shrinks to a multiple of it."""
    fixed = TensorSpec("x", kind="activations", shape=(Dim("m", 3, fixed=True), Dim("k", 32, step=8)), low=-16, high=16)
    problem = problem_of(lambda a: np.abs(a["x"]).max(axis=(1, 2)), fixed)
    result = run(problem, x=gaussian(96).reshape(3, 32))
    assert result.case["x"].shape == (3, 8)


def test_equal_elements_are_brought_together() -> None:
    """A value that does not depend on the order of columns ends with few runs in each array."""
    rng = np.random.default_rng(0)
    signs = np.where(rng.random(64) < 0.5, 1, -1).astype(np.float32)

    def value(a: dict[str, np.ndarray]) -> np.ndarray:
        # Both signs are needed in equal parts, and x must agree with y.
        x, y = a["x"].astype(float), a["y"].astype(float)
        length = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
        return (x * y).sum(axis=1) / np.maximum(length, 1e-9) - np.abs(x.sum(axis=1)) / 64

    signs[np.argsort(signs)[:32]], signs[np.argsort(signs)[32:]] = -1, 1
    rng.shuffle(signs)
    result = run(problem_of(value, vector(64, "x"), vector(64, "y")), x=signs * 3, y=signs)
    assert runs(result.case["x"]) == 2
    assert runs(result.case["y"]) == 2


def test_numbers_get_few_digits() -> None:
    """A smooth value near its peak keeps most of itself at a round number."""
    problem = problem_of(lambda a: 1 / (1 + (a["x"][:, 0].astype(float) - 3.01) ** 2), vector(1))
    result = run(problem, x=np.array([3.0123456], np.float32))
    assert result.case["x"].tolist() == [3.0]


def test_a_near_tie_survives() -> None:
    """Where one ULP makes the value, the number keeps all its digits."""
    exact = np.float32(np.nextafter(np.float32(1.3), np.float32(2)))
    problem = problem_of(lambda a: 1.0 * (a["x"] == exact).any(axis=1), vector(8))
    result = run(problem, x=np.r_[gaussian(7), exact].astype(np.float32))
    assert exact in result.case["x"]
    assert runs(result.case["x"]) <= 2


def test_keeps_the_verdict() -> None:
    """A value above the threshold stays above it by more than its noise, though ``keep`` would allow less."""
    problem = problem_of(lambda a: np.abs(a["x"].astype(float)).mean(axis=1), vector(20), noise=0.005)
    x = gaussian(20)
    value = float(np.abs(x.astype(float)).mean())
    for threshold in (value - 0.02, value - 0.004):
        result = run(problem, threshold=threshold, keep=0.5, x=x)
        assert (value - 0.005 > threshold) <= (result.value - result.noise > threshold)


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.99, 1.0])
def test_keeps_the_value(keep: float) -> None:
    """The value is at least ``keep`` of what it was, and what the target measures for the case alone."""
    weights = gaussian(50, 1).astype(float)

    def value(a: dict[str, np.ndarray]) -> np.ndarray:
        x = a["x"].astype(float)
        return np.abs((x * weights).sum(axis=1)) / np.linalg.norm(x, axis=1) / np.linalg.norm(weights)

    problem = problem_of(value, vector(50, peak=1e-3))
    x = weights.astype(np.float32)
    result = run(problem, keep=keep, x=x)
    assert result.value >= keep * value({"x": x[None]})[0]
    assert result.value == value(result.case.batch())[0]
    assert result.cost < result.cost_before if keep < 1 else result.cost <= result.cost_before


def test_less_keep_is_simpler() -> None:
    """The more value may be lost the simpler the case gets."""
    weights = gaussian(60, 1).astype(float)
    problem = problem_of(lambda a: (np.sign(a["x"]) * weights).sum(axis=1), vector(60))
    costs = [run(problem, keep=keep, x=weights.astype(np.float32)).cost for keep in (0.5, 0.9, 0.99)]
    assert sorted(costs) == costs


def test_value_beyond_the_bound_is_worth_nothing() -> None:
    """A value that exceeds a proven bound by rounding is given up for a simpler case that has nearly the bound."""

    def value(a: dict[str, np.ndarray]) -> np.ndarray:
        return np.full(len(a["x"]), 1.05 if a["x"].shape[1] == 8 else 0.999)

    problem = problem_of(value, vector(8, fixed=False))
    ones = np.ones(8, np.float32)
    assert (8,) == run(problem, keep=0.95, x=ones).case["x"].shape
    bounded = attrs.evolve(problem, bound=Bound(1.0, "made up", rounding=0.06))
    assert (1,) == run(bounded, keep=0.95, x=ones).case["x"].shape


def test_runs_are_resized() -> None:
    """Where a run may be of any length, it has one element."""
    problem = problem_of(lambda a: 1.0 * ((a["x"] == 3).any(axis=1) & (a["x"] == 0).any(axis=1)), vector(64))
    result = run(problem, x=np.repeat([3, 0], [20, 44]).astype(np.float32))
    assert sorted([1, 63]) == sorted(np.unique(result.case["x"], return_counts=True)[1].tolist())
    assert runs(result.case["x"]) == 2


def test_stays_in_the_space() -> None:
    """Zero would be simpler, but a vector needs its smallest peak, and numbers their range."""
    spec = TensorSpec("x", kind="gain", shape=(Dim("n", 10, fixed=True),), low=0.37, high=5.3)
    problem = problem_of(lambda a: 1 / a["x"].astype(float).sum(axis=1), spec)
    result = run(problem, keep=0.1, x=np.linspace(0.5, 5.0, 10).astype(np.float32))
    assert problem.space.admits(result.case)
    problem = problem_of(lambda a: np.ones(len(a["x"])), vector(10, peak=0.5))
    result = run(problem, x=gaussian(10))
    assert problem.space.admits(result.case)
    assert result.case["x"].tolist() == [1.0] * 10


def test_what_cannot_be_simplified_is_returned_unchanged() -> None:
    """Every element is needed to the bit."""
    x = gaussian(40)
    problem = problem_of(lambda a: 1.0 * (a["x"] == x).all(axis=1), vector(40))
    result = run(problem, x=x)
    assert Case({"x": x}) == result.case
    assert result.cost_before == result.cost


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan])
def test_a_case_without_a_value_is_returned_unchanged(bad: float) -> None:
    """There is nothing to keep of a value that is zero, negative or not a number."""
    case = Case({"x": gaussian(10)})
    problem = problem_of(lambda a: np.full(len(a["x"]), bad), vector(10))
    assert case == minimise(attrs.evolve(problem, threshold=1.0), case).case


def test_infinite_stays_infinite_and_finite_stays_finite() -> None:
    """An overflow is neither lost nor made."""

    def value(a: dict[str, np.ndarray]) -> np.ndarray:
        total = np.abs(a["x"].astype(float)).sum(axis=1)
        return np.where(total > 30, np.inf, np.where(total == 1, np.nan, total))

    problem = problem_of(value, vector(20))
    large, small = gaussian(20, scale=5.0), gaussian(20)
    assert np.inf == run(problem, x=large).value
    assert np.isfinite(run(problem, x=small).value)


def test_noise_is_not_taken_for_value() -> None:
    """A simpler case whose value drowns in its noise is refused."""

    def evaluate(arrays: Arrays) -> Outcome:
        flat = (arrays["x"] == arrays["x"][:, :1]).all(axis=1)
        return Outcome(np.where(flat, 100.0, 1.0), np.where(flat, 99.0, 1e-9))

    case = Case({"x": gaussian(10)})
    problem = problem_of(lambda a: np.ones(len(a["x"])), vector(10))
    result = minimise(attrs.evolve(problem, threshold=0.5), case, evaluate=evaluate)
    assert result.value == 1.0
    assert runs(result.case["x"]) == 2


def test_repeatable_and_idempotent() -> None:
    """The same case gives the same result, and a second time leaves it as it is or simpler."""
    weights = gaussian(30, 3).astype(float)
    problem = problem_of(lambda a: np.abs(np.tanh(a["x"].astype(float) * weights)).sum(axis=1), vector(30))
    first, second = (run(problem, x=gaussian(30)) for _ in range(2))
    assert first == second
    again = run(problem, x=first.case["x"])
    assert again.cost <= first.cost


def test_blocks_are_simplified_field_by_field() -> None:
    """Random q4_K blocks become few codes, a round scale and no minimums where only a ratio of weights counts."""
    fmt = formats.get("q4_K")
    dim = Dim("k", 512, step=256)
    spec = TensorSpec("weights", kind="blocks", shape=(Dim("m", 1, fixed=True), dim), format="q4_K")

    def value(a: dict[str, np.ndarray]) -> np.ndarray:
        weights = fmt.dequantize(a["weights"].reshape(-1, fmt.type_size)).reshape(len(a["weights"]), -1).astype(float)
        return np.abs(weights).max(axis=1) / (1e-3 + np.abs(weights).mean(axis=1))

    rng = np.random.default_rng(0)
    fields = fmt.unpack(rng.integers(0, 256, (2, fmt.type_size), dtype=np.uint8))
    fields |= {name: np.array([0.013, 0.21], fields[name].dtype) for name in ("d", "dmin")}
    problem = problem_of(value, spec)
    result = run(problem, weights=fmt.pack(fields).reshape(1, -1))
    assert problem.space.admits(result.case)
    simple = fmt.unpack(result.case["weights"].reshape(-1, fmt.type_size))
    assert all(len(np.unique(numbers)) <= 2 for numbers in simple.values())
    assert float(simple["dmin"][0]) == 0
    assert np.frexp(abs(float(simple["d"][0])))[0] * 2 == 1


def test_positions_become_small_integers() -> None:
    """Only the distance of two positions counts, so the first is 0."""
    spec = TensorSpec("positions", kind="positions", shape=(Dim("b", 2, fixed=True),), low=0, high=131071)
    problem = problem_of(lambda a: 1.0 * (np.diff(a["positions"], axis=1)[:, 0] >= 1000), spec)
    result = run(problem, positions=np.array([4711, 90001], np.int32))
    assert result.case["positions"][0] == 0
    assert np.int32 == result.case["positions"].dtype


def test_the_time_is_kept() -> None:
    """A large case with a slow evaluation ends in time, no worse than it began, and says that it did not finish."""

    def value(a: dict[str, np.ndarray]) -> np.ndarray:
        time.sleep(0.02)
        return np.abs(a["x"]).max(axis=1) + 0.0 * a["x"].sum(axis=1)

    problem = problem_of(value, vector(4096))
    started = time.monotonic()
    result = minimise(problem, Case({"x": gaussian(4096)}), seconds=0.1)
    assert time.monotonic() - started < 2.0
    assert not result.finished
    assert result.cost <= result.cost_before


@pytest.mark.parametrize("seconds", [0.01, 0.03])
def test_the_work_ends_it_the_same_on_a_slow_machine(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Before the clock, an amount of work ends it: an evaluation that takes longer gives the same case."""
    monkeypatch.setattr(importlib.import_module("diffuzz.minimising.minimise"), "PATIENCE", 1000.0)
    weights = gaussian(4096, 1).astype(float)

    def value(a: dict[str, np.ndarray]) -> np.ndarray:
        return np.abs((a["x"].astype(float) * weights).sum(axis=1)) / np.linalg.norm(a["x"].astype(float), axis=1)

    def slow(a: dict[str, np.ndarray]) -> np.ndarray:
        time.sleep(0.003)
        return value(a)

    case = Case({"x": weights.astype(np.float32)})
    tensor = vector(4096, peak=1e-3)
    quick, late = (minimise(problem_of(f, tensor), case, seconds=seconds) for f in (value, slow))
    assert not quick.finished
    assert quick.cost < quick.cost_before
    assert quick == late


def test_an_interrupt_keeps_what_there_is() -> None:
    """Ctrl-C ends minimising with the best case so far."""
    calls = 0

    def value(a: dict[str, np.ndarray]) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise KeyboardInterrupt
        return np.ones(len(a["x"]))

    problem = problem_of(value, vector(64))
    result = run(problem, x=gaussian(64))
    assert not result.finished
    assert problem.space.admits(result.case)


@pytest.mark.parametrize(("argument", "bad"), [("keep", 0.0), ("keep", 1.5), ("keep", np.nan), ("seconds", 0.0)])
def test_bad_arguments(argument: str, bad: float) -> None:
    """One line that names the argument and the value."""
    problem = problem_of(lambda a: np.ones(len(a["x"])), vector(4))
    with pytest.raises(ValueError, match=rf"^{argument}={bad}: .*needed$"):
        minimise(problem, Case({"x": gaussian(4)}), **{argument: bad})


def test_inadmissible_case() -> None:
    """A case outside the space is refused before anything is evaluated."""
    problem = problem_of(lambda a: np.ones(len(a["x"])), vector(4))
    with pytest.raises(InadmissibleError, match="outside"):
        minimise(problem, Case({"x": np.full(4, 17, np.float32)}))


def test_what_holds_only_within_a_batch_is_refused() -> None:
    """A simplification counts if it keeps the value when measured alone, as a replay will."""
    x = gaussian(10)

    def value(a: dict[str, np.ndarray]) -> np.ndarray:
        same = (a["x"] == x).all(axis=1)
        return np.where(same | (len(same) > 1), 1.0, 0.1)

    assert Case({"x": x}) == run(problem_of(value, vector(10)), x=x).case
