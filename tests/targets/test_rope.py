"""RoPE: the published input, the isometry, the bounds of the score, the contract of a candidate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuzz import targets
from diffuzz.cases import draws
from diffuzz.cases.case import Case
from diffuzz.judging.problem import evaluate, open_problem
from diffuzz.judging.question import Judge
from diffuzz.judging.verdict import Verdict, judge
from diffuzz.kernels import apr, exact, ggml, gguf
from diffuzz.targets import laws
from diffuzz.targets.parameter import ParameterError

ROPE = targets.get("rope")


@pytest.mark.parametrize("floor", [0.0, 1e-3])
def test_published_input(floor: float) -> None:
    """FFN-GGUF-012: a scaled q amplifies by 1.00, whatever the score is relative to."""
    i = np.arange(64)
    q = ((i - 32) * 0.05 + (i % 5) * 0.02).astype(np.float32)
    k = ((i - 32) * 0.04 + (i % 7) * 0.015).astype(np.float32)
    case = Case({"q": q, "k": k, "positions": np.array([0, 1], np.int32), "q_direction": np.sign(q)})
    measured = evaluate(ROPE, ROPE.params({"floor": floor}), case)
    drifts = measured.evidence.as_dict()
    relative = abs(drifts["output drift"]) / drifts["input drift"]
    assert measured.value == relative
    if floor:
        assert f"{measured.value:.2f}" == "1.00"
    else:
        assert measured.value <= 1.0


def test_verdicts() -> None:
    """The relative score is CONFIRMED above 5x by a construction; the normalised score is FALSIFIED by its bound."""
    params = ROPE.params()
    outcome = ROPE.question.evaluate(params, ROPE.starts(params, np.random.default_rng(0), 4))
    assert judge(5.0, outcome.value.max(), outcome.noise.max(), ROPE.bound(params)) is Verdict.CONFIRMED
    params = ROPE.params({"floor": 0.0})
    assert judge(5.0, 0.0, 0.0, ROPE.bound(params)) is Verdict.FALSIFIED
    params = ROPE.params({"floor": 0.0, "perturb": "qk"})
    assert judge(5.0, 0.0, 0.0, ROPE.bound(params)) is Verdict.FALSIFIED


@pytest.mark.parametrize("mode", ["neox", "norm"])
def test_the_rotation_is_an_isometry(mode: str) -> None:
    """A rotated vector is as long, and two rotated vectors are as far apart, as before."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 50, 3, 64))
    positions = rng.integers(0, 100000, 50).astype(np.int32)
    turned = exact.rope(x, positions, 10000.0, mode) - exact.rope(y, positions, 10000.0, mode)
    assert np.allclose(np.linalg.norm(x - y, axis=-1), np.linalg.norm(turned, axis=-1), rtol=1e-13, atol=0)


OPTIONS = st.fixed_dictionaries(
    {
        "head_dim": st.sampled_from([2, 6, 8, 64]),
        "mode": st.sampled_from(["neox", "norm"]),
        "perturb": st.sampled_from(["q", "qk"]),
        "perturbation": st.sampled_from(["componentwise", "normwise"]),
        "floor": st.sampled_from([0.0, 1e-3, 0.1, 1.0]),
        "delta": st.sampled_from([1e-6, 0.00077, 0.1, 0.5]),
        "max_abs": st.sampled_from([1e-3, 8.0, 1e5]),
        "max_position": st.sampled_from([0, 1, 4096]),
    }
)


@settings(max_examples=80)
@given(options=OPTIONS, seed=st.integers(0, 2**32))
def test_nothing_exceeds_the_bound(options: dict[str, object], seed: int) -> None:
    """For any parameters."""
    laws.bound_is_never_exceeded(ROPE, options, seed)


@settings(max_examples=60)
@given(options=OPTIONS)
def test_constructions_reach_the_bound(options: dict[str, object]) -> None:
    """At least 99 % of the bound for every mode, size, floor up to 0.1 and model, for drifts up to 0.1."""
    params = ROPE.params(options | {"delta": min(options["delta"], 0.05), "floor": min(options["floor"], 0.1)})
    outcome = ROPE.question.evaluate(params, ROPE.starts(params, np.random.default_rng(0), 20))
    values = np.where(outcome.noise <= 1e-3 * outcome.value, outcome.value, 0.0)
    assert values.max() >= 0.99 * ROPE.bound(params).value


@given(c=st.floats(-1, 1), delta=st.floats(1e-3, 0.5), seed=st.integers(0, 2**32))
def test_two_moving_vectors(c: float, delta: float, seed: int) -> None:
    """|u.b + a.v + delta u.v| <= 2 + min(delta, delta^2 + delta |a.b|) for unit vectors: what limits q and k."""
    rng = np.random.default_rng(seed)
    a, b = np.array([1, 0, 0]), np.array([c, np.sqrt(1 - c * c), 0])
    angle = rng.uniform(-np.pi, np.pi, (500, 2))
    # In the plane of a and b, where the maximum is, around the move that is best to first order.
    turn = np.arctan2(b[1], b[0])
    spread = rng.choice([1.0, delta])
    alpha, beta = turn + spread * angle[:, 0], spread * angle[:, 1]
    u, v = np.stack([np.cos(alpha), np.sin(alpha), 0 * alpha], 1), np.stack([np.cos(beta), np.sin(beta), 0 * beta], 1)
    assert np.abs(u @ b + v @ a + delta * (u * v).sum(1)).max() <= 2 + min(delta, delta**2 + delta * abs(c)) + 1e-12


