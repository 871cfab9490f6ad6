"""The batch target: it reproduces what was published of 7 tokens, and bounds both measures."""

from __future__ import annotations

import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cases.case import Case
from diffuzz.judging.problem import evaluate
from diffuzz.targets.published import PUBLISHED_DRIFT, ramp

TARGET = targets.get("batch")


def published_tokens() -> np.ndarray:
    """Token k starts at (i - 128) 0.05 + ((i mod 7) + k) 0.01, in float32."""
    i = np.arange(256, dtype=np.float32)
    f = np.float32
    return np.stack([(i - f(128)) * f(0.05) + (np.mod(i, f(7)) + f(k)) * f(0.01) for k in range(7)])


def test_published_case():
    """Seven tokens: a mean drift below that of the one input of the chain, and a std-ratio off by tens of times as
    much.
    """
    detail = evaluate(TARGET, TARGET.params(), Case({"x": published_tokens()})).evidence.as_dict()
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
def test_constructions_come_close_to_the_bound(objective):
    """The constructions reach 2 on the mean, and 94 % of the bound of the std-ratio."""
    params = TARGET.params({"objective": objective})
    outcome = TARGET.question.evaluate(params, TARGET.starts(params, np.random.default_rng(0), 4))
    assert (0.94 if objective == "std-ratio" else 0.99) * TARGET.bound(params).value <= outcome.value.max()
    assert outcome.noise.max() <= 1e-3 * outcome.value.max()
