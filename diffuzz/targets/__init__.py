"""The targets, one file each, found by name: ``dot_order.py`` defines the target ``dot-order``."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache

from diffuzz.target import Target


class UnknownTargetError(ValueError):
    """No file of that name in this folder; the message lists what there is."""


def names() -> tuple[str, ...]:
    """Names of all targets, sorted."""
    return tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)))


@cache
def get(name: str) -> Target:
    """The target called ``name``. Raises UnknownTargetError."""
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UnknownTargetError(f"there is no target {name!r}{hint} (targets: {', '.join(names())})")
    target: Target = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").TARGET
    return target
