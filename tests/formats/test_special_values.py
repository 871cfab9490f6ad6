"""Quantisers at NaN, infinities, zeros and underflow. Expected numbers are what ggml 0.15.3 (x86, AVX2) answered."""

from __future__ import annotations

import numpy as np
import pytest

from diffuzz import formats
from diffuzz.formats import Fields, q8_0, q8_k, rounding

NAN, INF = np.float32(np.nan), np.float32(np.inf)


def stored(name: str, *edits: tuple[int, float], fill: float = 1.0) -> Fields:
    """Fields of one quantised block: ``fill``, but for the edited elements."""
    fmt = formats.get(name)
    values = np.full((1, fmt.block_size), fill, np.float32)
    for index, value in edits:
        values[0, index] = value
    assert fmt.quantize is not None
    return {field: value[0] for field, value in fmt.unpack(fmt.quantize(values)).items()}


@pytest.mark.parametrize("position", range(32))
def test_q8_0_launders_nan_into_a_code(position: int) -> None:
    """A NaN becomes code -128 beside a finite d, at 31 of 32 positions."""
    block = stored("q8_0", (position, NAN))
    assert block["codes"][position] == -128
    assert np.isnan(block["d"]) == (position == 27)


def test_q8_0_forgets_what_a_lane_held_before_a_nan() -> None:
    """100 at element 3 drops out of the maximum when element 11, of the same lane, is NaN; it saturates at 127 d."""
    block = stored("q8_0", (3, 100), (11, NAN), fill=0.5)
    assert np.float16(0.5 / 127) == block["d"]
    assert (block["codes"][3], block["codes"][11]) == (127, -128)


def test_q8_0_generic_forgets_all_before_a_nan_and_wraps() -> None:
    """The portable C loop keeps what follows the NaN, and its cast keeps the lowest byte: 25400 becomes 56."""
    values = np.full((1, 32), 0.5, np.float32)
    values[0, 3], values[0, 11] = 100, NAN
    d, _, codes = q8_0.quantise_generic(values)
    assert np.float32(0.5) / np.float32(127) == d[0]
    assert (codes[0, 2], codes[0, 3], codes[0, 11]) == (127, 56, 0)


def test_q8_0_generic_has_no_scale_where_the_last_element_is_nan() -> None:
    """d is NaN and all codes are 0."""
    values = np.ones((1, 32), np.float32)
    values[0, 31] = NAN
    d, _, codes = q8_0.quantise_generic(values)
    assert np.isnan(d[0])
    assert not codes.any()


def test_an_infinity_takes_the_block() -> None:
    """d is infinite; q8_0 marks the place with -128, portable C and q8_K do not."""
    block = stored("q8_0", (4, INF))
    assert INF == block["d"]
    assert (-128 * (np.arange(32) == 4)).tolist() == block["codes"].tolist()
    values = np.ones((1, 32), np.float32)
    values[0, 4] = INF
    with np.errstate(invalid="ignore"):
        assert not q8_0.quantise_generic(values)[2].any()
    wide = stored("q8_K", (9, INF))
    assert -INF == wide["d"]
    assert not wide["codes"].any()


def test_underflow_of_the_inverse() -> None:
    """Below max|x| = 3.7e-37, 127 / max|x| is infinite: q8_0 stores d = 0 with codes -128, q8_K d = -0 with codes 0."""
    with np.errstate(over="ignore"):
        block, wide = stored("q8_0", fill=1e-38), stored("q8_K", fill=1e-38)
    assert (block["d"], set(block["codes"].tolist())) == (0.0, {-128})
    assert (wide["d"], np.signbit(wide["d"]), set(wide["codes"].tolist())) == (0.0, True, {0})


def test_q8_1_sums_before_it_saturates() -> None:
    """One NaN enters the sum as -2^31, so s = -inf; 32 of them wrap to 0."""
    assert -INF == stored("q8_1", (9, NAN))["s"]
    assert (0.0, False) == (stored("q8_1", fill=1e-38)["s"], np.signbit(stored("q8_1", fill=1e-38)["s"]))


def test_q8_k_ignores_nan() -> None:
    """A NaN takes no part in the maximum and has code 0; a block of NaN is a zero block."""
    block = stored("q8_K", (9, NAN))
    assert np.float32(1) / np.float32(-127) == block["d"]
    assert (-127 * (np.arange(256) != 9)).tolist() == block["codes"].tolist()
    empty = stored("q8_K", fill=np.nan)
    assert (empty["d"], empty["codes"].any(), empty["bsums"].any()) == (0.0, False, False)


@pytest.mark.parametrize(
    ("word", "code"), [(0x7FC00000, 0), (0x7FC00001, 1), (0xFFC00055, 85), (0x7F8000FF, 127), (0x7FFFFFFF, 127)]
)
def test_q8_k_stores_what_a_nan_carries(word: int, code: int) -> None:
    """The low bits of a NaN, up to 127, are its code."""
    values = np.ones((1, 256), np.float32)
    values.view(np.uint32)[0, 9] = word
    with np.errstate(invalid="ignore"):
        d, codes = q8_k.quantise_ggml(values)
    assert np.float32(1) / np.float32(-127) == d[0]
    assert np.where(np.arange(256) == 9, code, -127).tolist() == codes[0].tolist()


