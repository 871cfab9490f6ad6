"""What jax.jit makes of decoding and quantising: the same bits as NumPy, float32 subnormals aside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest

from diffuzz import formats
from diffuzz.formats import half_to_float, q8_0, q8_1, q8_k, rounding

jax = pytest.importorskip("jax")

QUANTISERS = {
    "q8_0 x86": (q8_0.quantise_x86, 32),
    "q8_0 generic": (q8_0.quantise_generic, 32),
    "q8_0 realizar": (q8_0.quantise_realizar, 32),
    "q8_1 x86": (q8_1.quantise_x86, 32),
    "q8_K ggml": (q8_k.quantise_ggml, 256),
    "q8_K realizar": (q8_k.quantise_realizar, 256),
}


def assert_same_bits(ours: Any, traced: Any) -> None:
    """The same dtype and bits; any NaN is every NaN."""
    one, other = np.asarray(ours), np.asarray(traced)
    assert one.dtype == other.dtype
    both_nan = (one != one) & (other != other)
    word = np.dtype(f"u{one.dtype.itemsize}")
    assert not ((one.view(word) != other.view(word)) & ~both_nan).any()


def activations(kind: str, rows: int, n: int) -> np.ndarray:
    """float32[rows, n] of a family that separates roundings."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((rows, n))
    if kind == "ties":
        x = rng.integers(-254, 255, (rows, n)) * 0.5
        x[:, n // 3] = 127
        x *= np.exp2(rng.uniform(-20, 20, (rows, 1)))
    if kind == "midpoints":
        x = np.clip(x / 4, -1, 1)
        x[:, 0] = 1
        x *= 127 * (rng.integers(1024, 2048, (rows, 1)) + 0.5) * np.exp2(rng.integers(-24, 5, (rows, 1)))
    if kind == "small":
        x *= 10 ** rng.uniform(-30, -2, (rows, 1))
    if kind == "not finite":
        x[np.arange(rows), rng.integers(0, n, rows)] = rng.choice([np.nan, np.inf, -np.inf], rows)
        x[::7, 27] = np.nan
    return x.astype(np.float32)


# A GPU divides float32 to within 2 ULP: there only float64, which screens use, is right.
ON_GPU = jax.default_backend() == "gpu"
WIDE = [True] if ON_GPU else [True, False]


@pytest.mark.parametrize("wide", WIDE)
@pytest.mark.parametrize("kind", ["normal", "ties", "midpoints", "small", "not finite"])
@pytest.mark.parametrize("name", QUANTISERS)
def test_quantisers_trace_bit_for_bit(name: str, kind: str, wide: bool) -> None:
    """Scales, sums and codes are NumPy's, on ties and at NaN too, whether or not JAX has float64."""
    quantise: Callable[..., tuple[Any, ...]] = QUANTISERS[name][0]
    x = activations(kind, 2000, QUANTISERS[name][1])
    with np.errstate(all="ignore"):
        expected = quantise(x)
    with jax.enable_x64(wide):
        traced = jax.jit(lambda values: quantise(values, jax.numpy))(x)
    for ours, theirs in zip(expected, traced, strict=True):
        if ON_GPU and kind == "not finite" and np.asarray(ours).dtype == np.float32:
            # The sign of the scale of a block with an infinity, 1 / -0, is not kept there.
            assert_same_bits(np.abs(ours), np.abs(theirs))
        else:
            assert_same_bits(ours, theirs)


@pytest.mark.parametrize("wide", WIDE)
def test_a_quotient_is_rounded_once(wide: bool) -> None:
    """XLA may neither multiply by a reciprocal nor turn 1 / (a / b) into b / a."""
    x, one, top = np.abs(activations("normal", 100, 256)), np.float32(1), np.float32(127)

    def quotients(values: Any, xp: Any) -> tuple[Any, Any, Any]:
        d = rounding.quotient(values, xp.float32(127), xp)
        inverse = rounding.quotient(xp.float32(-127), values, xp)
        return d, rounding.quotient(xp.float32(1), d, xp), rounding.quotient(xp.float32(1), inverse, xp)

    expected = x / top, one / (x / top), one / (-top / x)
    with jax.enable_x64(wide):
        traced = jax.jit(lambda values: quotients(values, jax.numpy))(x)
    for plain, ours, theirs in zip(expected, quotients(x, np), traced, strict=True):
        assert_same_bits(plain, ours)
        assert_same_bits(plain, theirs)


def test_through_half() -> None:
    """f16 and back, around every f16 number and beyond them."""
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves = halves[np.isfinite(halves)]
    between = (halves[:-1] + halves[1:]) / 2
    x = np.concatenate([halves, between, np.nextafter(between, np.float32(9e9)), np.nextafter(between, np.float32(0))])
    x = np.concatenate([x, np.float32([65519.99, 65520, -65520, 3e38, 1e-30, -1e-9, 0.0, -0.0])])
    with np.errstate(all="ignore"):
        expected = rounding.through_half(x, np)
    assert_same_bits(expected, jax.jit(lambda v: rounding.through_half(v, jax.numpy))(x))


def test_through_bfloat() -> None:
    """bf16 and back, at midpoints and beyond the largest."""
    x = np.random.default_rng(0).integers(0, 2**32, 5000, dtype=np.uint32)
    x[::3] = x[::3] & 0xFFFF0000 | 0x8000
    values = np.concatenate([x.view(np.float32), np.float32([3.4e38, -3.4e38, np.inf, 0.0, -0.0])])
    expected = rounding.through_bfloat(values, np)
    assert_same_bits(expected, jax.jit(lambda v: rounding.through_bfloat(v, jax.numpy))(values))
    import ml_dtypes

    with np.errstate(all="ignore"):
        assert_same_bits(expected, values.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_every_half_traced() -> None:
    """All 65 536 patterns."""
    raw = np.arange(65536, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    traced = jax.jit(lambda b: half_to_float(b[:, 0], b[:, 1], jax.numpy))(raw)
    assert_same_bits(half_to_float(raw[:, 0], raw[:, 1]), traced)


@pytest.mark.parametrize("name", formats.names())
def test_all_parts_trace_bit_for_bit(name: str) -> None:
    """Every part of arbitrary bytes, the integers and the f16 scales included."""
    fmt = formats.get(name)
    raw = np.random.default_rng(0).integers(0, 256, (500, fmt.type_size), dtype=np.uint8)
    if name in ("q8_K", "fp8_e4m3", "fp8_e5m2", "nf4", "nvfp4_two_level"):
        raw[:, 3] |= 8  # an exponent above the subnormals, which XLA flushes
    if name == "bf16":
        raw[:, 1] |= 8
    if name == "mxfp4":
        raw[:, 0] |= 2

    def parts(blocks: Any, xp: Any) -> dict[str, Any]:
        found = attrs.asdict(fmt.decode(blocks, xp), recurse=False)
        return {field: value for field, value in found.items() if value is not None}

    traced = jax.jit(lambda blocks: parts(blocks, jax.numpy))(raw)
    expected = parts(raw, np)
    assert set(expected) == set(traced)
    for field, ours in expected.items():
        assert_same_bits(ours, traced[field])


def test_wrong_blocks_are_refused_while_tracing() -> None:
    """As in NumPy: one line, before anything is computed."""
    with pytest.raises(ValueError, match=r"^blocks: uint8\[3, 143\], where uint8\[b, 144\] is needed"):
        jax.jit(lambda b: formats.get("q4_K").decode(b, jax.numpy).code)(np.zeros((3, 143), np.uint8))
