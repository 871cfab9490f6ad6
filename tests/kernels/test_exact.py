"""diffuzz.kernels.exact: against exact rational arithmetic and 60-digit decimals."""

from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffuzz import formats
from diffuzz.kernels import exact

PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211706798")
U = 2.0**-53


def rational_weights(format: str, row: np.ndarray) -> list[Fraction]:
    """The weights of one row as fractions, from the decoded integers and scales."""
    fmt = formats.get(format)
    parts = fmt.decode(row.reshape(-1, fmt.type_size))
    values = []
    for block in range(len(parts.d)):
        d = Fraction(float(parts.d[block]))
        dmin = Fraction(float(parts.dmin[block])) if parts.dmin is not None else Fraction(0)
        for i in range(fmt.block_size):
            minimum = int(parts.sub_minimum[block, i]) if parts.dmin is not None else 0
            values.append(d * int(parts.sub_scale[block, i]) * int(parts.code[block, i]) - dmin * minimum)
    return values


def test_weights_are_exact(format, weights):
    """d sub_scale code - dmin sub_minimum has no rounding at all, for any finite f16 scales."""
    for seed in range(3):
        row = weights(format, 1, 2, seed)
        assert rational_weights(format, row[0]) == [Fraction(float(v)) for v in exact.dequantize(format, row)[0]]


def test_dot_product_against_fractions(format, weights):
    """A dot product of cancelling terms is within n 2^-53 sum|w x| of the rational sum."""
    row = weights(format, 2, 2, 5)
    k = row.shape[1] // formats.get(format).type_size * formats.get(format).block_size
    x = (np.random.default_rng(0).standard_normal((2, k)) * 10.0 ** np.arange(-3, 3).repeat(k)[: k * 2 : 2]).astype(
        np.float32
    )
    got = exact.vec_dot(format, row, x)
    for m in range(2):
        w = rational_weights(format, row[m])
        for b in range(2):
            terms = [a * Fraction(float(v)) for a, v in zip(w, x[b], strict=True)]
            assert abs(Fraction(float(got[m, b])) - sum(terms)) <= k * Fraction(U) * sum(map(abs, terms))


def test_a_row_does_not_depend_on_its_batch(format, weights):
    """The same row alone, in a batch, and paired has the same bits."""
    w = weights(format, 5, 3, 1)
    k = w.shape[1] // formats.get(format).type_size * formats.get(format).block_size
    x = np.random.default_rng(2).standard_normal((4, k))
    whole = exact.vec_dot(format, w, x)
    for m in range(5):
        for b in range(4):
            alone = exact.vec_dot(format, w[m : m + 1], x[b : b + 1])[0, 0]
            assert whole[m, b] == alone == exact.vec_dot_rows(format, w[m : m + 1], x[b : b + 1])[0]


def decimals(x: np.ndarray) -> list[Decimal]:
    """Elements as decimals, exact."""
    return [Decimal(float(v)) for v in x]


def assert_close(expected: list[Decimal], got: np.ndarray, ulps: float) -> None:
    """Each element within a relative error, or below the float64 range."""
    for e, g in zip(expected, got.tolist(), strict=True):
        assert abs(Decimal(g) - e) <= abs(e) * Decimal(ulps * U) + Decimal(2) ** -1060


@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=9), st.sampled_from([1e-12, 1e-6, 1.0])
)
def test_rms_norm_against_decimals(values, eps):
    """rms_norm is within 16 float64 ULP."""
    x = np.array(values, np.float32)
    with localcontext() as context:
        context.prec = 60
        root = (sum(v * v for v in decimals(x)) / len(x) + Decimal(eps)).sqrt()
        assert_close([v / root for v in decimals(x)], exact.rms_norm(x, eps), 16)


@given(st.lists(st.floats(-700, 700, width=32), min_size=1, max_size=9))
def test_soft_max_against_decimals(values):
    """soft_max is within a relative error of 2^-53 (n + 8 + spread)."""
    x = np.array(values, np.float32)
    with localcontext() as context:
        context.prec = 60
        e = [v.exp() for v in decimals(x)]
        assert_close([v / sum(e) for v in e], exact.soft_max(x), len(x) + 8 + float(np.ptp(x.astype(np.float64))))


@given(st.floats(-740, 2.0**100, width=32))
def test_silu_against_decimals(value):
    """silu is within 8 float64 ULP, where a naive x / (1 + exp(-x)) overflows too."""
    x = np.array([value], np.float32)
    with localcontext() as context:
        context.prec = 60
        exact_value = decimals(x)[0] / (1 + (-decimals(x)[0]).exp())
        assert_close([exact_value], exact.silu(x), 8)


def test_silu_at_the_ends():
    """-0 at minus infinity and where exp vanishes, x where exp(-x) vanishes, NaN at NaN."""
    got = exact.silu(np.array([-np.inf, -1e4, 1e4, np.inf, np.nan]))
    assert [0.0, 0.0, 1e4, np.inf] == got[:4].tolist()
    assert np.signbit(got[:2]).tolist() == [True, True]
    assert np.isnan(got[4])


def test_swiglu_is_the_product():
    """swiglu = silu(gate) up, in float64."""
    gate, up = np.random.default_rng(0).standard_normal((2, 3, 5))
    assert (exact.silu(gate) * up).tolist() == exact.swiglu(gate, up).tolist()


def rotation(angle: Decimal) -> tuple[Decimal, Decimal]:
    """(cos, sin) by their series, after reduction modulo 2 pi."""
    angle %= 2 * PI
    cos, sin, term = Decimal(0), Decimal(0), Decimal(1)
    for n in range(80):
        sign = 1 if n % 4 < 2 else -1
        if n % 2 == 0:
            cos += sign * term
        else:
            sin += sign * term
        term = term * angle / (n + 1)
    return cos, sin


@pytest.mark.parametrize("position", [0, 1, -1, 4095, 131071, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("base", [1.0, 10000.0, 5e5, 1e7])
def test_rope_angles_are_exact_at_any_position(position, base):
    """The rotation is within 2^-50 of the exact one, as far out as 2^31."""
    d = 16
    x = np.zeros((1, 1, d))
    x[..., 0::2] = 1.0
    got = exact.rope(x, np.array([position]), base, "norm")[0, 0]
    with localcontext() as context:
        context.prec = 80
        for i in range(d // 2):
            cos, sin = rotation(Decimal(position) * Decimal(base) ** (Decimal(-2 * i) / d))
            assert abs(Decimal(float(got[2 * i])) - cos) <= Decimal(2) ** -50
            assert abs(Decimal(float(got[2 * i + 1])) - sin) <= Decimal(2) ** -50


def test_rope_pairs():
    """norm turns (2i, 2i + 1) and neox (i, i + d/2): the same numbers in other places, and lengths are kept."""
    x = np.random.default_rng(0).standard_normal((5, 2, 12))
    positions = np.arange(5, dtype=np.int32) * 7
    norm, neox = (exact.rope(x, positions, 10000.0, mode) for mode in ("norm", "neox"))
    order = np.arange(12).reshape(6, 2).T.ravel()
    assert exact.rope(x[..., order], positions, 10000.0, "neox").tolist() == norm[..., order].tolist()
    for y in (norm, neox):
        np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-14)
    assert x[0].tolist() == norm[0].tolist()


def test_inputs_between_float32_numbers_are_taken():
    """A float64 input that no float32 holds gives another result than its rounding."""
    x = np.array([1.0, 1.0 + 2.0**-40])
    assert exact.silu(x)[0] != exact.silu(x)[1]
    assert exact.rms_norm(x, 0.0)[0] != exact.rms_norm(x, 0.0)[1]
