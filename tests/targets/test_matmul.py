"""Determinism of a matrix product: the published inputs, equal bits by construction, and a BLAS that breaks them."""

from __future__ import annotations

import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cases import draws
from diffuzz.cases.case import Case
from diffuzz.judging.problem import evaluate
from diffuzz.judging.verdict import Verdict, judge
from diffuzz.targets import matmul
from diffuzz.targets.parameter import ParameterError

MATMUL = targets.get("matmul")


def test_no_minutes_of_work() -> None:
    """Sizes that are each in range, but not together, are refused in one line."""
    with pytest.raises(ParameterError, match="n m tokens = 838860800: at most 33554432 is needed"):
        MATMUL.params({"m": 100, "n": 16384, "tokens": 512})
    with pytest.raises(ParameterError, match="n tokens = 8388608: at most 1048576 is needed with kernel=apr"):
        MATMUL.params({"m": 1, "n": 16384, "tokens": 512})
    assert MATMUL.params({"m": 1, "n": 16384, "tokens": 512, "kernel": "numpy"})["tokens"] == 512


@pytest.mark.parametrize(
    ("n", "m", "tokens", "x_rule", "w_rule"),
    [(128, 512, 4, (1, 17, 8, 0.1), (31, 23, 11, 0.05)), (64, 64, 1, (1, 13, 6, 0.1), (23, 19, 9, 0.05))],
    ids=["005", "005b"],
)
def test_published_inputs(
    n: int, m: int, tokens: int, x_rule: tuple[int, int, int, float], w_rule: tuple[int, int, int, float]
) -> None:
    """FFN-GGUF-005 and 005b: byte-identical."""

    def pattern(count: int, rule: tuple[int, int, int, float]) -> np.ndarray:
        step, modulus, centre, scale = rule
        return ((step * np.arange(count) % modulus - centre) * np.float32(scale)).astype(np.float32)

    case = Case({"w": pattern(m * n, w_rule).reshape(m, n), "x": pattern(tokens * n, x_rule).reshape(tokens, n)})
    measured = evaluate(MATMUL, MATMUL.params({"n": n, "m": m, "tokens": tokens}), case)
    assert (measured.value, measured.evidence.as_dict()["largest ulp"]) == (0.0, 0.0)


def test_apr_is_deterministic_on_any_shape() -> None:
    """No element differs, where sums would in another order; FALSIFIED by construction."""
    params = MATMUL.params({"n": 37, "m": 5, "tokens": 3})
    batch = draws.uniform(MATMUL.space(params), np.random.default_rng(0), 5)
    assert MATMUL.question.evaluate(params, batch).value.tolist() == [0.0] * 5
    assert judge(0.0, 0.0, 0.0, MATMUL.bound(params)) is Verdict.FALSIFIED


def test_a_product_that_depends_on_its_batch_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another order of the sums for a token alone counts each element that differs; no bound stands against it."""

    def by_shape(w: np.ndarray, x: np.ndarray) -> np.ndarray:
        order = slice(None) if len(x) > 1 else slice(None, None, -1)
        y = np.zeros((len(x), len(w)), np.float32)
        for i in np.arange(x.shape[1])[order]:
            y += x[:, i : i + 1] * w[None, :, i]
        return y

    monkeypatch.setattr(matmul, "_numpy", by_shape)
    params = MATMUL.params({"kernel": "numpy", "n": 64, "m": 8, "tokens": 2})
    batch = draws.uniform(MATMUL.space(params), np.random.default_rng(0), 3)
    outcome = MATMUL.question.evaluate(params, batch)
    assert outcome.value.max() > 0
    assert (outcome.value > 0).tolist() == (MATMUL.question.explain(params, batch)["largest ulp"] > 0).tolist()
    assert MATMUL.bound(params) is None


def test_numpy_is_measured() -> None:
    """The BLAS of this machine gives a number of elements between none and all."""
    params = MATMUL.params({"kernel": "numpy"})
    outcome = MATMUL.question.evaluate(params, draws.uniform(MATMUL.space(params), np.random.default_rng(0), 2))
    assert ((outcome.value >= 0) & (outcome.value <= 4 * 64)).all()
