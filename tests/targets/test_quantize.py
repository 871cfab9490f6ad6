"""Quantisers: they differ by a step and no more, and what a candidate may do with ties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuzz import formats, targets
from diffuzz.cases import draws
from diffuzz.formats import q8_0, q8_k
from diffuzz.judging.problem import open_problem
from diffuzz.judging.question import Judge
from diffuzz.judging.verdict import Verdict, judge
from diffuzz.targets import laws, weight_quantisers
from diffuzz.targets.parameter import ParameterError

QUANTIZE = targets.get("quantize")
PAIRS = [("q8_0", "realizar"), ("q8_0", "generic"), ("q8_1", "generic"), ("q8_K", "realizar")]


@settings(max_examples=60)
@given(
    pair=st.sampled_from(PAIRS),
    smallest_peak=st.sampled_from([1e-8, 1e-5, 1e-4, 1e-2, 1.0]),
    max_abs=st.sampled_from([1.0, 16.0, 8e6]),
    seed=st.integers(0, 2**32),
)
def test_nothing_exceeds_the_bound(pair: tuple[str, str], smallest_peak: float, max_abs: float, seed: int) -> None:
    """For any pair and range, subnormal f16 scales included."""
    options = {"format": pair[0], "against": pair[1], "smallest_peak": smallest_peak, "max_abs": max_abs}
    laws.bound_is_never_exceeded(QUANTIZE, options, seed)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("smallest_peak", [0.01, 1.0])
def test_ties_reach_the_bound(pair: tuple[str, str], smallest_peak: float) -> None:
    """At least 99.9 % of the bound where f16 scales are normal; more than that is FALSIFIED."""
    params = QUANTIZE.params({"format": pair[0], "against": pair[1], "smallest_peak": smallest_peak})
    outcome = QUANTIZE.question.evaluate(params, QUANTIZE.starts(params, np.random.default_rng(0), 300))
    bound = QUANTIZE.bound(params)
    assert outcome.value.max() >= 0.999 * bound.value
    assert judge(QUANTIZE.threshold(params), outcome.value.max(), 0.0, bound) is Verdict.FALSIFIED


def test_a_half_rounds_to_either_side() -> None:
    """2.5 steps: 2 with ties to even, 3 away from zero; one code differs, by one step of 1/127."""
    values = np.zeros((1, 32), np.float32)
    values[0, :2] = 127.0, 2.5
    params = QUANTIZE.params({"format": "q8_0", "against": "generic", "max_abs": 127.0})
    outcome = QUANTIZE.question.evaluate(params, {"values": values})
    differ = QUANTIZE.question.explain(params, {"values": values})["codes that differ"]
    assert (outcome.value.tolist(), differ.tolist()) == ([1 / 127], [1.0])


def _only(function: object, name: str, values: np.ndarray, **given: object) -> float:
    """The largest value of the contract for these blocks."""
    judge = Judge(lambda values: function(name, values), name="f")
    problem = open_problem(QUANTIZE, {"format": name, **given}, judge)
    return float(problem.evaluate({"values": values}).value.max())


def _zero_beyond(name: str, values: np.ndarray) -> np.ndarray:
    return formats.get(name).quantize(np.where(np.abs(values).max(axis=1, keepdims=True) > 100, 0, values))


def _zero_below(name: str, values: np.ndarray) -> np.ndarray:
    return formats.get(name).quantize(np.where(np.abs(values).max(axis=1, keepdims=True) < 1e-20, 0, values))


@pytest.mark.parametrize("name", ["q8_0", "q8_1", "q8_K"])
@pytest.mark.parametrize("wrong", [_zero_beyond, _zero_below], ids=lambda f: f.__name__)
def test_candidates_see_large_and_small_blocks(wrong: object, name: str) -> None:
    """Blocks that vanish beyond 100, or below 1e-20, are found whatever max_abs and smallest_peak are."""
    assert _worst(wrong, name, "any") > 0


def test_a_sum_that_overflows_is_not_judged() -> None:
    """The block sum of q8_1 is no f16 number from 65520 on: infinite or saturated, by either rule for ties; codes are
    judged all the same.
    """
    values = np.full((1, 32), 5e4, np.float32)

    def saturated(name: str, values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            fields = formats.get(name).unpack(formats.get(name).quantize(values))
        return formats.get(name).pack(fields | {"s": np.clip(fields["s"], -65504, 65504)})

    for ties in ("even", "any"):
        assert _only(saturated, "q8_1", values, ties=ties) == 0
        assert _only(_zero_beyond, "q8_1", values, ties=ties) > 0
        assert _only(saturated, "q8_1", values / 25, ties=ties) == 0


@pytest.mark.parametrize("top", [1e-9, 1e-3, 8e6])
def test_constructions_are_in_the_range_of_a_candidate(top: float) -> None:
    """Whatever that is, and whatever the range of the target's own question."""
    for seed in range(12):
        laws.constructions_are_admissible(QUANTIZE, {"candidate_max_abs": top}, seed)


