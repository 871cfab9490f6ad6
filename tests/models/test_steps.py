"""Bounds of operations hold for right float32 evaluations, and values are those of formulas written apart."""

from __future__ import annotations

from collections.abc import Sequence as Several

import numpy as np
import pytest

from diffuzz import formats
from diffuzz.kernels import exact, ggml
from diffuzz.models.model import Tensor
from diffuzz.models.operations.attention import Mixture, Probs, Scores
from diffuzz.models.operations.glu import Glu
from diffuzz.models.operations.norm import Norm
from diffuzz.models.operations.product import Product
from diffuzz.models.operations.rope import Rope
from diffuzz.models.operations.sum import Sum
from diffuzz.models.sequence import Sequence, of_tokens
from diffuzz.models.step import Operation

N, HEADS, GROUPS, C = 5, 4, 2, 16
SEQUENCE = of_tokens(range(N))
LEGACY_AND_K = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_K", "q3_K", "q4_K", "q5_K", "q6_K")


def _ratio(operation: Operation, inputs: Several[np.ndarray], got: np.ndarray, arithmetic: str = "f32") -> float:
    wide = [each.astype(np.float64) for each in inputs]
    made = operation.estimate(wide, [None] * len(wide), arithmetic, SEQUENCE, got.astype(np.float64))
    share = np.where(np.isinf(made.allowed), 0, np.abs(got - made.value) / np.maximum(made.allowed, 1e-300))
    return float(share.max())


def _numbers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Normal numbers with some that are 30 times as large."""
    large = np.where(rng.random(shape) < 0.02, 30, 1)
    return (rng.normal(size=shape) * large).astype(np.float32)


def _sum(terms: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Terms of the last axis added one by one in float32, in a random order."""
    total = np.zeros(terms.shape[:-1], np.float32)
    for index in rng.permutation(terms.shape[-1]):
        total = total + terms[..., index]
    return total


def _floats(rows: int, k: int, rng: np.random.Generator) -> Tensor:
    values = rng.normal(size=(rows, k)).astype(np.float32)
    return Tensor("w", "f32", (rows, k), values.view(np.uint8).reshape(-1))


@pytest.mark.parametrize("seed", range(5))
def test_norm_keeps_its_bound_in_any_order(seed: int) -> None:
    """Squares in float32, in any order, stay within the bound; an eps of 1e-3 for 1e-5 does not."""
    rng = np.random.default_rng(seed)
    norm = Norm(rng.lognormal(size=64).astype(np.float32), 1e-5)
    x = _numbers(rng, N, 64)
    mean = _sum(x * x, rng) / np.float32(64)
    got = x * (np.float32(1) / np.sqrt(mean + np.float32(1e-5)))[:, None] * norm.gain
    wrong = x * (np.float32(1) / np.sqrt(mean + np.float32(1e-3)))[:, None] * norm.gain
    assert _ratio(norm, [x], got) <= 1
    assert _ratio(norm, [x], wrong) > 1


def test_norm_is_that_of_the_kernels() -> None:
    """Without gain it is kernels.exact.rms_norm."""
    x = _numbers(np.random.default_rng(0), N, 64)
    ours = Norm(np.ones(64, np.float32), 1e-5).value((x.astype(np.float64),), "f32", SEQUENCE)
    np.testing.assert_allclose(exact.rms_norm(x, 1e-5), ours, rtol=1e-12)


