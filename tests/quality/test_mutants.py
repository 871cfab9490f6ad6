"""Mutation score: every wrong function is found out, named, and its witness small; no correct one is ever flagged."""

from __future__ import annotations

import math
from typing import Any

import attrs
import numpy as np
import pytest

from diffuzz import kernels, targets
from diffuzz.cli.bench_mutants import mutants_json, mutants_text
from diffuzz.judging.evidence import Judged
from diffuzz.judging.problem import open_problem
from diffuzz.judging.question import Judge
from diffuzz.studies.mutants import ggml_criteria, scoring, wrong_sizes
from diffuzz.studies.mutants.mutants import Mutant, mutants
from diffuzz.targets.outcome import Arrays
from diffuzz.targets.parameter import Params

pytestmark = pytest.mark.quality

WRONG = [mutant for mutant in mutants() if not mutant.correct]
RIGHT = [mutant for mutant in mutants() if mutant.correct]
# Known bugs, each in one form, whose witnesses are minimised to the end; the others by a seeded choice.
PUBLISHED = [
    "scale12-contiguous/q4_K/dot",
    "nibble-interleave/q4_0",
    "q5k-layout/q5_K/dot",
    "q6k-combine/q6_K",
    "header-without-minimum/q4_1/dot",
    "f16-flush/q8_0",
    "activation-trunc/q4_K",
    "activation-f16-scale/q4_K",
    "int16-wrap/q4_K",
    "odd-block-tail/q4_K",
    "gemv-transpose/q4_K",
    "neox-for-norm",
    "eps-constant",
    "softmax-no-max",
    "silu-overflow",
]
BY_NAME = {mutant.name: mutant for mutant in mutants()}


def _choice(chosen: list[Mutant], count: int) -> list[Mutant]:
    """A seeded choice: all of them take an hour (``python -m diffuzz bench mutants`` has them)."""
    order = np.random.default_rng(20).permutation(len(chosen))[:count]
    return [chosen[i] for i in sorted(order)]


def test_names_are_unique_and_most_mutants_are_our_own() -> None:
    """Names are keys; beside the published bugs there are at least as many of the same families."""
    assert len(BY_NAME) == len(mutants())
    published = {mutant.source for mutant in WRONG} - {""}
    assert len(published) >= 15
    assert len({mutant.wrong for mutant in WRONG if not mutant.source}) >= 15


def test_many_mutants_are_wrong_for_some_sizes_only() -> None:
    """All operations have such mutants, 40 and more in all, and no fewer than ten right functions look like them."""
    operations = {"softmax", "rmsnorm", "swiglu", "rope", "matvec", "dequantize", "quantize"}
    assert operations == {target for _, target, *_ in wrong_sizes.WRONG}
    assert len(wrong_sizes.WRONG) >= 40
    assert len(wrong_sizes.RIGHT) >= 10
    assert {row[0] for row in (*wrong_sizes.WRONG, *wrong_sizes.RIGHT)} <= BY_NAME.keys()


@pytest.mark.parametrize(
    "name",
    [
        # It takes as long as all the others.
        pytest.param(row[0], marks=pytest.mark.slow if row[0] == "rmsnorm/4096" else ())
        for row in wrong_sizes.RIGHT
    ],
)
def test_functions_that_take_some_sizes_only_are_not_flagged(name: str) -> None:
    """They are called with nothing else, as their parameters say: not by the search, and not by ggml's criteria."""
    objective = scoring.searched(BY_NAME[name], seconds=2, seed=1)
    assert objective.evaluations > 10
    assert scoring.witness(objective) is None
    assert not ggml_criteria.ops_kills(BY_NAME[name], np.random.default_rng(0))
    assert not ggml_criteria.fns_kills(BY_NAME[name])


OTHERS = [mutant for mutant in WRONG if mutant.name not in PUBLISHED]
USUAL = _choice(OTHERS, 80)


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(mutant, marks=() if mutant in USUAL else pytest.mark.slow, id=mutant.name)
        for mutant in _choice(OTHERS, 160)
    ],
)
def test_killed(mutant: Mutant) -> None:
    """A search of at most ten seconds finds an input on which the function leaves its bound."""
    found = scoring.witness(scoring.searched(mutant, seconds=10, seed=0))
    assert found is not None
    assert 0 < found.seconds <= 10


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_bugs_are_killed_and_named(name: str) -> None:
    """The row of a published bug: killed in time, the candidate named, a witness of few runs and levels."""
    row = scoring.one(BY_NAME[name], 10, seed=1)
    assert (row.killed, row.named) == (True, "candidate")
    assert row.value > (0 if row.target in ("dequantize", "quantize") else 1)
    assert row.seconds <= 10
    assert row.levels is not None
    assert row.levels <= 24


