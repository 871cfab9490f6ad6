"""Soundness of derived bounds at large: simulated implementations of every operation, and XLA's functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (NumPy learns its dtypes)
import numpy as np
import pytest
from functions_of_jax import CASES

from diffuzz.analysis import Arithmetic, bound, round_to, trace
from diffuzz.studies.tolerances import measuring

pytestmark = pytest.mark.quality

# XLA's result is a constant of the dtype (finfo.max) that the analysis takes for an infinity.
LARGEST_NUMBERS = {"nan_to_num", "x.nanpad"}


# Functions that XLA compiles for as many simulated results as are asked for: all of them from here on.
ALL_FUNCTIONS_FROM = 200_000


def test_no_simulated_implementation_of_an_operation_is_outside(pytestconfig: pytest.Config) -> None:
    """As many results as --cases asks for; `diffuzz bench tolerances --cases 1000000` does a million."""
    cases = int(pytestconfig.getoption("cases"))
    rows = measuring.measured(cases=cases, seed=1)
    assert {} == {(row.operation, row.arithmetic): row.outside for row in rows if row.outside}
    assert sum(row.cases for row in rows) >= cases


def test_xla_is_inside(pytestconfig: pytest.Config) -> None:
    """All functions with --cases 200000, else a share of them."""
    step = max(1, ALL_FUNCTIONS_FROM // max(1, int(pytestconfig.getoption("cases"))))
    for name in sorted(set(CASES) - LARGEST_NUMBERS)[::step]:
        _check_xla(name)


def _check_xla(name: str) -> None:
    """Its float32 results of moderate, wide and special numbers, stored in three dtypes."""
    function, given = CASES[name]
    rng = np.random.default_rng(0)
    compiled = jax.jit(function)
    special = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, 2.0**-126, 2.0**-140, 65504.0, 3.4e38, 88.0, -88.0, 1e-5]
    for dtype in ("float32", "bfloat16", "float16"):
        arithmetic = Arithmetic.of(dtype)
        for draw in range(4):
            inputs = []
            for x in given:
                if x.dtype.kind != "f":
                    inputs.append(x)
                    continue
                wide = np.sign(x) * 2.0 ** rng.uniform(-140, 127, x.shape)
                drawn = [x, x * 2.0 ** rng.integers(-20, 20), wide, rng.choice(special, x.shape)][draw]
                inputs.append(round_to(arithmetic.storage, drawn))
            traced = trace(function, inputs)
            results = jax.tree.leaves(
                compiled(*(jnp.asarray(x, jnp.float32) if x.dtype.kind == "f" else jnp.asarray(x) for x in inputs))
            )
            for estimate, result, kind in zip(
                bound(traced, inputs, arithmetic), results, traced.out_dtypes, strict=True
            ):
                got = np.asarray(result.astype(dtype) if kind == "float" else result)
                if got.dtype.kind not in "biu":
                    with np.errstate(invalid="ignore"):
                        got = got.astype(np.float64)
                assert (estimate.ratios(got) <= 1).all(), (name, dtype, draw, inputs)