def test_identical_codes_are_no_difference() -> None:
    """Whole multiples of the step come back as they were, in every variant."""
    for name, against in PAIRS:
        n = formats.get(name).block_size
        values = (np.arange(n, dtype=np.float32) % 128 - 0)[None]
        values[0, 0] = -127
        params = QUANTIZE.params({"format": name, "against": against, "max_abs": 127.0})
        assert QUANTIZE.question.evaluate(params, {"values": values}).value.tolist() == [0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "q8_1", "against": "realizar"}, "against=realizar: q8_1 has generic"),
        ({"format": "q8_K", "against": "generic"}, "against=generic: q8_K has realizar"),
        ({"smallest_peak": 2.0, "max_abs": 1.0}, "smallest_peak=2 is above max_abs=1"),
        ({"format": "q4_0"}, "format=q4_0: diffuzz has one quantiser of it; judge another"),
    ],
)
def test_bad_combinations(options: dict[str, object], message: str) -> None:
    """A quantiser that does not exist is refused at once."""
    with pytest.raises(ParameterError, match=message):
        QUANTIZE.params(options)


def _records(name: str, d: np.ndarray, codes: np.ndarray, total: np.ndarray | None = None) -> np.ndarray:
    fields = {"d": d, "codes": codes}
    if name == "q8_1":
        fields |= {"s": (total * codes.sum(axis=1).astype(np.float32)).astype(np.float16)}
    if name == "q8_K":
        fields |= {"bsums": codes.reshape(len(codes), 16, 16).sum(axis=2)}
    return formats.get(name).pack(fields)


def _away(name: str, values: np.ndarray) -> np.ndarray:
    """ggml's block with halves away from zero."""
    if name == "q8_K":
        d, _ = q8_k.quantise_ggml(values)
        unit = values * (np.float32(1) / np.where(d == 0, np.float32(1), d))[:, None]
        return _records(name, d, q8_0.round_half_away(unit, np).astype(np.int32))
    _, stored, codes = q8_0.quantise_generic(values)
    return _records(name, stored.astype(np.float16), codes, np.abs(values).max(axis=1) / np.float32(127))


def _truncating(name: str, values: np.ndarray) -> np.ndarray:
    fmt = formats.get(name)
    fields = fmt.unpack(fmt.quantize(values))
    d = fields["d"].astype(np.float32)
    codes = np.trunc(values / np.where(d == 0, np.float32(1), d)[:, None]).astype(np.int32)
    return _records(name, fields["d"], np.clip(codes, -127, 127), np.abs(values).max(axis=1) / np.float32(127))


def _stale_sums(name: str, values: np.ndarray) -> np.ndarray:
    """The codes of ``_away`` with the sums of ggml's own codes."""
    fmt = formats.get(name)
    old, new = fmt.unpack(fmt.quantize(values)), fmt.unpack(_away(name, values))
    for field in ("s", "bsums"):
        if field in old:
            new[field] = old[field]
    return fmt.pack(new)


def _worst(function: object, name: str, ties: str) -> float:
    judge = Judge(lambda values: function(name, values), name="f")
    problem = open_problem(QUANTIZE, {"format": name, "ties": ties}, judge)
    space, rng = problem.space, np.random.default_rng(0)
    batches = [draws.uniform(space, rng, 200), draws.structured(space, rng, 200), problem.starts(rng, 200)]
    batches.append({"values": np.zeros((1, formats.get(name).block_size), np.float32)})
    return max(problem.evaluate(batch).value.max() for batch in batches)


@pytest.mark.parametrize("name", ["q8_0", "q8_1", "q8_K"])
def test_candidates_and_ties(name: str) -> None:
    """ggml's bytes are always right; halves away from zero only with ties=any; truncation and stale sums never."""
    for ties in ("even", "any"):
        assert _worst(lambda name, values: formats.get(name).quantize(values), name, ties) == 0
        assert _worst(_truncating, name, ties) > 0
    assert _worst(_away, name, "even") > 0
    assert _worst(_away, name, "any") == 0
    if name != "q8_0":
        assert _worst(_stale_sums, name, "any") > 0


RECORDED = np.load(Path(__file__).parent.parent / "data" / "ggml-quantised.npz")
OF_WEIGHTS = [name for name in formats.names() if weight_quantisers.known(name)]


