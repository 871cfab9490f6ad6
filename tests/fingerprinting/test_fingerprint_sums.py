"""Sums of known orders, and sums of none."""

from __future__ import annotations

import random
from collections.abc import Sequence

import ml_dtypes
import numpy as np
import pytest
from planted import F32, F64, Nested, blocks, exact, halved, in_sequence, kahan, lanes, random_nested, total

from diffuzz.fingerprinting import tree as trees
from diffuzz.fingerprinting.box import BoxError
from diffuzz.fingerprinting.sharpness import any_order, bound


def _by_halves(parts: Sequence[Nested]) -> Nested:
    parts = list(parts)
    while len(parts) > 1:
        half = len(parts) // 2
        parts = [(parts[i], parts[i + half]) for i in range(half)]
    return parts[0]


ORDERS = {
    "in sequence": in_sequence(range(37)),
    "backwards": in_sequence(range(36, -1, -1)),
    "permuted": in_sequence(random.Random(0).sample(range(50), 50)),
    "pairwise": halved(range(64)),
    "pairwise, odd": halved(range(61)),
    "lanes, halves": lanes(64, 8, _by_halves, tail=True),
    "lanes, with a tail": lanes(61, 8, _by_halves, tail=True),
    "lanes, unequal": lanes(61, 8, halved, tail=False),
    "lanes in sequence": lanes(45, 4, in_sequence, tail=True),
    "split": blocks(60, 15, in_sequence),
    "blocks, pairwise": blocks(100, 16, halved),
    "two": (0, 1),
    "one": 0,
}


@pytest.mark.parametrize("name", ORDERS)
def test_the_order_is_the_planted_one(of, name):
    """Whatever the order is, it is recovered, and verified on all random inputs."""
    nested = ORDERS[name]
    tree = trees.of(nested)
    found = of("sum", lambda x: total(nested, x), tree.n)
    assert found.tree == tree
    assert found.verified.all
    assert found.details["accumulator"] == ("none" if tree.n == 1 else "float32")


def test_random_trees_come_back(of):
    """Random trees of any number of summands."""
    rng = random.Random(1)
    for _ in range(40):
        n = rng.randint(2, 40)
        nested = random_nested(n, rng)
        found = of("sum", lambda x, nested=nested: total(nested, x), n)
        assert found.tree == trees.of(nested)
        assert found.verified.all


def _adder(*parts: np.ndarray, kept: int = 25) -> np.ndarray:
    """Units for products of matrices: summands are cut off below the largest one, and the sum is cut off to float32."""
    if len(parts) == 2:
        return parts[0] + parts[1]
    parts = np.array(parts, F64)
    _, exponent = np.frexp(np.abs(parts).max(axis=0))
    whole = np.ldexp(np.trunc(np.ldexp(parts, kept + 1 - exponent)).sum(axis=0), exponent - kept - 1)
    near = whole.astype(F32)
    return np.where(np.abs(near.astype(F64)) > np.abs(whole), np.nextafter(near, F32(0)), near)


def test_wide_adders_come_back(of):
    """Chains of adders of several numbers, as those of tensor cores, and random trees that have some."""
    rng = random.Random(5)
    chain = (0, 1, 2, 3)
    for k in range(4, 32, 4):
        chain = (chain, k, k + 1, k + 2, k + 3)
    for nested in (chain, *(random_nested(rng.randint(6, 30), rng, at_once=True) for _ in range(12))):
        tree = trees.of(nested)
        found = of("sum", lambda x, nested=nested: total(nested, x, _adder), tree.n)
        assert found.tree == tree
        assert found.verified.all
    found = of("sum", lambda x: total(chain, x, _adder), 32)
    assert found.details["at once"] == (
        "summands are cut off 25 bits below the first bit of the largest, sums rounded toward zero"
    )
    assert found.verified.all


def test_each_node_has_its_own_significand(of):
    """Blocks in float32 that are added in float64, and the other way round, are told apart."""
    first = of("sum", lambda x: sum(total(in_sequence(range(8)), x[:, k : k + 8]).astype(F64)
                                    for k in range(0, 40, 8)).astype(F32), 40)  # fmt: skip
    assert first.verified.all
    # 0 + the first block is no addition of two summands.
    assert sorted(set(first.sum.bits.tolist())) == [24, 53]
    assert (first.sum.bits == 53).sum() == 4

    def other(x: np.ndarray) -> np.ndarray:
        found = np.zeros(len(x), F32)
        for k in range(0, 40, 8):
            found = found + total(in_sequence(range(8)), x[:, k : k + 8].astype(F64)).astype(F32)
        return found

    second = of("sum", other, 40)
    assert second.verified.all
    assert (second.sum.bits == 53).sum() == 5 * 6


