"""Modules that take long to import, and are imported when they are first used.

Built-in operations are functions of jax.numpy. To list them, or to replay a corpus of other targets, jax is not needed.
"""

from __future__ import annotations

import importlib
from typing import Any


class _Module:
    """Stands for a module until one of its attributes is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> object:
        return getattr(importlib.import_module(self._name), attribute)


def lazily(name: str) -> Any:
    """The module ``name``, imported when an attribute of it is first used. Any, as a module is to a type checker."""
    return _Module(name)