def test_head_dim_must_be_even() -> None:
    """RoPE turns pairs."""
    for name, bind in (("head_dim", ROPE.params), ("candidate_head_dim", ROPE.contract_params)):
        with pytest.raises(ParameterError, match=f"{name}=63: an even number is needed"):
            bind({name: 63})


def test_a_kernel_for_one_head_dim() -> None:
    """With tail=false a candidate is called with no other, and otherwise with every even one."""

    def lengths(**given_params: object) -> list[int]:
        dim = ROPE.contract.space(ROPE.contract_params(given_params))["x"].shape[1]
        return [size for size in range(200) if dim.admits(size)]

    assert lengths(candidate_head_dim=80, tail=False) == [80]
    assert lengths(candidate_head_dim=8) == [2, 4, 6, 8]


def _float64(x: np.ndarray, positions: np.ndarray, base: float, mode: str) -> np.ndarray:
    return exact.rope(x.astype(np.float64), positions, base, mode).astype(np.float32)


def _float32(x: np.ndarray, positions: np.ndarray, base: float, mode: str) -> np.ndarray:
    d = x.shape[-1]
    frequency = np.float32(base) ** (-2 * np.arange(d // 2, dtype=np.float32) / np.float32(d))
    angle = positions.astype(np.float32)[:, None, None] * frequency
    cos, sin = np.cos(angle), np.sin(angle)
    y = np.empty_like(x)
    first, second = (slice(0, None, 2), slice(1, None, 2)) if mode == "norm" else (slice(0, d // 2), slice(d // 2, d))
    y[..., first] = x[..., first] * cos - x[..., second] * sin
    y[..., second] = x[..., first] * sin + x[..., second] * cos
    return y


def _always_neox(x: np.ndarray, positions: np.ndarray, base: float, mode: str) -> np.ndarray:
    return _float32(x, positions, base, "neox")


def _one_position_late(x: np.ndarray, positions: np.ndarray, base: float, mode: str) -> np.ndarray:
    return _float32(x, positions + 1, base, mode)


def _base_of_ten_thousand(x: np.ndarray, positions: np.ndarray, base: float, mode: str) -> np.ndarray:
    return _float32(x, positions, 10000.0, mode)


def _backwards(x: np.ndarray, positions: np.ndarray, base: float, mode: str) -> np.ndarray:
    return _float32(x, -positions, base, mode)


def _first_head_only(x: np.ndarray, positions: np.ndarray, base: float, mode: str) -> np.ndarray:
    y = x.copy()
    y[:, :1] = _float32(x[:, :1], positions, base, mode)
    return y


def _int16_position(x: np.ndarray, positions: np.ndarray, base: float, mode: str) -> np.ndarray:
    return apr.rope(x, positions.astype(np.int16).astype(np.int64), base, mode)


def _half_sines(x: np.ndarray, positions: np.ndarray, base: float, mode: str) -> np.ndarray:
    return _float32(x, positions, base, mode).astype(np.float16).astype(np.float32)


def _heads_of_64(x: np.ndarray, positions: np.ndarray, base: float, mode: str) -> np.ndarray:
    return exact.rope(x, positions, base ** (x.shape[-1] / 64), mode).astype(np.float32)


def _fourth_head_left(x: np.ndarray, positions: np.ndarray, base: float, mode: str) -> np.ndarray:
    y = _float32(x, positions, base, mode)
    y[:, 3:4] = x[:, 3:4]
    return y


def _unsigned_position(x: np.ndarray, positions: np.ndarray, base: float, mode: str) -> np.ndarray:
    return apr.rope(x, np.abs(positions), base, mode)


def _flushing_far_down(x: np.ndarray, positions: np.ndarray, base: float, mode: str) -> np.ndarray:
    return _float64(np.where(np.abs(x) < 1e-20, np.float32(0), x), positions, base, mode)


def _worst(function: object, **given_params: object) -> float:
    problem, rng = open_problem(ROPE, given_params, Judge(function, name="f")), np.random.default_rng(0)
    worst = 0.0
    for draw in (draws.uniform, draws.structured):
        worst = max(worst, problem.evaluate(draw(problem.space, rng, 300)).value.max())
    return worst


@pytest.mark.parametrize(
    "correct", [apr.rope, gguf.rope, ggml.rope, _float64, _float32], ids=lambda f: f"{f.__module__}.{f.__name__}"
)
@pytest.mark.parametrize("mode", ["neox", "norm"])
@pytest.mark.parametrize(("farthest", "base", "head_dim"), [(2**20, 1e4, 64), (2**24, 5e5, 128), (100, 1e7, 6)])
def test_correct_candidates_are_not_flagged(
    correct: object, mode: str, farthest: int, base: float, head_dim: int
) -> None:
    """Frequencies from a power or a recurrence, fused or not, in float32 or float64: all within the a-priori bound."""
    assert _worst(correct, mode=mode, candidate_max_position=farthest, base=base, candidate_head_dim=head_dim) <= 1.0


@pytest.mark.parametrize(
    ("wrong", "options"),
    [
        (_always_neox, {"mode": "norm"}),
        (_one_position_late, {}),
        (_base_of_ten_thousand, {}),
        (_base_of_ten_thousand, {"base": 5e5}),
        (_heads_of_64, {}),
        (_fourth_head_left, {}),
        (_unsigned_position, {}),
        (_flushing_far_down, {}),
        (_backwards, {}),
        (_first_head_only, {}),
        (_half_sines, {}),
        (_int16_position, {}),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_wrong_candidates_are_flagged(wrong: object, options: dict[str, object]) -> None:
    """Wrong pairs, positions, base, sense, heads, a fixed head_dim, a lossy result, and one flushed far down."""
    assert _worst(wrong, **options) > 1.0
