"""The matvec target: bounds that hold and are reached; a contract that flags bugs and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import pytest

from diffuzz import formats, targets
from diffuzz.cases import Space, draws
from diffuzz.formats import q8_0, q8_k
from diffuzz.judging.problem import open_problem
from diffuzz.judging.question import Judge
from diffuzz.kernels import apr, exact, fused, ggml
from diffuzz.searching.engines import auto
from diffuzz.searching.objective import Budget, Objective
from diffuzz.targets import Target, error_bounds, matvec
from diffuzz.targets.parameter import ParameterError, Params
from diffuzz.targets.published import ramp, seed_block

Batch = dict[str, np.ndarray]
# A kernel as a candidate is: rows of weights and an activation to a result for each row.
Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
Candidate = Callable[[Params], Kernel]
# x and the size of a block to what its codes stand for.
Quantise = Callable[[np.ndarray, int], np.ndarray]

TARGET = targets.get("matvec")
CONTRACT = TARGET.contract


def batches(target: Target, params: Params, count: int = 24) -> Iterator[Batch]:
    """Adversarial cases: the target's own constructions, structured and uniform ones, and constructions with weights of
    others.
    """
    rng = np.random.default_rng(0)
    space = target.space(params)
    starts, structured = target.starts(params, rng, count), draws.structured(space, rng, count)
    mixed = {**starts, "weights": structured["weights"]}
    for batch in (starts, structured, mixed, draws.uniform(space, rng, count)):
        good = space.admissible(batch)
        yield {name: array[good] for name, array in batch.items()}


@pytest.mark.parametrize("floor", [0.0, 0.01])
@pytest.mark.parametrize("format", matvec.WEIGHT_FORMATS)
def test_bound_holds_and_is_reached(format, floor):
    """No case is above the ceiling, and the constructions come within 1 % of the bound, for other sizes than the
    defaults too.
    """
    for given in ({}, {"n": 1024, "max_abs": 3.0}):
        params = TARGET.params({"format": format, "floor": floor, **given})
        bound = TARGET.bound(params)
        best = [TARGET.question.evaluate(params, batch).value.max() for batch in batches(TARGET, params)]
        assert max(best) <= bound.ceiling
        assert best[0] >= 0.99 * bound.value


@pytest.mark.parametrize("max_abs", [1e-6, 1e-4, 1e-3, 0.02, 1.0, 2000.0])
@pytest.mark.parametrize("format", ["q4_1", "q8_0"])
@pytest.mark.parametrize("n", [32, 256])
def test_bound_holds_where_the_scale_is_subnormal(format, max_abs, n):
    """With an f16 scale the bound grows for small activations, and still nothing exceeds it, neighbouring blocks of any
    size included.
    """
    rng = np.random.default_rng(1)
    for floor in (0.0, 0.01):
        params = TARGET.params({"format": format, "n": n, "max_abs": max_abs, "floor": floor})
        ceiling = TARGET.bound(params).ceiling
        for batch in batches(TARGET, params):
            x = batch["x"].copy()
            # All blocks but the first much smaller than it.
            x[:, 32:] *= 2.0 ** -rng.integers(0, 30, (len(x), 1)).astype(np.float32)
            x[:, 0] = max_abs
            for case in (batch, {**batch, "x": x}):
                assert TARGET.question.evaluate(params, case).value.max() <= ceiling


def test_bounds_are_those_of_the_text():
    """1/254 for q8_K; 2^-11 / (1 + 2^-11) more with an f16 scale; 6.2745 for the relative measure above 1 %."""
    assert TARGET.bound(TARGET.params()).value == 1 / 254
    assert TARGET.bound(TARGET.params({"format": "q8_0"})).value == pytest.approx(1 / 254 + 1 / 2049, rel=1e-15)
    assert round(TARGET.bound(TARGET.params({"floor": 0.01})).value, 4) == 6.2745


def test_published_case():
    """The ramp and the seed block: A and B of FFN-GGUF-008 in the norm-relative measure, far below the bound."""
    params = TARGET.params()
    batch = {"weights": seed_block()[None, None], "x": ramp()[None]}
    outcome = TARGET.question.evaluate(params, batch)
    assert int(TARGET.question.explain(params, batch)["A"].astype(np.float32).view(np.uint32)[0]) == 0xC69384E3
    assert 0 < outcome.value[0] < 0.1 / 254
    assert outcome.noise[0] < 0.01 * outcome.value[0]


def test_arithmetic_apr_is_rounding_alone():
    """With float32 activations the drift is below gamma_n + gamma_(n/8+3); constructions reach three quarters of it."""
    params = TARGET.params({"arithmetic": "apr"})
    best = [TARGET.question.evaluate(params, batch).value.max() for batch in batches(TARGET, params)]
    assert 0.75 * TARGET.bound(params).value < max(best) <= TARGET.bound(params).ceiling
    zero = {"weights": np.zeros((1, 1, 144), np.uint8), "x": ramp()[None]}
    assert TARGET.question.evaluate(params, zero).value[0] == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [({"n": 100}, "n=100: a multiple of 256"), ({"format": "q4_1", "max_abs": 1e5}, "overflows f16")],
)
def test_bad_parameters(given, message):
    """A length that is not whole blocks, and block sums beyond f16, are refused in one line."""
    with pytest.raises(ParameterError, match=message):
        TARGET.params(given)


def weights_and(quantise: Quantise, dtype: type, order: Callable[[int], np.ndarray]) -> Candidate:
    """A candidate that dequantises, quantises x by ``quantise`` (or not), and sums in ``dtype`` in another order."""

    def candidate(params: Params) -> Kernel:
        fmt = formats.get(params["format"])

        def function(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
            w = fmt.dequantize(weights.reshape(-1, fmt.type_size)).reshape(len(weights), -1)
            seen = quantise(x, formats.get(fmt.activation).block_size)
            products = (w.astype(dtype) * seen.astype(dtype))[:, order(len(x))]
            return np.add.accumulate(products, axis=1, dtype=dtype)[:, -1].astype(np.float32)

        return function

    return candidate


def away(x: np.ndarray, size: int) -> np.ndarray:
    """Float32 scale, halves away from zero (aprender)."""
    d, codes = q8_0.quantise_realizar(x.reshape(-1, size))
    return (d[:, None] * codes.astype(np.float32)).reshape(-1)


def in_double(x: np.ndarray, size: int) -> np.ndarray:
    """float64 inside: scale, codes and all."""
    wide = x.astype(np.float64).reshape(-1, size)
    d = np.abs(wide).max(axis=1, keepdims=True) / 127
    return (np.rint(wide / np.where(d > 0, d, 1)) * d).reshape(-1)


def half_scale(x: np.ndarray, size: int) -> np.ndarray:
    """f16 scale, portable C."""
    _, d, codes = q8_0.quantise_generic(x.reshape(-1, size))
    return (d[:, None] * codes.astype(np.float32)).reshape(-1)


def truncated(x: np.ndarray, size: int) -> np.ndarray:
    """Bug: codes truncated."""
    blocks = x.reshape(-1, size)
    d = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    return (np.trunc(blocks / np.where(d > 0, d, 1)) * d).reshape(-1)


def reverse(n: int) -> np.ndarray:
    return np.arange(n)[::-1]


def shuffled(n: int) -> np.ndarray:
    return np.random.default_rng(5).permutation(n)


CORRECT = {
    "aprender's quantiser, backwards": weights_and(away, np.float32, reverse),
    "double inside": weights_and(in_double, np.float64, shuffled),
    "no quantisation": weights_and(lambda x, size: x, np.float32, shuffled),
}


def worst(params: Params, function: Kernel, count: int = 24) -> float:
    """The largest |f - exact| / allowance over adversarial cases of the contract's space."""
    space = CONTRACT.space(params)
    rng = np.random.default_rng(2)
    values = []
    for batch in (
        draws.structured(space, rng, count),
        draws.uniform(space, rng, count),
        edges(params, space, rng, count),
    ):
        good = space.admissible(batch)
        arrays = {name: array[good] for name, array in batch.items()}
        error = np.abs(CONTRACT.call(params, function, arrays).astype(np.float64) - CONTRACT.exact(params, arrays))
        allowed = CONTRACT.allowance(params, arrays)
        values.append(float(np.where(error > 0, error / np.where(allowed > 0, allowed, 1e-300), 0.0).max()))
    return max(values)


