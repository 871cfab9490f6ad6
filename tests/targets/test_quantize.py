"""Quantisers: they differ by a step and no more, and what a candidate may do with ties."""

from __future__ import annotations

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
from diffuzz.targets import laws
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
        ({"format": "q4_0"}, "format=q4_0: one of q8_0, q8_1, q8_K is needed"),
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
