"""Wrong kernels of the operations that are functions of jax.numpy, and correct ones: there are enough of each, and a
search tells them apart. tests/quality/test_mutants.py tries them all.
"""

from __future__ import annotations

import importlib.util
from collections import Counter

import numpy as np
import pytest

from diffuzz import targets
from diffuzz.judging.policies import explaining
from diffuzz.judging.problem import open_problem
from diffuzz.judging.question import Judge
from diffuzz.studies.mutants import ggml_criteria, libraries, scoring
from diffuzz.studies.mutants.mutants import mutants

BY_NAME = {mutant.name: mutant for mutant in mutants()}
# Operations of the table, and what models add to RoPE.
OPERATIONS = (
    "add_rmsnorm", "attention", "batched_matmul", "conv1d", "cumsum", "embedding", "geglu", "gelu", "layer_norm",
    "log_softmax", "masked_softmax", "matmat", "mean_square", "moe_gate", "rmsnorm_gain", "silu", "sum", "top_k",
)  # fmt: skip
# What public reports dispute, and one more of each operation.
KILLED = (
    "add-rmsnorm/sum-stored-f16", "attention/window-one-more", "attention/window-one-less", "attention/window-beside",
    "attention/cap-before-scale", "attention/cap-after-scale", "attention/causal-first", "attention/masked-nan",
    "attention/masked-sinks", "attention/mask-1e4", "attention/sinks-value", "attention/heads-interleaved",
    "batched-matmul/tf32", "conv1d/padding-causal", "cumsum/carry-f16", "embedding/one-based", "geglu/tanh-for-erf",
    "gelu/erf-for-tanh", "layer-norm/one-pass", "log-softmax/max-sentinel", "masked-softmax/whole-uniform",
    "matmat/quantised", "mean-square/sum-bf16", "moe-gate/not-renormalised", "moe-gate/raw", "rmsnorm-gain/gain-inside",
    "silu/cancels", "sum/flush", "top-k/tie-break", "rope-partial/ignored", "rope-yarn/log-twice", "rope-llama3/ends",
    "rope-factors/next", "rope-linear/whole",
)  # fmt: skip
KEPT = (
    "add-rmsnorm/gain-early", "attention/mask-online", "attention/beside", "attention/softcap-first",
    "attention/masked-zero-online", "batched-matmul/kahan", "conv1d/padded", "cumsum/doubling", "embedding/one-hot",
    "geglu/product-first", "gelu/tanh-sigmoid", "layer-norm/welford", "layer-norm/one-pass-policy",
    "log-softmax/joined", "masked-softmax/base-two", "matmat/offset", "mean-square/scaled", "moe-gate/share-chosen",
    "rmsnorm-gain/newton", "silu/tanh", "sum/lanes", "top-k/last", "rope-yarn/plain", "rope-everything/plain",
)  # fmt: skip


def test_each_operation_has_enough_of_both() -> None:
    """At least twelve wrong functions, and two right ones."""
    wrong = Counter(mutant.target for mutant in mutants() if not mutant.correct)
    right = Counter(mutant.target for mutant in mutants() if mutant.correct)
    assert {name: wrong[name] for name in OPERATIONS if wrong[name] < 12} == {}
    assert {name: right[name] for name in OPERATIONS if right[name] < 2} == {}
    additions = [name for name, mutant in BY_NAME.items() if name.startswith("rope-") and not mutant.correct]
    assert len([name for name in additions if name.split("/")[0].split("-")[1] in _ADDED]) >= 12


_ADDED = ("partial", "factors", "linear", "llama3", "yarn")


@pytest.mark.parametrize("name", KILLED)
def test_a_wrong_function_is_killed(name: str) -> None:
    """By the default search, long before its budget of ten seconds ends."""
    assert not BY_NAME[name].correct
    objective = scoring.searched(BY_NAME[name], seconds=10, seed=0)
    assert scoring.witness(objective) is not None


@pytest.mark.parametrize("name", KEPT)
def test_a_right_function_is_not_flagged(name: str) -> None:
    """A short search evaluates it, and finds it within its bound."""
    assert BY_NAME[name].correct
    objective = scoring.searched(BY_NAME[name], seconds=0.5, seed=1)
    assert objective.evaluations > 0
    assert scoring.witness(objective) is None


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("layer-norm/one-pass", {"policy": "one-pass"}),
        ("silu/cancels", {"policy": "tanh"}),
        ("matmat/quantised", {"activation": "q8_0"}),
    ],
)
def test_the_policy_of_a_function_is_named(name: str, policy: dict[str, str]) -> None:
    """A function that was written for another policy is wrong under the default, and its report says which."""
    mutant = BY_NAME[name]
    problem = open_problem(targets.get(mutant.target), mutant.params, Judge(mutant.function))
    found = scoring.witness(scoring.searched(mutant, seconds=10, seed=0))
    assert found is not None
    assert policy in [dict(one) for one in explaining(problem, found.case, problem.measured(found.case))]


def test_controls_of_libraries_need_no_torch() -> None:
    """Those of JAX are always there, those of PyTorch where it is installed."""
    names = {row[0] for row in libraries.RIGHT}
    assert len([name for name in names if name.partition("/")[2].startswith("jax")]) >= 12
    assert any("/torch" in name for name in names) == (importlib.util.find_spec("torch") is not None)


@pytest.mark.parametrize(
    ("name", "killed"),
    [
        ("layer-norm/unbiased", True),
        ("layer-norm/one-pass", False),
        ("top-k/smallest", True),
        ("attention/masked-sinks", False),
        ("matmat/x-f16", False),
        ("embedding/next", True),
        ("rope-yarn/attention-one", True),
        ("layer-norm/wide", False),
        ("matmat/q4_K", False),
    ],
)
def test_ggml_sees_what_is_wrong_everywhere(name: str, killed: bool) -> None:
    """Inputs that are all alike in size, and an NMSE, show what is wrong for every input; a right function passes."""
    assert killed == ggml_criteria.ops_kills(BY_NAME[name], np.random.default_rng(0))
    assert ggml_criteria.fns_kills(BY_NAME[name]) is None
