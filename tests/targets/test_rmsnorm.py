"""RMSNorm: the published input, the bounds with and without a gain, the contract of a candidate."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuzz import targets
from diffuzz.cases import draws
from diffuzz.cases.case import Case
from diffuzz.judging.opening import CandidateError
from diffuzz.judging.problem import evaluate, open_problem
from diffuzz.judging.question import Judge
from diffuzz.judging.verdict import Verdict, judge
from diffuzz.kernels import apr, exact, ggml, gguf
from diffuzz.targets import laws
from diffuzz.targets.parameter import ParameterError

RMSNORM = targets.get("rmsnorm")


def test_published_input() -> None:
    """FFN-GGUF-015: 1.0000 for the ramp with pseudo-random signs."""
    i = np.arange(256)
    x = ((i - 128) * 0.05 + (i % 7) * 0.01).astype(np.float32)
    direction = np.where((13 * i + 7) % 17 < 8, 1.0, -1.0).astype(np.float32)
    measured = evaluate(RMSNORM, RMSNORM.params(), Case({"x": x, "x_direction": direction}))
    assert f"{measured.value:.4f}" == "1.0000"


def test_without_a_gain_the_claim_is_falsified() -> None:
    """The bound is 1 + delta^2 / 8 + ...: far below 5, whatever is found."""
    params = RMSNORM.params()
    bound = RMSNORM.bound(params)
    assert bound.value == pytest.approx(1 + 0.00077**2 / 8, abs=1e-8)
    assert judge(RMSNORM.threshold(params), 0.0, 0.0, bound) is Verdict.FALSIFIED


def test_bounds_with_a_gain() -> None:
    """1.9972 componentwise to first order, and max w / min w normwise, for a ratio of 1000."""
    componentwise = RMSNORM.bound(RMSNORM.params({"gain": True, "delta": 1e-6}))
    assert f"{componentwise.value:.4f}" == "1.9972"
    normwise = RMSNORM.bound(RMSNORM.params({"gain": True, "perturbation": "normwise", "delta": 1e-6}))
    assert normwise.value == pytest.approx(1000.0, rel=1e-6)


@settings(max_examples=80)
@given(
    options=st.fixed_dictionaries(
        {
            "n": st.integers(2, 20),
            "max_abs": st.sampled_from([1e-20, 1.0, 16.0, 1e20]),
            "eps": st.sampled_from([0.0, 1e-6, 1.0]),
            "delta": st.sampled_from([1e-6, 0.00077, 0.1, 0.5]),
            "perturbation": st.sampled_from(["componentwise", "normwise"]),
            "gain": st.booleans(),
            "gain_min": st.sampled_from([1e-3, 0.5, 1.0]),
            "gain_max": st.sampled_from([1.0, 2.0, 1e3]),
        }
    ),
    seed=st.integers(0, 2**32),
)
def test_nothing_exceeds_the_bound(options: dict[str, object], seed: int) -> None:
    """For any parameters, finite moves included."""
    laws.bound_is_never_exceeded(RMSNORM, options, seed)


@pytest.mark.parametrize("ratio", [2.0, 1000.0, 1e6])
def test_two_gains_reach_the_bound(ratio: float) -> None:
    """Mass at the least gain, moves at the greatest; or a few large elements at the greatest gain."""
    n, delta = 1000, 0.00077
    options = {"n": n, "gain": True, "gain_min": 1.0, "gain_max": ratio, "eps": 0.0, "max_abs": 1e4}
    x, gain, t = np.ones(n, np.float32), np.ones(n, np.float32), np.ones(n, np.float32)
    gain[0] = ratio
    x[0], t[1:], t[0] = 1e-6, 0.0, 1.0
    params = RMSNORM.params(options | {"perturbation": "normwise", "delta": delta})
    arrays = {"x": x[None], "gain": gain[None], "x_direction": t[None]}
    value = RMSNORM.question.evaluate(params, arrays).value[0]
    assert value >= 0.99 * RMSNORM.bound(params).value
    params = RMSNORM.params(options | {"delta": delta})
    best = 0.0
    for share in np.geomspace(1e-10, 1, 400):
        x = np.full(n, 100.0, np.float32)
        x[0] = 100 * np.sqrt(share * n)
        t = np.where(np.arange(n) == 0, 1.0, -1.0).astype(np.float32)
        arrays = {"x": x[None], "gain": gain[None], "x_direction": t[None]}
        best = max(best, RMSNORM.question.evaluate(params, arrays).value[0])
    assert best >= 0.99 * RMSNORM.bound(params).value


def test_gains_must_be_ordered() -> None:
    """An empty range of gains is refused at once."""
    with pytest.raises(ParameterError, match="gain_min=3 is above gain_max=2"):
        RMSNORM.params({"gain_min": 3, "gain_max": 2})


def _float64(x: np.ndarray, eps: float) -> np.ndarray:
    return exact.rms_norm(x.astype(np.float64), eps).astype(np.float32)


def _backwards(x: np.ndarray, eps: float) -> np.ndarray:
    total = np.zeros((len(x), 1), np.float32)
    for i in reversed(range(x.shape[1])):
        total = total + x[:, i : i + 1] * x[:, i : i + 1]
    mean = total * (np.float32(1) / np.float32(x.shape[1])) + np.float32(eps)
    return x * (np.float32(1) / np.sqrt(mean))


def _pairwise(x: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x * x).mean(axis=1, keepdims=True, dtype=np.float32) + np.float32(eps))


def _flushing(x: np.ndarray, eps: float) -> np.ndarray:
    def flush(a: np.ndarray) -> np.ndarray:
        return np.where(np.abs(a) < np.float32(2.0**-126), np.float32(0), a)

    x = flush(x)
    mean = flush(flush(x * x).mean(axis=1, keepdims=True)) + np.float32(eps)
    return flush(x * flush(np.float32(1) / np.sqrt(mean)))


def _fixed_eps(x: np.ndarray, eps: float) -> np.ndarray:
    return _pairwise(x, 1e-6)


def _eps_outside(x: np.ndarray, eps: float) -> np.ndarray:
    return x / (np.sqrt((x * x).mean(axis=1, keepdims=True)) + np.float32(eps))


def _sum_for_mean(x: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x * x).sum(axis=1, keepdims=True) + np.float32(eps))


def _layer_norm(x: np.ndarray, eps: float) -> np.ndarray:
    centred = x - x.mean(axis=1, keepdims=True)
    return _pairwise(centred, eps)


def _tail_lost(x: np.ndarray, eps: float) -> np.ndarray:
    whole = x[:, : max(8, x.shape[1] // 8 * 8)]
    return x / np.sqrt((whole * whole).sum(axis=1, keepdims=True) / np.float32(x.shape[1]) + np.float32(eps))


def _long_doubled(x: np.ndarray, eps: float) -> np.ndarray:
    return _pairwise(x, eps) * np.float32(2 if x.shape[1] >= 1024 else 1)


def _half_squares(x: np.ndarray, eps: float) -> np.ndarray:
    total = np.minimum((x * x).sum(axis=1, keepdims=True), np.float32(65504))
    return x / np.sqrt(total / np.float32(x.shape[1]) + np.float32(eps))


def _half_input(x: np.ndarray, eps: float) -> np.ndarray:
    return _pairwise(np.where(np.abs(x) > 65504, np.float32(0), x), eps)


def _worst(function: object, **given_params: object) -> float:
    problem, rng = open_problem(RMSNORM, given_params, Judge(function, name="f")), np.random.default_rng(0)
    worst = 0.0
    for draw in (draws.uniform, draws.structured):
        worst = max(worst, problem.evaluate(draw(problem.space, rng, 300)).value.max())
    return worst


@pytest.mark.parametrize(
    "correct",
    [apr.rms_norm, gguf.rms_norm, ggml.rms_norm, _float64, _backwards, _pairwise, _flushing],
    ids=lambda f: f"{f.__module__}.{f.__name__}",
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"candidate_n": 1},
        {"candidate_n": 2},
        {"candidate_n": 4096},
        {"candidate_max_abs": 16.0},
        {"candidate_max_abs": 1e-30},
        {"candidate_max_abs": 1e30},
        {"eps": 0.0, "candidate_max_abs": 1e-15},
        {"eps": 0.0, "candidate_max_abs": 1e-18},
        {"eps": 10.0},
    ],
    ids=str,
)
def test_correct_candidates_are_not_flagged(correct: object, options: dict[str, object]) -> None:
    """Any order of the sum, three forms, squares that underflow or overflow, flushed subnormals: within the bound."""
    with np.errstate(all="ignore"):
        assert _worst(correct, **options) <= 1.0


def test_the_allowance_holds_up_to_where_the_sum_overflows() -> None:
    """A float32 fold stays within it just below the overflow of its sum of squares, and beyond it nothing is promised;
    checked in rational arithmetic.
    """
    largest = Fraction(float(np.finfo(np.float32).max))
    for n, top in ((1025, 5.76e17), (1025, 5.762e17), (1025, 5.77e17), (3, 1.065e19), (3, 1.066e19)):
        x = np.full((1, n), top, np.float32)
        arrays = {"x": x, "eps_exponent": np.zeros((1, 1), np.int32)}
        allowed = RMSNORM.contract.allowance(RMSNORM.contract_params({"candidate_max_abs": 1e30}), arrays)[0, 0]
        square = n * Fraction(float(x[0, 0])) ** 2
        with np.errstate(over="ignore"):
            total = np.add.accumulate(x * x, axis=1)[0, -1]
            y = x[0, 0] / np.sqrt(total / np.float32(n) + np.float32(1e-6))
        assert np.isinf(allowed) == (square * (1 + Fraction(n + 4, 2**24 - n - 4)) >= largest)
        assert np.isinf(allowed) or abs(float(y) - 1) <= allowed


@pytest.mark.parametrize(
    ("wrong", "options"),
    [
        (_fixed_eps, {}),
        (_fixed_eps, {"eps": 1e-5}),
        (_eps_outside, {}),
        (_sum_for_mean, {}),
        (_layer_norm, {}),
        (_tail_lost, {"candidate_n": 255}),
        (_long_doubled, {}),
        (_half_squares, {}),
        (_half_input, {}),
    ],
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_wrong_candidates_are_flagged(wrong: object, options: dict[str, object]) -> None:
    """A constant for eps (even the default's), eps in the wrong place, a sum, another norm, a lost tail, a bug in long
    rows only, sums and numbers that no f16 holds.
    """
    assert _worst(wrong, **options) > 1.0


def test_a_candidate_with_mixed_rows_is_judged_row_by_row() -> None:
    """Rows with different eps are called apart and put back in their places."""
    problem = open_problem(RMSNORM, {"n": 2, "eps": 1.0}, Judge(_pairwise, name="f"))
    x = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    exponents = np.array([[0], [2], [0]], np.int32)
    outcome = problem.evaluate({"x": x, "eps_exponent": exponents})
    assert outcome.value.max() <= 1.0
    alone = problem.evaluate({"x": x[1:2], "eps_exponent": exponents[1:2]})
    assert alone.value[0] == outcome.value[1]


def test_a_wrong_shape_in_one_of_several_calls_is_an_error() -> None:
    """A batch with several eps still complains about the shape."""
    problem = open_problem(RMSNORM, {"n": 2}, Judge(lambda x, eps: x[:, :1], name="f"))
    arrays = {"x": np.ones((3, 2), np.float32), "eps_exponent": np.array([[0], [1], [0]], np.int32)}
    with pytest.raises(CandidateError, match=r"f returns float32\[\d, 1\]"):
        problem.evaluate(arrays)
