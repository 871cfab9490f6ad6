"""Forms that keep the default bound, and policies with bounds of their own: right functions pass, wrong ones do not."""

from __future__ import annotations

import numpy as np
import pytest

from diffuzz import formats, targets
from diffuzz.cases import draws
from diffuzz.judging.problem import open_problem
from diffuzz.judging.question import Judge
from diffuzz.kernels import apr, fused
from diffuzz.studies.mutants import styles
from diffuzz.studies.mutants import wrong_dots as dots
from diffuzz.studies.mutants import wrong_rows as rows
from diffuzz.studies.mutants.mutants import Mutant, mutants
from diffuzz.targets import error_bounds
from diffuzz.targets.parameter import ParameterError

BY_NAME = {mutant.name: mutant for mutant in mutants()}
U = error_bounds.UNIT
# Right functions that the default parameters accept.
FORMS = (
    "softmax/base-two-scaled", "softmax/base-two-log", "softmax/base-two-online", "softmax/logsumexp",
    "softmax/log-softmax", "softmax/exp-ends", "softmax/clamp-87", "swiglu/exp-ends", "swiglu/clamp-87",
    "offset/q4_0", "offset/q8_0", "offset/q3_K", "offset/q5_0", "offset/q6_K",
)  # fmt: skip
# Right functions that have to be judged by a choice.
CHOSEN = (
    "softmax/clamp-64", "swiglu/tanh", "swiglu/clamp-18", "rmsnorm/eps-outside", "quantize/saturate", "saturate/q4_K",
    "saturate/q6_K", "blocks-of-32/q4_0", "blocks-of-32/q4_K", "blocks-of-32/q2_K", "blocks-of-32/q6_K",
)  # fmt: skip
# Wrong functions that no choice excuses, and that the usual sizes show.
WRONG = tuple(
    name
    for name, mutant in BY_NAME.items()
    if not mutant.correct
    and (mutant.params.get("policy") or mutant.params.get("activation"))
    and not name.startswith("rows-past")
)


