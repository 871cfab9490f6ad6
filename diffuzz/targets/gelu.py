"""GELU, in the three formulas that models use under this name. They differ by up to 0.02.

The reference keeps its relative accuracy in the negative tail, where erf and tangent are near -1 and their sums with 1
cancel; these sums are allowed.
"""

from __future__ import annotations

import math

from diffuzz.formats.arrays import AnyArray
from diffuzz.targets.operation import lazily, operation, tensor
from diffuzz.targets.parameter import Parameter

jnp, lax, jax_nn = lazily("jax.numpy"), lazily("jax.lax"), lazily("jax.nn")

FORM = Parameter(
    "form",
    "erf",
    "erf: x (1 + erf(x / sqrt 2)) / 2 | tanh: x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 | "
    "quick: x sigmoid(1.702 x)",
    choices=("erf", "tanh", "quick"),
)


def exponent(x: AnyArray, form: str) -> AnyArray:
    """The argument of the sigmoid that the forms tanh and quick come to: (1 + tanh(t / 2)) / 2 is the sigmoid of t."""
    return 1.702 * x if form == "quick" else 2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)


def by_sums(x: AnyArray, *, form: str = "erf") -> AnyArray:
    """The formulas as they are written, with a sum that cancels in the negative tail."""
    if form == "erf":
        return x * (1 + lax.erf(x * math.sqrt(0.5))) / 2
    return x * (1 + jnp.tanh(exponent(x, form) / 2)) / 2 if form == "tanh" else gelu.function(x, form=form)


def in_base_two(x: AnyArray, *, form: str = "erf") -> AnyArray:
    """The sigmoid by ``2^(-|t| log2 e)``, whose exponent is rounded."""
    if form == "erf":
        return gelu.function(x, form=form)
    t = exponent(x, form)
    e = jnp.exp2(-jnp.abs(t) * math.log2(math.e))
    return x * (jnp.where(t < 0, e, 1.0) / (1 + e))


@operation(
    x=tensor("b n", max_abs=1e4),
    parameters=(FORM,),
    forms=(by_sums, in_base_two),
    sizes={"n": (1, 2**16 + 1)},
    result="y[b, n]",
)
def gelu(x: AnyArray, *, form: str = "erf") -> AnyArray:
    """GELU: by the error function, by a tangent, or by a sigmoid."""
    if form == "erf":
        return x * lax.erfc(-x * math.sqrt(0.5)) / 2
    return x * jax_nn.sigmoid(exponent(x, form))


TARGET = gelu