@pytest.mark.parametrize("quantise", [q8_0.quantise_realizar, q8_k.quantise_realizar])
def test_realizar_launders_nan(quantise: object) -> None:
    """aprender gives a NaN code 0, leaves the others as they are, and gives all of a block with an infinity code 0."""
    assert callable(quantise)
    values = np.full((2, 256), 2.0, np.float32)
    values[0, 5], values[1, 5] = NAN, INF
    with np.errstate(invalid="ignore"):
        d, codes = quantise(values)
    assert [np.float32(2) / np.float32(127), INF] == d.tolist()
    assert (127 * (np.arange(256) != 5)).tolist() == codes[0].tolist()
    assert not codes[1].any()


def test_realizar_gives_up_below_1e_10() -> None:
    """Up to max|x| = 1e-10 the scale is 1/127 and the block vanishes; just above it does not."""
    limit = np.float32(1e-10)
    values = np.full((2, 32), limit, np.float32)
    values[1] = np.nextafter(limit, INF)
    d, codes = q8_0.quantise_realizar(values)
    assert np.float32(1) / np.float32(127) == d[0]
    assert codes[:, 0].tolist() == [0, 127]


@pytest.mark.parametrize(("name", "d"), [("q4_0", -0.125), ("q5_0", -0.0625), ("q4_1", 0), ("q5_1", 0)])
def test_legacy_weights_pass_over_nan(name: str, d: float) -> None:
    """A NaN among ones changes nothing but its own code, which is 0."""
    block = stored(name, (9, NAN))
    assert d == block["d"]
    assert block["codes"][9] == 0
    assert stored(name)["codes"][np.arange(32) != 9].tolist() == block["codes"][np.arange(32) != 9].tolist()


@pytest.mark.parametrize(("name", "code"), [("q4_0", 8), ("q5_0", 16), ("q4_1", 0), ("q5_1", 0)])
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_legacy_weights_of_a_zero_block(name: str, code: int, zero: float) -> None:
    """Zeros of either sign give d = -0 (q4_0, q5_0) or d = +0 and m of their sign (q4_1, q5_1)."""
    block = stored(name, fill=zero)
    assert set(block["codes"].tolist()) == {code}
    assert (0.0, name.endswith("_0")) == (block["d"], np.signbit(block["d"]))
    if "m" in block:
        assert np.signbit(zero) == np.signbit(block["m"])


@pytest.mark.parametrize("name", ["q2_K", "q3_K", "q4_K", "q5_K", "q6_K"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_k_weights_must_be_finite(name: str, value: float) -> None:
    """Our own quantisers refuse what has no scale."""
    with pytest.raises(ValueError, match=rf"^values: {value}, where finite weights are needed$"):
        stored(name, (3, value))


def test_round_half_away_is_roundf() -> None:
    """Halves go away from zero; the numbers next to a half, and those from 2^23 on, stay what they are."""
    below = np.nextafter(np.float32(0.5), np.float32(0))
    x = np.array([0.5, -0.5, 1.5, 2.5, -2.5, below, -below, 2**23 + 1, 2**23 + 2, 2**24 - 1, INF, -INF], np.float32)
    expected = [1, -1, 2, 3, -3, 0, 0, 2**23 + 1, 2**23 + 2, 2**24 - 1, INF, -INF]
    assert expected == rounding.round_half_away(x, np).tolist()
    assert np.isnan(rounding.round_half_away(np.array([NAN]), np))[0]


def test_conversions_answer_as_x86() -> None:
    """Out of range and NaN are -2^31 as int32, so 0 as int8; an int8 is the lowest byte."""
    x = np.array([127, 128, -129, 25400, 2.0**31, -(2.0**31), INF, NAN], np.float32)
    assert [127, 128, -129, 25400, -(2**31), -(2**31), -(2**31), -(2**31)] == rounding.to_int32(x, np).tolist()
    assert [127, -128, 127, 56, 0, 0, 0, 0] == rounding.to_int8(x, np).tolist()


def test_least_and_most_start_from_the_largest_float() -> None:
    """As C's loops do: NaN is passed over, no infinity is ever below FLT_MAX, and of two zeros the first stays."""
    limit = np.finfo(np.float32).max
    rows = np.array([[INF, INF], [-INF, -INF], [NAN, NAN], [NAN, 2], [-0.0, 0.0], [0.0, -0.0]], np.float32)
    least, most = rounding.least_and_most(rows)
    assert [limit, -INF, limit, 2, 0, 0] == least[:, 0].tolist()
    assert [INF, -limit, -limit, 2, 0, 0] == most[:, 0].tolist()
    assert [True, False] == np.signbit(least[4:, 0]).tolist()


def test_inverses_are_those_of_each_quantiser() -> None:
    """x86 multiplies by f32(127 / a), the others by f32(1 / d): on ties the last bit of it moves codes."""
    rng = np.random.default_rng(8)
    x = rng.integers(-254, 255, (2000, 32)) * 0.5
    x[:, 7] = 127
    x = (x * rng.uniform(1, 2, (2000, 1))).astype(np.float32)
    peak = np.abs(x).max(axis=1, keepdims=True)
    d = peak / np.float32(127)
    by_peak, by_step = x * (np.float32(127) / peak), x * (np.float32(1) / d)
    away = [
        np.trunc(y + np.copysign(np.float32(0.5), y)) for y in (by_peak.astype(np.float64), by_step.astype(np.float64))
    ]
    assert (away[0] != away[1]).any()
    assert np.array_equal(np.rint(by_peak), q8_0.quantise_x86(x)[2])
    assert np.array_equal(away[1], q8_0.quantise_generic(x)[2])
    assert np.array_equal(away[1], q8_0.quantise_realizar(x)[1])