def worst(mutant: Mutant, count: int = 300, **params: object) -> float:
    """The largest value of structured, uniform and constructed cases; ``params`` take the place of the function's."""
    given = {**mutant.params, **params}
    problem = open_problem(targets.get(mutant.target), given, Judge(mutant.function, name=mutant.name))
    rng, largest = np.random.default_rng(0), 0.0
    for draw in (draws.structured, draws.uniform):
        # Several smaller batches, because a batch has one shape.
        for _ in range(6):
            largest = max(largest, float(problem.evaluate(draw(problem.space, rng, count // 6)).value.max()))
    made = problem.starts(rng, 60)
    return largest if made is None else max(largest, float(problem.evaluate(made).value.max()))


@pytest.mark.parametrize("name", FORMS)
def test_forms_keep_the_default_bound(name: str) -> None:
    """Softmax by logarithms or in base two, exponentials that end early, codes with an offset: none is flagged."""
    assert worst(BY_NAME[name]) <= 1


@pytest.mark.parametrize(
    "name", ["softmax/base-two-scaled", "softmax/base-two-log", "softmax/logsumexp", "softmax/log-softmax"]
)
def test_forms_of_softmax_at_large_logits(name: str) -> None:
    """Logits of 119 with small distances, where base two and the logarithm lose most: at most the bound, and not far
    below it.
    """
    problem = open_problem(targets.get("softmax"), {}, Judge(BY_NAME[name].function, name=name))
    rng, largest = np.random.default_rng(0), 0.0
    for n in (2, 3, 8, 64):
        top = rng.choice([1.0, 10.0, 119.0], (2000, 1))
        below = rng.uniform(0, 1, (2000, n)) * rng.choice([1e-3, 1.0, 8.0, 90.0, 200.0], (2000, 1))
        z = (top - below).clip(-120, 120).astype(np.float32)
        largest = max(largest, float(problem.evaluate({"z": z}).value.max()))
    assert 0.25 < largest <= 1


@pytest.mark.parametrize("name", CHOSEN)
def test_a_policy_accepts_what_it_is_for_and_the_default_does_not(name: str) -> None:
    """Each named choice is needed, and is enough."""
    mutant = BY_NAME[name]
    choice = "activation" if "activation" in mutant.params else "policy"
    default = {"activation": "partner", "policy": "exact"}[choice]
    assert worst(mutant) <= (0 if mutant.target == "quantize" else 1)
    assert worst(mutant, **{choice: default}) > (0 if mutant.target == "quantize" else 1)


@pytest.mark.parametrize("name", WRONG)
def test_a_policy_excuses_no_other_fault(name: str) -> None:
    """A fault beside the policy is found under it, too."""
    assert worst(BY_NAME[name], 600) > (0 if BY_NAME[name].target == "quantize" else 1)


@pytest.mark.parametrize(
    ("target", "policy", "function"),
    [
        ("softmax", "clamp-64", rows.soft_max()),
        ("swiglu", "tanh", rows.swiglu()),
        ("swiglu", "clamp-18", styles.two_sided_swiglu),
    ],
    ids=["softmax", "swiglu-tanh", "swiglu-clamp"],
)
def test_an_accurate_function_keeps_a_wider_bound(target: str, policy: str, function: object) -> None:
    """Policies that allow more around the exact result do not ask for the fault that they allow."""
    assert worst(Mutant("accurate", target, {"policy": policy}, function, "")) <= 1


@pytest.mark.parametrize("target", ["softmax", "swiglu", "rmsnorm", "rope"])
def test_one_rule_for_what_underflows(target: str) -> None:
    """Exponentials, products and results that end at 2^-125.5 pass everywhere; at 2^-119 they are flagged."""

    def flushing(least: float) -> object:
        def flush(x: np.ndarray) -> np.ndarray:
            return np.where(np.abs(x) < np.float32(least), np.float32(0), x)

        functions = {
            "softmax": lambda z: flush(rows.soft_max(exp=lambda x: flush(np.exp(x)))(z)),
            "swiglu": lambda g, u: flush(flush(flush(g) * flush(rows.sigmoid(g))) * flush(u)),
            "rmsnorm": lambda x, eps: flush(rows.rms_norm(square=lambda x: flush(flush(x) * flush(x)))(x, eps)),
            "rope": lambda x, positions, base, mode: flush(apr.rope(flush(x), positions, base, mode)),
        }
        return functions[target]

    given = {"candidate_max_abs": {"softmax": 120.0, "swiglu": 100.0, "rmsnorm": 1e-30, "rope": 1e-3}[target]}
    with np.errstate(all="ignore"):
        assert worst(Mutant("flushing", target, given, flushing(2.0**-125.5), ""), 600) <= 1
        assert worst(Mutant("flushing", target, given, flushing(2.0**-119), ""), 600) > 1


def test_offsets_are_those_of_the_codes() -> None:
    """What makes the least code 0, from the codes themselves; none where no code is negative, or codes are levels of a
    table. Scales are shared by 32 elements, but in formats with groups of 16, and in those with smaller blocks.
    """
    found = {name: fused.offset(name) for name in formats.built_in() if fused.offset(name)}
    groups = {name: 15 for name in formats.built_in() if name.startswith(("gptq", "awq"))}
    whole = {"q4_0": 8, "q5_0": 16, "q8_0": 128, "q8_1": 128, "q3_K": 4, "q6_K": 32, "q8_K": 128}
    assert found == groups | whole | {"tq1_0": 1, "tq2_0": 1}
    apart = {name for name in formats.built_in() if not fused.one_scale(name, 32)}
    of_16 = {"q2_K", "q3_K", "q6_K", "iq1_m", "iq2_s", "iq2_xs", "nvfp4"}
    assert apart == {*of_16, "f16", "bf16", "nvfp4_two_level"}


def test_weights_of_zero_with_an_offset() -> None:
    """sum (c + 128) x - 128 sum x is not 0 for codes of zero, and is within what rounding allows."""
    target, fmt = targets.get("matvec"), formats.get("q8_0")
    params = target.contract_params({"format": "q8_0", "arithmetic": "apr"})
    zeros = fmt.pack({"d": np.ones(8, np.float16), "codes": np.zeros((8, 32), np.int32)}).reshape(1, 1, -1)
    x = np.random.default_rng(0).uniform(-16, 16, (1, 256)).astype(np.float32)
    got = styles.offset_matvec("q8_0")(zeros[0], x[0])
    assert got[0] != 0
    assert abs(got[0]) <= target.contract.allowance(params, {"weights": zeros, "x": x})[0, 0]


def test_activations_that_saturate() -> None:
    """candle's 51 x 16 beside one -16: the sum is 793.6 for 800, and the bound of the policy holds it, not by much."""
    x = np.zeros((1, 256), np.float32)
    x[0, 0], x[0, 1:52] = -16, 16
    scale, codes = dots.saturating()(x, "q8_K")
    seen = scale[:, None] * codes
    assert seen.sum() == 793.625
    lost = error_bounds.quantisation("q8_K", x, saturate=True)
    assert np.all(np.abs(seen - x) <= lost)
    # One step of 16 / 128 for each, and rounding. Both signs have the largest magnitude, so either may saturate.
    np.testing.assert_allclose(lost[0, :52], 0.125, rtol=2e-4)
    # Only one sign: the largest has its code, and 15.9375 has 127 for 127.5.
    x[0, 1:52] = 15.9375
    lost = error_bounds.quantisation("q8_K", x, saturate=True)
    assert lost[0, 0] < 0.125 / 100
    np.testing.assert_allclose(lost[0, 1:52], 0.0625, rtol=2e-4)


def test_a_saturating_bound_holds_on_random_blocks() -> None:
    """Every activation of such a quantiser is within its own bound, at edges between codes and at ties of sign."""
    rng = np.random.default_rng(0)
    x = (rng.integers(-256, 257, (500, 256)) / 256 * 2.0 ** rng.integers(-9, 9, (500, 1))).astype(np.float32)
    x[::2, rng.integers(256)] = np.abs(x[::2]).max(axis=1)
    scale, codes = dots.saturating()(x, "q8_K")
    error = np.abs(scale[:, None] * codes - x.astype(np.float64))
    assert np.all(error <= error_bounds.quantisation("q8_K", x, saturate=True))
    assert not np.all(error <= error_bounds.quantisation("q8_K", x))


@pytest.mark.parametrize(
    ("target", "given", "message"),
    [
        ("matvec", {"arithmetic": "apr", "activation": "q8_1"}, "activation=q8_1: only for arithmetic=gguf"),
        ("matvec", {"format": "q4_0", "policy": "saturate"}, "policy=saturate: only where x is quantised to q8_K"),
        ("matvec", {"policy": "saturate", "activation": "q8_1"}, "policy=saturate: only where x is quantised to q8_K"),
        ("matvec", {"activation": "q4_0"}, "activation=q4_0: one of partner, q8_0, q8_1, q8_K, f16, bf16 is needed"),
        ("matvec", {"activation": "q8_1", "max_abs": "1e4"}, "max_abs=10000: at most 2040 is needed"),
        ("quantize", {"format": "q8_0", "policy": "saturate"}, "policy=saturate: only for format=q8_K, it is q8_0"),
        ("softmax", {"policy": "clamp-18"}, "policy=clamp-18: one of exact, clamp-64 is needed"),
    ],
)
def test_choices_that_do_not_apply(target: str, given: dict[str, object], message: str) -> None:
    """One line that says where they do."""
    with pytest.raises(ParameterError, match=message):
        targets.get(target).contract_params(given)


@pytest.mark.parametrize(
    ("given", "block"),
    [({"format": "q4_0", "activation": "q8_K"}, 256), ({"format": "q4_0", "activation": "q8_1"}, 32), ({}, 256)],
)
def test_blocks_of_weights_and_activations_are_whole(given: dict[str, object], block: int) -> None:
    """k is a multiple of both blocks."""
    target = targets.get("matvec")
    space = target.contract.space(target.contract_params(given))
    assert space["x"].shape[0].step == block


@pytest.mark.parametrize("name", ["softmax", "swiglu", "rmsnorm", "quantize", "matvec"])
def test_choices_have_meanings(name: str) -> None:
    """The help of a policy says what each of its choices is."""
    parameter = {one.name: one for one in targets.get(name).declared}["policy"]
    assert all(parameter.meaning(option) for option in parameter.options)
    assert parameter.meaning("another") == ""