@pytest.mark.parametrize("layout", ["norm", "neox"])
def test_rope_is_that_of_the_kernels(layout: str) -> None:
    """Every head is turned as kernels.exact.rope turns it."""
    x = _numbers(np.random.default_rng(0), N, HEADS * C)
    ours = Rope(HEADS, C, 1e4, layout, C).value((x.astype(np.float64),), "f32", SEQUENCE)
    theirs = exact.rope(x.reshape(N, HEADS, C), SEQUENCE.positions, 1e4, layout)
    np.testing.assert_allclose(np.asarray(theirs).reshape(N, -1), ours, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layout", ["norm", "neox"])
def test_rope_keeps_its_bound(layout: str) -> None:
    """Float32 angles by a power and by ggml's recurrence are both within it, the other layout is not."""
    x = _numbers(np.random.default_rng(1), N, HEADS * C)
    rope, other = (Rope(HEADS, C, 1e4, each, C) for each in (layout, {"norm": "neox", "neox": "norm"}[layout]))
    for arithmetic in ("f32", "recurrence"):
        assert _ratio(rope, [x], rope.value((x,), arithmetic, SEQUENCE)) <= 1
    assert _ratio(rope, [x], other.value((x,), "f32", SEQUENCE)) > 1


@pytest.mark.parametrize("seed", range(3))
def test_attention_keeps_its_bounds_in_any_order(seed: int) -> None:
    """Scores, probabilities and mixtures of sums in any order."""
    rng = np.random.default_rng(seed)
    q, k, v = (_numbers(rng, N, heads * C) for heads in (HEADS, GROUPS, GROUPS))
    per_head = np.repeat(k.reshape(N, GROUPS, C), HEADS // GROUPS, axis=1)
    scores = _sum(np.einsum("ihc,jhc->hijc", q.reshape(N, HEADS, C), per_head), rng)
    assert _ratio(Scores(HEADS, GROUPS), [q, k], scores) <= 1
    scaled = np.where(SEQUENCE.visible(None), scores * np.float32(0.25), -np.inf).astype(np.float32)
    e = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    probs = e / _sum(e, rng)[..., None]
    assert _ratio(Probs(0.25), [scores], probs) <= 1
    of_head = np.repeat(v.reshape(N, GROUPS, C), HEADS // GROUPS, axis=1)
    mixed = _sum(np.einsum("hij,jhc->ihcj", probs, of_head), rng).reshape(N, -1)
    assert _ratio(Mixture(HEADS, GROUPS, C), [probs, v], mixed) <= 1
    stale = mixed.copy()
    stale[-1, :C] = stale[-2, :C]
    assert _ratio(Mixture(HEADS, GROUPS, C), [probs, v], stale) > 1


def test_softmax_is_that_of_the_kernels() -> None:
    """The last token sees all keys, so its probabilities are kernels.exact.soft_max of the scaled scores."""
    scores = _numbers(np.random.default_rng(0), HEADS, N, N).astype(np.float64)
    ours = Probs(0.25).value((scores,), "f32", SEQUENCE)[:, -1]
    np.testing.assert_allclose(np.asarray(exact.soft_max((scores * 0.25)[:, -1])), ours, rtol=1e-12, atol=1e-15)


def test_glu_is_that_of_the_kernels() -> None:
    """silu(gate) * up is kernels.exact.swiglu."""
    rng = np.random.default_rng(0)
    gate, up = _numbers(rng, N, 64), _numbers(rng, N, 64)
    ours = Glu("silu").value((gate.astype(np.float64), up.astype(np.float64)), "f32", SEQUENCE)
    np.testing.assert_allclose(np.asarray(exact.swiglu(gate, up)), ours, rtol=1e-12)


@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize("arithmetic", ["f32", "f16 table"])
def test_glu_keeps_its_bound(activation: str, arithmetic: str) -> None:
    """In float32, from the formula and from a table; the other activation is outside."""
    rng = np.random.default_rng(2)
    gate, up = _numbers(rng, N, 64), _numbers(rng, N, 64)
    assert _ratio(Glu(activation), [gate, up], Glu(activation).value((gate, up), arithmetic, SEQUENCE), arithmetic) <= 1
    other = Glu("gelu" if activation == "silu" else "silu").value((gate, up), "f32", SEQUENCE)
    assert _ratio(Glu(activation), [gate, up], other, arithmetic) > 1


@pytest.mark.parametrize("arithmetic", Sum().arithmetics)
def test_a_sum_keeps_its_bound(arithmetic: str) -> None:
    """In every arithmetic; one that lacks the branch is outside."""
    rng = np.random.default_rng(3)
    x, y = _numbers(rng, N, 64), _numbers(rng, N, 64)
    assert _ratio(Sum(), [x, y], Sum().value((x, y), arithmetic, SEQUENCE), arithmetic) <= 1
    assert _ratio(Sum(), [x, y], x, arithmetic) > 1


@pytest.mark.parametrize("seed", range(3))
def test_a_product_of_floats_keeps_its_bound_in_any_order(seed: int) -> None:
    """Terms added one by one; a sum that lacks its last term is outside."""
    rng = np.random.default_rng(seed)
    weight = _floats(6, 96, rng)
    x, bias = _numbers(rng, N, 96), rng.normal(size=6).astype(np.float32)
    terms = x[:, None, :] * weight.values()
    product = Product(weight, bias)
    assert _ratio(product, [x], _sum(terms, rng) + bias) <= 1
    assert _ratio(product, [x], _sum(terms[..., :-1], rng) + bias) > 1


@pytest.mark.parametrize("name", LEGACY_AND_K)
def test_a_product_of_codes_keeps_its_bound(name: str) -> None:
    """ggml's dot products of quantised activations, in NumPy's float32, are within the bound of q8, and those of
    activations as they are in float32 within that of f32.
    """
    rng = np.random.default_rng(len(name) + ord(name[1]))
    fmt = formats.get(name)
    k, rows = 512, 8
    assert fmt.quantize is not None
    data = fmt.quantize(rng.normal(size=(rows * k // fmt.block_size, fmt.block_size)).astype(np.float32))
    blocks = np.ascontiguousarray(data).reshape(rows, -1)
    product = Product(Tensor("w", name, (rows, k), blocks.reshape(-1)))
    x = _numbers(rng, N, k)
    got = np.asarray(ggml.vec_dot(name, blocks, x)).T
    assert _ratio(product, [x], got, "q8") <= 1
    assert _ratio(product, [x], (x @ product.weight.values().T).astype(np.float32)) <= 1
    shorter = np.where(np.arange(k) < k - 8, x, 0).astype(np.float32)
    lost = np.asarray(ggml.vec_dot(name, blocks, shorter)).T
    assert _ratio(product, [x], lost, "q8") > 1


def test_an_unknown_input_widens_a_bound() -> None:
    """Inputs within half a step of f16 of the given ones lead to results within the bound that says so."""
    rng = np.random.default_rng(5)
    x = _numbers(rng, N, 64)
    stored = x.astype(np.float16).astype(np.float64)
    error = np.maximum(np.abs(stored) * 2.0**-11, 2.0**-24)
    norm = Norm(np.ones(64, np.float32), 1e-5)
    got = norm.value((x.astype(np.float64),), "f32", Sequence(SEQUENCE.tokens, SEQUENCE.positions))
    made = norm.estimate((stored,), (error,), "f32", SEQUENCE, None)
    assert (np.abs(got - made.value) <= made.allowed).all()
