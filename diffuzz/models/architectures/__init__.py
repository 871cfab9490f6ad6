"""The architectures, one file each, found by the name that a model file has for them.

A file defines ``steps(model, past) -> tuple[Step, ...]``: the steps of a forward pass in order, whose first one is
``embd`` and whose last one is ``logits``; with ``past`` those of tokens that follow others in a cache.
"""

from __future__ import annotations

from collections.abc import Callable

from diffuzz.escaping import escaped
from diffuzz.models.model import Model, ModelError
from diffuzz.models.step import Step
from diffuzz.registry import Registry, UnknownNameError

Steps = Callable[[Model, bool], tuple[Step, ...]]


def _check(found: object) -> Steps:
    if not callable(found):
        raise TypeError(f"a function steps(model, past) is needed, it is a {type(found).__name__}")
    return found


REGISTRY = Registry("architecture", "diffuzz.architectures", _check, folder=__name__, attribute="steps")


def steps(model: Model, *, past: bool = False) -> tuple[Step, ...]:
    """The steps of a forward pass of ``model``. Raises ModelError for an architecture that is not known, a tensor that
    is missing or has another shape, and a parameter that is not supported.
    """
    try:
        found = REGISTRY.get(model.architecture)
    except UnknownNameError:
        known = ", ".join(REGISTRY.names())
        raise ModelError(f"its architecture {escaped(model.architecture)!r} is not supported ({known} are)") from None
    return found(model, past)
