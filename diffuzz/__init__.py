"""diffuzz: property-based differential fuzzing of transformer inference kernels.

    from diffuzz import search, targets

    result = search(targets.get("softmax"), {"n": 7, "max_abs": 10}, seconds=5, seed=0)
    result.verdict, result.value, result.bound.value, result.case

Importing it loads neither jax nor hypothesis; a search does. The strategies for tests of your own are in the package
``strategies``.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

__all__ = ["Case", "Verdict", "evaluate", "formats", "replay", "search", "targets"]

_HOMES = {
    "Case": "diffuzz.case",
    "Verdict": "diffuzz.verdict",
    "evaluate": "diffuzz.target",
    "replay": "diffuzz.replay",
    "search": "diffuzz.search",
}


def __getattr__(name: str) -> Any:
    # Late, so that the pytest plugin and `diffuzz --help` pay for what they use only. A function called like its module
    # hides it here, but not from `import diffuzz.search`.
    import importlib

    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"diffuzz.{name}")
    raise AttributeError(f"module 'diffuzz' has no attribute {name!r}")
