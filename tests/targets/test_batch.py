"""The batch target: it reproduces what was published of 7 tokens, and bounds both measures."""

from __future__ import annotations

import numpy as np
import pytest

from diffuzz import sampling, targets
from diffuzz.case import Case
from diffuzz.published import PUBLISHED_DRIFT, ramp
from diffuzz.target import evaluate

TARGET = targets.get("batch")


def published_tokens():
    """Token k starts at (i - 128) 0.05 + ((i mod 7) + k) 0.01, in float32."""
    i = np.arange(256, dtype=np.float32)
    f = np.float32
    return np.stack([(i - f(128)) * f(0.05) + (np.mod(i, f(7)) + f(k)) * f(0.01) for k in range(7)])


def test_published_case():
    """Seven tokens: a mean drift below that of the one input of the chain, and a std-ratio off by tens of times as
    much.
    """
    detail = evaluate(TARGET, TARGET.params(), Case({"x": published_tokens()})).detail
    chain = evaluate(targets.get("chain"), targets.get("chain").params(), Case({"x": ramp()})).value
    assert detail["mean relative L2"] < chain
    assert abs(detail["std ratio"] - 1) > 10 * PUBLISHED_DRIFT


def test_mean_drift_of_equal_tokens_is_the_chain():
    """Tokens that are all the ramp have the chain's drift on the mean, and no spread on either path."""
    case = Case({"x": np.tile(ramp(), (7, 1))})
    mean = evaluate(TARGET, TARGET.params({"objective": "mean-rel-l2"}), case).value
    chain = evaluate(targets.get("chain"), targets.get("chain").params(), Case({"x": ramp()})).value
    assert mean == pytest.approx(chain, rel=1e-14)
    assert evaluate(TARGET, TARGET.params(), case).value == 1.0


@pytest.mark.parametrize("objective", ["std-ratio", "mean-rel-l2"])
def test_limit_holds(objective):
    """No case is above the ceiling; the constructions reach 2 on the mean, and 94 % of the limit of the std-ratio."""
    params = TARGET.params({"objective": objective})
    bound, rng, space = TARGET.bound(params), np.random.default_rng(0), TARGET.space(params)
    made = TARGET.starts(params, rng, 4)
    assert space.admissible(made).all()
    outcome = TARGET.question.evaluate(params, made)
    assert (0.94 if objective == "std-ratio" else 0.99) * bound.value <= outcome.value.max()
    assert outcome.noise.max() <= 1e-3 * outcome.value.max()
    for value in (outcome.value, TARGET.question.evaluate(params, sampling.structured(space, rng, 6)).value):
        assert value.max() <= bound.ceiling


def test_screen_agrees():
    """The JAX screen gives the value of the exact evaluation."""
    jax = pytest.importorskip("jax")
    for objective in ("std-ratio", "mean-rel-l2"):
        params = TARGET.params({"objective": objective})
        batch = TARGET.starts(params, np.random.default_rng(0), 2)
        with jax.enable_x64(True):
            got = np.asarray(jax.jit(TARGET.question.screen(params))(batch))
        np.testing.assert_allclose(got, TARGET.question.evaluate(params, batch).value, rtol=1e-3)
