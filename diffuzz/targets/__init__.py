"""The targets, and what they are written with.

Every module of this folder that defines ``TARGET`` is a target: ``dot_order.py`` is the target ``dot-order``.
:mod:`diffuzz.registry` finds the targets of other packages and files. The other modules are what targets are made of:

    target          Target: an operation, its question, measure, claim and bound
    parameter       Parameter, ParameterError
    amplification   Amplification: one function, an input and a small change of it
    drift           Drift: two implementations and the same input
    contract        Contract: what an implementation promises
    operation       operation, tensor: a target made of one function of jax.numpy
    derived         the contract of such a function: exact results and error bounds
    outcome         Outcome, Bound
    of_models/      targets of a model, which has to be named
    laws            a test of what every target promises
    perturbations, distances, error_bounds, rows, published    shared by several targets
"""

from __future__ import annotations

from diffuzz.registry import Registry
from diffuzz.targets.amplification import Amplification
from diffuzz.targets.contract import Contract
from diffuzz.targets.drift import Drift
from diffuzz.targets.operation import Operation
from diffuzz.targets.outcome import Bound, Outcome
from diffuzz.targets.parameter import Parameter, ParameterError
from diffuzz.targets.target import Target

__all__ = [
    "OF_MODELS", "REGISTRY", "Amplification", "Bound", "Contract", "Drift", "Outcome", "Parameter", "ParameterError",
    "Target", "get", "known", "load", "names",
]  # fmt: skip


def _check(found: object) -> Target:
    if isinstance(found, Operation):
        return found.target
    if not isinstance(found, Target):
        raise TypeError(f"a diffuzz.targets.Target is needed, it is a {type(found).__name__}")
    return found


REGISTRY = Registry(
    "target", "diffuzz.targets", _check, folder=__name__, attribute="TARGET", name_of=lambda target: target.name
)
# Those that need a model, which is no default, are found by name only.
OF_MODELS = Registry(
    "target",
    "diffuzz.targets_of_models",
    _check,
    folder=f"{__name__}.of_models",
    attribute="TARGET",
    name_of=lambda target: target.name,
)
names = REGISTRY.names


def get(name: str) -> Target:
    """The target called ``name``. Raises RegistryError."""
    return OF_MODELS.get(name) if OF_MODELS.is_built_in(name) else REGISTRY.get(name)


def load(text: str) -> str:
    """The name of what a user wrote, which is known from now on (see Registry.load). Raises RegistryError."""
    return text if OF_MODELS.is_built_in(text) else REGISTRY.load(text)


def known(name: str) -> bool:
    """Whether there is a target of that name, without a look at the others."""
    return OF_MODELS.is_built_in(name) or REGISTRY.known(name)
