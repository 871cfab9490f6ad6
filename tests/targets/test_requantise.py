"""The requantise target: one ULP is amplified by at most 2^25 (2^32 with a subnormal block sum), and by that much."""

from __future__ import annotations

import numpy as np
import pytest

from diffuzz import targets
from diffuzz.targets import laws, matvec

TARGET = targets.get("requantise")


@pytest.mark.parametrize("format", matvec.WEIGHT_FORMATS)
def test_bound_is_reached_and_holds(format):
    """The construction reaches the bound to 1e-6; it, other cases, and both with solved directions never exceed it.

    In iq4_nl the weight that meets the largest activation is not 0 but 1, beside 31 of 127.
    """
    reached = 31 * 127 / (31 * 127 + 1) if format == "iq4_nl" else 1
    for given in ({}, {"n": 512, "max_abs": 0.3}, {"n": 256, "max_abs": 1e-4}):
        params = TARGET.params({"format": format, **given})
        made = TARGET.starts(params, np.random.default_rng(0), 16)
        value = TARGET.question.evaluate(params, made).value
        assert (1 - 1e-6) * reached * TARGET.bound(params).value <= value.max()
        laws.bound_is_never_exceeded(TARGET, params)


@pytest.mark.parametrize("format", ["q4_K", "q8_0", "q4_1"])
def test_bound_holds_at_random_midpoints(format):
    """Random peaks, in the subnormal range of f16 too, with all elements within two ULP of the first midpoints, do not
    exceed it either.
    """
    params = TARGET.params({"format": format, "n": 256})
    rng, ceiling = np.random.default_rng(3), TARGET.bound(params).ceiling
    weights, signs = matvec.plain_weights(params, rng, 400)
    size = 256 if format == "q4_K" else 32
    peak = np.repeat((2.0 ** rng.uniform(-37, 3, (400, 256 // size))).astype(np.float32), size, axis=1)
    codes = rng.choice([0.5, 1.5, 2.5, 63.5], (400, 1))
    x = (codes * peak / 127).astype(np.float32)
    for _ in range(3):
        x = np.where(rng.random(x.shape) < 0.5, np.nextafter(x, np.float32(rng.choice([0, np.inf]))), x)
    x = np.where(signs == 0, peak, x * np.where(signs == 0, 1, signs)).astype(np.float32)
    for direction in (
        np.where(signs == 0, 0, signs),
        rng.choice([-1.0, 0.0, 1.0], x.shape),
        np.where(signs == 0, 1, 0),
    ):
        batch = {"weights": weights[:, None], "x": x, "x_direction": direction.astype(np.float32)}
        assert TARGET.question.evaluate(params, batch).value.max() <= ceiling
        assert TARGET.question.evaluate(params, TARGET.question.solve(params, batch)).value.max() <= ceiling


def test_solve_finds_the_directions():
    """From directions that do nothing, solve finds those of the construction; it never makes a case worse."""
    params = TARGET.params()
    made = TARGET.starts(params, np.random.default_rng(0), 8)
    # Inwards from the first midpoint, where no code changes.
    still = {**made, "x_direction": -made["x_direction"]}
    assert not TARGET.question.evaluate(params, still).value.any()
    solved = TARGET.question.solve(params, still)
    assert TARGET.question.evaluate(params, solved).value.min() >= 0.999 * 2**25
    again = TARGET.question.solve(params, made)
    before, after = (TARGET.question.evaluate(params, batch).value for batch in (made, again))
    assert np.all(after >= before)


def test_midpoint_is_a_step():
    """The move that the bound speaks of, in ggml's own bits: one ULP on 255 elements moves its float32 result by 255
    whole codes.
    """
    params = TARGET.params()
    made = TARGET.starts(params, np.random.default_rng(0), 1)
    numbers = TARGET.question.explain(params, made)
    drift = numbers["output drift"][0]
    assert drift == pytest.approx(1 / 127, rel=1e-6)
    assert numbers["input drift"][0] == pytest.approx(2.0**-24 / 254, rel=1e-6)
    assert numbers["move of ggml's result"][0] > 0
