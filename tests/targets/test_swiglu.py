"""SwiGLU: the bound of its negative tail and who reaches it, the contract of a candidate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuzz import targets
from diffuzz.cases import draws
from diffuzz.cases.case import Case
from diffuzz.judging.problem import evaluate, open_problem
from diffuzz.judging.question import Judge
from diffuzz.kernels import apr, exact, ggml, gguf
from diffuzz.targets import laws

SWIGLU = targets.get("swiglu")


def test_the_negative_tail_amplifies_like_its_distance() -> None:
    """One gate at -16 amplifies a drift by 15 to first order, by 16 if up drifts as well."""
    arrays = {"gate": [-16], "up": [1], "gate_direction": [1]}
    case = Case({name: np.array(value, np.float32) for name, value in arrays.items()})
    assert evaluate(SWIGLU, SWIGLU.params({"delta": 1e-6}), case).value == pytest.approx(15.0, rel=1e-4)
    both = case.replace(up_direction=np.ones(1, np.float32))
    assert evaluate(SWIGLU, SWIGLU.params({"delta": 1e-6, "inputs": "both"}), both).value == pytest.approx(
        16.0, rel=1e-4
    )
    assert evaluate(SWIGLU, SWIGLU.params(), case).value == pytest.approx(
        SWIGLU.bound(SWIGLU.params()).value, rel=1e-12
    )


OPTIONS = st.fixed_dictionaries(
    {
        "n": st.integers(1, 20),
        "max_abs": st.sampled_from([0.01, 1.0, 1.28, 2.0, 2.5, 3.0, 16.0, 80.0]),
        "delta": st.sampled_from([1e-6, 0.00077, 0.1, 0.5]),
        "inputs": st.sampled_from(["gate", "both"]),
    }
)


@settings(max_examples=80)
@given(options=OPTIONS, seed=st.integers(0, 2**32))
def test_nothing_exceeds_the_bound(options: dict[str, object], seed: int) -> None:
    """For any parameters, finite moves included."""
    laws.bound_is_never_exceeded(SWIGLU, options, seed)


@settings(max_examples=40)
@given(options=OPTIONS)
def test_constructions_reach_the_bound(options: dict[str, object]) -> None:
    """At least 99 % of the bound for small and large domains, 98 % for drifts of one half."""
    params = SWIGLU.params(options)
    outcome = SWIGLU.question.evaluate(params, SWIGLU.starts(params, np.random.default_rng(0), 50))
    assert outcome.value.max() >= (0.98 if options["delta"] == 0.5 else 0.99) * SWIGLU.bound(params).value


@given(x=st.floats(-80, 80), delta=st.floats(1e-4, 0.5))
def test_the_steps_of_the_proof(x: float, delta: float) -> None:
    """|silu(x (1 +- delta)) / silu(x) - 1| is within what the docstring says on each side of zero."""
    kappa = 1.2784645427610738 - 1
    assert math.isclose(kappa, (1 + kappa) / (1 + math.exp(1 + kappa)), rel_tol=1e-15)
    if abs(x) < 1e-300:
        return
    silu = exact.silu(np.array([[x, x * (1 + delta), x * (1 - delta)]]))[0]
    change = np.abs(silu[1:] / silu[0] - 1)
    if x > 0:
        limit = (1 + delta) ** (1 + kappa) - 1
    else:
        ends = exact.silu(np.array([[-80.0, -80.0 * (1 + delta), -80.0 * (1 - delta)]]))[0]
        limit = max(delta, *np.abs(ends[1:] / ends[0] - 1))
    assert change.max() <= limit * (1 + 1e-9) + 1e-14


def _float64(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    return exact.swiglu(gate.astype(np.float64), up.astype(np.float64)).astype(np.float32)


def _reciprocal(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    return up * (gate * (np.float32(1) / (np.float32(1) + np.exp(-gate))))


def _two_sided(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(gate))
    return gate * np.where(gate >= 0, np.float32(1), e) / (np.float32(1) + e) * up


def _powers_of_two(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    return gate / (np.float32(1) + np.exp2(-gate * np.float32(1.4426950408889634))) * up


def _flushing(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    def flush(x: np.ndarray) -> np.ndarray:
        return np.where(np.abs(x) < np.float32(2.0**-126), np.float32(0), x)

    return flush(flush(flush(gate) / (np.float32(1) + flush(np.exp(-gate)))) * flush(up))


def _overflowing(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    e = np.exp(gate)
    return gate * (e / (e + np.float32(1))) * up


def _two_overflows(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    e = np.exp(-gate)
    return gate * (1 - e / (1 + e)) * up


def _gelu(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    return gate / (np.float32(1) + np.exp(np.float32(-1.702) * gate)) * up


def _swapped(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    return _two_sided(up, gate)


def _half_table(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    return _two_sided(gate, np.ones_like(up)).astype(np.float16).astype(np.float32) * up


def _by_tanh(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    return gate * (np.float32(1) + np.tanh(gate / 2)) / 2 * up


def _long_doubled(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    return _two_sided(gate, up) * np.float32(2 if gate.shape[1] >= 256 else 1)


def _byte_gate(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    return _two_sided(np.clip(gate, -127, 127), up)


def _worst(function: object, **given_params: object) -> float:
    problem, rng = open_problem(SWIGLU, given_params, Judge(function, name="f")), np.random.default_rng(0)
    worst = 0.0
    for draw in (draws.uniform, draws.structured):
        worst = max(worst, problem.evaluate(draw(problem.space, rng, 300)).value.max())
    return worst


@pytest.mark.parametrize(
    "correct",
    [apr.swiglu, gguf.swiglu, ggml.swiglu, _float64, _reciprocal, _two_sided, _powers_of_two, _flushing],
    ids=lambda f: f"{f.__module__}.{f.__name__}",
)
@pytest.mark.parametrize("candidate_max_abs", [1e-3, 5.0, 90.0, 120.0, 1e9])
def test_correct_candidates_are_not_flagged(correct: object, candidate_max_abs: float) -> None:
    """Other forms, another exp, flushed subnormals, gates far beyond the range of exp: within the a-priori bound."""
    with np.errstate(all="ignore"):
        assert _worst(correct, candidate_max_abs=candidate_max_abs) <= 1.0


@pytest.mark.parametrize(
    "wrong",
    [_overflowing, _two_overflows, _gelu, _swapped, _half_table, _by_tanh, _long_doubled, _byte_gate],
    ids=lambda f: f.__name__,
)
def test_wrong_candidates_are_flagged(wrong: object) -> None:
    """inf/inf at either end, another activation, swapped inputs, a lossy table, a form that cancels, a bug in long rows
    only, gates beyond 127.
    """
    assert _worst(wrong) > 1.0
