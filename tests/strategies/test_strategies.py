"""The strategies: what they draw is in range at any length, shrinks to something readable, and reaches the corners."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from diffuzz import formats, targets
from diffuzz.targets.published import seed_matrix
from strategies import (
    Blocks,
    activations,
    blocks,
    cases,
    described_activations,
    described_blocks,
    described_directions,
    described_logits,
    directions,
    half_scales,
    logits,
    positions,
    sub_scales,
)
from strategies.activations import FAMILIES
from strategies.block_scales import single_bit

LENGTHS = (1, 2, 7, 32, 256, 16384)
WEIGHTS = tuple(name for name in formats.names() if name not in ("q8_1", "q8_K"))
WITH_CODES = tuple(
    name
    for name in WEIGHTS
    if "codes" in formats.get(name).unpack(np.zeros((1, formats.get(name).type_size), np.uint8))
)
few = settings(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def finds(strategy: st.SearchStrategy[Any], wanted: Callable[[Any], bool]) -> bool:
    """Whether a few thousand draws contain what is wanted."""
    try:
        find(strategy, wanted, settings=settings(few, max_examples=3000, phases=[Phase.generate]))
    except NoSuchExample:
        return False
    return True


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n", LENGTHS)
def test_every_family_is_admissible_at_every_length(family: str, n: int) -> None:
    """float32[n], finite, within max_abs compared in float64, with the peak that was asked for."""

    @settings(few, max_examples=10)
    @given(activations(n, max_abs=0.1, smallest_peak=0.01, families=(family,)))
    def check(x: np.ndarray) -> None:
        wide = np.abs(x.astype(np.float64))
        assert (x.dtype, x.shape) == (np.float32, (n,))
        assert (wide <= 0.1).all()
        assert wide.max() >= 0.01

    check()


@pytest.mark.parametrize(
    "wanted",
    [
        lambda x: np.abs(x).max() > 100 * np.median(np.abs(x)) > 0,
        lambda x: (x == 0).mean() > 0.9 and x.any(),
        lambda x: (0 < np.abs(x[x != 0])).all() and np.abs(x).max() < 2.0**-126,
        lambda x: len(np.unique(x)) == 2 and (x == x.max()).sum() == 1,
        lambda x: len(np.unique(x)) > 200,
    ],
    ids=["outlier", "sparse", "subnormal", "spike", "dense"],
)
def test_activations_reach(wanted: Callable[[np.ndarray], bool]) -> None:
    """Outliers, sparse and subnormal vectors, single spikes and dense noise are all drawn."""
    assert finds(activations(256), wanted)


@pytest.mark.parametrize("n", [32, 100, 256])
@pytest.mark.parametrize("seed", range(5))
def test_half_integer_vectors_are_ties_of_every_quantiser(n: int, seed: int) -> None:
    """Each 32 elements have a largest one of their own, and all others lie halfway between two codes."""
    x = FAMILIES["half-integer"](n, np.random.default_rng(seed))
    for block in np.split(x, range(32, n, 32)):
        codes = np.abs(block) * 127 / np.abs(block).max()
        assert np.abs(block).max() == 127 / 128
        assert (codes % 1 == 0.5).sum() == len(block) - 1


@pytest.mark.parametrize("seed", range(5))
def test_near_ties_are_a_few_ulp_beside_ties(seed: int) -> None:
    """The near-tie family has the ties of the half-integer family, moved by at most 4 units of 2^-24."""
    ties = FAMILIES["half-integer"](256, np.random.default_rng(seed))
    x = FAMILIES["near-tie"](256, np.random.default_rng(seed))
    assert np.abs(x / ties - 1).max() <= 4 * 2.0**-24
    assert (x != ties).sum() > 128


@pytest.mark.parametrize("max_abs", [1.0, 10.0, 3e38])
def test_ties_stay_ties_in_any_range(max_abs: float) -> None:
    """Whatever the range, some vector is drawn whose elements are exact ties in float32."""

    def tied(x: np.ndarray) -> bool:
        codes = np.abs(x[:32].astype(np.float64)) * 127
        peak = np.abs(x[:32]).max()
        return bool(peak > 0 and ((codes / peak) % 1 == 0.5).sum() == 31)

    assert finds(activations(64, max_abs=max_abs, families=("half-integer",)), tied)


def test_long_activations_shrink_to_something_readable() -> None:
    """At n = 16 384 the simplest vector with a large element has one level, and its descriptor is short."""
    found = find(described_activations(16384), lambda d: bool(np.abs(d.expand()).max() >= 1), settings=few)
    assert len(np.unique(found.expand())) <= 2
    assert len(repr(found)) < 200


@pytest.mark.parametrize("format", WEIGHTS)
def test_blocks_are_admissible(format: str) -> None:
    """Bytes of whole blocks, all scales finite and at most the largest."""
    fmt = formats.get(format)
    k = 2 * fmt.block_size

    @few
    @given(blocks(format, rows=3, k=k, largest_scale=2.0))
    def check(raw: np.ndarray) -> None:
        assert (raw.dtype, raw.shape) == (np.uint8, (3, 2 * fmt.type_size))
        fields = fmt.unpack(raw.reshape(-1, fmt.type_size))
        for name in fmt.scale_fields:
            assert (np.abs(fields[name].astype(np.float64)) <= 2.0).all()

    check()


@pytest.mark.parametrize(
    "wanted",
    [
        lambda d: ((np.abs(d) > 0) & (np.abs(d) < 2.0**-14)).any(),
        lambda d: (d == 0).any(),
        lambda d: (d < 0).any(),
        lambda d: (np.abs(d) == 65504).any(),
        lambda d: (d == 1).all(),
    ],
    ids=["subnormal", "zero", "negative", "largest", "one"],
)
def test_scales_reach(wanted: Callable[[np.ndarray], bool]) -> None:
    """Every class of finite f16 numbers is drawn as a scale."""
    assert finds(half_scales(4).map(lambda d: d.astype(np.float64)), wanted)


def test_nonfinite_scales_only_when_allowed() -> None:
    """Infinities and NaN are drawn if they may be, and never otherwise."""
    assert finds(half_scales(2, allow_nonfinite=True), lambda d: bool(~np.isfinite(d).all()))
    assert not finds(half_scales(2), lambda d: bool(~np.isfinite(d).all()))


@pytest.mark.parametrize("format", WITH_CODES)
def test_codes_reach_both_ends_and_single_bits(format: str) -> None:
    """Some drawn row has all its codes at the lowest, some at the highest, whatever the width of the format's codes."""
    fmt = formats.get(format)
    raw = np.concatenate([np.zeros((1, fmt.type_size), np.uint8), np.full((1, fmt.type_size), 255, np.uint8)])
    ends = fmt.unpack(fmt.canonical(raw))["codes"]
    low, high = (-128, 127) if ends.min() < 0 else (0, int(ends.max()))

    def codes(drawn: np.ndarray) -> np.ndarray:
        return fmt.unpack(drawn.reshape(-1, fmt.type_size))["codes"]

    drawn = blocks(format, rows=1, k=fmt.block_size)
    assert finds(drawn, lambda b: bool((codes(b) == low).all()))
    assert finds(drawn, lambda b: bool((codes(b) == high).all()))


