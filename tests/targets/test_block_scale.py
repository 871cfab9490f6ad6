"""The block-scale target: with minima the scale decides how much of a drift cancels; without them, nothing."""

from __future__ import annotations

import numpy as np
import pytest

from diffuzz import targets
from diffuzz.kernels import apr, gguf
from diffuzz.targets import block_scale, distances
from diffuzz.targets.published import ramp, seed_block

TARGET = targets.get("block-scale")


@pytest.mark.parametrize("given", [{}, {"n": 512, "max_abs": 1.0}, {"floor": 1e-3}])
def test_construction_reaches_the_bound_with_minima(given):
    """The construction comes within 1 % of the bound."""
    params = TARGET.params(given)
    outcome = TARGET.question.evaluate(params, TARGET.starts(params, np.random.default_rng(0), 16))
    assert outcome.value.max() >= 0.99 * TARGET.bound(params).value


def test_bound_without_minima():
    """With dmin = 0 nothing but rounding changes with the scale, so the certificate is below 5, and there is no
    screen.
    """
    params = TARGET.params({"mins": False})
    assert TARGET.bound(params).ceiling < 5
    seed = {"weights": seed_block()[None, None], "x": ramp()[None]}
    assert TARGET.question.evaluate(params, seed).value[0] == pytest.approx(1.0, abs=0.01)
    assert TARGET.question.screen(params) is None


def test_published_case():
    """The ramp, the seed block with dmin = 0, and each scale: rel_diff 0.0919 %, factor 1.00."""
    drifts = []
    for scale in block_scale.SCALES:
        row = block_scale.with_scale(seed_block()[None], scale, mins=False)
        a, b = (kernel.vec_dot("q4_K", row, ramp()[None]) for kernel in (apr, gguf))
        drifts.append(float(distances.rel_diff(a, b)[0, 0]))
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
