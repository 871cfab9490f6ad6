"""diffuzz: property-based differential fuzzing of transformer inference kernels.

    from diffuzz import search, targets

    result = search(targets.get("softmax"), {"n": 7, "max_abs": 10}, seconds=5, seed=0)
    result.verdict, result.value, result.bound.value, result.case

Importing it loads neither jax nor hypothesis; a search does. The strategies for tests of your own are in the package
``strategies``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffuzz import formats, kernels, targets
    from diffuzz.cases.case import Case
    from diffuzz.corpus.replay import replay
    from diffuzz.judging.problem import evaluate, open_problem
    from diffuzz.judging.question import Claim, Compare, Judge, Keep
    from diffuzz.judging.tolerance import assert_within_bound, tolerance
    from diffuzz.judging.verdict import Verdict
    from diffuzz.minimising.minimise import minimise
    from diffuzz.searching.check import check
    from diffuzz.searching.search import search
    from diffuzz.targets.operation import operation
    from diffuzz.targets.outcome import Bound
    from diffuzz.targets.tensors import tensor

__version__ = "0.1.0"

__all__ = [
    "Bound",
    "Case",
    "Claim",
    "Compare",
    "Judge",
    "Keep",
    "Verdict",
    "assert_within_bound",
    "check",
    "evaluate",
    "formats",
    "kernels",
    "minimise",
    "open_problem",
    "operation",
    "replay",
    "search",
    "targets",
    "tensor",
    "tolerance",
]

_HOMES = {
    "Bound": "diffuzz.targets.outcome",
    "Case": "diffuzz.cases.case",
    "Claim": "diffuzz.judging.question",
    "Compare": "diffuzz.judging.question",
    "Judge": "diffuzz.judging.question",
    "Keep": "diffuzz.judging.question",
    "Verdict": "diffuzz.judging.verdict",
    "assert_within_bound": "diffuzz.judging.tolerance",
    "check": "diffuzz.searching.check",
    "evaluate": "diffuzz.judging.problem",
    "minimise": "diffuzz.minimising.minimise",
    "open_problem": "diffuzz.judging.problem",
    "operation": "diffuzz.targets.operation",
    "replay": "diffuzz.corpus.replay",
    "search": "diffuzz.searching.search",
    "tensor": "diffuzz.targets.tensors",
    "tolerance": "diffuzz.judging.tolerance",
}


def __getattr__(name: str) -> object:
    # Late, so that the pytest plugin and `diffuzz --help` pay for what they use only.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"diffuzz.{name}")
    raise AttributeError(f"module 'diffuzz' has no attribute {name!r}")
