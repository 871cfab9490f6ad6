"""The chain target: it reproduces the published growth, is bounded by 2, and is turned round entirely."""

from __future__ import annotations

import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cases import draws
from diffuzz.cases.case import Case
from diffuzz.judging.problem import evaluate
from diffuzz.kernels import apr, gguf
from diffuzz.targets import chain, distances
from diffuzz.targets.published import PUBLISHED_DRIFT, ramp, seed_matrix

TARGET = targets.get("chain")


def test_published_case():
    """Five steps from the ramp drift by 0.439 %, which is 5.70 times one step's: the factor of the published
    decomposition.
    """
    value = evaluate(TARGET, TARGET.params(), Case({"x": ramp()})).value
    assert round(100 * value, 3) == 0.439
    assert round(value / PUBLISHED_DRIFT, 2) == 5.70


def test_one_step_is_two_matvecs():
    """With one step the activations are those of the two kernels, divided by their rms in float32."""
    x = ramp()[None]
    a, b, wide = chain.paths(x, 1)
    for got, kernel in ((a, apr), (b, gguf)):
        y = kernel.vec_dot("q4_K", seed_matrix(0), x).T
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, y / np.sqrt((y.astype(np.float64) ** 2).mean()), rtol=1e-6)
    assert distances.relative_l2(wide, a)[0] < 1e-5


def test_an_activation_takes_its_path_whatever_stands_beside_it():
    """Rows of a batch, equal ones among them, end bit for bit where each ends alone."""
    x = draws.structured(TARGET.space(TARGET.params()), np.random.default_rng(0), 20)["x"]
    x = np.concatenate([x, x[3:8], x[:1]])
    together = chain.paths(x, 3)
    for row in (0, 5, 20, 25):
        for path, alone in zip(together, chain.paths(x[row : row + 1], 3), strict=True):
            assert alone[0].tobytes() == path[row].tobytes()


@pytest.mark.parametrize("given", [{}, {"steps": 8, "max_abs": 0.01}])
def test_bound_is_reached_by_loss_of_sign(given):
    """The constructions come within 1 % of 2, path A being sure of itself to 1e-5."""
    params = TARGET.params(given)
    batch = TARGET.starts(params, np.random.default_rng(0), 6)
    outcome = TARGET.question.evaluate(params, batch)
    assert outcome.value.min() >= 0.99 * 2
    assert outcome.noise.max() < 1e-5


def test_vanishing_activations_are_not_divided_by_zero():
    """Below an rms of 1e-9 an activation is divided by 1e-9, in float32 and in float64; zero stays zero."""
    for dtype in (np.float32, np.float64):
        y = np.zeros((2, 256), dtype)
        y[1] = 1e-12
        got = chain.normalised(y)
        assert got.dtype == dtype
        assert not got[0].any()
        np.testing.assert_allclose(got[1], 1e-3, rtol=1e-5)


def test_matrices_of_the_case_are_taken():
    """The published ones in the case give what they give without; others are each case's own; the screen agrees."""
    given = TARGET.params({"steps": 2, "weights": "case"})
    space = TARGET.space(given)
    assert ("weights", "x") == tuple(spec.name for spec in space.tensors)
    batch = draws.structured(space, np.random.default_rng(0), 6)
    batch["weights"][:3] = np.stack([seed_matrix(0), seed_matrix(1)])
    with np.errstate(all="ignore"):
        got = TARGET.question.evaluate(given, batch)
        seed = TARGET.question.evaluate(TARGET.params({"steps": 2}), {"x": batch["x"][:3]})
        alone = TARGET.question.evaluate(given, {name: array[4:5] for name, array in batch.items()})
        screened = TARGET.question.screen(given)(batch)
    assert seed.value.tolist() == got.value[:3].tolist()
    assert alone.value[0] == got.value[4] or np.isnan(alone.value[0])
    np.testing.assert_allclose(screened[:3], got.value[:3], rtol=1e-3)