@pytest.mark.parametrize(
    ("name", "dtype"), [("float64", F64), ("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)]
)
def test_accumulators_of_other_formats(of, name, dtype):
    """A sum in float64 or in a short format, stored as float32."""

    def summed(x: np.ndarray) -> np.ndarray:
        found = x[:, 0].astype(dtype)
        for k in range(1, x.shape[1]):
            found = (found + x[:, k].astype(dtype)).astype(dtype)
        return found.astype(F32)

    found = of("sum", summed, 30)
    assert found.tree == trees.of(in_sequence(range(30)))
    assert found.details["accumulator"] == name
    assert found.verified.all


def test_sums_toward_zero_are_seen(of):
    """An accumulator that truncates."""

    def chopped(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        whole = F64(a) + F64(b)
        near = whole.astype(F32)
        away = np.abs(near.astype(F64)) > np.abs(whole)
        return np.where(away, np.nextafter(near, F32(0)), near)

    found = of("sum", lambda x: total(in_sequence(range(20)), x, chopped), 20)
    assert found.details["rounding"] == "toward zero"
    # float64 itself rounds sums of numbers of very different sizes.
    assert found.verified is not None


def test_flushed_subnormals_are_seen(of):
    """Subnormal numbers that count as 0 where they come in, come out, or both."""
    tiny = np.finfo(F32).tiny

    def flush(x: np.ndarray) -> np.ndarray:
        return np.where(np.abs(x) < tiny, F32(0), x)

    nested = in_sequence(range(12))
    assert of("sum", lambda x: total(nested, x), 12).details["subnormals"] == "kept"
    both = of("sum", lambda x: total(nested, flush(x), lambda a, b: flush(a + b)), 12)
    assert both.details["subnormals"] == "flushed, in and out"
    assert of("sum", lambda x: total(nested, flush(x)), 12).details["subnormals"] == "flushed where they come in"


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (kahan, "none: compensated (Kahan)"),
        (exact, "none: exact: the sum rounded once"),
        (lambda x: total(in_sequence(range(40)), np.sort(x, axis=1)), "none: its order depends on the numbers"),
        (lambda x: x[:, np.random.default_rng().permutation(40)].cumsum(axis=1, dtype=F32)[:, -1], "none: two calls"),
    ],
)
def test_what_has_no_order_is_said_to_have_none(of, function, said):
    """Compensated and exact sums, and orders that depend on the numbers or on chance."""
    found = of("sum", function, 40)
    assert found.tree is None
    assert found.order.startswith(said)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: x[:, :-1].sum(axis=1), "no sum of its summands"),
        (lambda x: (x * x).sum(axis=1), "no sum of its summands"),
        (lambda x: x.sum(axis=1) * F32(np.nan), "not finite"),
    ],
)
def test_what_is_no_sum_is_one_line(of, function, said):
    """A wrong function has no fingerprint."""
    with np.errstate(all="ignore"), pytest.raises(BoxError, match=said) as caught:
        of("sum", function, 20)
    assert "\n" not in str(caught.value)


def test_rows_of_another_order_are_left_out(of):
    """Only rows that are added up as the first one are asked."""
    nested, other = in_sequence(range(20)), halved(range(20))

    def tiled(x: np.ndarray) -> np.ndarray:
        return np.concatenate([total(nested, x[:3]), total(other, x[3:])])

    found = of("sum", tiled, 20, rows=5)
    assert found.tree == trees.of(nested)
    assert found.rows == (3, 5)


def test_the_bound_of_an_order_holds_and_is_sharper(of):
    """It bounds what its own arithmetic is off by, and a pairwise sum's is many times that of any order."""
    nested = halved(range(256))
    found = of("sum", lambda x: total(nested, x), 256)
    x = np.random.default_rng(3).standard_normal((200, 256)).astype(F32)
    off = np.abs(total(nested, x).astype(F64) - x.astype(F64).sum(axis=1))
    own = bound(found.sum, np.abs(x.astype(F64)))
    assert (off <= own).all()
    assert (any_order(found.sum, np.abs(x.astype(F64))) / own).min() == pytest.approx(255 / 8, rel=1e-3)


def test_a_sum_of_thousands_takes_one_line(of):
    """NumPy's pairwise sum of 4096 numbers."""
    found = of("sum", lambda x: x.sum(axis=1), 4096, rows=64)
    assert found.order == (
        "4096 summands, 32 blocks, each of 128: 8 lanes, each 16 in sequence with stride 8, combined as "
        "((0+1)+(2+3))+((4+5)+(6+7)) (neighbours first), combined pairwise (neighbours first)"
    )
    assert found.verified.all
