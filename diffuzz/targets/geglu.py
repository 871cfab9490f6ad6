"""GEGLU: a linear unit gated by GELU."""

from __future__ import annotations

from diffuzz.formats.arrays import AnyArray
from diffuzz.targets import gelu
from diffuzz.targets.operation import operation, tensor


def by_sums(gate: AnyArray, up: AnyArray, *, form: str = "erf") -> AnyArray:
    """With the formulas of GELU as they are written."""
    return gelu.by_sums(gate, form=form) * up


def in_base_two(gate: AnyArray, up: AnyArray, *, form: str = "erf") -> AnyArray:
    """With a sigmoid in base two."""
    return gelu.in_base_two(gate, form=form) * up


@operation(
    gate=tensor("b n", max_abs=1e3),
    up=tensor("b n", max_abs=1e3),
    parameters=(gelu.FORM,),
    forms=(by_sums, in_base_two),
    sizes={"n": (1, 2**16 + 1)},
    result="y[b, n]",
)
def geglu(gate: AnyArray, up: AnyArray, *, form: str = "erf") -> AnyArray:
    """GEGLU: gelu(gate) up."""
    return gelu.TARGET.function(gate, form=form) * up


TARGET = geglu
