"""diffuzz: property-based differential fuzzing of transformer inference kernels.

    from diffuzz import search, targets

    result = search(targets.get("softmax"), {"n": 7, "max_abs": 10}, seconds=5, seed=0)
    result.verdict, result.value, result.bound.value, result.case

Importing it loads neither jax nor hypothesis; a search does. The strategies for tests of your own are in the package
``strategies``.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
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


class _Package(ModuleType):
    """This package: ``diffuzz.search`` and ``diffuzz.replay`` are the functions, whatever has been imported before.

    Python binds an imported submodule to its name in the package, so the functions would otherwise be hidden.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        hides = isinstance(value, ModuleType) and name in _HOMES
        super().__setattr__(name, getattr(value, name) if hides else value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    # Late, so that the pytest plugin and `diffuzz --help` pay for what they use only.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"diffuzz.{name}")
    raise AttributeError(f"module 'diffuzz' has no attribute {name!r}")