@pytest.mark.parametrize("mutant", _choice(RIGHT, 24), ids=lambda mutant: mutant.name)
def test_controls_are_not_flagged(mutant: Mutant) -> None:
    """Two seconds of search find no input on which a correct function leaves its bound."""
    objective = scoring.searched(mutant, seconds=2, seed=0)
    if objective.evaluations <= 100:
        # A busy machine, on which a function that compiles each shape gets nowhere in two seconds.
        objective = scoring.searched(mutant, seconds=20, seed=0)
    assert objective.evaluations > 100
    assert scoring.witness(objective) is None


@pytest.mark.slow
def test_ggml_flags_no_control() -> None:
    """The restated criteria pass correct functions: what they miss they do not miss for strictness elsewhere. (Under a
    policy a function may be another than ggml's, and a quantiser of weights by another rule gives other weights.)
    """
    rng = np.random.default_rng(0)
    right = [m for m in RIGHT if m.params.get("policy", "exact") == "exact" and not m.name.startswith("weights-")]
    # A tensor of activations that were not quantised is further from the CPU backend than its own limits allow.
    assert [m.name for m in right if ggml_criteria.ops_kills(m, rng)] == []
    assert [m.name for m in right if ggml_criteria.fns_kills(m)] == []


def test_ggml_criteria_miss_what_its_inputs_hide() -> None:
    """A flushed subnormal scale and a missing maximum pass both tests; interleaved nibbles do not."""
    rng = np.random.default_rng(0)
    assert not ggml_criteria.ops_kills(BY_NAME["f16-flush/q8_0"], rng)
    assert ggml_criteria.fns_kills(BY_NAME["f16-flush/q8_0"]) is False
    assert not ggml_criteria.ops_kills(BY_NAME["softmax-no-max"], rng)
    assert ggml_criteria.fns_kills(BY_NAME["softmax-no-max"]) is None
    assert ggml_criteria.ops_kills(BY_NAME["nibble-interleave/q4_K/dot"], rng)


def test_as_json_and_as_text() -> None:
    """Both count what the rows say: here one kill, one control, and who else saw it."""
    rows = scoring.score(1, 0, ["softmax-no-max", "softmax/wide"])
    data = mutants_json(rows)
    assert (1, 1, 1, 0) == (data["mutants"], data["killed"], data["controls"], data["flagged"])
    assert [True, False] == [row["killed"] for row in data["rows"]]
    assert "inf" == data["rows"][0]["value"]
    text = mutants_text(rows)
    assert "1 of 1 mutants killed, 0 of 1 controls flagged" in text
    assert "softmax-no-max" in text


def test_unknown_names_are_refused() -> None:
    """One line with the name."""
    with pytest.raises(ValueError, match="name='softmax-none': no mutant or control has this name"):
        scoring.score(1, 0, ["softmax-none"])


def test_a_row_that_survives_has_no_witness() -> None:
    """A control's row has the largest value of the whole search, and neither a size nor a name."""
    row = scoring.one(BY_NAME["rmsnorm/wide"], 0.5, seed=0)
    assert (False, None, None, None) == (row.killed, row.runs, row.levels, row.named)
    assert 0 < row.value <= 1
    assert math.isfinite(attrs.asdict(row)["seconds"])


@pytest.mark.parametrize(
    "name",
    [
        "nibble-interleave/q4_0",
        "activation-trunc/q4_K",
        "neox-for-norm",
        "eps-constant",
        "softmax-no-max",
        "silu-overflow",
    ],
)
def test_a_wrong_reference_is_named(name: str) -> None:
    """A bug in our own reference is told from one in the candidate: a right candidate is not flagged, and where both
    have the bug, both are named. The exact result is the judge.
    """
    mutant = BY_NAME[name]
    target = targets.get(mutant.target)
    contract, params = target.contract, target.contract_params(mutant.params)
    assert contract is not None
    reference = kernels.get(contract.kernels(params)[0])

    def run(p: Params, arrays: Arrays, module: Any) -> np.ndarray:
        if module is reference:
            return contract.call(p, mutant.function, {name: array.copy() for name, array in arrays.items()})
        return contract.run(p, arrays, module)

    wrong = attrs.evolve(target, contract=attrs.evolve(contract, run=run))
    case = scoring.witness(scoring.searched(mutant, seconds=10, seed=0))
    assert case is not None
    for function, expected in ((lambda: None, "reference"), (mutant.function, "both")):
        call = contract.call if expected == "both" else lambda p, f, arrays: contract.reference(p, arrays)
        called = attrs.evolve(wrong, contract=attrs.evolve(wrong.contract, call=call))
        problem = open_problem(called, mutant.params, Judge(function))
        measured = problem.measured(case.case)
        assert (measured.value > problem.threshold) == (expected == "both")
        assert isinstance(measured.evidence, Judged)
        assert measured.evidence.wrong == expected
