"""diffuzz.kernels.fma: one rounding, against exact rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffuzz.kernels.fma import fma

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def nearest(value: Fraction) -> np.float32:
    """The float32 nearest to a rational number, ties to even, by integer arithmetic alone."""
    if value == 0:
        return np.float32(0)
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    step = Fraction(2) ** (max(exponent, -126) - 23)
    significand = round(size / step)  # Fraction rounds half to even
    result = np.inf if significand * step >= 2**128 else float(significand * step)
    return np.float32(np.copysign(result, float(value > 0) - 0.5))


def exactly(a: float, b: float, c: float) -> np.float32:
    """f32(a b + c) of finite numbers."""
    value = Fraction(a) * Fraction(b) + Fraction(c)
    if value == 0:
        return np.float32(np.float64(a) * np.float64(b) + np.float64(c))
    return nearest(value)


def bits(x: np.ndarray | np.float32) -> list[int]:
    """Bit patterns."""
    return np.atleast_1d(x).view(np.uint32).tolist()


@given(FINITE, FINITE, FINITE)
def test_random_operands(a, b, c):
    """fma is the float32 nearest to the rational a b + c."""
    assert bits(exactly(a, b, c)) == bits(fma(np.float32(a), np.float32(b), np.float32(c)))


@given(
    st.integers(0, 2**23 - 1),
    st.integers(-120, 100),
    st.integers(1, 2**11 - 1),
    st.sampled_from([-1, 1]),
    st.sampled_from([-1, 1]),
    st.booleans(),
)
def test_next_to_midpoints(mantissa, exponent, tail, side, sign, above):
    """A product a hair beside half a ULP of c decides, though float64(product + c) sits on the midpoint."""
    c = sign * np.ldexp(float(2**23 + mantissa), exponent)
    half = np.ldexp(0.5, exponent)
    # (1 + t)(1 - t) = 1 - t^2, and (1 + t)^2 / (1 + 2 t) is as close from above: products just beside a power of two.
    t = tail * 2.0**-23
    a = np.float32(side * (1 + t))
    b = np.float32(half * ((1 - t) if not above else 1 / (1 + t)))
    assert bits(exactly(float(a), float(b), float(c))) == bits(fma(a, b, np.float32(c)))


def test_rounding_twice_would_be_wrong():
    """The reference case of double rounding: naive float64 arithmetic gives another float32, fma does not."""
    a, b, c = np.float32(2**-12 * (1 + 2**-23)), np.float32(2**-12 * (1 - 2**-23)), np.float32(1 + 2**-23)
    assert bits(np.float32(1 + 2**-22)) == bits(np.float32(np.float64(a) * np.float64(b) + np.float64(c)))
    assert bits(np.float32(1 + 2**-23)) == bits(fma(a, b, c))


@pytest.mark.parametrize("kind", ["subnormal", "cancelling", "huge"])
def test_extreme_magnitudes(kind):
    """Results in the subnormal range, after cancellation, and around overflow are correctly rounded."""
    rng = np.random.default_rng(7)
    a, b = (rng.standard_normal(400).astype(np.float32) for _ in range(2))
    if kind == "subnormal":
        a, b = (v * np.float32(2.0**-70) for v in (a, b))
        c = (rng.integers(-64, 64, 400) * 2.0**-149).astype(np.float32)
    elif kind == "cancelling":
        c = -np.nextafter(a * b, np.float32(0) if rng.random() < 0.5 else np.float32(np.inf))
    else:
        a, b = a * np.float32(2.0**64), b * np.float32(2.0**63)
        c = rng.choice(np.array([-1, 1], np.float32), 400) * np.finfo(np.float32).max
    expected = [exactly(*map(float, three)) for three in zip(a, b, c, strict=True)]
    assert bits(np.array(expected)) == bits(fma(a, b, c))


def test_special_values():
    """Infinities, NaN and signed zeros are as IEEE 754 has them."""
    one, inf, nan, zero = (np.float32(v) for v in (1, np.inf, np.nan, 0))
    assert bits(inf) == bits(fma(one, inf, one))
    assert bits(-inf) == bits(fma(one, one, -inf))
    assert bits(-zero) == bits(fma(-zero, one, -zero))
    assert bits(zero) == bits(fma(one, one, -one))
    assert [
        bool(np.isnan(fma(*v))) for v in ((inf, zero, one), (inf, one, -inf), (nan, one, one), (one, one, nan))
    ] == [True] * 4


def test_shapes_broadcast_and_arguments_are_kept():
    """The three arguments broadcast, the result is float32, and no argument is written to."""
    a, b, c = np.ones((3, 1), np.float32), np.full(4, 2, np.float32), np.zeros((3, 4), np.float32)
    assert fma(a, b, c).tolist() == [[2.0] * 4] * 3
    assert np.float32 == fma(a, b, c).dtype
    assert (a.max(), b.max(), c.max()) == (1.0, 2.0, 0.0)
