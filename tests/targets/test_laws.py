"""The laws: every built-in target keeps each of them, and each of them can be broken."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest

from diffuzz import kernels, targets
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.targets import laws
from diffuzz.targets.contract import Contract
from diffuzz.targets.drift import Drift
from diffuzz.targets.outcome import Outcome
from diffuzz.targets.parameter import Parameter
from diffuzz.targets.target import Target

PARAMS = [
    ("add_rmsnorm", {}),
    ("attention", {}),
    ("attention", {"causal": True, "window": 5, "softcap": 20.0, "sinks": True}),
    ("attention", {"mask": True, "masked_rows": "zero"}),
    ("batch", {}),
    ("batch", {"objective": "mean-rel-l2", "steps": 2}),
    ("batched_matmul", {}),
    ("block-scale", {}),
    ("block-scale", {"n": 512, "max_abs": 1.0}),
    ("block-scale", {"floor": 1e-3}),
    ("block-scale", {"mins": False}),
    ("chain", {}),
    ("chain", {"steps": 1}),
    ("chain", {"steps": 3}),
    ("chain", {"steps": 8, "max_abs": 0.01}),
    ("chain", {"steps": 1, "weights": "case"}),
    ("conv1d", {}),
    ("conv1d", {"stride": 3, "padding": 2}),
    ("cumsum", {}),
    ("dequantize", {}),
    ("dequantize", {"format": "mxfp4"}),
    ("dequantize", {"format": "q8_K"}),
    ("dot-order", {}),
    ("dot-order", {"n": 8, "max_abs": 1e-15}),
    ("embedding", {}),
    ("geglu", {"form": "tanh"}),
    ("gelu", {}),
    ("gelu", {"form": "quick"}),
    ("layer_norm", {}),
    ("layer_norm", {"policy": "one-pass"}),
    ("log_softmax", {}),
    ("masked_softmax", {}),
    ("masked_softmax", {"masked_rows": "zero", "scale": 0.1}),
    ("matmat", {}),
    ("matmat", {"format": "q8_0", "activation": "q8_0"}),
    ("matmul", {"n": 37, "m": 5, "tokens": 3}),
    ("matmul", {"kernel": "numpy", "n": 64, "m": 8, "tokens": 2}),
    ("matvec", {}),
    ("matvec", {"floor": 0.01}),
    ("matvec", {"format": "q5_1", "n": 1024, "max_abs": 3.0}),
    ("matvec", {"format": "q6_K"}),
    ("matvec", {"format": "q6_K", "floor": 0.01}),
    ("matvec", {"format": "q8_0", "floor": 0.01}),
    ("matvec", {"arithmetic": "apr"}),
    ("mean_square", {}),
    ("moe_gate", {}),
    ("moe_gate", {"renormalise": False, "k": 2}),
    ("quantize", {}),
    ("quantize", {"format": "q8_0", "against": "generic", "smallest_peak": 1e-5}),
    ("quantize", {"format": "q8_1", "ties": "any"}),
    ("requantise", {}),
    ("requantise", {"format": "q8_0"}),
    ("requantise", {"format": "q4_1", "n": 256, "max_abs": 1e-4}),
    ("rmsnorm", {}),
    ("rmsnorm", {"gain": True}),
    ("rmsnorm", {"gain": True, "perturbation": "normwise", "delta": 0.1, "n": 20}),
    ("rmsnorm_gain", {}),
    ("rope", {}),
    ("rope", {"floor": 0.0}),
    ("rope", {"perturb": "qk", "mode": "norm", "head_dim": 6, "delta": 0.1}),
    ("silu", {}),
    ("silu", {"policy": "tanh"}),
    ("softmax", {}),
    ("softmax", {"n": 40, "max_abs": 88.0, "perturbation": "componentwise"}),
    ("swiglu", {}),
    ("swiglu", {"inputs": "both", "max_abs": 80.0, "n": 20}),
    ("sum", {}),
    ("top_k", {}),
    ("top_k", {"k": 1}),
]


def test_every_target_is_here() -> None:
    """No built-in target is left out."""
    assert set(targets.names()) == {name for name, _ in PARAMS}


@pytest.mark.parametrize(("name", "params"), PARAMS, ids=str)
@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__)
def test_built_in_targets_keep_the_laws(law: laws.Law, name: str, params: dict[str, object]) -> None:
    """The law holds for the target with these parameters."""
    law(targets.get(name), params)


DOT, SOFTMAX, ROPE, REQUANTISE = (targets.get(name) for name in ("dot-order", "softmax", "rope", "requantise"))


def evaluating(change: Callable[[Outcome, Any], Outcome]) -> Target:
    """The target ``dot-order`` with outcomes, and perhaps arrays, that ``change`` makes of the true ones."""
    question = DOT.question
    assert isinstance(question, Drift)
    evaluate = question.evaluate
    changed = attrs.evolve(question, evaluate=lambda p, arrays: change(evaluate(p, arrays), arrays))
    return attrs.evolve(DOT, question=changed)


def judging(**changes: Any) -> Target:
    """The target ``softmax`` with a changed contract."""
    assert SOFTMAX.contract is not None
    return attrs.evolve(SOFTMAX, contract=attrs.evolve(SOFTMAX.contract, **changes))


def default_of_another_type() -> Target:
    first, *others = DOT.parameters
    return attrs.evolve(DOT, parameters=(attrs.evolve(first, default=np.float64(512.0)), *others))


def measure_of_two_lines() -> Target:
    return attrs.evolve(DOT, measure=lambda p: "one line\nand another")


def help_that_moves_the_cursor() -> Target:
    return attrs.evolve(DOT, parameters=(*DOT.parameters, Parameter("more", 1, "\x1b[2J")))


def no_summary() -> Target:
    return attrs.evolve(DOT, summary="")


def endless_threshold() -> Target:
    return attrs.evolve(DOT, threshold=lambda p: math.inf)


def large_tolerance() -> Target:
    return attrs.evolve(DOT, tolerance=0.1)


def space_without_draws() -> Target:
    def space(p: Any) -> Space:
        return Space(tuple(attrs.evolve(spec, smallest_peak=2 * spec.high) for spec in DOT.space(p).tensors))

    return attrs.evolve(DOT, space=space, starts=None)


def starts_outside() -> Target:
    def starts(p: Any, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        made = ROPE.starts(p, rng, count)
        return {**made, "q": made["q"] * np.float32(300)}

    return attrs.evolve(ROPE, starts=starts)


def one_start_too_many() -> Target:
    return attrs.evolve(ROPE, starts=lambda p, rng, count: ROPE.starts(p, rng, count + 1))


def starts_of_a_contract_outside() -> Target:
    def starts(p: Any, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        n = SOFTMAX.contract.space(p)["z"].array_shape()[0]
        return {"z": np.full((count, n), 1e9, np.float32)}

    return judging(starts=starts)


def value_that_is_no_number() -> Target:
    def change(outcome: Outcome, arrays: Any) -> Outcome:
        return attrs.evolve(outcome, value=np.where(arrays["a"][:, 0] < 0, np.nan, outcome.value))

    return evaluating(change)


def negative_value() -> Target:
    return evaluating(lambda outcome, arrays: attrs.evolve(outcome, value=outcome.value - 1e6))


def negative_noise() -> Target:
    return evaluating(lambda outcome, arrays: attrs.evolve(outcome, noise=outcome.noise - 1e-9))


def endless_noise() -> Target:
    return evaluating(lambda outcome, arrays: attrs.evolve(outcome, noise=outcome.noise + np.inf))


def bound_too_small() -> Target:
    def bound(p: Any) -> Any:
        proven = SOFTMAX.bound(p)
        return attrs.evolve(proven, value=0.99 * proven.value)

    return attrs.evolve(SOFTMAX, bound=bound)


def bound_too_small_for_solved_moves() -> Target:
    """Constructions whose moves do nothing until they are solved for."""

    def starts(p: Any, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        made = REQUANTISE.starts(p, rng, count)
        return {**made, "x_direction": -made["x_direction"]}

    def bound(p: Any) -> Any:
        return attrs.evolve(REQUANTISE.bound(p), value=2.0**24)

    return attrs.evolve(REQUANTISE, bound=bound, starts=starts)


def arrays_written_to() -> Target:
    def change(outcome: Outcome, arrays: Any) -> Outcome:
        if arrays["a"].flags.writeable:
            arrays["a"] *= np.float32(0.5)
        return outcome

    return evaluating(change)


def rows_that_see_each_other() -> Target:
    def change(outcome: Outcome, arrays: Any) -> Outcome:
        return attrs.evolve(outcome, value=outcome.value + 1e-6 * outcome.value.mean())

    return evaluating(change)


def screen_off_by_a_thousandth() -> Target:
    question = REQUANTISE.question
    assert isinstance(question, Drift)
    assert question.screen is not None
    make = question.screen

    def screen(p: Any) -> Callable[[Any], Any]:
        true = make(p)
        return lambda arrays: 1.001 * true(arrays)

    return attrs.evolve(REQUANTISE, question=attrs.evolve(question, screen=screen))


def screen_without_numbers() -> Target:
    question = REQUANTISE.question
    assert isinstance(question, Drift)
    assert question.screen is not None
    make = question.screen
    return attrs.evolve(
        REQUANTISE, question=attrs.evolve(question, screen=lambda p: lambda arrays: make(p)(arrays) * np.nan)
    )


def nine_dimensions() -> Target:
    """Arrays that the corpus cannot write down."""
    x = TensorSpec("x", kind="activations", shape=tuple(Dim(name, 2) for name in "abcdefghi"), low=-1.0, high=1.0)

    def evaluate(p: Any, arrays: Any) -> Outcome:
        value = np.abs(arrays["x"].astype(np.float64)).reshape(len(arrays["x"]), -1).max(axis=1)
        return Outcome(value, np.zeros(len(value)))

    return Target(
        name="nine",
        summary="the largest of 512 numbers",
        parameters=(),
        space=lambda p: Space((x,)),
        question=Drift(evaluate),
        measure=lambda p: "max|x|",
        bound=lambda p: None,
        claim="a number is large",
        threshold=lambda p: 0.5,
    )


def a_target_that_remembers() -> Target:
    """Values fall once a case that is shorter than the longest has been seen, and only minimising looks at those."""
    longest = DOT.space(DOT.params())["a"].array_shape()[0]
    seen = []

    def change(outcome: Outcome, arrays: Any) -> Outcome:
        changed = attrs.evolve(outcome, value=outcome.value * (0.1 if seen else 1.0))
        if arrays["a"].shape[1] < longest:
            seen.append(arrays["a"].shape[1])
        return changed

    return evaluating(change)


def reference_that_is_wrong() -> Target:
    contract, reference = SOFTMAX.contract, kernels.get("apr")
    assert contract is not None

    def run(p: Any, arrays: Any, module: Any) -> np.ndarray:
        return contract.run(p, arrays, module) * np.float32(1.01 if module is reference else 1)

    return judging(run=run)


def allowance_too_small() -> Target:
    assert SOFTMAX.contract is not None
    allowance = SOFTMAX.contract.allowance
    assert allowance is not None
    return judging(allowance=lambda p, arrays: 1e-3 * allowance(p, arrays), first_allowance=None)


def _run_of_one(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Target:
    contract, changed = SOFTMAX.contract, kernels.get(name)
    assert isinstance(contract, Contract)

    def run(p: Any, arrays: Any, module: Any) -> np.ndarray:
        result = contract.run(p, arrays, module)
        return change(result) if module is changed else result

    return judging(run=run)


def kernels_of_another_type() -> Target:
    return _run_of_one("gguf", lambda result: result.astype(np.float32))


def kernels_of_another_shape() -> Target:
    return _run_of_one("ggml", lambda result: result[:, :-1])


BROKEN = [
    (default_of_another_type, "parameters_are_parsed"),
    (measure_of_two_lines, "texts_are_single_lines"),
    (help_that_moves_the_cursor, "texts_are_single_lines"),
    (no_summary, "texts_are_single_lines"),
    (endless_threshold, "constants_are_in_range"),
    (large_tolerance, "constants_are_in_range"),
    (space_without_draws, "draws_are_admissible"),
    (starts_outside, "constructions_are_admissible"),
    (one_start_too_many, "constructions_are_admissible"),
    (starts_of_a_contract_outside, "constructions_are_admissible"),
    (value_that_is_no_number, "values_are_numbers"),
    (negative_value, "values_are_numbers"),
    (negative_noise, "noise_is_a_number"),
    (endless_noise, "noise_is_a_number"),
    (bound_too_small, "bound_is_never_exceeded"),
    (bound_too_small_for_solved_moves, "bound_is_never_exceeded"),
    (arrays_written_to, "evaluation_repeats"),
    (rows_that_see_each_other, "rows_are_independent"),
    (screen_off_by_a_thousandth, "screen_agrees"),
    (screen_without_numbers, "screen_agrees"),
    (nine_dimensions, "cases_survive_encoding"),
    (a_target_that_remembers, "minimising_keeps_the_witness"),
    (reference_that_is_wrong, "contract_holds_for_its_own"),
    (allowance_too_small, "contract_holds_for_its_own"),
    (kernels_of_another_type, "kernels_have_the_contract"),
    (kernels_of_another_shape, "kernels_have_the_contract"),
]


@pytest.mark.parametrize(("make", "name"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_target_breaks_one_law(make: Callable[[], Target], name: str) -> None:
    """The law in question raises, in one line that names it and the target, and no other law does."""
    broken = {}
    for law in laws.LAWS:
        target = make()
        try:
            law(target)
        except AssertionError as error:
            broken[law.__name__] = str(error)
    assert [name] == list(broken)
    assert broken[name].startswith(f"law {name}: target {target.name}(")
    assert broken[name].isprintable()
    with pytest.raises(AssertionError, match=f"^law {name}: "):
        laws.check(make())


def test_a_default_out_of_range_is_one_line() -> None:
    """No problem can be opened on such a target, so the law about parameters is the one that can say so."""
    target = attrs.evolve(DOT, parameters=(*DOT.parameters, Parameter("least", 0, "out of its own range", low=1)))
    with pytest.raises(AssertionError, match=r"^law parameters_are_parsed: .* default of least is refused: [^\n]*$"):
        laws.check(target)


def test_one_number_for_a_whole_batch() -> None:
    """A value, or a noise, that does not come one for each case."""
    value = evaluating(lambda outcome, arrays: attrs.evolve(outcome, value=outcome.value[:1]))
    noise = evaluating(lambda outcome, arrays: attrs.evolve(outcome, noise=outcome.noise[:1]))
    with pytest.raises(AssertionError, match=r"^law values_are_numbers: .* the value of \d+ \w+ cases has the shape "):
        laws.values_are_numbers(value)
    with pytest.raises(AssertionError, match=r"^law noise_is_a_number: .* the noise of \d+ \w+ cases has the shape "):
        laws.noise_is_a_number(noise)


def test_a_negative_cost_is_out_of_range() -> None:
    """Work is counted with it."""
    with pytest.raises(AssertionError, match="the cost is -1"):
        laws.LAWS[2](attrs.evolve(DOT, cost=-1.0))


def test_other_bits_each_time_break_laws() -> None:
    """A value that changes from one evaluation to the next breaks all laws that compare two evaluations."""
    broken = []
    for law in laws.LAWS:
        times = iter(range(10**9))
        target = evaluating(lambda o, arrays, t=times: attrs.evolve(o, value=o.value * (1 - 1e-12 * next(t))))
        try:
            law(target)
        except AssertionError:
            broken.append(law.__name__)
    assert ["evaluation_repeats", "rows_are_independent", "minimising_keeps_the_witness"] == broken


def test_an_entry_that_is_not_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a target that is known by its name, and writes down what a corpus refuses."""
    broken = attrs.evolve(DOT, name="broken", measure=lambda p: "\x1b[2J")
    monkeypatch.setitem(targets.REGISTRY._found, "broken", broken)
    with pytest.raises(AssertionError, match=r"^law entries_survive_the_corpus: .* its entry is not read back: "):
        laws.entries_survive_the_corpus(broken)


def test_messages_name_the_case() -> None:
    """One line with the law, the target, its parameters, and the place of the case among those of the seed."""
    with pytest.raises(AssertionError) as error:
        laws.values_are_numbers(negative_value(), {"n": 16}, seed=7)
    line = "law values_are_numbers: target dot-order(n=16): structured case 0 of seed 7: the value is -"
    assert str(error.value).startswith(line)


def test_importing_the_laws_loads_nothing_above() -> None:
    """Neither the minimiser, nor screens, nor the corpus, nor what only tests need."""
    code = "import sys, diffuzz.targets.laws; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"jax", "hypothesis", "pytest", "diffuzz.judging", "diffuzz.minimising", "diffuzz.corpus"}