def edges(params: Params, space: Space, rng: np.random.Generator, count: int) -> Batch:
    """Cases whose activations sit on and beside the edges between codes, and blocks of very different sizes."""
    batch = draws.structured(space, rng, count)
    n = space["x"].shape[0].size
    size = formats.get(formats.get(params["format"]).activation).block_size
    codes = rng.integers(-127, 127, (count, n)) + 0.5 + rng.choice([0.0, 1e-5, -1e-5, 0.5], (count, 1))
    codes[:, rng.integers(0, size) :: size] = 127
    scale = np.repeat(2.0 ** -rng.integers(0, 40, (count, n // size)), size, axis=1)
    scale[:, :size] = 1
    x = np.clip(codes / 127 * scale * params["max_abs"], -params["max_abs"], params["max_abs"]).astype(np.float32)
    return {**batch, "x": x}


@pytest.mark.parametrize("format", matvec.WEIGHT_FORMATS)
@pytest.mark.parametrize("name", CORRECT)
def test_correct_candidates_are_never_flagged(format, name):
    """Another order of sums, another rule for ties, a float32 scale, float64 inside, no quantisation at all: all within
    the allowance.
    """
    for max_abs in (16.0, 2.0**-10):
        params = TARGET.contract_params({"format": format, "max_abs": max_abs})
        assert worst(params, CORRECT[name](params)) <= 1


@pytest.mark.parametrize("format", matvec.WEIGHT_FORMATS)
def test_our_own_implementations_keep_the_contract(format):
    """ggml's own arithmetic, and with arithmetic=apr both float32 orders, stay within the allowance."""
    for max_abs in (16.0, 2.0**-10):
        params = TARGET.contract_params({"format": format, "max_abs": max_abs})
        assert worst(params, lambda w, x: ggml.vec_dot(format, w, x[None])[:, 0]) <= 1
    params = TARGET.contract_params({"format": format, "arithmetic": "apr"})
    assert worst(params, lambda w, x: apr.vec_dot(format, w, x[None])[:, 0]) <= 1
    assert worst(params, lambda w, x: apr.vec_dot(format, w, x[None], order="simd")[:, 0]) <= 1


@pytest.mark.parametrize("format", ["q4_0", "q5_0", "q8_0"])
def test_f16_scale_of_portable_c_is_allowed(format):
    """The portable quantiser with its f16 scale is within the allowance of formats that have one."""
    params = TARGET.contract_params({"format": format})
    assert worst(params, weights_and(half_scale, np.float32, reverse)(params)) <= 1


def _without_tail(params: Params) -> Kernel:
    """Bug: blocks are taken in pairs, the last odd one is lost."""
    fmt = formats.get(params["format"])

    def function(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
        pairs = len(x) // fmt.block_size // 2 * 2
        return ggml.vec_dot(
            params["format"], weights[:, : pairs * fmt.type_size].copy(), x[None, : pairs * fmt.block_size]
        )[:, 0]

    return function


def _first_row(params: Params) -> Kernel:
    """Bug: every row is the first one."""
    return lambda w, x: np.repeat(ggml.vec_dot(params["format"], w[:1], x[None])[:, 0], len(w))


BUGS = {"truncation": weights_and(truncated, np.float64, reverse), "tail": _without_tail, "rows": _first_row}


@pytest.mark.parametrize("format", ["q4_K", "q6_K", "q8_0", "q4_1"])
@pytest.mark.parametrize("name", BUGS)
def test_bugs_are_flagged(format, name):
    """Truncated codes, a lost last block and mixed-up rows leave the allowance on some case."""
    params = TARGET.contract_params({"format": format})
    assert worst(params, BUGS[name](params)) > 1.5


def _when(condition: Callable[[np.ndarray, np.ndarray], bool]) -> Candidate:
    """Bug: the result is doubled where ``condition(weights, x)``."""

    def bug(params: Params) -> Kernel:
        return lambda w, x: ggml.vec_dot(params["format"], w, x[None])[:, 0] * np.float32(2 if condition(w, x) else 1)

    return bug


SIZES = {
    "one row": _when(lambda w, x: len(w) == 1),
    "four rows": _when(lambda w, x: len(w) >= 4),
    "k of 512": _when(lambda w, x: len(x) >= 512),
}


@pytest.mark.parametrize("format", ["q4_0", "q4_K"])
@pytest.mark.parametrize("name", SIZES)
def test_candidates_see_other_sizes(format, name):
    """One row alone, four and more, and sixteen blocks of 32, or four of 256, are in the space."""
    judge = Judge(SIZES[name]({"format": format}), name="f")
    objective = Objective(open_problem(TARGET, {"format": format}, judge), Budget(math.inf))
    list(islice(auto.rounds(objective, np.random.default_rng(0)), 12))
    assert objective.best.value > 1.5


@pytest.mark.parametrize(
    ("given", "usual", "most"), [({"format": "q4_0"}, 17, 1025), ({}, 5, 129), ({"candidate_n": 2048}, 5, 9)]
)
def test_the_largest_number_of_blocks_is_odd(given, usual, most):
    """candidate_n rounded to an odd number of blocks, at least five, and so is the usual length; n is the length of the
    target's own question.
    """
    given = {**given, "n": 768}
    params = TARGET.contract_params(given)
    size = formats.get(params["format"]).block_size
    (k,) = CONTRACT.space(params)["x"].shape
    assert (k.size, k.highest) == (usual * size, most * size)
    assert TARGET.space(TARGET.params(given))["x"].shape[0].size == 768


@pytest.mark.parametrize("format", ["iq4_nl", "q4_K"])
def test_flushed_activations_are_flagged_where_x_is_not_quantised(format):
    """Without a quantiser x below 1e-20 counts, and subnormal x, products and sums alone may be flushed."""
    params, fmt = TARGET.contract_params({"format": format, "arithmetic": "apr"}), formats.get(format)

    def flushing(least: np.float32) -> Kernel:
        def function(w: np.ndarray, x: np.ndarray) -> np.ndarray:
            kept = np.where(np.abs(x) < least, np.float32(0), x)
            weights = fmt.dequantize(w.reshape(-1, fmt.type_size)).reshape(len(w), -1)
            terms = _flushed(weights * kept)
            total = np.zeros(len(w), np.float32)
            for column in terms.T:
                total = _flushed(total + column)
            return total

        return function

    assert worst(params, flushing(1e-20), 200) > 1.5
    assert worst(params, flushing(2.0**-126), 200) <= 1


def _flushed(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < np.float32(2.0**-126), np.float32(0), x)


def test_an_f16_scale_is_flagged_where_the_format_keeps_float32():
    """A q8_K scale rounded to f16 leaves the allowance: on codes that are whole numbers there is hardly any."""
    params = TARGET.contract_params()
    assert worst(params, weights_and(half_scale, np.float32, reverse)(params)) > 1.5


def test_allowance_is_tight():
    """On activations that are whole codes the allowance is float32 rounding alone; at the edges it is half a step."""
    params = TARGET.contract_params()
    weights, _ = matvec.plain_weights(TARGET.params(), np.random.default_rng(0), 1, silent=False)
    x = np.full((1, 256), 127.0, np.float32) / 8
    whole = CONTRACT.allowance(params, {"weights": weights[:, None], "x": x})[0, 0]
    size = fused.terms("q4_K", weights).sum()
    assert whole < 1e-4 * size * 127 / 8
    x[0, 1:] = 0.5 * 127 / 127 / 8
    half = CONTRACT.allowance(params, {"weights": weights[:, None], "x": x})[0, 0]
    assert 0.99 < half / (size * 0.5 / 8 * 255 / 256) < 1.02
    assert error_bounds.quantisation("q8_K", x)[0, 0] < 1e-3 * x[0, 0]


def test_exact_is_the_product_with_unquantised_activations():
    """The contract's exact result is sum w x in float64, whatever the arithmetic."""
    params = TARGET.contract_params()
    weights = np.repeat(seed_block()[None, None], 3, axis=1)
    got = CONTRACT.exact(params, {"weights": weights, "x": ramp()[None]})
    assert np.array_equal(got, exact.vec_dot("q4_K", weights[0], ramp()[None]).T)
    assert q8_k.FORMAT.name == formats.get("q4_K").activation


@pytest.mark.parametrize("format", ["q4_K", "q8_0", "iq4_nl"])
def test_constructions_begin_at_the_ends_of_a_row(format: str) -> None:
    """Of the few that an unusual length gets, the first has only the last number in x, the third only the first."""
    params = TARGET.contract_params({"format": format})
    x = CONTRACT.starts(params, np.random.default_rng(0), 4)["x"]
    assert [np.flatnonzero(row).tolist() for row in (x[0], x[2])] == [[x.shape[1] - 1], [0]]
    assert np.count_nonzero(x[1]) > 1
