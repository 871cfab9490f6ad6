"""Every float32 kernel stays within the a-priori error bound of its arithmetic, around the exact value.

u = 2^-24, gamma_n = n u / (1 - n u). The inputs are drawn as descriptors: a seed, a scale, a family.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuzz import formats
from diffuzz.kernels import apr, exact, fused, ggml, gguf
from diffuzz.targets import error_bounds

U = 2.0**-24
TINY = 2.0**-120  # float32 underflow: products and quotients below the normal range
SEEDS = st.integers(0, 2**32 - 1)
FAMILIES = st.sampled_from(["normal", "heavy", "sparse", "outlier", "half-integers", "constant"])
# Not so small that realizar's quantiser gives a block up (1e-10), or the f16 scale of q8_0 overflows.
SCALES = st.floats(-6, 4)


def activations(family: str, seed: int, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """float32 numbers of a family, times 10^scale."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    if family == "heavy":
        x = rng.standard_t(2, shape).clip(-100, 100)
    elif family == "sparse":
        x *= rng.random(shape) < 0.1
    elif family == "outlier":
        x[..., rng.integers(shape[-1])] *= 100
    elif family == "half-integers":
        x = rng.integers(-254, 255, shape) / 2.0
    elif family == "constant":
        x = np.sign(x)
    return (x * 10.0**scale).astype(np.float32)


def assert_within(bound: np.ndarray, expected: np.ndarray, got: np.ndarray) -> None:
    """|got - expected| <= bound, element by element."""
    error = np.abs(got.astype(np.float64) - expected)
    assert (error <= bound).all(), f"error {np.max(error / bound)} of the bound"


@settings(max_examples=40)
@given(FAMILIES, SEEDS, SCALES)
def test_float_dot_products(format, weights, family, seed, scale):
    """apr, in both orders: three roundings of each weight and k of the sum, gamma_{k+3} sum |terms x|."""
    w = weights(format, 3, 2, seed, largest=16.0)
    k = w.shape[1] // formats.get(format).type_size * formats.get(format).block_size
    x = activations(family, seed, (3, k), scale)
    bound = error_bounds.gamma(k + 3) * (fused.terms(format, w) * np.abs(x)).sum(axis=1) + TINY
    for order in ("fold", "simd"):
        assert_within(bound, exact.vec_dot_rows(format, w, x), apr.vec_dot_rows(format, w, x, order=order))


@settings(max_examples=40)
@given(FAMILIES, SEEDS, SCALES)
def test_quantised_dot_products(format, weights, family, seed, scale):
    """ggml and gguf: the error of the codes, term by term, and the roundings of k/32 blocks, scales and lanes."""
    w = weights(format, 3, 2, seed, largest=16.0)
    k = w.shape[1] // formats.get(format).type_size * formats.get(format).block_size
    # 32 max|x| must fit the f16 block sum of q8_1.
    top = 2000.0 if formats.get(format).activation == "q8_1" else np.inf
    x = activations(family, seed, (3, k), scale).clip(-top, top).astype(np.float32)
    terms, codes = fused.terms(format, w), error_bounds.quantisation(formats.get(format).activation, x)
    bound = (terms * codes).sum(axis=1) + error_bounds.gamma(k + 8) * (terms * (np.abs(x) + codes)).sum(axis=1) + TINY
    for kernel in (ggml, gguf) if format in gguf.FORMATS else (ggml,):
        assert_within(bound, exact.vec_dot_rows(format, w, x), kernel.vec_dot_rows(format, w, x))


@pytest.mark.parametrize("kernel", [apr, gguf, ggml])
@given(FAMILIES, SEEDS, st.floats(-12, 12), st.integers(1, 300), st.sampled_from([0.0, 1e-6, 1e-5]))
def test_rms_norm(kernel, family, seed, scale, n, eps):
    """gamma_{n+2} of the sum of squares, halved by the root, and five more roundings."""
    x = activations(family, seed, (2, n), scale)
    if eps == 0 and not x.any(axis=1).all():
        x[:, 0] = np.float32(10.0**scale)
    y = exact.rms_norm(x, eps)
    assert_within(np.abs(y) * ((n + 2) / 2 + 6) * U + TINY, y, kernel.rms_norm(x, eps))


@pytest.mark.parametrize("kernel", [apr, gguf, ggml])
@given(FAMILIES, SEEDS, st.floats(-3, 2), st.integers(1, 300))
def test_soft_max(kernel, family, seed, scale, n):
    """x - max rounds (u |x - max| on the exponent), exp is 5 u off, the sum n u, and two more roundings."""
    x = activations(family, seed, (2, n), scale)
    p, spread = exact.soft_max(x), x.max(axis=1, keepdims=True).astype(np.float64) - x
    mean = (p * spread).sum(axis=1, keepdims=True)
    assert_within(p * (spread + mean + n + 14) * U * 1.01 + TINY, p, kernel.soft_max(x))


@pytest.mark.parametrize("kernel", [apr, gguf, ggml])
@given(FAMILIES, SEEDS, st.floats(-6, 2), st.integers(1, 100))
def test_silu_and_swiglu(kernel, family, seed, scale, n):
    """exp is 5 u off, one addition, one division, one product; below -88.7 exp(-x) overflows and 2.6e-37 is lost."""
    x, up = activations(family, seed, (2, 1, n), scale)
    y, lost = exact.silu(x), 2.0**-121
    assert_within(np.abs(y) * 8 * U + lost, y, kernel.silu(x))
    assert_within(np.abs(y * up) * 9 * U + lost * np.abs(up) + TINY, y * up, kernel.swiglu(x, up))


@pytest.mark.parametrize("kernel", [apr, gguf, ggml])
@given(
    FAMILIES,
    SEEDS,
    st.sampled_from([2, 6, 64, 128]),
    st.sampled_from([1.0, 1e4, 1e6]),
    st.integers(0, 2**20),
    st.sampled_from(["norm", "neox"]),
)
def test_rope(kernel, family, seed, d, base, position, mode):
    """The angle of pair i is off by (2 (2 i / d) ln base + 3 i + 6) u relative, and the rotation by 4 u of the pair."""
    x = activations(family, seed, (2, 1, d), 0.0)
    positions = np.array([position, -position])
    i = np.arange(d // 2)
    angle = position * base ** (-2.0 * i / d) * U * (2 * (2 * i / d) * np.log(base) + 3 * i + 6)
    first, second = (x[..., 0::2], x[..., 1::2]) if mode == "norm" else (x[..., : d // 2], x[..., d // 2 :])
    size = np.hypot(first, second).astype(np.float64)
    error = np.minimum(angle, 2.0) * size + 4 * U * (np.abs(first) + np.abs(second)) + TINY
    bound = np.repeat(error, 2, axis=-1) if mode == "norm" else np.concatenate([error, error], axis=-1)
    assert_within(bound, exact.rope(x, positions, base, mode), kernel.rope(x, positions, base, mode))
