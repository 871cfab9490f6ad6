"""Simulated implementations that keep an arithmetic are never outside its bound, and the worst come close to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from diffuzz.analysis import Arithmetic, bound, round_to, simulated, trace

ARITHMETICS = [
    Arithmetic.of("float32"),
    Arithmetic.of("bfloat16"),
    Arithmetic.of("float16", "float16", "float16", flush=False),
    Arithmetic.of("bfloat16", "bfloat16", "float32"),
    Arithmetic.of("float32", "tf32"),
    Arithmetic.of("float64"),
    Arithmetic.of("float8_e4m3fn"),
    Arithmetic.of("float8_e5m2", "bfloat16"),
]


def mish(x: Any) -> Any:
    """A chain of functions."""
    return x * jnp.tanh(jax.nn.softplus(x))


def horner(x: Any) -> Any:
    """A polynomial, step by step."""
    return ((0.3 * x + 1.7) * x - 0.9) * x + 0.1


def rational(x: Any) -> Any:
    """Squares and a quotient."""
    return (x * x + 1.3) / (jnp.sqrt(x * x + 0.7) + 2.1)


def norm(x: Any) -> Any:
    """A sum, a root and a quotient."""
    return x * lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5)


def masked_attention(x: Any) -> Any:
    """Products of matrices, with scores of minus infinity."""
    scores = jnp.where(jnp.tril(jnp.ones((6, 6), bool)), x @ x.T, -jnp.inf)
    return jax.nn.softmax(scores, -1) @ x


def gate(x: Any) -> Any:
    """The chosen weights, and which they are."""
    weights, indices = lax.top_k(jax.nn.softmax(x), 3)
    return weights / weights.sum(-1, keepdims=True), indices


def online(x: Any) -> Any:
    """Softmax's normaliser in one pass, as a loop."""

    def step(carry: Any, value: Any) -> Any:
        top, total = carry
        new = jnp.maximum(top, value)
        return (new, total * jnp.exp(top - new) + jnp.exp(value - new)), None

    (top, total), _ = lax.scan(step, (x[0], jnp.ones_like(x[0])), x[1:])
    return top, total


def quantised(x: Any) -> Any:
    """A step function."""
    return jnp.clip(jnp.round(x / 0.05), -127, 127).astype(jnp.int8)


def pooled(x: Any) -> Any:
    """A convolution and a running sum."""
    return jnp.cumsum(jnp.convolve(x, jnp.array([0.2, -0.7, 0.4]), mode="same"))


def picked(x: Any) -> Any:
    """Elements at places that errors may change, and a scattered sum."""
    order = jnp.argsort(jnp.tanh(x))
    return jnp.take(x * 3, order), jnp.zeros(4).at[jnp.arange(x.shape[0]) % 4].add(x)


FUNCTIONS: list[tuple[Callable[..., Any], tuple[int, ...]]] = [
    (mish, (16, 5)),
    (horner, (16, 5)),
    (rational, (16, 5)),
    (norm, (16, 9)),
    (jax.nn.softmax, (16, 9)),
    (jax.nn.gelu, (16, 5)),
    (masked_attention, (8, 6, 4)),
    (gate, (16, 9)),
    (online, (16, 6, 2)),
    (quantised, (16, 9)),
    (pooled, (16, 12)),
    (picked, (16, 7)),
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda each: each[0].__name__)
def test_no_implementation_is_outside(function: tuple[Callable[..., Any], tuple[int, ...]]) -> None:
    """Roundings to nearest, by chance and as far as allowed, in eight arithmetics, of small, large and tiny numbers."""
    call, shape = function
    traced = trace(call, [jax.ShapeDtypeStruct(shape, "float32")], batched={0})
    rng = np.random.default_rng(0)
    outside, promised = 0, 0
    for arithmetic in ARITHMETICS:
        for scale in (1.0, 20.0, 2.0**-12):
            x = round_to(arithmetic.storage, rng.standard_normal(shape) * scale)
            estimates = bound(traced, [x], arithmetic)
            assert not any(np.isnan(each.errors()).any() for each in estimates)
            promised += sum(int(np.isfinite(each.errors()).sum()) for each in estimates)
            for number in range(6):
                choose = simulated.randomly(rng) if number else simulated.nearest
                got = simulated.simulate(traced, [x], arithmetic, choose, rng)
                ratios = [simulated.ratio(each, one) for each, one in zip(estimates, got, strict=True)]
                outside += int((np.max(ratios, axis=0) > 1).sum())
    assert outside == 0
    assert promised > 0


@pytest.mark.parametrize("arithmetic", [ARITHMETICS[0], ARITHMETICS[3]], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("function", [mish, horner, rational, jax.nn.gelu, jax.nn.silu, jax.nn.softplus])
def test_chains_come_close_to_the_bound(function: Callable[..., Any], arithmetic: Arithmetic) -> None:
    """Directed roundings reach a third of it for each of 24 numbers, and 0.8 of it for one."""
    rng = np.random.default_rng(0)
    x = round_to(arithmetic.storage, 2 * rng.standard_normal((24, 1)))
    traced = trace(function, [x], batched={0})
    ratios, looked = simulated.adversarial(traced, [x], arithmetic, bound(traced, [x], arithmetic), rng)
    assert looked > 0
    assert 1 / 3 <= ratios.min()
    assert 0.8 <= ratios.max() <= 1


def test_an_implementation_that_keeps_no_arithmetic_is_outside() -> None:
    """Intermediates in bfloat16 leave the bound of float32 ones, and sums of bfloat16 that of float32 sums."""
    rng = np.random.default_rng(0)
    x = round_to(ARITHMETICS[1].storage, rng.standard_normal((16, 33)))
    traced = trace(norm, [x], batched={0})
    estimates = bound(traced, [x], Arithmetic.of("bfloat16"))
    got = simulated.simulate(traced, [x], Arithmetic.of("bfloat16", "bfloat16"), simulated.nearest, rng)
    assert (simulated.ratio(estimates[0], got[0]) > 1).mean() > 0.8
