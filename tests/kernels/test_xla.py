"""JAX kernels: the float64 kernels' numbers, in both widths, traceable and with finite gradients."""

from __future__ import annotations

import numpy as np
import pytest

from diffuzz import formats
from diffuzz.cases import draws
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.kernels import exact, fused, ggml
from diffuzz.targets.matvec import WEIGHT_FORMATS

jax = pytest.importorskip("jax")
jnp = jax.numpy
xla = pytest.importorskip("diffuzz.kernels.xla")

X = np.random.default_rng(0).normal(size=(5, 3, 16)) * 3
POSITIONS = np.array([0, 1, 7, 4095, 131071], np.int32)
OPERATIONS = {
    "rms_norm": lambda k, x: k.rms_norm(x.reshape(5, 48), 1e-5),
    "soft_max": lambda k, x: k.soft_max(x.reshape(5, 48)),
    "rope norm": lambda k, x: k.rope(x, POSITIONS, 10000.0, "norm"),
    "rope neox": lambda k, x: k.rope(x, POSITIONS, 500000.0, "neox"),
    "silu": lambda k, x: k.silu(x.reshape(5, 48)),
    "swiglu": lambda k, x: k.swiglu(x.reshape(5, 48), 2 - x.reshape(5, 48)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_float64_is_exact(name):
    """With float64 enabled every operation is that of diffuzz.kernels.exact to its last digits, compiled or not."""
    operation = OPERATIONS[name]
    expected = operation(exact, X)
    with jax.enable_x64(True):
        for got in (operation(xla, jnp.asarray(X)), jax.jit(lambda x: operation(xla, x))(X)):
            assert got.dtype == np.float64
            np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", OPERATIONS)
def test_float32_stays_float32(name):
    """float32 in, float32 out, whether float64 is enabled or not."""
    operation = OPERATIONS[name]
    for wide in (False, True):
        with jax.enable_x64(wide):
            got = operation(xla, jnp.asarray(X, jnp.float32))
            assert got.dtype == np.float32
            tolerance = 1e-5 if wide or "rope" not in name else 0.1
            np.testing.assert_allclose(
                np.asarray(got), operation(exact, X.astype(np.float32)), rtol=1e-5, atol=tolerance
            )


def test_extremes_stay_finite():
    """Large arguments give the limits of the functions, and gradients are numbers there."""
    x = jnp.asarray([-1e30, -1e4, -100.0, 0.0, 100.0, 1e30], jnp.float32)
    np.testing.assert_allclose(np.asarray(xla.silu(x)), [0, 0, 0, 0, 100, 1e30], atol=1e-30)
    assert np.isfinite(np.asarray(jax.vmap(jax.grad(xla.silu))(x))).all()
    np.testing.assert_allclose(
        np.asarray(xla.soft_max(jnp.asarray([[1e30, 0.0], [-1e30, -1e30]], jnp.float32))), [[1, 0], [0.5, 0.5]]
    )


@pytest.mark.parametrize(("shape", "mode"), [((1, 1, 3), "norm"), ((1, 1, 4), "gptj")])
def test_rope_refuses(shape, mode):
    """An odd head and an unknown mode are refused by name."""
    with pytest.raises(ValueError, match="even number" if mode == "norm" else "mode='gptj'"):
        xla.rope(jnp.ones(shape), jnp.zeros(1, jnp.int32), 10000.0, mode)


def rows(format: str, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Structured and random rows of weights with activations of many sizes."""
    fmt = formats.get(format)
    n = Dim("n", 512, fixed=True)
    space = Space((TensorSpec("weights", kind="blocks", shape=(n,), format=format, largest_scale=1000.0),))
    weights = np.concatenate([draw(space, rng, count)["weights"] for draw in (draws.structured, draws.uniform)])
    x = rng.normal(size=(2 * count, 512)) * 2.0 ** rng.uniform(-12, 6, (2 * count, 1))
    return weights.reshape(2 * count, 512 // fmt.block_size * fmt.type_size), x.astype(np.float32)


@pytest.mark.parametrize("format", WEIGHT_FORMATS)
def test_vec_dot_rows(format):
    """The quantised dot product is ggml's up to the rounding of its float32 sums, in NumPy and in JAX; the other one is
    the exact one.
    """
    weights, x = rows(format, np.random.default_rng(0), 40)
    expected = ggml.vec_dot_rows(format, weights, x).astype(np.float64)
    size = (fused.terms(format, weights) * np.abs(fused.seen(formats.get(format).activation, x)[0])).sum(axis=1)
    with jax.enable_x64(True):
        quantised = jax.jit(lambda w, x: xla.vec_dot_rows(format, w, x, "gguf"))(weights, x)
        plain = jax.jit(lambda w, x: xla.vec_dot_rows(format, w, x, "apr"))(weights, x)
    numpy = fused.vec_dot_rows(format, weights, x)
    assert np.all(np.abs(numpy - expected) <= 40 * 2.0**-24 * size)
    assert np.all(np.abs(np.asarray(quantised) - numpy) <= 4 * 2.0**-24 * size)
    np.testing.assert_allclose(
        np.asarray(plain), exact.vec_dot_rows(format, weights, x), rtol=1e-9, atol=1e-12 * size.max()
    )


@pytest.mark.parametrize("format", ["q4_0", "q5_1", "q3_K", "q4_K", "q6_K", "iq4_nl", "mxfp4"])
def test_terms_are_those_of_the_weights(format):
    """code + constant is the weight; its terms are no smaller, and larger only where something is taken apart."""
    weights, _ = rows(format, np.random.default_rng(1), 10)
    values = exact.dequantize(format, weights)
    code, constant = fused.split(format, weights)
    assert np.array_equal(values, code + constant)
    terms, apart = fused.terms(format, weights), fused.terms(format, weights, offsets=True)
    assert np.all(apart >= terms)
    assert np.all(terms >= np.abs(values))
    assert np.array_equal(terms, np.abs(values)) == (format in ("q4_0", "q3_K", "iq4_nl", "mxfp4"))


def test_unknown_arithmetic():
    """An arithmetic that is neither gguf nor apr is refused."""
    weights, x = rows("q4_0", np.random.default_rng(0), 1)
    with pytest.raises(ValueError, match="arithmetic='int8'"):
        fused.vec_dot_rows("q4_0", weights, x, "int8")
