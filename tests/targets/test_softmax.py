"""Softmax: the published input, the bound and who reaches it, the contract of a candidate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diffuzz import targets
from diffuzz.cases import draws
from diffuzz.cases.case import Case
from diffuzz.judging.problem import evaluate, open_problem
from diffuzz.judging.question import Judge
from diffuzz.judging.verdict import Verdict, judge
from diffuzz.kernels import apr, exact, ggml, gguf
from diffuzz.targets import laws

SOFTMAX = targets.get("softmax")
MODELS = ("l1", "componentwise")


def test_published_input() -> None:
    """FFN-GGUF-011: 0.0113 in float32, for +0.0077 on one of seven logits; without float32's rounding it is 0.01138."""
    z = np.array([-1.5, 0.5, -0.8, 10.0, 1.2, -0.3, 0.7], np.float32)
    moved = z.copy()
    moved[3] += np.float32(0.0077)
    drift = np.abs(apr.soft_max(moved[None]) - apr.soft_max(z[None])).sum()
    assert f"{drift / (np.float32(0.0077) / np.abs(z).sum()):.4f}" == "0.0113"
    direction = np.zeros(7, np.float32)
    direction[3] = 0.0077 / (0.00077 * 15.0)
    measured = evaluate(SOFTMAX, SOFTMAX.params(), Case({"z": z, "z_direction": direction}))
    assert f"{measured.value:.5f}" == "0.01138"


def test_two_tied_logits_reach_the_bound_of_35() -> None:
    """Two logits at +10 and five at -10: within 1e-4 of 0.5 n max_abs, where the claim is CONFIRMED."""
    params = SOFTMAX.params()
    z = np.array([10, 10, -10, -10, -10, -10, -10], np.float32)
    direction = np.array([2.0**-7, 0, 0, 0, 0, 0, 0], np.float32)
    measured = evaluate(SOFTMAX, params, Case({"z": z, "z_direction": direction}))
    assert SOFTMAX.bound(params).value == 35.0
    assert 35.0 * (1 - 1e-4) < measured.value <= 35.0 * (1 + 1e-12)
    assert judge(SOFTMAX.threshold(params), measured.value, measured.noise) is Verdict.CONFIRMED


@settings(max_examples=60)
@given(
    n=st.integers(2, 40),
    max_abs=st.sampled_from([0.01, 0.3, 1.0, 2.0, 10.0, 88.0, 3000.0]),
    delta=st.sampled_from([1e-6, 0.00077, 0.05, 0.5]),
    model=st.sampled_from(MODELS),
    seed=st.integers(0, 2**32),
)
def test_nothing_exceeds_the_bound(n: int, max_abs: float, delta: float, model: str, seed: int) -> None:
    """For any parameters, finite moves included."""
    params = {"n": n, "max_abs": max_abs, "delta": delta, "perturbation": model}
    laws.bound_is_never_exceeded(SOFTMAX, params, seed)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("delta", [1e-6, 0.00077])
@pytest.mark.parametrize(
    ("n", "max_abs"), [(2, 0.01), (3, 1.0), (7, 0.3), (7, 10.0), (32, 0.5), (32, 50.0), (500, 1.0), (500, 1000.0)]
)
def test_constructions_reach_the_bound(n: int, max_abs: float, delta: float, model: str) -> None:
    """At least 99 % of the bound for small and large domains, counting only values that stand clear of their noise."""
    params = SOFTMAX.params({"n": n, "max_abs": max_abs, "delta": delta, "perturbation": model})
    outcome = SOFTMAX.question.evaluate(params, SOFTMAX.starts(params, np.random.default_rng(0), 50))
    values = np.where(outcome.noise <= 1e-3 * outcome.value, outcome.value, 0.0)
    assert values.max() >= 0.99 * SOFTMAX.bound(params).value


@given(
    z=hnp.arrays(np.float64, (1, 6), elements=st.floats(-30, 30)),
    c=hnp.arrays(np.float64, (1, 6), elements=st.floats(-9, 9)),
)
def test_the_lemma(z: np.ndarray, c: np.ndarray) -> None:
    """||softmax(z + c) - softmax(z)||_1 <= 2 tanh((max c - min c) / 4)."""
    moved = np.abs(exact.soft_max(z + c) - exact.soft_max(z)).sum()
    assert moved <= 2 * np.tanh((c.max() - c.min()) / 4) + 1e-14


def _float64(z: np.ndarray) -> np.ndarray:
    return exact.soft_max(z.astype(np.float64)).astype(np.float32)


def _backwards(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    total = np.zeros((len(z), 1), np.float32)
    for i in reversed(range(z.shape[1])):
        total += e[:, i : i + 1]
    return e * (np.float32(1) / total)


def _powers_of_two(z: np.ndarray) -> np.ndarray:
    e = np.exp2((z - z.max(axis=1, keepdims=True)) * np.float32(1.4426950408889634))
    return e / e.sum(axis=1, keepdims=True)


def _flushing(z: np.ndarray) -> np.ndarray:
    p = _backwards(z)
    return np.where(p < np.float32(2.0**-126), np.float32(0), p)


def _no_max(z: np.ndarray) -> np.ndarray:
    e = np.exp(z)
    return e / e.sum(axis=1, keepdims=True)


def _half_exponential(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
    return e / e.sum(axis=1, keepdims=True)


def _forgets_the_last(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e[:, :-1].sum(axis=1, keepdims=True) if z.shape[1] > 1 else e / e


def _wrong_body(z: np.ndarray) -> np.ndarray:
    return _float64(z) * np.float32(1.001 if z.shape[1] >= 8 else 1)


def _worst(function: object, **given_params: object) -> float:
    problem, rng = open_problem(SOFTMAX, given_params, Judge(function, name="f")), np.random.default_rng(0)
    worst = 0.0
    for draw in (draws.uniform, draws.structured):
        worst = max(worst, problem.evaluate(draw(problem.space, rng, 500)).value.max())
    return worst


@pytest.mark.parametrize(
    "correct",
    [apr.soft_max, gguf.soft_max, ggml.soft_max, _float64, _backwards, _powers_of_two, _flushing],
    ids=lambda f: f"{f.__module__}.{f.__name__}",
)
@pytest.mark.parametrize("n", [1, 2, 33, 1024])
def test_correct_candidates_are_not_flagged(correct: object, n: int) -> None:
    """Other orders of the sum, another exp, flushed subnormals: all within the a-priori bound."""
    with np.errstate(all="ignore"):
        assert _worst(correct, candidate_n=n) <= 1.0


@pytest.mark.parametrize(
    "wrong", [_no_max, _half_exponential, _forgets_the_last, _wrong_body], ids=lambda f: f.__name__
)
def test_wrong_candidates_are_flagged(wrong: object) -> None:
    """A missing maximum, a lossy exponential, a missing term, a wrong body of eight lanes."""
    assert _worst(wrong) > 1.0
