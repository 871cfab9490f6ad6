"""Formats, their rounding, and the arithmetic's defaults."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from diffuzz.analysis import FORMATS, Arithmetic, round_to

NARROW = ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"]


def numbers_of(name: str) -> np.ndarray:
    """All numbers of a format of at most 16 bits, as float64."""
    dtype = np.dtype(np.float16) if name == "float16" else np.dtype(getattr(ml_dtypes, name))
    codes = np.arange(2 ** (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}")
    with np.errstate(invalid="ignore"):
        values = codes.view(dtype).astype(np.float64)
    return np.unique(values[np.isfinite(values)])


@pytest.mark.parametrize("name", NARROW)
def test_a_format_is_described_by_its_numbers(name: str) -> None:
    """Largest, smallest normal and subnormal numbers and the unit roundoff are those of the bit patterns."""
    number_format, values = FORMATS[name], numbers_of(name)
    above_one = values[values > 1][0]
    assert values.max() == number_format.largest
    assert values[values > 0].min() == number_format.smallest_subnormal
    assert (above_one - 1) / 2 == number_format.unit == 2.0**-number_format.precision
    spacing = np.diff(values[values >= 0])
    assert values[values >= 0][:-1][spacing > spacing[0]].min() == 2 * number_format.smallest_normal


@pytest.mark.parametrize("name", NARROW)
def test_rounding_finds_the_nearest_number_and_ties_are_even(name: str) -> None:
    """Every number is itself; between two neighbours the middle goes to the even one, the rest to the nearer."""
    number_format, values = FORMATS[name], numbers_of(name)
    low, high = values[:-1], values[1:]
    middle = (low + high) / 2
    rounded = round_to(number_format, middle)
    assert np.array_equal(round_to(number_format, values), values)
    assert np.array_equal(round_to(number_format, np.nextafter(middle, -np.inf)), low)
    assert np.array_equal(round_to(number_format, np.nextafter(middle, np.inf)), high)
    step = np.abs(np.diff(values))
    even = np.where(np.rint(low / step / 2) * 2 * step == low, low, high)
    assert np.array_equal(rounded, even)


def test_rounding_to_float32_is_numpys() -> None:
    """Also for subnormal numbers and beyond the largest."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(10_000) * 2.0 ** rng.integers(-160, 130, 10_000)
    x = np.concatenate([x, [0.0, -0.0, np.inf, -np.inf, 2.0**-150, 3 * 2.0**-150, 2.0**128]])
    with np.errstate(over="ignore", under="ignore"):
        expected = x.astype(np.float32).astype(np.float64)
    assert np.array_equal(round_to(FORMATS["float32"], x), expected)


def test_overflow_is_infinite_and_nan_where_a_format_has_no_infinity() -> None:
    """float8_e4m3fn has no infinity."""
    assert np.isinf(round_to(FORMATS["float16"], np.array([65520.0]))).all()
    assert 65504.0 == round_to(FORMATS["float16"], np.array(65519.0))
    assert np.isnan(round_to(FORMATS["float8_e4m3fn"], np.array([465.0]))).all()
    assert 448.0 == round_to(FORMATS["float8_e4m3fn"], np.array(463.0))


def test_defaults_follow_the_dtype() -> None:
    """Intermediates are float32 where storage is narrower; sums follow intermediates."""
    assert Arithmetic("bfloat16", "float32", "float32", True) == Arithmetic.of("bfloat16")
    assert Arithmetic("float64", "float64", "float64", True) == Arithmetic.of("float64")
    assert Arithmetic("float16", "float16", "float16", False) == Arithmetic.of("float16", "float16", flush=False)
    with pytest.raises(ValueError, match=r"^dtype=float12: no format"):
        Arithmetic.of("float12")
    with pytest.raises(ValueError, match=r"^compute=int8: no such format"):
        Arithmetic.of("float32", "int8")