def test_quantised_distributions_look_like_weights() -> None:
    """A quantised Gaussian has the spread of the Gaussian it was drawn from."""
    drawn = Blocks(format="q8_0", rows=1, k=4096, kind="quantised", codes="gaussian", seed=1)
    raw = drawn.expand()
    values = formats.get("q8_0").dequantize(raw.reshape(-1, 34))
    assert 0.015 < values.std() < 0.025


def test_published_blocks_are_drawn() -> None:
    """The seed blocks of the published claims are among the q4_K rows."""
    known = {row.tobytes() for t in range(256) for row in seed_matrix(t)}
    assert finds(described_blocks("q4_K", 1, 256), lambda d: d.kind == "published")
    drawn = Blocks(format="q4_K", rows=1, k=256, kind="published", codes="random", seed=1000)
    assert drawn.expand().tobytes() in known


@few
@given(st.data(), st.integers(1, 20), st.integers(-128, 127), st.integers(-128, 127))
def test_sub_scales_stay_in_range(data: st.DataObject, groups: int, a: int, b: int) -> None:
    """int32[groups] within the ends, for any ends."""
    drawn = data.draw(sub_scales(groups, min(a, b), max(a, b)))
    assert (drawn.dtype, drawn.shape) == (np.int32, (groups,))
    assert ((drawn >= min(a, b)) & (drawn <= max(a, b))).all()


@pytest.mark.parametrize("n", LENGTHS)
def test_directions_are_shapes_of_moves(n: int) -> None:
    """float32[n] in [-1, 1], long enough to move something, and the signs of another vector where one is given."""
    like = np.where(np.arange(n) % 3 == 0, -1.0, 1.0).astype(np.float32)

    @few
    @given(directions(n, like=like))
    def check(t: np.ndarray) -> None:
        assert (t.dtype, t.shape) == (np.float32, (n,))
        assert 2.0**-10 <= np.abs(t).max() <= 1

    check()
    assert finds(directions(n, like=like), lambda t: bool((t == -like).all()))


@few
@given(st.data(), st.integers(1, 50), st.floats(1e-3, 1e3))
def test_logits_stay_in_range(data: st.DataObject, n: int, max_abs: float) -> None:
    """float32[n] within max_abs."""
    z = data.draw(logits(n, max_abs=max_abs))
    assert (z.dtype, z.shape) == (np.float32, (n,))
    assert (np.abs(z.astype(np.float64)) <= max_abs).all()


