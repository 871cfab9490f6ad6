"""The block-scale target: with minima the scale decides how much of a drift cancels; without them, nothing."""

from __future__ import annotations

import numpy as np
import pytest

from diffuzz import measure, sampling, targets
from diffuzz.kernels import apr, gguf
from diffuzz.published import ramp, seed_block
from diffuzz.targets import block_scale

TARGET = targets.get("block-scale")


@pytest.mark.parametrize("given", [{}, {"n": 512, "max_abs": 1.0}, {"floor": 1e-3}])
def test_limit_with_minima(given):
    """No case is above the ceiling; the construction comes within 1 % of the limit."""
    params = TARGET.params(given)
    bound, rng, space = TARGET.bound(params), np.random.default_rng(0), TARGET.space(params)
    values = [
        TARGET.question.evaluate(params, batch).value.max()
        for batch in (
            TARGET.starts(params, rng, 16),
            sampling.structured(space, rng, 32),
            sampling.uniform(space, rng, 16),
        )
    ]
    assert max(values) <= bound.ceiling
    assert values[0] >= 0.99 * bound.value


def test_limit_without_minima():
    """With dmin = 0 nothing but rounding changes with the scale, so the certificate is below 5."""
    params = TARGET.params({"mins": False})
    bound, rng, space = TARGET.bound(params), np.random.default_rng(0), TARGET.space(params)
    for batch in (
        TARGET.starts(params, rng, 16),
        sampling.structured(space, rng, 32),
        sampling.uniform(space, rng, 16),
    ):
        value = TARGET.question.evaluate(params, batch).value
        assert value.max() <= bound.ceiling < 5
    seed = {"weights": seed_block()[None, None], "x": ramp()[None]}
    assert TARGET.question.evaluate(params, seed).value[0] == pytest.approx(1.0, abs=0.01)


def test_published_case():
    """The ramp, the seed block with dmin = 0, and each scale: rel_diff 0.0919 %, factor 1.00."""
    drifts = []
    for scale in block_scale.SCALES:
        row = block_scale.with_scale(seed_block()[None], scale, mins=False)
        a, b = (kernel.vec_dot("q4_K", row, ramp()[None]) for kernel in (apr, gguf))
        drifts.append(float(measure.rel_diff(a, b)[0, 0]))
    assert round(100 * float(np.median(drifts)), 4) == 0.0919
    assert round(max(drifts) / min(drifts), 2) == 1.00


def test_with_scale_changes_the_scale_alone():
    """d is replaced, dmin kept or cleared, and every other byte stays."""
    block = seed_block()[None]
    changed = block_scale.with_scale(block, np.float16(0.5), mins=True)
    assert np.float16(0.5) == changed[0, :2].view(np.float16)[0]
    assert np.array_equal(block[:, 2:], changed[:, 2:])
    cleared = block_scale.with_scale(block, np.float16(0.5), mins=False)
    assert not cleared[0, 2:4].any()
    assert np.array_equal(block[:, 4:], cleared[:, 4:])


def test_screen_agrees():
    """The JAX screen gives the ratio of the exact evaluation, up to the rounding of its smallest drift; mins=false has
    none.
    """
    jax = pytest.importorskip("jax")
    params = TARGET.params()
    batch = sampling.uniform(TARGET.space(params), np.random.default_rng(0), 8)
    outcome = TARGET.question.evaluate(params, batch)
    with jax.enable_x64(True):
        got = np.asarray(jax.jit(TARGET.question.screen(params))(batch))
    assert np.all(np.abs(got - outcome.value) <= 2 * outcome.noise + 1e-3 * outcome.value)
    assert TARGET.question.screen(TARGET.params({"mins": False})) is None