def _kept(name: str, values: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    fmt = formats.get(name)
    kept = weight_quantisers.keeps(name, values.reshape(-1, fmt.block_size), blocks.reshape(-1, fmt.type_size))
    return kept.reshape(len(values), -1).all(axis=1)


@pytest.mark.parametrize("key", [key for key in RECORDED.files if weight_quantisers.known(key.partition("/")[0])])
def test_ggml_keeps_its_word(key: str) -> None:
    """Rows of many kinds, weighted and not, are restored as closely as every quantiser must; but for iq3_s, which loses
    the signs of sparse rows.
    """
    name, values = key.partition("/")[0], RECORDED["values"]
    kept = _kept(name, values, RECORDED[key])
    sparse = (np.abs(values) < np.abs(values).max(axis=1, keepdims=True) / 100).mean(axis=1) > 0.9
    lost = sparse & values.any(axis=1) if name == "iq3_s" else np.zeros(len(values), bool)
    assert kept[~lost].all()
    assert not kept[lost].all() or not lost.any()


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_our_quantisers_keep_their_word(name: str) -> None:
    """The same, and constructions, structured and uniform blocks."""
    fmt, rng = formats.get(name), np.random.default_rng(7)
    assert fmt.quantize is not None
    assert _kept(name, RECORDED["values"], fmt.quantize(RECORDED["values"].reshape(-1, fmt.block_size))).all()
    problem = open_problem(QUANTIZE, {"format": name}, Judge(fmt.quantize, name="f"))
    for batch in (
        problem.starts(rng, 60),
        draws.structured(problem.space, rng, 60),
        draws.uniform(problem.space, rng, 60),
    ):
        assert not problem.evaluate(batch).value.any()


@pytest.mark.parametrize("name", OF_WEIGHTS)
@pytest.mark.parametrize("fill", [0.0, 1.0, -0.37, 2.0**-24, 1e-40])
def test_blocks_of_one_value(name: str, fill: float) -> None:
    """Zeros, one value, a value that f16 scales cannot hold, and a subnormal one: never NaN, and zeros stay zeros."""
    fmt = formats.get(name)
    values = np.full((1, fmt.block_size), fill, np.float32)
    assert fmt.quantize is not None
    blocks = fmt.quantize(values)
    restored = fmt.dequantize(blocks)
    assert np.isfinite(restored).all()
    assert weight_quantisers.keeps(name, values, blocks).all()
    assert fill != 0 or not restored.any()


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_what_no_quantiser_of_weights_may_do(name: str) -> None:
    """NaN, the other sign, half of every weight, and the weights of the block before."""
    fmt, rng = formats.get(name), np.random.default_rng(8)
    x = rng.standard_normal((40, fmt.block_size)).astype(np.float32)
    assert fmt.quantize is not None
    assert weight_quantisers.keeps(name, x, fmt.quantize(x)).all()
    for wrong in (-x, np.roll(x, 1, axis=0)):
        assert not weight_quantisers.keeps(name, x, fmt.quantize(wrong)).any()
    # Half of a weight is as near as some formats come to it.
    if name not in (*weight_quantisers.GRID, "tq1_0", "tq2_0", "q2_K", "mxfp4"):
        assert not weight_quantisers.keeps(name, x, fmt.quantize(x / 2)).any()
    if name not in ("mxfp4", "nvfp4"):
        nan = fmt.with_scales(fmt.quantize(x), {"d": np.full(len(x), np.nan)})
        assert not weight_quantisers.keeps(name, x, nan).any()


def test_only_what_differs_is_counted() -> None:
    """Other blocks of weights are as right if they are near enough; of others the bytes that differ are wrong."""
    fmt = formats.get("q4_0")
    values = np.linspace(-1, 1, 32, dtype=np.float32)[None]
    ours = fmt.quantize(values)
    fields = fmt.unpack(ours)
    near = fmt.pack(fields | {"d": (fields["d"] * np.float16(1.01)).astype(np.float16)})
    assert (near != ours).any()
    params = QUANTIZE.contract_params({"format": "q4_0"})
    accepts = QUANTIZE.contract.accepts
    assert accepts(params, {"values": values}, near).all()
    far = ours.copy()
    far[0, 5] ^= 0x80
    assert np.flatnonzero(~accepts(params, {"values": values}, far)[0]).tolist() == [5]


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_numbers_are_fixed_to_the_bit(name: str) -> None:
    """The nearest, ties to even; nothing beyond the largest one."""
    words = np.random.default_rng(9).integers(0, 2**32, 4000, dtype=np.uint32)
    words[::2] = words[::2] & 0xFFFF0000 | 0x8000
    values = np.clip(np.nan_to_num(words.view(np.float32)), -6e4, 6e4)[:, None]
    assert _only(lambda name, v: formats.get(name).quantize(v), name, values) == 0
    assert _only(lambda name, v: formats.get(name).quantize(np.nextafter(v, np.float32(0))), name, values) > 0
    if name == "f16":
        beyond = np.full((1, 1), 7e4, np.float32)
        assert _only(lambda name, v: np.full((len(v), 2), 0x7B, np.uint8), name, beyond) == 0


def test_every_format_is_judged() -> None:
    """Those with a quantiser: all of them."""
    judged = [name for name in formats.names() if formats.get(name).quantize is not None]
    assert tuple(judged) == formats.names()
    for name in judged:
        assert QUANTIZE.contract_params({"format": name})["format"] == name