def test_descriptors_print_as_what_they_are() -> None:
    """A descriptor's repr is short at any length, and evaluates to itself."""
    for described in (described_activations(16384), described_logits(16384), described_directions(16384)):
        found = find(described, lambda d: True, settings=few)
        assert len(repr(found)) < 200
        assert eval(repr(found), {type(found).__name__: type(found)}) == found


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", ["matvec", "rmsnorm"])
def test_cases_match_signs(name: str, sign: int) -> None:
    """Activations take the signs of the weights they meet, directions those of what they move, or the opposite ones."""
    target = targets.get(name)
    space = target.space(target.params({"n": 256}))

    def signs_match(case: Any) -> bool:
        if name == "matvec":
            weights = formats.get("q4_K").dequantize(case.arrays["weights"].reshape(-1, 144)).reshape(-1)
            product = weights * case.arrays["x"].reshape(-1)
            mixed = (weights > 0).any() and (weights < 0).any()
        else:
            product = case.arrays["x"] * case.arrays["x_direction"]
            mixed = (case.arrays["x"] > 0).any() and (case.arrays["x"] < 0).any()
        return bool(mixed and product.any() and (sign * product >= 0).all())

    assert finds(cases(space), signs_match)


@pytest.mark.parametrize(("low", "high"), [(0, 63), (-32, 31), (-128, 127), (1, 8)])
def test_single_bits_stay_in_range(low: int, high: int) -> None:
    """Every bit of a field gives a number of the field, and the highest of a signed field its lowest number."""
    values = {single_bit(bit, low, high) for bit in range((high - low).bit_length())}
    assert all(low <= value <= high for value in values)
    assert (low in values) or low >= 0


def test_logits_tie() -> None:
    """Two tied logits above five others, which is where softmax is most sensitive."""
    assert finds(logits(7), lambda z: bool((z == z.max()).sum() == 2 and len(np.unique(z)) == 2))


@few
@given(st.data(), st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_positions_stay_in_range(data: st.DataObject, a: int, b: int) -> None:
    """int32 within the ends, for any ends; the ends themselves are drawn."""
    drawn = data.draw(positions((2, 3), low=min(a, b), high=max(a, b)))
    assert (drawn.dtype, drawn.shape) == (np.int32, (2, 3))
    assert ((drawn >= min(a, b)) & (drawn <= max(a, b))).all()


@pytest.mark.parametrize("smaller", [False, True])
@pytest.mark.parametrize("name", targets.names())
def test_cases_are_admissible(name: str, smaller: bool) -> None:
    """Every drawn case is in its target's space, of the largest shapes or of smaller ones."""
    target = targets.get(name)
    space = target.space(target.params())

    @few
    @given(cases(space, smaller_shapes=smaller))
    def check(case: Any) -> None:
        space.check(case)

    check()


def test_cases_of_a_candidate_and_of_long_rows_are_admissible() -> None:
    """So are those of a contract's own space, and of 16 384 weights, within Hypothesis's choices."""
    target = targets.get("matvec")
    assert target.contract is not None
    assert target.contract.space is not None
    own, long = target.contract.space(target.contract_params()), target.space(target.params({"n": 16384}))

    @few
    @given(cases(own), cases(long))
    def check(one: Any, other: Any) -> None:
        own.check(one)
        long.check(other)

    check()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: activations(0), "n=0"),
        (lambda: activations(4, max_abs=1, smallest_peak=2), "smallest_peak=2"),
        (lambda: activations(4, families=("nonsense",)), "nonsense"),
        (lambda: blocks("q4_K", rows=1, k=100), "k=100"),
        (lambda: blocks("q9_9", rows=1, k=256), "q9_9"),
        (lambda: activations(4, max_abs=1e39), "max_abs=1e\\+39"),
        (lambda: logits(3, max_abs=0), "max_abs=0"),
        (lambda: directions(3, like=np.ones(2)), r"like: shape \(2,\)"),
        (lambda: positions(3, low=5, high=4), "low=5"),
        (lambda: half_scales(0), "count=0"),
        (lambda: sub_scales(4, 3, 2), "low=3"),
        (lambda: directions(0), "n=0"),
    ],
)
def test_bad_arguments_are_named(draw: Callable[[], Any], message: str) -> None:
    """A bad argument is refused when the strategy is made, by name and value."""
    with pytest.raises(ValueError, match=message):
        draw()


def test_strategies_are_light() -> None:
    """A test that only needs inputs imports neither jax nor jaxtyping, which type checkers alone need."""
    code = "import sys, strategies; print({'jax', 'jaxtyping'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "set()" == done.stdout.strip()
